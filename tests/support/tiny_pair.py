"""The smallest system with everything in it: two random agents on disk that read each other.

The critic is a dense agent of one layer, the solver a hybrid of two. Rows are those of `relay`.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from rmas.models.spec import DeltaLayer
from rmas.tools import FunctionTool
from rmas.weights.save import save_params
from support.tiny_agents import ROLES, make_tokenizer
from support.tiny_systems import model_spec, random_params

AGENTS = {"critic": 16, "solver": 8}
"""Their widths."""
TOPOLOGY = {
    "name": "pair",
    "agents": tuple(AGENTS),
    "round": ("critic->solver",),
    "feedback": ("solver->critic",),
    "output": "solver",
}
PROMPTS = {
    "name": "pair",
    "system": {"default": ""},
    "roles": {
        "critic": {
            "math": {"first": "check: {question}", "later": "again {slot:solver} {question}"}
        },
        "solver": {"math": {"first": "solve: {slot:critic} {question}"}},
        "single": {"math": {"first": "solve: {question}"}},
    },
}
CALLS = ("<twice> one </twice>", "<twice> two </twice>")
"""Each is one word of the agents, so that random ones call the tool now and then."""
WORDS = (
    *("check:", "again", "solve:", *CALLS, "start", ";", "one", "two", "stop", "line", ":", "add"),
    *("mul", "mix", "keep", "=", ".", *map(str, range(0, 17, 3))),
)
TWICE = FunctionTool("twice", "a word; it comes back twice", lambda body: f"{body} {body}")


def make(folder: Path) -> dict[str, Any]:
    """Writes the agents and their prompts; returns what differs from the defaults."""
    for seed, (agent, width) in enumerate(AGENTS.items()):
        _make_agent(folder / agent, agent, width, seed)
    (folder / "prompts.json").write_text(json.dumps(PROMPTS))
    return {
        "mesh": "single",
        "system": {
            "topology": TOPOLOGY,
            "agents": {agent: str(folder / agent) for agent in AGENTS},
            "prompts": str(folder / "prompts.json"),
            "task_family": "math",
            "dtype": "float32",
        },
        "data": {
            "name": "relay",
            "folder": str(folder / "rows"),
            "train": 6,
            "validation": 5,
            "test": 5,
        },
        "limits": {"latent_steps": 2, "max_new_tokens": 6, "message_tokens": 4},
        "evaluate": {"grader": "qa"},
    }


def _make_agent(folder: Path, agent: str, width: int, seed: int) -> None:
    tokenizer = make_tokenizer(ROLES[agent][2], seed, WORDS)
    spec = model_spec(
        "qwen3_5_text" if agent == "solver" else "llama",
        width,
        len(tokenizer),
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=False,
        max_position_embeddings=256,
        layer_types=["full_attention"],
        partial_rotary_factor=0.5,
    )
    if agent == "solver":
        delta = DeltaLayer(key_heads=2, value_heads=2, key_dim=4, value_dim=4, conv_width=3)
        spec = dataclasses.replace(spec, layers=(delta, *spec.layers))
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    save_params(spec, random_params(spec, seed, np.float32), folder, extra=ids)
    tokenizer.save_pretrained(folder)


@contextlib.contextmanager
def four_devices() -> Iterator[None]:
    """The machine has the four devices that the suites' meshes cover."""
    four = jax.devices()[:4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "devices", lambda *_: four)
        yield
