"""Facts that belong to a measured time: seconds of compilation, peak memory, the machine."""

import functools
import os
import resource
import sys

import jax
from jax.sharding import Mesh

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@functools.cache
def _compiled() -> list[float]:
    """The seconds of each compilation since the first call; it grows."""
    found: list[float] = []

    def listen(event: str, duration_secs: float, **_: str | int) -> None:
        if event == _COMPILE_EVENT:
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return found


def seconds_compiling() -> float:
    """Seconds that XLA has compiled programs or loaded cached ones, since the first call."""
    return sum(_compiled())


def machine(mesh: Mesh) -> str:
    """A description of the hardware: this process's devices, the mesh, the number of processes."""
    device = jax.local_devices()[0]
    cores = f" of {os.cpu_count()} cores" if device.platform == "cpu" else ""
    sizes = ",".join(f"{axis}={n}" for axis, n in mesh.shape.items())
    shape = sizes if mesh.size > 1 else "single"
    return (
        f"{jax.local_device_count()} {device.device_kind}{cores}, mesh {shape}, "
        f"{jax.process_count()} processes"
    )


def peak_bytes() -> int:
    """The most memory in use so far, in bytes: of the first device, or of the process on CPU."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
