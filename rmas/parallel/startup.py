"""Process start-up: what must be set before the first compilation."""

import contextlib
import dataclasses
import logging
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import jax

from rmas.errors import InputError, PeersLostError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of one run, named by hand: process `index` of `count`.

    `coordinator` is HOST:PORT of process 0, as all others reach it.
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
                f"process {self.index} of {self.count}: processes are numbered from 0 to their "
                "number less one"
            )


def start(
    cache_dir: str | os.PathLike | None = None, cluster: Cluster | None = None, pod: bool = False
) -> None:
    """Joins the run's other processes, turns on the compile cache, quiets libraries; call it first.

    Processes are those of `cluster`, or, for a `pod`, those that the environment tells of: the
    tasks of a SLURM step, the workers of a Cloud TPU pod. Else the run is one process.

    The cache keeps every compiled program, however small, so that a second start is fast. Its
    folder is `cache_dir`, else `$JAX_COMPILATION_CACHE_DIR`, else `$XDG_CACHE_HOME/rmas/xla`,
    else `~/.cache/rmas/xla`. A folder that cannot be written costs one logged line and the
    cache, never the run.

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
            "compile cache off: %s cannot be written (%s); set XDG_CACHE_HOME to a folder that can",
            folder,
            error.strerror,
        )
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)


def cluster_tells(environ: Mapping[str, str]) -> bool:
    """Whether the environment says that there are several processes, for JAX to find."""
    if int(environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return "SLURM_PROCID" in environ
    # A TPU worker is told the names of all; a slice of one machine names itself alone.
    workers = environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return len(workers) > 1 or "MEGASCALE_COORDINATOR_ADDRESS" in environ


def _on_pod(environ: Mapping[str, str]) -> bool:
    """Whether this is a TPU machine made by Google Compute Engine, whose metadata name the pod."""
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
        elif cluster is None and pod and cluster_tells(os.environ):
            jax.distributed.initialize()
        elif cluster is None and pod and _on_pod(os.environ):
            # A machine that is no part of a pod has no coordinator to name.
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
    return Path(home).expanduser() / "rmas" / "xla"
