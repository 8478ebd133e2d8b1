"""The variants of `experiments.ablation`, by sweep: what differs from the config."""

from collections.abc import Iterator, Mapping

from rmas.experiment.ablation import Changes, Variant

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
    "align, then rollout": (
        {},
        {"objective": "rollout", **_SHORT, "outer.validation_rows": 96, "outer.select": "best"},
    ),
    "teacher_forced": ({"objective": "teacher_forced", "outer.optim.lr": 5e-4},),
    "teacher_forced, outer links alone": (
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
            yield Variant("forms", f"{form}, {init}", (changes,))
            if init == "head":
                yield Variant("forms", f"{form}, {init}, untrained", ({**changes, **_UNTRAINED},))


def _starts() -> Iterator[Variant]:
    for init in ("random", "gated"):
        for name, stages in OBJECTIVES.items():
            own = tuple({"links.init": init, **changes} for changes in stages)
            yield Variant("starts", f"{init}, {name}", own)


def _objectives() -> Iterator[Variant]:
    for name, stages in OBJECTIVES.items():
        yield Variant("objectives", name, stages)


def _rounds() -> Iterator[Variant]:
    for name in ("align", "hop", "rollout"):
        (changes,) = OBJECTIVES[name]
        for rounds in (1, 2, 3):
            own = {**changes, "outer.rounds": rounds}
            yield Variant("rounds", f"{name}, {rounds}", (own,))
        yield Variant("rounds", f"{name}, 1 then 2 then 3", _curriculum(changes))


def _curriculum(changes: Changes) -> tuple[Changes, ...]:
    """Three stages of a third of the steps each; inner links are those of three rounds."""
    return tuple(
        {**changes, "inner.rounds": "first", "outer.rounds": n, "outer.optim.steps": 133}
        for n in (1, 2, 3)
    )


def _one(sweep: str, field: str, values: tuple) -> Iterator[Variant]:
    for value in values:
        yield Variant(sweep, f"{field} {value}", ({field: value},))


def _inner() -> Iterator[Variant]:
    for mean in ("rows", "tokens"):
        for rounds in ("all", "first"):
            changes = {"inner.mean": mean, "inner.rounds": rounds}
            yield Variant("inner", f"mean over {mean}, rounds {rounds}", (changes,))
            alone = {**changes, **_ALONE}
            yield Variant("inner", f"mean over {mean}, rounds {rounds}, ridge alone", (alone,))
    for steps in (100, 400, 1600):
        yield Variant("inner", f"{steps} steps", ({"inner.optim.steps": steps},))


def _release() -> Iterator[Variant]:
    """The release's recipe, with as many rows as the config's: 4,800 updates of 2 rows."""
    inner = {"inner.mean": "tokens", "inner.rounds": "first", "inner.cut": "right"}
    outer = {"objective": "teacher_forced", "outer.train": ("outer",), "links.init": "random"}
    pace = {"inner.optim.lr": 5e-4, "outer.optim.lr": 5e-4, "outer.batch_size": 2}
    pace |= {"inner.batch_size": 2, "inner.optim.steps": 6400, "outer.optim.steps": 4800}
    yield Variant("release", "release", ({**inner, **outer, **pace},))
    yield Variant("release", "release, rate 1e-4", ({**inner, **outer, **pace, **_RATE},))
    aligned = {**inner, **outer, **pace, "links.init": "aligned"}
    yield Variant("release", "release, aligned", (aligned,))


_RATE = {"inner.optim.lr": 1e-4, "outer.optim.lr": 1e-4}
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
