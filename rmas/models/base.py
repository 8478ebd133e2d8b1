"""The base models that the released systems are built on, known without a download.

`base_models.json` holds, by Hub id, the keys of each published `config.json` that describe the
text model, as they stand there, and the number of its parameters (of a composite model those of
its text part alone).
"""

import functools
import json
from importlib import resources
from typing import Any

from rmas.errors import InputError
from rmas.models.config import parse_spec
from rmas.models.spec import ModelSpec


@functools.cache
def base_models() -> dict[str, dict[str, Any]]:
    """`{Hub id: {"parameters": ..., "config": {...}}}`; shared, not to be changed."""
    return json.loads((resources.files("rmas.models") / "base_models.json").read_text("utf-8"))


def base_spec(name: str) -> ModelSpec:
    """The architecture of a base model.

    Raises:
      InputError: not one of `base_models`.
    """
    return parse_spec(_facts(name)["config"], where=name)


def parameters(name: str) -> int:
    """How many parameters its text model has, a tied head counted once; InputError as above."""
    return _facts(name)["parameters"]


def _facts(name: str) -> dict[str, Any]:
    if name not in base_models():
        known = ", ".join(base_models())
        raise InputError(f"{name!r} is no base model of the released systems; known: {known}")
    return base_models()[name]
