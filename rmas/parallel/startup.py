"""Start-up of a process: what must be set before JAX compiles anything."""

import contextlib
import dataclasses
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax

from rmas.errors import InputError, PeersLostError
from rmas.places import expanded

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One process of a run whose processes the user names: process `index` of `count`.

    Attributes:
      coordinator: HOST:PORT of process 0, which all processes can reach.
      count: the number of processes.
      index: of this process, from 0.

    Raises `InputError` for invalid values.
    """

    coordinator: str
    count: int
    index: int

    def __post_init__(self):
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdecimal() or not 0 < int(port) < 65536:
            raise InputError(
                f"coordinator {self.coordinator!r} must be HOST:PORT of process 0, as in "
                "10.0.0.1:8476"
            )
        if self.count < 1 or not 0 <= self.index < self.count:
            raise InputError(
                f"process {self.index} of {self.count}: the index must be from 0 to the number of "
                "processes minus one"
            )


def start(
    cache_dir: str | os.PathLike | None = None, cluster: Cluster | None = None, pod: bool = False
) -> None:
    """Joins the run's other processes and turns on the compilation cache. Call it first.

    It also lowers the log level of transformers and tokenizers.

    Args:
      cache_dir: where compiled programs are cached, however small, so that a second start is
        fast. The default is `$JAX_COMPILATION_CACHE_DIR`, else `$XDG_CACHE_HOME/rmas/xla`, else
        `~/.cache/rmas/xla`. If the folder cannot be written, a warning is logged and the cache
        is off.
      cluster: names the processes of the run; None means one process, unless `pod` is true.
      pod: find the processes in the environment: the tasks of a SLURM step, or the workers of a
        Cloud TPU pod.

    Raises:
      PeersLostError: the other processes cannot be reached.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    _join(cluster, pod)
    folder = Path(cache_dir) if cache_dir is not None else _default_cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        jax.config.update("jax_compilation_cache_dir", None)
        _log.warning(
            "compile cache off: %s cannot be written (%s); set XDG_CACHE_HOME to a writable folder",
            folder,
            error.strerror,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def is_clustered(environ: Mapping[str, str]) -> bool:
    """Whether the environment describes several processes in a form that JAX can read."""
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "SLURM_PROCID" in environ
    # A TPU worker knows the names of all; a slice of one machine names only itself.
    workers = environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(workers) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in environ


def _on_pod(environ: Mapping[str, str]) -> bool:
    """Whether this is a TPU machine of Google Compute Engine, whose metadata name the pod."""
    chips = any(Path("/dev").glob("accel*")) or Path("/dev/vfio").is_dir()
    return chips and "TPU_SKIP_MDS_QUERY" not in environ and _has_libtpu()


def _has_libtpu() -> bool:
    from importlib.util import find_spec

    return find_spec("libtpu") is not None


def _join(cluster: Cluster | None, pod: bool) -> None:
    if jax.distributed.is_initialized():
        return
    try:
        if cluster is not None and cluster.count > 1:
            jax.distributed.initialize(cluster.coordinator, cluster.count, cluster.index)
        elif cluster is None and pod and is_clustered(os.environ):
            jax.distributed.initialize()
        elif cluster is None and pod and _on_pod(os.environ):
            # A machine that is not part of a pod has no coordinator.
            with contextlib.suppress(ValueError):
                jax.distributed.initialize()
    except (RuntimeError, ValueError) as error:
        raise PeersLostError(
            f"the run's other processes cannot be reached: {str(error).splitlines()[0][:200]}; "
            "name them with --coordinator=HOST:PORT --processes=N --process=I"
        ) from error


def _default_cache_dir() -> Path:
    if named := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(named)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(home) / "rmas" / "xla"
