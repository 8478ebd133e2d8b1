"""What results and links belong to: facts that decide a resume, and the manifests of links."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from rmas import __version__
from rmas.experiment import derive
from rmas.experiment.settings import Settings
from rmas.links import Form
from rmas.options import as_dict
from rmas.system.load import System
from rmas.tasks.sources import RowSource

_PACE = ("profile_steps", "save_minutes")
"""Fields of a training stage that do not change its results."""
_QUESTIONS = ("data", "split", "source", "field")
_ORDER = ("group_batches", "profile_groups")
"""Fields of an evaluation that change in which order or pace answers are made, not which."""
HELD_BACK = "held_back_for_validation"
"""The fact that says how many rows of the split a stage of training did not read."""


def identity_of(
    settings: Settings, system: System, rows: RowSource, parts: tuple[str, ...] = ()
) -> dict[str, Any]:
    """What a stage's results depend on, for JSON: seed, data, system, and the named settings.

    Paths do not count, contents do: agents, prompts and rows enter by their digests.
    """
    facts = system.facts() | {
        "dtype": derive.dtype(settings).value,
        "date": settings.system.date,
    }
    if settings.quantize != "none":
        facts["quantize"] = settings.quantize
    picked = {part: plain(as_dict(getattr(settings, part))) for part in parts}
    for stage in ("inner", "outer"):
        if stage in picked:
            picked[stage] = {k: v for k, v in picked[stage].items() if k not in _PACE}
    if "evaluate" in picked:  # which questions these are, `data` says
        left_out = (*_QUESTIONS, *_ORDER)
        picked["evaluate"] = {k: v for k, v in picked["evaluate"].items() if k not in left_out}
    if system.tools and "evaluate" in parts:
        picked["tools"] = settings.tools.facts()
    data: dict[str, Any] = {"version": rows.version, "split": rows.split}
    if rows.held_back:
        data[HELD_BACK] = rows.held_back
    return {"seed": settings.seed, "data": data, "system": facts, **picked}


def manifest_of(settings: Settings, system: System, form: Form) -> dict[str, Any]:
    """What links, and checkpoints of them, belong to, for JSON."""
    return {
        "form": form,
        "latent_steps": settings.limits.latent_steps,
        "rounds": settings.outer.rounds,
        "date": settings.system.date,
        **system.facts(),
        "base_models": system.origins(),
        "rmas": __version__,
    }


def plain(value: Any) -> Any:
    """As JSON gives it back: tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value
