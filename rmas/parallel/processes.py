"""Runs of several processes: collectives on the host, and barriers with a time limit.

Every process runs the same program on its own devices of one mesh. Process 0 writes the run's
files; the others wait for it at named barriers. With one process, collectives return their
argument and barriers return at once.
"""

import itertools
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from rmas.errors import PeersLostError

WAIT = 1800
"""Seconds that processes wait at a barrier by default."""

_calls = itertools.count()


def is_first() -> bool:
    """Whether this is process 0, which writes files and prints."""
    return jax.process_index() == 0


def is_joined() -> bool:
    """Whether this process has joined a run of several."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def barrier(name: str, seconds: float = WAIT) -> None:
    """Waits until every process of the run has called it.

    Collective: all processes must make the same calls in the same order.

    Raises:
      PeersLostError: a process did not arrive within `seconds`, or has ended.
    """
    if jax.process_count() == 1:
        return
    from orbax.checkpoint import multihost

    try:
        key = f"rmas {next(_calls)} {name}"
        multihost.get_barrier_sync_fn()(key=key, timeout_ms=int(seconds * 1000))
    except Exception as error:  # the runtime's own, of several types
        raise PeersLostError(
            f"process {jax.process_index()} waited at {name!r} for the other processes, which did "
            f"not arrive within {seconds:.0f} s; see their output "
            f"({str(error).splitlines()[0][:120]})"
        ) from error


def all_reduce_max(number: int) -> int:
    """The maximum of `number` over all processes. Collective: all must call it."""
    if jax.process_count() == 1:
        return number
    return int(np.max(multihost_utils.process_allgather(np.int64(number))))


def broadcast_from_first(flag: bool) -> bool:
    """The `flag` of process 0, on every process. Collective: all must call it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.broadcast_one_to_all(np.bool_(flag)))


def to_host(tree: Any) -> Any:
    """Every array of a tree, whole, as numpy, also where each process holds a part of it.

    Collective: all processes must call it.
    """

    def whole(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return multihost_utils.process_allgather(x, tiled=True)
        return np.asarray(x)

    return jax.tree.map(whole, tree)
