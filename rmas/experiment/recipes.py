"""Named recipes of training: values of many settings that belong together."""

from collections.abc import Mapping
from typing import Any

from rmas.errors import InputError

_OPTIM = {"steps": 20_000, "lr": 5e-4, "warmup_steps": 10, "b1": 0.9, "b2": 0.95}
_STAGE = {
    "optim": {**_OPTIM, "weight_decay": 0.0, "clip": 1.0},
    "batch_size": 2,
    "accumulate": 1,
    "max_length": 0,
    "select": "last",
}

RECIPES: Mapping[str, Mapping[str, Any]] = {
    "release": {
        "objective": "teacher_forced",
        "links": {"form": "ln_res", "init": "random"},
        "inner": {
            **_STAGE,
            "mean": "tokens",
            "rounds": "first",
            "cut": "right",
            "message_tokens": 0,
        },
        "outer": {
            **_STAGE,
            "train": ("outer",),
            "max_latent_tokens": 80,
            "shift": 0,
            "earlier_rounds": 0.0,
        },
    },
}
"""What differs from the defaults of `Settings`, or might, by name. `release` is how the released
links were trained."""


def recipe_values(name: str) -> Mapping[str, Any]:
    """The values of a recipe. Raises `InputError` for an unknown name."""
    if not isinstance(name, str) or name not in RECIPES:
        raise InputError(f"recipe {name!r} is unknown; known: {', '.join(RECIPES)}")
    return RECIPES[name]
