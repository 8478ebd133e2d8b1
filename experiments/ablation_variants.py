"""The variants of `experiments.ablation`, by sweep: what differs from the config."""

from collections.abc import Iterator, Mapping
from typing import Any

from rmas.experiment.ablation import Changes, Variant
from rmas.experiment.recipes import recipe_values

_RESIDUAL = ("mlp_res", "ln_res")
_ALONE = {"outer.optim.steps": 0}
_UNTRAINED = {"inner.optim.steps": 0, **_ALONE}
_HEAD = {"links.form": "linear", "links.init": "head"}
_SHORT = {"outer.optim.steps": 100, "outer.optim.lr": 1e-4}
OBJECTIVES: Mapping[str, tuple[Changes, ...]] = {
    "none": (_ALONE,),
    "align": ({},),
    "hop": ({"objective": "hop"},),
    "distill": ({"objective": "distill"},),
    "align and hop": ({"objective": "align:1,hop:0.1"},),
    "align and distill": ({"objective": "align:1,distill:1"},),
    "rollout": ({"objective": "rollout", "outer.optim.lr": 1e-4},),
    "align then rollout": (
        {},
        {"objective": "rollout", **_SHORT, "outer.validation_rows": 96, "outer.select": "best"},
    ),
    "teacher_forced": ({"objective": "teacher_forced", "outer.optim.lr": 5e-4},),
    "teacher_forced of outer links alone": (
        {"objective": "teacher_forced", "outer.optim.lr": 5e-4, "outer.train": ("outer",)},
    ),
}
"""Stages of outer training by the name of an objective; what they lack is the config's."""


def _forms() -> Iterator[Variant]:
    for form in ("linear", "linear_res", "mlp", *_RESIDUAL):
        inits = ("random", "gated", "aligned") if form in _RESIDUAL else ("random",)
        inits = (*inits, "head") if form in ("linear", "linear_res") else inits
        for init in inits:
            changes = {"links.form": form, "links.init": init}
            yield Variant("forms", f"{form} {init}", (changes,))
            if init == "head":
                yield Variant("forms", f"{form} {init} untrained", ({**changes, **_UNTRAINED},))


def _starts() -> Iterator[Variant]:
    for init in ("random", "gated"):
        for name in ("none", "align", "hop", "distill", "rollout", "teacher_forced"):
            own = tuple({"links.init": init, **changes} for changes in OBJECTIVES[name])
            yield Variant("starts", f"{init} {name}", own)


def _objectives() -> Iterator[Variant]:
    for name, stages in OBJECTIVES.items():
        yield Variant("objectives", name, stages)


def _rounds() -> Iterator[Variant]:
    for name in ("align", "hop", "rollout"):
        (changes,) = OBJECTIVES[name]
        for rounds in (1, 2, 3):
            own = {**changes, "outer.rounds": rounds}
            yield Variant("rounds", f"{name} of {rounds} rounds", (own,))
        yield Variant("rounds", f"{name} of 1 then 2 then 3 rounds", _curriculum(changes))


def _curriculum(changes: Changes) -> tuple[Changes, ...]:
    """Three stages of a third of the steps each; inner links are those of the last one."""
    return tuple({**changes, "outer.rounds": n, "outer.optim.steps": 133} for n in (1, 2, 3))


def _one(sweep: str, field: str, values: tuple) -> Iterator[Variant]:
    for value in values:
        yield Variant(sweep, f"{field} {value}", ({field: value},))


def _inner() -> Iterator[Variant]:
    for mean in ("rows", "tokens"):
        for rounds in ("all", "first"):
            changes = {"inner.mean": mean, "inner.rounds": rounds}
            yield Variant("inner", f"mean over {mean} of {rounds} rounds", (changes,))
            alone = {**changes, **_ALONE}
            yield Variant(
                "inner", f"mean over {mean} of {rounds} rounds with ridge alone", (alone,)
            )
    for steps in (100, 400, 1600):
        yield Variant("inner", f"{steps} steps", ({"inner.optim.steps": steps},))


def _release() -> Iterator[Variant]:
    """The release's recipe, on as many rows as the config's: 6,400 and 4,800 updates of 2 rows."""
    recipe = dict(_flat(recipe_values("release")))
    recipe |= {"inner.optim.steps": 6400, "outer.optim.steps": 4800}
    slow = {"inner.optim.lr": 1e-4, "outer.optim.lr": 1e-4}
    yield Variant("release", "release", (recipe,))
    yield Variant("release", "release at rate 1e-4", ({**recipe, **slow},))
    yield Variant("release", "release from aligned", ({**recipe, "links.init": "aligned"},))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested values by dotted names."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


SWEEPS: Mapping[str, tuple[Variant, ...]] = {
    "forms": tuple(_forms()),
    "objectives": tuple(_objectives()),
    "starts": tuple(_starts()),
    "rounds": tuple(_rounds()),
    "inner": tuple(_inner()),
    "latent_steps": tuple(_one("latent_steps", "limits.latent_steps", (4, 8, 12, 16))),
    "rates": tuple(_one("rates", "outer.optim.lr", (1e-4, 3e-4, 1e-3, 3e-3, 1e-2))),
    "rows": tuple(_one("rows", "data.train", (100, 500, 2000, 8000))),
    "release": tuple(_release()),
    "memory": (Variant("memory", "latent memory", ({**_HEAD, **_UNTRAINED},), "latent_memory"),),
}
"""All variants by sweep."""
