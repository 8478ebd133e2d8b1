"""The dtype and the mesh of the weights of frozen agents."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from rmas import parallel
from rmas.errors import InputError
from rmas.models import ModelSpec, abstract_params
from rmas.parallel import Heads, MeshSpec, Rows
from rmas.shapes import Params
from rmas.weights.agents import AgentParams
from rmas.weights.quantize import quantize as to_int8

DTYPES = ("bfloat16", "float16", "float32", "float64")
"""The dtypes that weights can have."""


def weight_dtype(dtype: Any = None) -> np.dtype:
    """The dtype of weights; None means bfloat16 on accelerators and float32 on CPU.

    Raises:
      InputError: not one of `DTYPES`, or float64 without JAX's x64 mode.
    """
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    try:
        found = jnp.dtype(dtype)
    except TypeError as e:
        raise InputError(f"dtype {dtype!r} is unknown; use {', '.join(DTYPES)}") from e
    if found.name not in DTYPES:
        eight = "; for int8 use quantize" if found.name == "int8" else ""
        raise InputError(f"dtype {found.name}: weights can be {', '.join(DTYPES)}{eight}")
    if jax.dtypes.canonicalize_dtype(found) != found:
        raise InputError("dtype float64 needs jax_enable_x64 (JAX_ENABLE_X64=1)")
    return found


def heads_of(spec: ModelSpec) -> Heads:
    """The numbers of heads of a model, for its sharding."""
    delta = spec.delta
    return Heads(
        query=spec.n_heads,
        kv=spec.n_kv_heads,
        delta_key=delta.key_heads if delta else 0,
        delta_value=delta.value_heads if delta else 0,
    )


def abstract_weights(spec: ModelSpec, dtype: Any, quantize: bool) -> Params:
    """The shapes and dtypes of a model's parameters in memory, int8 ones if `quantize`."""

    def held(params: Params) -> Params:
        params = jax.tree.map(lambda x: x.astype(dtype), params)
        return to_int8(params) if quantize else params

    return jax.eval_shape(held, abstract_params(spec))


def abstract_agents(
    specs: Mapping[str, ModelSpec],
    shares: Mapping[str, str],
    mesh: Mesh,
    dtype: Any,
    quantize: bool,
) -> AgentParams:
    """`abstract_weights` of each agent, placed as loading places them.

    `shares` maps agents to an earlier one with the same weights; these have one tree.
    """
    found = AgentParams()
    for agent, spec in specs.items():
        if agent in shares:
            found[agent] = found[shares[agent]]
            continue
        shapes = abstract_weights(spec, dtype, quantize)
        at = parallel.param_shardings(mesh, shapes, heads_of(spec))
        found[agent] = jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), shapes, at
        )
    return found


def planned(
    asked: MeshSpec,
    specs: Sequence[ModelSpec],
    *,
    dtype: Any,
    quantize: bool,
    n_devices: int,
    per_host: int,
    memory: int | None,
    rows: Rows | None = None,
) -> list[MeshSpec]:
    """The sizes of the mesh; if `asked` is `auto`, those that suit these weights, best first.

    Args:
      specs: one for each set of weights in memory.
      dtype, quantize: of the weights.
      n_devices, per_host: devices of the mesh, and of one host.
      memory: bytes of one device, of which weights may use half; None means enough.
      rows: of a batch on these devices; None means that `auto` does not look at them.
    """
    if not asked.auto:
        return [asked]
    trees = [abstract_weights(spec, dtype, quantize) for spec in specs]
    return parallel.ranked(
        n_devices,
        [spec.n_kv_heads for spec in specs],
        per_host=per_host,
        weights=[sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(t)) for t in trees],
        bytes_per_device=memory // 2 if memory else None,
        rows=rows,
    )


def device_memory() -> int | None:
    """The memory of a device of this process in bytes; None where the device does not report it."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def choose_mesh(
    asked: Mesh | str | None,
    specs: Sequence[ModelSpec],
    dtype: Any = None,
    quantize: bool = False,
    local: bool = False,
    rows: Rows | None = None,
) -> Mesh:
    """Makes the mesh that a user asked for.

    Args:
      asked: a mesh, or text (see `parallel.parse_mesh`); None means one device. `auto` is the
        first of `parallel.ranked`: it splits weights as far as they, and `rows`, need it.
      specs: one for each set of weights in memory.
      dtype, quantize: of the weights.
      local: use the devices of this process only.
      rows: of the batches that the mesh is for, if they are known.

    Raises:
      InputError: invalid text, sizes that do not fit the number of devices, or a mesh with other
        axes.
    """
    if asked is None:
        return parallel.single_device_mesh()
    if isinstance(asked, Mesh):
        if set(asked.axis_names) != set(parallel.AXES):
            there, wanted = ", ".join(map(str, asked.axis_names)), ", ".join(parallel.AXES)
            raise InputError(f"the mesh has axes ({there}); it needs {wanted}")
        # The compiler shards what the rules do not name; the axes of `jax.make_mesh` are explicit.
        return Mesh(asked.devices, asked.axis_names, axis_types=(AxisType.Auto,) * 3)
    spec = parallel.parse_mesh(asked)
    alone = local and jax.process_count() > 1
    devices = jax.local_devices() if alone else jax.devices()
    sizes = planned(
        spec.share(jax.process_count()) if alone else spec,
        specs,
        dtype=weight_dtype(dtype),
        quantize=quantize,
        n_devices=len(devices),
        per_host=jax.local_device_count(),
        memory=device_memory(),
        rows=rows.on(devices[0].platform) if rows else None,
    )[0]
    return parallel.make_mesh(sizes, devices if alone else None)
