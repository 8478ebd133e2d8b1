"""The base models that the released systems are built on, described without a download.

`base_models.json` holds, by Hub id, the keys of each published `config.json` that describe the
text model, unchanged, and the number of its parameters (of a multimodal model, those of its text
part).
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
    """`{Hub id: {"parameters": ..., "config": {...}}}`; do not modify it, it is shared.

    A tied head is counted once.
    """
    return json.loads((resources.files("rmas.models") / "base_models.json").read_text("utf-8"))


def base_spec(name: str) -> ModelSpec:
    """The architecture of a base model, by its Hub id.

    Raises:
      InputError: not one of `base_models`.
    """
    if name not in base_models():
        known = ", ".join(base_models())
        raise InputError(f"{name!r} is not a base model of a released system; known: {known}")
    return parse_spec(base_models()[name]["config"], where=name)
