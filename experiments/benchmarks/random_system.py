"""A system of random weights on a mesh, and arrays for its programs: for measurements of time."""

import dataclasses
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from rmas import models, parallel
from rmas.errors import InputError
from rmas.links import LinkSpec, init_links
from rmas.models import ModelSpec
from rmas.models.base import base_models
from rmas.models.config import parse_spec, read_spec
from rmas.plans import arguments
from rmas.plans.arguments import AbstractSystem
from rmas.shapes import Params
from rmas.system.styles import SEQUENTIAL
from rmas.system.turn import Prompt, SystemSpec
from rmas.weights.quantize import quantize

SMALL: Mapping[str, Any] = {
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
}
"""What replaces the sizes of a base model's configuration in a small one."""


def model_spec(name: str, size: str = "full", layers: int = 0) -> ModelSpec:
    """An architecture.

    Args:
      name: a base model's Hub id, or a folder with a `config.json`.
      size: `full`; `small`, a base model with the sizes `SMALL`; or `tiny`, a packaged agent.
      layers: how many of its layers are kept; 0 means all.

    Raises:
      InputError: an unknown name, or `small` for a folder.
    """
    if size == "tiny":
        found = read_spec(str(resources.files("rmas") / "tiny" / "planner"))
    elif name in base_models():
        config = base_models()[name]["config"]
        found = parse_spec(_small(config) if size == "small" else config, where=name)
    elif Path(name).is_dir() and size == "full":
        found = read_spec(name)
    else:
        known = ", ".join(base_models())
        raise InputError(
            f"--model={name} is not a base model of a released system ({known}); a folder with a "
            "config.json needs --size=full"
        )
    return dataclasses.replace(found, layers=found.layers[: layers or None])


def _small(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the sizes `SMALL`, where its text model's are."""
    if "text_config" in config:
        return {**config, "text_config": _small(config["text_config"])}
    small = {**config, **SMALL}
    if "layer_types" in config:
        small["layer_types"] = config["layer_types"][: SMALL["num_hidden_layers"]]
    return small


def sequential_system(model: ModelSpec, mesh: Mesh, dtype: Any, int8: bool) -> AbstractSystem:
    """Three agents in sequence that share one set of weights, and the release's form of links."""
    agents = SEQUENTIAL.agents
    widths = tuple((agent, model.d_model) for agent in agents)
    links = LinkSpec("ln_res", widths, SEQUENTIAL.link_edges)
    spec = SystemSpec(tuple((agent, model) for agent in agents), links)
    shares = dict.fromkeys(agents[1:], agents[0])
    return arguments.abstract_system(
        SEQUENTIAL, spec, mesh, dtype=dtype, quantize=int8, shares=shares
    )


def random_weights(model: ModelSpec, like: Params) -> Params:
    """Weights with the dtypes, int8 matrices and places of `like`, made on the devices."""

    def make(key: jax.Array) -> Params:
        params = models.init_params(model, key)
        found = quantize(params) if _is_quantized(like) else params
        return jax.tree.map(lambda x, to: x.astype(to.dtype), found, like)

    shardings = jax.tree.map(lambda x: x.sharding, like)
    return jax.jit(make, out_shardings=shardings)(jax.random.key(0))


def _is_quantized(params: Params) -> bool:
    return any(x.dtype == jnp.int8 for x in jax.tree.leaves(params))


def random_links(system: AbstractSystem) -> Params:
    """Links as training starts with them, whole on every device."""
    return jax.jit(
        lambda key: init_links(system.spec.links, key),
        out_shardings=parallel.replicated(system.mesh),
    )(jax.random.key(1))


def filled(tree: Any, vocabulary: int, slots: int = 0) -> Any:
    """Arrays for abstract inputs of a program, on their devices.

    Prompts have random tokens below `vocabulary` and no padding; their first `slots` positions
    read the messages, and their last ones are the text of teacher forcing. Other booleans are
    true, other numbers zero.
    """
    random = np.random.default_rng(0)

    def put(array: Any, like: jax.ShapeDtypeStruct) -> jax.Array:
        return jax.device_put(np.broadcast_to(array, like.shape).astype(like.dtype), like.sharding)

    def one(x: Any) -> Any:
        if not isinstance(x, Prompt):
            return put(x.dtype == bool, x)
        state_index = None
        if x.state_index_BM is not None:
            count, length = x.state_index_BM.shape[-1], x.ids_BT.shape[-1]
            state_index = put(np.arange(length - count, length), x.state_index_BM)
        ids = random.integers(0, vocabulary, x.ids_BT.shape, np.int32)
        place = np.arange(x.ids_BT.shape[-1])
        slot = put(np.where(place < slots, place, -1), x.slot_BT)
        return Prompt(put(ids, x.ids_BT), put(True, x.valid_BT), slot, state_index)

    return jax.tree.map(one, tree, is_leaf=lambda x: isinstance(x, Prompt))
