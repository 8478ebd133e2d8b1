"""What a run takes beside time: compilation, memory at its peak, and the machine."""

import functools
import os
import resource
import sys

import jax
from jax.sharding import Mesh

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@functools.cache
def _compiled() -> list[float]:
    """Seconds of every compilation from the first call on."""
    found: list[float] = []

    def listen(event: str, seconds: float, **_: object) -> None:
        if event == _COMPILE_EVENT:
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return found


def seconds_compiling() -> float:
    """Seconds that XLA compiled, or read compiled programs, since this was first asked."""
    return sum(_compiled())


def machine(mesh: Mesh) -> str:
    """What a run's times belong to: devices of this process, mesh, and how many processes."""
    device = jax.local_devices()[0]
    cores = f" of {os.cpu_count()} cores" if device.platform == "cpu" else ""
    sizes = ",".join(f"{axis}={n}" for axis, n in mesh.shape.items())
    shape = sizes if mesh.size > 1 else "single"
    return (
        f"{jax.local_device_count()} {device.device_kind}{cores}, mesh {shape}, "
        f"{jax.process_count()} processes"
    )


def peak_bytes() -> int:
    """The most that was in use so far: of the first device, or on CPU of this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024
