"""The links of an experiment: before training, written and read with what they belong to."""

import hashlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rmas import models
from rmas.errors import InputError
from rmas.experiment.identity import HELD_BACK, plain
from rmas.experiment.settings import Settings
from rmas.files import report_full_disk
from rmas.links import aligned_inner, init_links
from rmas.parallel import barrier, is_first, to_host
from rmas.places import expanded, has_entry
from rmas.shapes import Params
from rmas.system.load import System
from rmas.system.outline import Outline
from rmas.system.topology import difference
from rmas.system.turn import SystemSpec
from rmas.tasks.rows import Row
from rmas.tasks.sources import RowSource
from rmas.training.examples import Examples
from rmas.training.head import head_inner_link, head_outer_links, head_to_embeddings
from rmas.training.initial import align_outer_links
from rmas.training.workdir import read_identity
from rmas.weights.links import load_links, save_links

_log = logging.getLogger(__name__)


def random_links(settings: Settings, outline: Outline) -> Params:
    """Random links, decided by the seed."""
    return init_links(outline.link_spec, jax.random.key(settings.seed), "random")


def initial_links(settings: Settings, system: System, outline: Outline) -> Params:
    """The links before any training, decided by the seed.

    With `aligned`, inner links have the size of their agents' embeddings; what depends on training
    rows follows at the start of each stage (`fit_inner_links`, `fit_outer_links`).
    """
    init = settings.links.init
    links = init_links(outline.link_spec, jax.random.key(settings.seed), init)
    if init != "aligned":
        return links
    inner = {}
    for agent, params in links["inner"].items():
        own = system.agents[agent]
        inner[agent] = aligned_inner(params, float(models.embedding_rms(own.model, own.params)))
    return {"inner": inner, "outer": links["outer"]}


def fit_inner_links(
    settings: Settings,
    spec: SystemSpec,
    links: Params,
    examples: Mapping[str, Examples],
    rows: Sequence[Row],
) -> Params:
    """Initial links with those inner ones, of the agents of `examples`, that rows decide.

    All processes call it together, each with all rows of the training data.
    """
    if settings.links.init != "head":
        return links
    rows = rows[: settings.links.aligned_rows]
    inner, maps = {}, {}
    for agent, own in examples.items():
        loaded = own.renderer.system.agents[agent]
        shared = id(loaded.params["embed"]["weight"])  # of agents with the same weights
        if shared not in maps:
            maps[shared] = head_to_embeddings(loaded, settings.links.ridge)
        inner[agent] = head_inner_link(
            spec, agent, links, *maps[shared], examples=own, rows=rows, seed=settings.seed
        )
    return links | {"inner": links["inner"] | inner}


def fit_outer_links(
    settings: Settings, spec: SystemSpec, links: Params, examples: Examples, rows: Sequence[Row]
) -> Params:
    """Links whose outer ones are those before training; the inner ones are trained.

    All processes call it together, each with all rows of the training data.
    """
    system, own = examples.renderer.system, settings.links
    if own.init == "head":
        return links | {"outer": head_outer_links(spec.links, system, own.ridge)}
    if own.init != "aligned":
        return links
    return align_outer_links(
        spec,
        system.params(),
        links,
        examples=examples,
        rows=rows[: own.aligned_rows],
        seed=settings.seed,
        ridge=own.ridge,
    )


def write_links(folder: Path, links: Params, manifest: Mapping[str, Any]) -> None:
    """Writes links with what they belong to; all processes call it together."""
    links = to_host(links)
    if is_first():
        try:
            with report_full_disk(f"links in {folder}"):
                save_links(folder, links, dict(manifest))
        except OSError as error:
            raise InputError(f"links in {folder} cannot be written: {error.strerror}") from None
    barrier("links are saved")


