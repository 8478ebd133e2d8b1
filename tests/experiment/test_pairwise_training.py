"""Settings that meet in training: each combination starts, resumes, and gives its links.

Combinations are all-pairs: any two values that may meet do so in one of them.
"""

import contextlib
import copy
import functools
import itertools
import json

import numpy as np
import pytest

from rmas.errors import InputError, Stopped
from rmas.experiment import Experiment, Settings
from rmas.training.stopping import StopSignal
from support import tiny_pair
from support.experiments import changed
from support.pairwise import combinations, pairs_of

STEPS = 3
STAGES = ("inner", "outer")
FACTORS = {
    "form": ("ln_res", "mlp_res", "linear", "linear_res", "mlp"),
    "objective": ("align", "rollout", "teacher_forced", "align:1,rollout:.1", "hop", "distill"),
    "cache_states": ("none", "float32", "bfloat16", "auto"),
    "init": ("aligned", "head", "random", "gated"),
    "mesh": ("single", "data=2,tensor=2", "fsdp=2,tensor=2"),
    "accumulate": (1, 2),
    "validation_rows": (0, 5),
    "select": ("last", "best"),
    "remat": ("turns", "layers"),
    "quantize": ("none", "int8"),
    "rounds": (1, 2),
    "mean": ("rows", "tokens"),
    "inner_rounds": ("all", "first"),
    "validate": ("rollout", "objective"),
    "train": (("inner", "outer"), ("outer",)),
}
NEUTRAL = ("mesh", "accumulate", "remat")
"""These change how links are computed, not which: a run is compared to one with the defaults."""
WHERE = {
    **{name: (name,) for name in ("objective", "mesh", "quantize")},
    **{name: (f"links.{name}",) for name in ("form", "init")},
    **{name: (f"outer.{name}",) for name in ("remat", "rounds", "train")},
    **{
        name: tuple(f"{stage}.{name}" for stage in STAGES)
        for name in ("accumulate", "validation_rows", "select")
    },
    "cache_states": ("inner.cache_states",),
    "mean": ("inner.mean",),
    "inner_rounds": ("inner.rounds",),
    "validate": ("outer.validate",),
}


def allowed(chosen):
    """Only links with a residual path and an MLP can be aligned, only linear ones fit heads."""
    forms = {"aligned": ("mlp_res", "ln_res"), "head": ("linear", "linear_res")}
    init = chosen.get("init")
    return init not in forms or chosen.get("form", forms[init][0]) in forms[init]


LEFT_OUT = [
    *({"form": form, "init": "head"} for form in ("ln_res", "mlp_res")),
    *({"form": form, "init": "aligned"} for form in ("linear", "linear_res")),
    *({"form": "mlp", "init": init} for init in ("aligned", "head")),
]


CASES = combinations(FACTORS, allowed)
GATE = {
    "form": "ln_res",
    "objective": "teacher_forced",
    "cache_states": "float32",
    "init": "gated",
    "mesh": "data=2,tensor=2",
    "accumulate": 2,
    "validation_rows": 5,
    "select": "best",
    "remat": "turns",
    "quantize": "int8",
    "rounds": 1,
    "mean": "tokens",
    "inner_rounds": "first",
    "validate": "objective",
    "train": ("outer",),
}
"""A quick one of many options. The gate runs it, and `-m extended` all `CASES`."""


def settings_of(base, case, **more):
    values = copy.deepcopy(base)
    for stage in STAGES:
        # The third step is a checkpoint that `save_every` does not ask for.
        optim = {"steps": STEPS, "lr": 3e-3, "warmup_steps": 1}
        values[stage] = {"optim": optim, "batch_size": 4, "save_every": 2}
    values["outer"]["max_latent_tokens"] = 3
    values["links"] = {"aligned_rows": 6}
    changes = {path: value for name, value in case.items() for path in WHERE[name]}
    # What the rows of `align` read is drawn for each micro-batch: so all read the same.
    share = 0.0 if "," in case["objective"] else 1.0
    return Settings.from_dict(changed(values, changes | {"outer.on_policy": share} | more))


