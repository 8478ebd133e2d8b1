"""The variants of `experiments.ablation`, by sweep: what differs from the config."""

from collections.abc import Iterator, Mapping
from typing import Any

from rmas.experiment.ablation import Changes, Variant
from rmas.experiment.recipes import recipe_values
from rmas.experiment.settings import Settings

_RESIDUAL = ("mlp_res", "ln_res")
_ALONE = {"outer.optim.steps": 0}
_UNTRAINED = {"inner.optim.steps": 0, **_ALONE}
_HEAD = {"links.form": "linear", "links.init": "head"}
_OBJECTIVES: Mapping[str, Changes] = {
    "none": _ALONE,
    "align": {"objective": "align"},
    "hop": {"objective": "hop", "outer.optim.lr": 1e-4},
    "hop of outer links alone": {
        "objective": "hop",
        "outer.optim.lr": 1e-4,
        "outer.train": ("outer",),
    },
    "distill": {"objective": "distill", "outer.optim.lr": 1e-4},
    "align and hop": {"objective": "align:1,hop:0.1"},
    "align and distill": {"objective": "align:1,distill:1"},
    "rollout": {"objective": "rollout", "outer.optim.lr": 1e-4},
    "teacher_forced": {"objective": "teacher_forced", "outer.optim.lr": 5e-4},
    "teacher_forced of outer links alone": {
        "objective": "teacher_forced",
        "outer.optim.lr": 5e-4,
        "outer.train": ("outer",),
    },
}
"""Outer training by the name of an objective; what it lacks is the config's."""


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
            yield Variant("starts", f"{init} {name}", ({"links.init": init, **_OBJECTIVES[name]},))


def _best(base: Settings, steps: int) -> Changes:
    """The best links of eight measurements on enough rows for a batch."""
    rows = max(96, base.outer.batch_size // base.outer.accumulate)
    found = {"outer.validation_rows": rows, "outer.select": "best"}
    return found | {"outer.save_every": max(1, -(-steps // 8))}


def _objectives(base: Settings) -> Iterator[Variant]:
    for name, changes in _OBJECTIVES.items():
        yield Variant("objectives", name, (changes,))
    steps = base.outer.optim.steps
    whole, short = _best(base, steps), _best(base, -(-steps // 4))
    yield Variant("objectives", "hop with validation", ({**_OBJECTIVES["hop"], **whole},))
    align = {**_OBJECTIVES["align"], "outer.validation_rows": whole["outer.validation_rows"]}
    rollout = {**_OBJECTIVES["rollout"], "outer.optim.steps": -(-steps // 4), **short}
    yield Variant(
        "objectives",
        "align then rollout",  # the same rows are held back in both, and neither trains on them
        (align, rollout),
    )


def _rounds(steps: int) -> Iterator[Variant]:
    """With a curriculum of three stages, from inner links as the last stage has them."""
    third = -(-steps // 3)
    for name in ("align", "hop", "rollout"):
        changes = _OBJECTIVES[name]
        for rounds in (1, 2, 3):
            own = {**changes, "outer.rounds": rounds}
            yield Variant("rounds", f"{name} of {rounds} rounds", (own,))
        stages = [{**changes, "outer.rounds": n, "outer.optim.steps": third} for n in (1, 2, 3)]
        yield Variant("rounds", f"{name} of 1 then 2 then 3 rounds", tuple(stages))


def _on_policy() -> Iterator[Variant]:
    for name in ("align", "hop"):
        for share in (0.0, 0.5, 1.0):
            changes = {**_OBJECTIVES[name], "outer.on_policy": share}
            yield Variant("on_policy", f"{name} with on_policy {share:g}", (changes,))


def _rates() -> Iterator[Variant]:
    found = {
        "align": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
        "hop": (1e-5, 3e-5, 1e-4, 3e-4, 1e-3),
        "hop of outer links alone": (1e-4, 3e-4, 1e-3, 3e-3),
    }
    for name, rates in found.items():
        for rate in rates:
            changes = {**_OBJECTIVES[name], "outer.optim.lr": rate}
            yield Variant("rates", f"{name} at rate {rate:g}", (changes,))


def _steps() -> Iterator[Variant]:
    for name in ("align", "hop"):
        for steps in (50, 100, 200, 400, 800):
            changes = {**_OBJECTIVES[name], "outer.optim.steps": steps}
            yield Variant("steps", f"{name} for {steps} steps", (changes,))


def _latent_steps() -> Iterator[Variant]:
    for name in ("none", "align", "hop"):
        for steps in (4, 8, 12, 16, 24):
            changes = {**_OBJECTIVES[name], "limits.latent_steps": steps}
            yield Variant("latent_steps", f"{name} with {steps} latent steps", (changes,))


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


def _release(base: Settings) -> Iterator[Variant]:
    """The release's recipe, with updates of its size on as many rows as the config's."""
    recipe = dict(_flat(recipe_values("release")))
    for stage in ("inner", "outer"):
        own = getattr(base, stage)
        rows = own.optim.steps * own.batch_size
        recipe[f"{stage}.optim.steps"] = -(-rows // recipe[f"{stage}.batch_size"])
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


def sweeps_of(base: Settings) -> dict[str, tuple[Variant, ...]]:
    """All variants of a config by sweep; names do not depend on the config, lengths do."""
    steps = base.outer.optim.steps
    return {
        "objectives": tuple(_objectives(base)),
        "forms": tuple(_forms()),
        "starts": tuple(_starts()),
        "rounds": tuple(_rounds(steps)),
        "on_policy": tuple(_on_policy()),
        "inner": tuple(_inner()),
        "latent_steps": tuple(_latent_steps()),
        "rates": tuple(_rates()),
        "steps": tuple(_steps()),
        "rows": tuple(
            Variant("rows", f"{rows} rows", ({"data.train": rows},))
            for rows in (100, 500, 2000, 8000)
        ),
        "release": tuple(_release(base)),
        "memory": (
            Variant("memory", "latent memory", ({**_HEAD, **_UNTRAINED},), "latent_memory"),
        ),
    }


SWEEPS = tuple(sweeps_of(Settings()))
"""The names of the sweeps."""