def read_links(
    folder: Path,
    template: Params,
    manifest: Mapping[str, Any],
    rounds: int = 0,
    parts: bool = False,
) -> Params:
    """Reads links for the system of `manifest`; with `parts`, inner or outer ones alone will do.

    Warns where they were trained with other latent steps, prompts or tools, or for fewer than
    `rounds` rounds, for which they will be run.

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
            if plain(found.get(key)) != plain(manifest[key]):
                raise InputError(
                    f"links in {folder} were trained with another {key}: "
                    f"{found.get(key)} there, {manifest[key]} here"
                )

    links, found = load_links(folder, template, accept, parts)
    steps = found.get("latent_steps")
    if steps not in (None, manifest["latent_steps"]):
        _log.warning(
            "links in %s were trained with %s latent steps, not %d: expect other answers",
            folder,
            steps,
            manifest["latent_steps"],
        )
    if isinstance(found.get("rounds"), int):
        warn_of_rounds(found["rounds"], rounds)
    for key in ("prompts", "tools"):  # the system message describes tools: it is prompt, too
        if found.get(key) != manifest.get(key):
            _log.warning(
                "links in %s were trained with %s %s, not with %s: expect poor answers",
                folder,
                key,
                _short(found.get(key)),
                _short(manifest.get(key)),
            )
    return links


def _short(fact: Any) -> Any:
    """A prompt set by its name and the start of its digest."""
    if isinstance(fact, Mapping) and {"name", "digest"} <= fact.keys():
        return f"{fact['name']} ({str(fact['digest'])[:8]})"
    return fact


def check_inner_links(folders: Mapping[str, Path]) -> None:
    """Raises `InputError` where the inner links of an agent have not been trained."""
    for folder in folders.values():
        if not has_entry(folder):
            raise InputError(
                f"{folder} is missing; train inner links with this workdir first "
                "(experiments.train_inner, or Experiment.train_inner)"
            )


def read_inner_links(
    folders: Mapping[str, Path], template: Params, manifest: Mapping[str, Any]
) -> Params:
    """The inner links of all agents, each from its folder; as `read_links`."""
    inner: Params = {}
    for agent, folder in folders.items():
        own = {"inner": {agent: template["inner"][agent]}}
        inner |= read_links(folder, own, manifest)["inner"]
    return inner


def warn_of_rounds(trained: int, asked: int) -> None:
    """Warns where links that were trained for some rounds are asked for more."""
    if asked > trained:
        _log.warning(
            "the links were trained for at most %d %s, not for %d: later rounds may answer worse",
            trained,
            "round" if trained == 1 else "rounds",
            asked,
        )


def given_links(
    folder: str | Path | None, template: Params, manifest: Mapping[str, Any], needed: str = ""
) -> Params:
    """The links of a folder that training starts from: `inner`, `outer`, or both; as `read_links`.

    Empty without a folder. Raises `InputError` where the `needed` part is missing, too.
    """
    if folder is None:
        return {}
    links = read_links(expanded(folder), template, manifest, parts=True)
    if needed and needed not in links:
        raise InputError(f"links in {folder}: there are no {needed} ones; name a folder with them")
    return links


def start_of(given: Params) -> dict[str, str]:
    """What given links add to the identity of a training."""
    return {"given links": digest_of(given)} if given else {}


def digest_of(links: Params) -> str:
    """A short digest of the numbers of links."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(links):
        digest.update(np.ascontiguousarray(leaf).tobytes())
    return digest.hexdigest()[:16]


def warn_of_questions(trained: Iterable[Path], asked: Mapping[str, Any]) -> None:
    """Warns where an evaluation asks rows that stages of training, in folders, have read.

    `asked` names the rows as the `data` of `identity_of` do.
    """
    known = (read_identity(folder).get("data", {}) for folder in trained)
    held_back = [
        data.get(HELD_BACK, 0)
        for data in known
        if all(data.get(fact) == asked[fact] for fact in ("version", "split"))
    ]
    if held_back:
        least = min(held_back)
        but = f", but for {least} rows held back for validation" if least else ""
        _log.warning("the links were trained on these very questions%s", but)


def warn_of_validation(trained: Iterable[Path], rows: RowSource) -> None:
    """Warns where stages of training, in folders, read rows that are held back of `rows` now."""
    for folder in trained:
        data = read_identity(folder).get("data", {})
        held_back = data.get(HELD_BACK, 0)
        if data.get("version") == rows.version and held_back < rows.held_back:
            _log.warning(
                "%s was trained on rows that are held back for validation now (%d were held back "
                "then, %d are now); to keep them apart, give train_inner and train_outer the same "
                "inner. and outer.validation_rows, in a new workdir",
                *(folder, held_back, rows.held_back),
            )
