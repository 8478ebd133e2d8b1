"""The glossary of dimension letters that array names carry: `h_BTD` is `[batch, time, width]`.

    B  batch rows (questions)
    C  concatenated message vectors of one prompt (all its slots, in order)
    D  hidden width of an agent (the receiver's, where two agents meet)
    E  hidden width of the sending agent, where it differs from D
    F  inner width of an MLP
    G  query heads that share one key/value head
    H  heads (key/value heads where G is present)
    K  size of one head
    L  layers, or repetitions of the layer pattern's period
    M  latent steps: the length of a message
    N  tokens of a teacher text
    R  rounds
    S  slots of a cache segment, or key positions
    T  time: positions of a sequence
    V  vocabulary

Dtypes: ids and positions are int32, validity masks are bool, losses and links float32.
"""

from typing import Any

import jax

Array = jax.Array
Params = dict[str, Any]
"""A plain nested dict of arrays; layers are stacked along a leading axis for `lax.scan`."""
