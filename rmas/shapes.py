"""The dimension letters in array names: `h_BTD` has shape `[batch, time, width]`.

    B  batch rows (questions)
    C  message vectors of one prompt, those of all its slots concatenated in order
    D  hidden width of an agent (the receiver's, where two agents meet)
    E  hidden width of the sending agent, where it differs from D
    F  inner width of an MLP
    G  query heads (delta rule: value heads) that share one key/value head
    H  heads (key/value heads where G is present)
    I  positions of a chunk of the delta rule (J where a second such axis is needed)
    K  size of one head (delta rule: of a key head)
    L  layers, or repetitions of the layer pattern's period
    M  latent steps: the length of a message
    N  tokens of a teacher text, or blocks of positions
    P  pairs of a block of queries and one of keys
    R  rounds
    S  slots of a cache segment, or key positions
    T  time: positions of a sequence
    U  size of a value head of the delta rule
    V  vocabulary
    W  width of a short convolution (C are its channels)

Dtypes: ids and positions are int32, validity masks are bool, losses and links float32.
"""

from typing import Any

import jax

Array = jax.Array
Params = dict[str, Any]
"""A plain nested dict of arrays; layers are stacked along a leading axis for `lax.scan`."""
