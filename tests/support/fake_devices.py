"""Meshes of the eight fake devices, and parameters of made-up models."""

import jax
import numpy as np

from rmas import parallel


def mesh_of(data: int = 1, fsdp: int = 1, tensor: int = 1) -> jax.sharding.Mesh:
    """A mesh of as many of the eight devices as it needs."""
    devices = jax.devices()[: data * fsdp * tensor]
    return parallel.make_mesh(parallel.MeshSpec(data, fsdp, tensor), devices)


def dense_shapes(
    heads: parallel.Heads, layers: int = 3, vocab: int = 32, width: int = 8, size: int = 4
) -> dict[str, tuple[int, ...]]:
    """Paths and shapes of an attention model: `layers` stacked, one layer behind them."""
    wide = 4 * width

    def linear(name: str, n_in: int, n_out: int) -> dict:
        return {f"{name}/kernel": (n_in, n_out), f"{name}/bias": (n_out,)}

    layer = {
        **{f"{n}_norm/weight": (width,) for n in ("input", "mlp", "post_mixer", "post_mlp")},
        **{f"attention/{n}_norm/weight": (size,) for n in "qk"},
        **linear("attention/q_proj", width, heads.query * size),
        **linear("attention/k_proj", width, heads.kv * size),
        **linear("attention/v_proj", width, heads.kv * size),
        **linear("attention/o_proj", heads.query * size, width),
        **linear("mlp/gate_proj", width, wide),
        **linear("mlp/up_proj", width, wide),
        **linear("mlp/down_proj", wide, width),
    }
    return _model(layer, layers, vocab, width)


def delta_shapes(
    heads: parallel.Heads, layers: int = 3, vocab: int = 32, width: int = 8, size: int = 4
) -> dict[str, tuple[int, ...]]:
    """Paths and shapes of a model of gated delta-net layers, laid out as `dense_shapes`."""
    keys, values = heads.delta_key * size, heads.delta_value * size
    layer = {
        "input_norm/weight": (width,),
        **{f"delta/{n}_proj/kernel": (width, keys) for n in "qk"},
        **{f"delta/{n}_proj/kernel": (width, values) for n in "vz"},
        **{f"delta/{n}_proj/kernel": (width, heads.delta_value) for n in "ab"},
        **{f"delta/{n}_conv/kernel": (4, keys) for n in "qk"},
        "delta/v_conv/kernel": (4, values),
        "delta/a_log": (heads.delta_value,),
        "delta/dt_bias": (heads.delta_value,),
        "delta/norm/weight": (size,),
        "delta/o_proj/kernel": (values, width),
    }
    return _model(layer, layers, vocab, width)


def with_scales(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """The same with the scales of int8 matrices."""
    scales = {
        path.replace("kernel", "scale"): (*shape[:-2], shape[-1])
        for path, shape in shapes.items()
        if path.endswith(("_proj/kernel", "head/kernel"))
    }
    return shapes | scales


def random_arrays(shapes: dict[str, tuple[int, ...]], dtype=np.float64) -> dict[str, np.ndarray]:
    """A value for every path, near one for norms and of the size of one over the fan-in else."""
    rng = np.random.default_rng(0)

    def one(path: str, shape: tuple[int, ...]) -> np.ndarray:
        if path.endswith("norm/weight"):
            return (1 + 0.1 * rng.normal(size=shape)).astype(dtype)
        return (rng.normal(size=shape) * shape[-2 if len(shape) > 1 else -1] ** -0.5).astype(dtype)

    return {path: one(path, shape) for path, shape in shapes.items()}


def nested(flat: dict) -> dict:
    """Slash-joined paths to nested dicts."""
    tree: dict = {}
    for path, leaf in flat.items():
        *owners, name = path.split("/")
        at = tree
        for owner in owners:
            at = at.setdefault(owner, {})
        at[name] = leaf
    return tree


def _model(layer: dict, layers: int, vocab: int, width: int) -> dict[str, tuple[int, ...]]:
    return {
        "embed/weight": (vocab, width),
        "norm/weight": (width,),
        "head/kernel": (width, vocab),
        **{f"layers/period/0/{name}": (layers, *shape) for name, shape in layer.items()},
        **{f"layers/rest/0/{name}": shape for name, shape in layer.items()},
    }
