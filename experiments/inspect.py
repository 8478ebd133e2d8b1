"""Shows a released system before anything is loaded: agents, links, and bytes per device.

  python -m experiments.inspect --style=sequential_scaled                      # what the release is
  python -m experiments.inspect --style=mixture --mesh=tensor=4 --memory_gib=16
  python -m experiments.inspect --style=deliberation --root=DIR --quantize=int8

With --root sizes come from the folder's configuration files, without it from the known base
models of the release; nothing is downloaded, and weights are read only to tell whether two agents
have the same. The mesh need not exist on this
machine. What does not fit into --memory_gib is reported, with what would help; the exit status is
0 all the same.
"""

import math

import jax
import jax.numpy as jnp
from absl import flags
from jax.sharding import AbstractMesh

from experiments import app
from rmas import parallel
from rmas.console import aligned, printable
from rmas.errors import InputError
from rmas.system.outline import Outline
from rmas.system.released import DATE, DEFAULT_PROMPTS, find_style
from rmas.system.sizes import CACHE_POSITIONS, SystemSize
from rmas.system.styles import STYLES, Style
from rmas.weights.placement import device_memory

_STYLE = flags.DEFINE_enum("style", None, sorted(STYLES), "Released style.", required=True)
_ROOT = flags.DEFINE_string("root", None, "Folder of the system.")
_TASK_FAMILY = flags.DEFINE_string(
    "task_family", "math", "Task family, for systems with links of each task."
)
_DTYPE = flags.DEFINE_enum("dtype", "bfloat16", ["float32", "bfloat16"], "Type of the weights.")
_QUANTIZE = flags.DEFINE_enum("quantize", "none", ["none", "int8"], "Type of the matrices.")
_MESH = flags.DEFINE_string("mesh", "single", "As in data=2,tensor=4; auto; or single.")
_DEVICES = flags.DEFINE_integer("devices", None, "How many devices there are (default: here).", 1)
_MEMORY = flags.DEFINE_float("memory_gib", None, "Memory of one device (default: as it says).", 0)
_GIB = 1 << 30


def main(_: list[str]) -> None:
    """Prints the facts of a released system."""
    style = find_style(_STYLE.value)
    given = {"prompts": DEFAULT_PROMPTS, "task_family": _TASK_FAMILY.value, "date": DATE}
    if _ROOT.value is None:
        outline = Outline.of_release(style, **given)
    else:
        outline = Outline.of_style(style, _ROOT.value, **given)
    memory = _memory()
    mesh = planned_mesh(_MESH.value, outline, memory)
    size = outline.size(mesh, jnp.dtype(_DTYPE.value), _int8())
    print(report(style, size, mesh, memory))


def planned_mesh(text: str, outline: Outline, memory: int | None) -> AbstractMesh:
    """The asked mesh as sizes alone, chosen as loading would where no batch is known."""
    asked = parallel.parse_mesh(text)
    fixed = math.prod(asked.sizes)
    n = _DEVICES.value or (jax.device_count() if asked.auto or fixed < 0 else fixed)
    dtype = jnp.dtype(_DTYPE.value)
    return outline.abstract_mesh(asked, n, dtype=dtype, quantize=_int8(), memory=memory)


def _int8() -> bool:
    return _QUANTIZE.value == "int8"


def _memory() -> int | None:
    if _MEMORY.value is None:
        return device_memory()
    if not math.isfinite(_MEMORY.value):
        raise InputError(f"--memory_gib is {_MEMORY.value}; it must be a finite number")
    return int(_MEMORY.value * _GIB)


def report(style: Style, size: SystemSize, mesh: AbstractMesh, memory: int | None) -> str:
    """The whole text."""
    shape = ",".join(f"{axis}={n}" for axis, n in mesh.shape.items())
    agents = [
        ["agent", "family", "layers", "width", "parameters", "inner link", "weights", "cache"]
    ]
    for a in size.agents:
        held = f"(of {a.shares})" if a.shares else _bytes(a.weights)
        numbers = [str(a.layers), str(a.d_model), f"{a.parameters:,}", f"{a.inner:,}"]
        agents.append([printable(a.name), a.family, *numbers, held, _bytes(a.cache)])
    outer = [["outer link", "parameters"], *[[k, f"{n:,}"] for k, n in size.outer.items()]]
    share = size.trainable / (size.trainable + size.frozen)
    lines = [
        f"{style.name}: {style.topology.name}, {_DTYPE.value}{', int8 matrices' * _int8()}, "
        f"mesh {shape}",
        "",
        aligned(agents),
        "",
        aligned(outer),
        "",
        f"frozen parameters     {size.frozen:,}",
        f"trainable parameters  {size.trainable:,} ({share:.2%} of the system)",
        f"each device holds     {_bytes(size.resident)} of weights and links",
        "(weights are bytes of one device, cache those of "
        f"{CACHE_POSITIONS:,} positions of one question, unsplit)",
    ]
    if memory is not None:
        left = memory - size.resident
        if left < 0:
            lines.append(
                f"does not fit: {_bytes(memory)} per device, {_bytes(-left)} too little; use more "
                "tensor or fsdp, or --quantize=int8"
            )
        else:
            lines.append(
                f"fits: {_bytes(memory)} per device leave {_bytes(left)} for caches and work"
            )
    return "\n".join(lines)


def _bytes(n: int) -> str:
    for unit, size in (("GiB", _GIB), ("MiB", 1 << 20)):
        if n >= size:
            return f"{n / size:.2f} {unit}"
    return f"{n / 1024:.1f} KiB"


if __name__ == "__main__":
    app.run(main)
