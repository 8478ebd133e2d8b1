"""What training of a whole system changes: its links, LoRA adapters of its agents, or all weights.

`links` is RecursiveMAS. The others are comparators, with the same loss, data and step: each agent's
weights learn, and all links stay as they start.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.typing import DTypeLike

from rmas.errors import InputError
from rmas.links import LinkSpec, init_links
from rmas.models import ModelSpec
from rmas.parallel import param_shardings
from rmas.shapes import Array, Params
from rmas.weights.lora import init_lora, with_lora
from rmas.weights.placement import heads_of

Trained = Literal["links", "lora", "full"]
TRAINED: tuple[Trained, ...] = get_args(Trained)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trainable:
    """A trained tree, and how a system is made of it and of what stays.

    Attributes:
      kind: one of `TRAINED`.
      template: shapes and dtypes of the trained tree.
      frozen: what stays: arrays, or their shapes in plans.
      assemble: `assemble(trained, frozen)` -> weights by agent, and the whole tree of links;
        differentiable in `trained`.
      shardings: of the trained tree, between steps and in them; None: as links
        (`parallel.state_shardings`), which a step gathers.
    """

    kind: Trained
    template: Params
    frozen: Any
    assemble: Callable[[Params, Any], tuple[dict[str, Params], Params]]
    shardings: Any = None


def links_trainable(spec: LinkSpec, params: dict[str, Params], fixed: Params) -> Trainable:
    """The parts of the links that `fixed` lacks (`inner`, `outer`), with frozen agents."""
    every = jax.eval_shape(lambda: init_links(spec, jax.random.key(0)))

    def assemble(trained: Params, frozen: Any) -> tuple[dict[str, Params], Params]:
        agents, fixed = frozen
        return agents, fixed | trained

    return Trainable(
        kind="links",
        template={part: tree for part, tree in every.items() if part not in fixed},
        frozen=(params, fixed),
        assemble=assemble,
    )


def init_adapters(params: Mapping[str, Params], rank: int, key: Array) -> dict[str, Params]:
    """A new adapter for each agent (`lora.init_lora`); agents that share weights get their own."""
    return {
        agent: init_lora(own, rank, jax.random.fold_in(key, n))
        for n, (agent, own) in enumerate(params.items())
    }


def lora_trainable(
    models: Mapping[str, ModelSpec],
    params: dict[str, Params],
    links: Params,
    mesh: Mesh,
    *,
    rank: int,
    alpha: float,
) -> Trainable:
    """An adapter for each agent, as `init_adapters` makes them; weights and links are frozen.

    Agents that share weights still share this one copy of them.
    """
    template = jax.eval_shape(lambda p: init_adapters(p, rank, jax.random.key(0)), dict(params))

    def assemble(trained: Params, frozen: Any) -> tuple[dict[str, Params], Params]:
        agents, links = frozen
        return {a: with_lora(own, trained[a], alpha) for a, own in agents.items()}, links

    return Trainable(
        kind="lora",
        template=template,
        frozen=(params, links),
        assemble=assemble,
        shardings=_as_weights(models, template, mesh),
    )


def init_full(params: Mapping[str, Params], dtype: DTypeLike = jnp.float32) -> dict[str, Params]:
    """A copy of each agent's weights in `dtype`, which full fine-tuning starts from."""
    return {
        agent: jax.tree.map(lambda x: jnp.array(x, dtype), own) for agent, own in params.items()
    }


def full_trainable(
    models: Mapping[str, ModelSpec],
    params: dict[str, Params],
    links: Params,
    mesh: Mesh,
    dtype: DTypeLike = jnp.float32,
) -> Trainable:
    """All weights of all agents, as `init_full` makes them; links are frozen.

    Each agent needs a copy of its own, also where agents start from the same weights. Weights and
    AdamW's moments are held in `dtype`; agents compute in the dtypes of `params`.

    Raises `InputError` for int8 weights.
    """
    template = jax.eval_shape(lambda p: init_full(p, dtype), dict(params))
    dtypes = {a: jax.tree.map(lambda x: jnp.dtype(x.dtype), own) for a, own in params.items()}
    if any(x == jnp.int8 for x in jax.tree.leaves(dtypes)):
        raise InputError(
            "full fine-tuning cannot change int8 weights; set quantize=none, or train LoRA adapters"
        )

    def assemble(trained: Params, links: Params) -> tuple[dict[str, Params], Params]:
        cast = {a: jax.tree.map(lambda x, to: x.astype(to), trained[a], dtypes[a]) for a in dtypes}
        return cast, links

    return Trainable(
        kind="full",
        template=template,
        frozen=links,
        assemble=assemble,
        shardings=_as_weights(models, template, mesh),
    )


def _as_weights(models: Mapping[str, ModelSpec], trees: Params, mesh: Mesh) -> Any:
    """Shardings by the rules of weights, whatever is split in them."""
    return {
        a: param_shardings(mesh, own, heads_of(models[a]), log=False) for a, own in trees.items()
    }
