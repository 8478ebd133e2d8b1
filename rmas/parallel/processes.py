"""Several processes that are one run: who writes, who waits, and for how long.

Every process runs the same program on its own devices of one mesh. Process 0 writes what the run
leaves behind; the others wait for it at named barriers, never for ever. With one process nothing
here does anything.
"""

import itertools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rmas.errors import PeersLostError

WAIT = 1800
"""Seconds that processes wait for each other, unless a caller says otherwise."""

_calls = itertools.count()


def is_first() -> bool:
    """Whether this process writes files and speaks to the user."""
    return jax.process_index() == 0


def is_joined() -> bool:
    """Whether this process is one of several; before they have met, none is."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def barrier(name: str, seconds: float = WAIT) -> None:
    """Waits until every process of the run is here. All must call it, in the same order.

    Raises:
      PeersLostError: others did not come within `seconds`, or one of them has ended.
    """
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost

    try:
        key = f"rmas {next(_calls)} {name}"
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=int(seconds * 1000))
    except Exception as error:  # the runtime's own, of several types
        raise PeersLostError(
            f"process {jax.process_index()} waited {seconds:.0f} s at {name!r} for the others in "
            f"vain; see their output ({str(error).splitlines()[0][:120]})"
        ) from error


def all_reduce_max(number: int) -> int:
    """The largest of what the processes give; all must call it, in the same order."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int64(number))))


def broadcast_from_first(flag: bool) -> bool:
    """What process 0 says, on every process; all must call it, in the same order."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(flag)))


def to_host(tree: Any) -> Any:
    """The whole of every array as numpy, also where processes hold parts of it; all must call."""

    def whole(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(whole, tree)
