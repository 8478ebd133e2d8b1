"""In which type and on which mesh the weights of frozen agents are held."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh

from rmas import parallel
from rmas.errors import InputError
from rmas.models import ModelSpec, abstract_params
from rmas.parallel import Heads, MeshSpec
from rmas.shapes import Params
from rmas.weights.quantize import quantize as to_int8

DTYPES = ("bfloat16", "float16", "float32", "float64")


def weight_dtype(dtype: Any = None) -> np.dtype:
    """A type that weights can compute in; None is bfloat16 on accelerators and float32 on CPU.

    Raises `InputError` for any other type, and for float64 without x64 mode.
    """
    if dtype is None:
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    try:
        found = jnp.dtype(dtype)
    except TypeError as e:
        raise InputError(f"dtype {dtype!r} is unknown; use {', '.join(DTYPES)}") from e
    if found.name not in DTYPES:
        eight = "; for 8 bits use quantize" if found.name == "int8" else ""
        raise InputError(f"dtype {found.name}: weights can be {', '.join(DTYPES)}{eight}")
    if found.name == "float64" and not jax.config.jax_enable_x64:
        raise InputError("dtype float64 needs jax_enable_x64 (JAX_ENABLE_X64=1)")
    return found


def heads_of(spec: ModelSpec) -> Heads:
    """How many heads the axes of a model hold, for its sharding."""
    delta = spec.delta
    return Heads(
        query=spec.n_heads,
        kv=spec.n_kv_heads,
        delta_key=delta.key_heads if delta else 0,
        delta_value=delta.value_heads if delta else 0,
    )


def abstract_weights(spec: ModelSpec, dtype: Any, quantize: bool) -> Params:
    """Shapes and types of a model's parameters as they would be held."""

    def held(params: Params) -> Params:
        params = jax.tree.map(lambda x: x.astype(dtype), params)
        return to_int8(params) if quantize else params

    return jax.eval_shape(held, abstract_params(spec))


def planned(
    asked: MeshSpec,
    specs: Sequence[ModelSpec],
    dtype: Any,
    quantize: bool,
    n_devices: int,
    per_host: int,
    memory: int | None,
) -> MeshSpec:
    """The sizes that `auto` chooses for weights of these models; others as they were asked for.

    Args:
      specs: one for each set of weights that is held.
      memory: bytes of one device, half of which weights may take; None means enough.
    """
    if not asked.auto:
        return asked
    trees = [abstract_weights(spec, dtype, quantize) for spec in specs]
    needed = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(trees))
    return parallel.automatic(
        n_devices,
        [spec.n_kv_heads for spec in specs],
        per_host=per_host,
        bytes_needed=needed,
        bytes_per_device=memory // 2 if memory else None,
    )


def device_memory() -> int | None:
    """Bytes of a device of this process, where it tells."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def choose_mesh(
    asked: Mesh | str | None,
    specs: Sequence[ModelSpec],
    dtype: Any = None,
    quantize: bool = False,
    local: bool = False,
) -> Mesh:
    """The mesh that a user asked for: one that she made, or a text (see `parallel.parse_mesh`).

    None asks for one device.

    `auto` splits rows over all devices, and weights only as far as they must be to fit. `local` is
    for this process's devices alone.

    Raises `InputError` for a broken text, sizes that the devices do not have, or other axes.
    """
    if asked is None:
        return parallel.single_device_mesh()
    if isinstance(asked, Mesh):
        if set(asked.axis_names) != set(parallel.AXES):
            there, wanted = ", ".join(map(str, asked.axis_names)), ", ".join(parallel.AXES)
            raise InputError(f"the mesh has axes ({there}); it needs {wanted}")
        # The compiler places what we do not: axes that JAX makes are explicit by default.
        return Mesh(asked.devices, asked.axis_names, axis_types=(AxisType.Auto,) * 3)
    spec = parallel.parse_mesh(asked)
    alone = local and jax.process_count() > 1
    devices = jax.local_devices() if alone else jax.devices()
    sizes = planned(
        spec.share(jax.process_count()) if alone else spec,
        specs,
        weight_dtype(dtype),
        quantize,
        len(devices),
        jax.local_device_count(),
        device_memory(),
    )
    return parallel.make_mesh(sizes, devices if alone else None)
