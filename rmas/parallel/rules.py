"""How parameters are sharded: one ordered table from paths to the meanings of their axes.

Matrices that read the residual stream are split by output (column-parallel), matrices that write
it by input (row-parallel): there is no communication between the two, and one sum over `tensor`
after each half of a layer. The embedding is split by rows, which serves both lookups (a masked
gather and a sum) and the tied head (logits split by vocabulary). The width of the residual stream
is split over `fsdp` in every matrix. Norms are small and replicated.
"""

import dataclasses
import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import tree_util
from jax.sharding import AbstractMesh, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from rmas.parallel.axes import AXES_OF, current_parts, parts
from rmas.shapes import Array

_log = logging.getLogger(__name__)

RULES: tuple[tuple[str, tuple[str | None, ...]], ...] = (
    (r"embed/weight", ("vocab", "width")),
    (r"head/kernel", ("width", "vocab")),
    (r"head/scale", ("vocab",)),
    (r"(.*/)?\w*norm/weight", (None,)),
    (r".*/attention/q_proj/kernel", ("width", "heads")),
    (r".*/attention/q_proj/(bias|scale)", ("heads",)),
    (r".*/attention/[kv]_proj/kernel", ("width", "kv_heads")),
    (r".*/attention/[kv]_proj/(bias|scale)", ("kv_heads",)),
    (r".*/attention/o_proj/kernel", ("heads", "width")),
    (r".*/delta/[qk]_proj/kernel", ("width", "delta_heads")),
    (r".*/delta/[qk]_proj/scale", ("delta_heads",)),
    (r".*/delta/[qk]_conv/kernel", (None, "delta_heads")),
    (r".*/delta/[vzab]_proj/kernel", ("width", "delta_value_heads")),
    (r".*/delta/[vzab]_proj/scale", ("delta_value_heads",)),
    (r".*/delta/v_conv/kernel", (None, "delta_value_heads")),
    (r".*/delta/(a_log|dt_bias)", ("delta_value_heads",)),
    (r".*/delta/o_proj/kernel", ("delta_value_heads", "width")),
    (r".*/mlp/(gate|up)_proj/kernel", ("width", "mlp")),
    (r".*/mlp/(gate|up)_proj/(bias|scale)", ("mlp",)),
    (r".*/mlp/down_proj/kernel", ("mlp", "width")),
    (r".*/(o|down)_proj/(bias|scale)", ("width",)),
)
"""The first pattern that matches the whole path gives the meaning of each axis. A `scale` belongs
to the int8 `kernel` of the same module. Parameters under `layers/period/` have one more axis in
front, of layers, which is not split. The low-rank factors `lora_a [D, R]` and `lora_b [R, F]` of a
`kernel [D, F]` are split as its axes are; their rank is not."""


@dataclasses.dataclass(frozen=True)
class Heads:
    """The numbers of heads of one model, 0 where it has no such layers.

    Axes that hold heads are split between heads only.
    """

    query: int
    kv: int
    delta_key: int = 0
    delta_value: int = 0

    def of(self, meaning: str) -> int | None:
        """The number of heads along an axis of this meaning; None if it does not hold heads."""
        return {
            "heads": self.query,
            "kv_heads": self.kv,
            "delta_heads": self.delta_key,
            "delta_value_heads": self.delta_value,
        }.get(meaning)


def is_stacked(path: str) -> bool:
    """Whether the first axis of a parameter counts layers."""
    return path.startswith("layers/period/")


def meanings_of(path: str) -> tuple[str | None, ...]:
    """The meaning of each axis of a parameter.

    Raises:
      KeyError: no rule matches: the table is incomplete.
    """
    owner, _, name = path.rpartition("/")
    if name in ("lora_a", "lora_b"):
        *before, first, last = meanings_of(f"{owner}/kernel")
        return (*before, first, None) if name == "lora_a" else (*before, None, last)
    for pattern, meanings in RULES:
        if re.fullmatch(pattern, path):
            return (None, *meanings) if is_stacked(path) else meanings
    raise KeyError(f"no sharding rule for the parameter {path}")


