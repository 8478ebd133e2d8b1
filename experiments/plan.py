"""What training would need of each device, told without loading a weight or running a step."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from experiments.assembly import Assembly
from experiments.dry_run import outline
from rmas import parallel
from rmas.console import aligned
from rmas.errors import InputError
from rmas.links import LinkSpec
from rmas.models import ModelSpec
from rmas.shapes import Params
from rmas.system.turn import SystemSpec
from rmas.training.loop import Schedule
from rmas.training.memory import Lengths, Memory, inner_step, outer_step, weights_of
from rmas.training.objectives import TrainingContext, parse_objective
from rmas.weights.placement import abstract_weights, heads_of

_GIB = 1 << 30
_MOST = 4096  # devices of a plan


def describe(a: Assembly, stage: str) -> str:
    """The plan of `inner` or `outer` training as text; the first thing that a program does.

    The step is compiled for as many made-up CPU devices as the mesh has. Raises `InputError` for
    a mesh without sizes, and for what would stop the run at its start.
    """
    s = a.settings
    mesh = _mesh(s.mesh)
    specs, form, shares, _ = outline(a)
    topology, dtype = s.system.pattern(), jnp.dtype(s.system.dtype)
    widths = tuple((agent, spec.d_model) for agent, spec in specs.items())
    links = LinkSpec(form, widths, topology.link_edges)
    context = TrainingContext(
        topology,
        SystemSpec(tuple(specs.items()), links, s.outer.remat == "layers"),
        s.latent_steps,
        s.outer.on_policy,
        s.outer.earlier_rounds,
    )
    int8 = s.quantize == "int8"
    weights = weights_of(_params(specs, shares, mesh, dtype, int8))
    params = _params(specs, shares, mesh, jnp.float32, int8)
    lengths = Lengths(*s.plan_lengths)
    own = s.inner if stage == "inner" else s.outer
    schedule = Schedule(own.optim, own.batch_size, save_every=1, accumulate=own.accumulate)
    multiple = parallel.batch_multiple(mesh) * own.accumulate
    if own.batch_size % multiple:
        raise InputError(
            f"{stage}.batch_size is {own.batch_size}; on this mesh it must be a multiple of "
            f"{multiple}"
        )
    if stage == "inner":
        found = inner_step(context, params, schedule, lengths, mesh, weights)
    else:
        objective, trained = parse_objective(s.objective), s.outer.train
        rounds = s.outer.rounds
        found = outer_step(
            context, objective, params, trained, schedule, rounds, lengths, mesh, weights
        )
    shape = "one device" if mesh is None else ",".join(f"{k}={n}" for k, n in mesh.shape.items())
    what = f"{s.outer.rounds} rounds, {s.latent_steps} latent steps, {s.objective}"
    return "\n".join(
        [
            f"{stage} training of {s.system.style}, mesh {shape}, {dtype.name}",
            f"batch {own.batch_size} in {own.accumulate} part(s), prompts of {lengths.prompt} "
            f"tokens, texts of {lengths.text}" + (f"; {what}" if stage == "outer" else ""),
            "",
            _table(found),
            "",
            "Caches and activations are what XLA says of the step compiled for CPU devices in",
            "float32, where recomputed turns are kept together: accelerators need less, and about",
            "half of it in bfloat16.",
        ]
    )


def _params(
    specs: Mapping[str, ModelSpec],
    shares: Mapping[str, str],
    mesh: jax.sharding.Mesh | None,
    dtype: Any,
    int8: bool,
) -> dict[str, Params]:
    """Shapes of each agent's weights, with their places; agents that share have one tree."""
    params: dict[str, Params] = {}
    for agent, spec in specs.items():
        if agent in shares:
            params[agent] = params[shares[agent]]
            continue
        shapes = abstract_weights(spec, dtype, int8)
        if mesh is not None:
            at = parallel.param_shardings(mesh, shapes, heads_of(spec))
            shapes = jax.tree.map(
                lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, at
            )
        params[agent] = shapes
    return params


def _mesh(text: str) -> jax.sharding.Mesh | None:
    """The mesh over made-up devices."""
    asked = parallel.parse_mesh(text)
    if asked.auto or -1 in asked.sizes:
        raise InputError(
            f"mesh {text!r} leaves sizes open; a plan needs them all, as in data=2,fsdp=2,tensor=2"
        )
    n = math.prod(asked.sizes)
    if n > _MOST:
        raise InputError(f"mesh {text!r} has {n} devices; a plan is for {_MOST} at most")
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", n)
    return parallel.make_mesh(asked) if n > 1 else None


def _table(memory: Memory) -> str:
    parts = {
        "weights": memory.weights,
        "links": memory.links,
        "optimizer": memory.optimizer,
        "update": memory.update,
        "batch": memory.batch,
        "caches": memory.caches,
        "activations": memory.activations,
        "total": memory.total,
    }
    rows = [[name, f"{size / _GIB:.3f} GiB", f"{size:,}"] for name, size in parts.items()]
    return aligned([["part", "each device", "bytes"], *rows])
