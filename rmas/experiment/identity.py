"""What results and links belong to: facts that decide a resume, and the manifests of links."""

import dataclasses
import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rmas import __version__
from rmas.errors import InputError
from rmas.experiment import derive
from rmas.experiment.settings import Settings
from rmas.files import report_full_disk
from rmas.links import Form
from rmas.options import as_dict
from rmas.parallel import barrier, is_first, to_host
from rmas.shapes import Params
from rmas.system.load import System
from rmas.system.topology import difference
from rmas.tasks.sources import RowSource
from rmas.weights.links import load_links, save_links

_log = logging.getLogger(__name__)
_PACE = ("profile_steps", "save_minutes")
"""Fields of a training stage that do not change its results."""
_QUESTIONS = ("data", "split", "source", "field")


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
    picked = {part: _plain(as_dict(getattr(settings, part))) for part in parts}
    for stage in ("inner", "outer"):
        if stage in picked:
            picked[stage] = {k: v for k, v in picked[stage].items() if k not in _PACE}
    if "evaluate" in picked:  # which questions these are, `data` says
        picked["evaluate"] = {k: v for k, v in picked["evaluate"].items() if k not in _QUESTIONS}
    if system.tools and "evaluate" in parts:
        picked["tools"] = settings.tools.facts()
    data = {"version": rows.version, "split": rows.split}
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


def write_links(folder: Path, links: Params, manifest: Mapping[str, Any]) -> None:
    """Writes links with what they belong to; all processes call it together."""
    links = to_host(links)
    if is_first():
        with report_full_disk(f"links in {folder}"):
            save_links(folder, links, dict(manifest))
    barrier("links are saved")


def read_links(folder: Path, template: Params, manifest: Mapping[str, Any]) -> Params:
    """Reads links for the system of `manifest`; warns where they were trained with other prompts.

    Raises `InputError` where they belong to another topology, form or set of agents.
    """

    def accept(found: dict[str, Any]) -> None:
        try:
            differs = difference(found["topology"], manifest["topology"])
        except (AttributeError, KeyError, TypeError):
            raise InputError(
                f"links in {folder}: their manifest does not say what topology they belong to"
            ) from None
        if differs:
            raise InputError(f"links in {folder} were trained in another topology: {differs}")
        for key in ("form", "agents"):
            if _plain(found.get(key)) != _plain(manifest[key]):
                raise InputError(
                    f"links in {folder} were trained with another {key}: "
                    f"{found.get(key)} there, {manifest[key]} here"
                )

    links, found = load_links(folder, template, accept)
    steps = found.get("latent_steps")
    if steps not in (None, manifest["latent_steps"]):
        _log.warning(
            "links in %s were trained with %s latent steps, not %d: expect other answers",
            folder,
            steps,
            manifest["latent_steps"],
        )
    rounds = found.get("rounds")
    if isinstance(rounds, int) and rounds < manifest["rounds"]:
        _log.warning(
            "links in %s were trained for at most %d %s, not for %d: later rounds may answer worse",
            folder,
            rounds,
            "round" if rounds == 1 else "rounds",
            manifest["rounds"],
        )
    for key in ("prompts", "tools"):  # the system message describes tools: it is prompt, too
        if found.get(key) != manifest.get(key):
            _log.warning(
                "links in %s were trained with %s %s, not with %s: expect poor answers",
                folder,
                key,
                found.get(key),
                manifest.get(key),
            )
    return links


def digest_of(links: Params) -> str:
    """A short digest of the numbers of links."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(links):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def _plain(value: Any) -> Any:
    """As JSON gives it back: tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value