def sharder(
    mesh: Mesh | AbstractMesh, heads: Heads, log: bool = True
) -> Callable[[str, Sequence[int]], NamedSharding]:
    """Makes the function `sharding(path, shape)` for the parameters of one agent.

    An axis that cannot be split into equal parts of whole heads is replicated. With `log`, that is
    logged once for each meaning and size, with the first parameter that it concerns.

    Raises (when the function is called):
      KeyError: no rule matches the path.
      ValueError: the shape does not fit the rule.
    """
    logged = set()

    def sharding(path: str, shape: Sequence[int]) -> NamedSharding:
        meanings = meanings_of(path)
        if len(meanings) != len(shape):
            raise ValueError(
                f"{path} has shape {tuple(shape)}; its rule is for {len(meanings)} axes"
            )
        pairs = zip(meanings, shape, strict=True)
        return NamedSharding(mesh, P(*(entry(path, meaning, size) for meaning, size in pairs)))

    def entry(path: str, meaning: str | None, size: int):
        if meaning is None:
            return None
        n_heads = heads.of(meaning)
        if n_heads is not None and (n_heads == 0 or size % n_heads):
            raise ValueError(f"{path}: an axis of {size} does not hold {n_heads} {meaning}")
        units, pieces = n_heads or size, parts(mesh, meaning)
        if units % pieces == 0:
            return AXES_OF[meaning]
        if log and (meaning, units) not in logged:
            logged.add((meaning, units))
            what = f"{meaning}={units} does not divide over {AXES_OF[meaning]}={pieces}"
            _log.warning("%s and is replicated: %s and similar parameters", what, path)
        return None

    return sharding


def param_shardings(mesh: Mesh | AbstractMesh, shapes: Any, heads: Heads, log: bool = True) -> Any:
    """The sharding of every parameter, as a tree like `shapes` (of arrays or their shapes).

    Raises:
      KeyError: no rule matches a parameter.
      ValueError: a shape does not fit its rule.
    """
    sharding = sharder(mesh, heads, log)

    def one(path: tuple, leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        return sharding("/".join(key.key for key in path), leaf.shape)

    return tree_util.tree_map_with_path(one, shapes)


def gather_width(params: Any, heads: Heads, after: Array) -> Any:
    """One agent's parameters, gathered over `fsdp`: inside a jitted function, before a loop.

    What the loop then reads is whole but for its split over `tensor`; without this call each turn
    of the loop gathers all that it reads. On meshes without `fsdp`, `params` itself.

    Args:
      after: what is computed first. In an outer loop it keeps the compiler from gathering before
        that loop, which would leave no agent's parameters split.
    """
    if current_parts("width") == 1:
        return params
    mesh = jax.sharding.get_abstract_mesh()

    def one(x: Array, at: NamedSharding) -> Array:
        spec = P(*(None if axis == AXES_OF["width"] else axis for axis in at.spec))
        return jax.lax.with_sharding_constraint(x, spec)

    shardings = param_shardings(mesh, params, heads, log=False)
    params, _ = jax.lax.optimization_barrier((params, jax.lax.stop_gradient(after)))
    return jax.tree.map(one, params, shardings)


def state_shardings(mesh: Mesh, shapes: Any) -> Any:
    """The shardings of links and optimizer state between steps, as a tree like `shapes`.

    A matrix is split over `fsdp` along the first axis that divides, so that each device holds a
    part of links and moments; vectors and scalars are small and replicated. A step gathers the
    links once.
    """
    pieces = mesh.shape["fsdp"]

    def one(leaf: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [n for n, size in enumerate(leaf.shape) if size % pieces == 0]
        split = leaf.ndim > 1 and pieces > 1 and axes
        return NamedSharding(mesh, P(*[None] * axes[0], "fsdp") if split else P())

    return jax.tree.map(one, shapes)
