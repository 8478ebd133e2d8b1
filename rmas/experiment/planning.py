"""What training would need of each device, computed without loading a weight or running a step."""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from rmas import parallel
from rmas.console import aligned
from rmas.errors import InputError
from rmas.experiment.outline import training_context
from rmas.experiment.settings import Settings
from rmas.parallel import MeshSpec
from rmas.plans.arguments import weight_bytes
from rmas.plans.memory import Memory, inner_memory, outer_memory, turn_caches
from rmas.plans.training_steps import inner_step, outer_step
from rmas.system.outline import Outline
from rmas.training.objectives import Lengths, parse_objective

_GIB = 1 << 30
_MOST = 4096  # devices of a plan


def describe(
    settings: Settings, outline: Outline, stage: str, prompt_tokens: int, text_tokens: int
) -> str:
    """The plan of `inner` or `outer` training as text.

    The step is compiled for as many CPU devices as the mesh has, which must be set up before JAX
    has made its devices: see `prepare_devices`.

    Raises:
      InputError: a mesh without sizes or with too few devices here, a batch that does not divide
        over it, or another stage.
    """
    s = settings
    if stage not in ("inner", "outer"):
        raise InputError(f"stage {stage!r} is unknown; known: inner, outer")
    asked = _sizes(s.mesh)
    mesh = parallel.make_mesh(asked, jax.devices()[: math.prod(asked.sizes)])
    # A plan is for accelerators: the CPU devices that it is made on are stand-ins.
    dtype = jnp.dtype("bfloat16" if s.system.dtype == "auto" else s.system.dtype)
    int8 = s.quantize == "int8"
    context = training_context(s, outline)
    weights = weight_bytes(outline.abstract_params(mesh, dtype, int8))
    params = outline.abstract_params(mesh, jnp.float32, int8)
    lengths = Lengths(prompt_tokens, text_tokens)
    schedule = s.inner if stage == "inner" else s.outer
    multiple = parallel.batch_multiple(mesh) * schedule.accumulate
    if schedule.batch_size % multiple:
        raise InputError(
            f"{stage}.batch_size is {schedule.batch_size}; on this mesh it must be a multiple of "
            f"{multiple}"
        )
    if stage == "inner":
        memory = inner_memory(inner_step(context, params, schedule, lengths, mesh), weights)
    else:
        program = outer_step(
            context,
            parse_objective(s.objective),
            params=params,
            trained=s.outer.train,
            schedule=schedule,
            rounds=s.outer.rounds,
            lengths=lengths,
            mesh=mesh,
        )
        rows = schedule.batch_size // schedule.accumulate
        caches = turn_caches(context, rows, lengths, mesh)
        memory = outer_memory(program, weights=weights, caches=caches)
    shape = ",".join(f"{axis}={n}" for axis, n in mesh.shape.items())
    shape = "one device" if mesh.size == 1 else shape
    what = f"{s.outer.rounds} rounds, {s.limits.latent_steps} latent steps, {s.objective}"
    name = s.system.style or outline.topology.name
    parts = f"batch {schedule.batch_size}"
    if schedule.accumulate > 1:
        parts += f", gradients accumulated over {schedule.accumulate} parts"
    return "\n".join(
        [
            f"{stage} training of {name}, mesh {shape}, {dtype.name}",
            f"{parts}, prompts of {lengths.prompt} tokens, texts of {lengths.text}"
            + (f"; {what}" if stage == "outer" else ""),
            "",
            _table(memory),
            "",
            "Caches and activations are what XLA needs for the step compiled for CPU devices in",
            "float32. That is an upper bound: accelerators recompute one turn at a time and need",
            "about half of it in bfloat16.",
        ]
    )


def prepare_devices(mesh: str) -> None:
    """Gives this process the CPU devices of a plan; JAX must not have made its devices yet.

    Raises `InputError` for a mesh without sizes.
    """
    n = math.prod(_sizes(mesh).sizes)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", n)


def _sizes(text: str) -> MeshSpec:
    asked = parallel.parse_mesh(text)
    if asked.auto:
        return MeshSpec()
    if -1 in asked.sizes:
        raise InputError(
            f"mesh {text!r} leaves a size open; a plan needs them all, as in data=2,tensor=2"
        )
    n = math.prod(asked.sizes)
    if n > _MOST:
        raise InputError(f"mesh {text!r} has {n} devices; a plan is for {_MOST} at most")
    return asked


def _table(memory: Memory) -> str:
    parts: Sequence[tuple[str, int]] = (
        ("weights", memory.weights),
        ("links", memory.links),
        ("optimizer", memory.optimizer),
        ("update", memory.update),
        ("batch", memory.batch),
        ("caches", memory.caches),
        ("activations", memory.activations),
        ("total", memory.total),
    )
    rows = [[name, f"{size / _GIB:.3f} GiB", f"{size:,}"] for name, size in parts]
    return aligned([["part", "each device", "bytes"], *rows])