def test_the_suite_has_all_pairs():
    met = {frozenset(pair) for case in CASES for pair in itertools.combinations(case.items(), 2)}
    missing = [dict(pair) for pair in pairs_of(FACTORS) if pair not in met]
    assert missing == LEFT_OUT


def test_the_gate_runs_one_of_many_options():
    assert GATE.keys() == FACTORS.keys() and allowed(GATE)
    assert all(GATE[name] in FACTORS[name] for name in FACTORS)


def test_what_the_suite_leaves_out_is_refused(base):
    for pair in LEFT_OUT:
        with pytest.raises(InputError, match=rf"links\.init is '{pair['init']}'"):
            settings_of(base, CASES[0] | pair)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_pair.make(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module", autouse=True)
def _four_devices():
    with tiny_pair.four_devices():
        yield


@pytest.fixture(scope="module")
def reference(base, tmp_path_factory):
    """Workdir of the same training with the defaults of what is neutral; each runs once."""

    @functools.cache
    def run(*items):
        folder = tmp_path_factory.mktemp("reference")
        experiment = Experiment(settings_of(base, dict(items)), folder)
        experiment.train_inner()
        experiment.train_outer()
        return folder

    return run


@contextlib.contextmanager
def stopped_at(step):
    """The first training in the block is asked to end in this step."""
    calls = itertools.count(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignal, "reached", lambda _: next(calls) == step)
        yield


def links_of(folder):
    """Every number of a workdir's trained links, by file."""
    from safetensors.numpy import load_file

    found = {}
    for path in sorted(folder.rglob("links.safetensors")):
        where = path.parent.relative_to(folder)
        found |= {f"{where}/{name}": array for name, array in load_file(path).items()}
    return found


def metrics_of(folder):
    return {
        path.relative_to(folder): path.read_bytes()
        for path in sorted(folder.rglob("metrics.jsonl"))
    }


def numbers_of(folder):
    """Loss and gradient norm of every step of both stages."""
    return {
        (path.parent.relative_to(folder), line["step"], name): line[name]
        for path in sorted(folder.rglob("metrics.jsonl"))
        for line in map(json.loads, path.read_text().splitlines())
        for name in ("loss", "grad_norm")
    }


def check(base, reference, case, tmp_path):
    settings = settings_of(base, case)
    whole = Experiment(settings, tmp_path / "whole")
    whole.train_inner()
    whole.train_outer()

    step = 1 + (CASES.index(case) % 2 if case in CASES else 0)
    parts = tmp_path / "parts"
    for train in (Experiment.train_inner, Experiment.train_outer):
        with stopped_at(step), pytest.raises(Stopped, match=f"stopped after step {step} of 3"):
            train(Experiment(settings, parts))
        train(Experiment(settings, parts))
    links, resumed = links_of(whole.workdir), links_of(parts)
    assert len(links) >= 6
    assert links.keys() == resumed.keys()
    for name, array in links.items():
        assert np.array_equal(array, resumed[name]), name
        assert np.isfinite(array).all(), name
    assert metrics_of(whole.workdir) == metrics_of(parts)

    validation = case["validation_rows"] and case["select"] == "best"
    plain = case | {name: FACTORS[name][0] for name in NEUTRAL}
    plain["validation_rows"] = 5 if validation else 0
    if plain["cache_states"] != "bfloat16":
        plain["cache_states"] = "none"
    if plain == case:
        return
    wanted = links_of(reference(*plain.items()))
    assert links.keys() == wanted.keys()
    for name, array in links.items():
        assert np.allclose(array, wanted[name], atol=2e-4), name
    numbers, expected = numbers_of(whole.workdir), numbers_of(reference(*plain.items()))
    for place, value in expected.items():  # an optimizer hides the size of gradients
        assert np.isclose(numbers[place], value, rtol=1e-3, atol=1e-5), place


def named(case):
    return "-".join(str(value).replace("-", "") for value in case.values())


@pytest.mark.slow
def test_a_combination(base, reference, tmp_path):
    check(base, reference, GATE, tmp_path)


@pytest.mark.extended
@pytest.mark.parametrize("case", CASES, ids=named)
def test_combinations(base, reference, case, tmp_path):
    check(base, reference, case, tmp_path)
