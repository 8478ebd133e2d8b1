"""The embedded systems: tiny agents and generated tasks that come with the package.

    run = rmas.Experiment(rmas.embedded("relay"), "runs/tiny")

`relay` and `digits` have three agents with knowledge of their own, `debate` and `chain` share one
base model.
The values below are what is special to systems of this size.
"""

import itertools
from collections.abc import Callable
from importlib import resources
from typing import Any

from rmas.errors import InputError
from rmas.experiment.settings import Settings

_TINY = resources.files("rmas") / "tiny"
_CHAIN = ("adder", "multiplier", "mixer", "subtractor", "reverser")


def relay() -> dict[str, Any]:
    """Planner, critic and solver, sequential; each knows one operation of the task."""
    return {
        "mesh": "single",  # agents this small gain nothing from more devices
        "objective": "align",
        "system": {
            "agents": {agent: str(_TINY / agent) for agent in ("planner", "critic", "solver")},
            "date": "2026-01-01",
            "dtype": "float32",
        },
        "data": {"name": "relay"},
        "inner": {"optim": {"steps": 800, "lr": 3e-3}, "message_tokens": 8},
        "outer": {"optim": {"steps": 400, "lr": 1e-3}, "batch_size": 24},
        # The result is the 8th token of every message.
        "limits": {"latent_steps": 8, "max_new_tokens": 32, "message_tokens": 32},
        "evaluate": {
            "methods": ("latent", "text", "text_terse", "single", "untrained"),
            "batch_size": 125,
        },
    }


def digits() -> dict[str, Any]:
    """The relay with a critic whose tokenizer cuts numbers into digits, unlike its neighbours'."""
    values = relay()
    values["system"]["agents"]["critic"] = str(_TINY / "critic_digits")
    # The result is among the first 12 tokens of the critic's message.
    values["inner"] |= {"message_tokens": 12}
    values["limits"] |= {"latent_steps": 12, "max_new_tokens": 48, "message_tokens": 48}
    return values


def debate() -> dict[str, Any]:
    """Two peers, who read each other and the judge in the next round, and a judge."""
    topology = {
        "name": "debate",
        "agents": ("pro", "con", "judge"),
        "round": ("pro->judge", "con->judge"),
        "feedback": ("pro->con", "con->pro", "judge->pro", "judge->con"),
        "output": "judge",
    }
    return _generalist("debate", topology)


def chain() -> dict[str, Any]:
    """Five agents in a row, two rounds."""
    topology = {
        "name": "chain",
        "agents": _CHAIN,
        "round": tuple(f"{a}->{b}" for a, b in itertools.pairwise(_CHAIN)),
        "feedback": (f"{_CHAIN[-1]}->{_CHAIN[0]}",),
        "output": _CHAIN[-1],
    }
    values = _generalist("chain", topology)
    values["outer"] |= {"rounds": 2}
    values["evaluate"] |= {"rounds": (1, 2)}
    return values


def _generalist(name: str, topology: dict[str, Any]) -> dict[str, Any]:
    """A system whose agents are all the one tiny model that plays any role."""
    values = relay()
    values["data"] = {"name": name}
    values["system"] |= {
        "topology": topology,
        "agents": dict.fromkeys(topology["agents"], str(_TINY / "generalist")),
    }
    return values


EMBEDDED: dict[str, Callable[[], dict[str, Any]]] = {
    "relay": relay,
    "digits": digits,
    "debate": debate,
    "chain": chain,
}
"""What differs from the defaults of `Settings`, by name."""


def embedded(name: str = "relay") -> Settings:
    """Settings of an embedded system: `relay`, `digits`, `debate` or `chain`."""
    if name not in EMBEDDED:
        raise InputError(f"embedded system {name!r} is unknown; known: {', '.join(EMBEDDED)}")
    return Settings.from_dict(EMBEDDED[name]())
