"""Settings that meet in evaluation: each combination starts, resumes, and gives its records.

Combinations are all-pairs: any two values that may meet do so in one of them.
"""

import copy
import dataclasses
import functools
import itertools
import json

import pytest

from rmas.errors import InputError
from rmas.evaluation import runner
from rmas.experiment import Experiment, Settings
from rmas.experiment.links import write_links
from support import tiny_pair
from support.experiments import changed
from support.pairwise import combinations, pairs_of

MEMORY = "latent_memory"
FACTORS = {
    "methods": ("latent", "text", "single", "text_terse", "text_recursive", "untrained", MEMORY),
    "mesh": ("single", "data=2,tensor=2", "fsdp=2,tensor=2"),
    "batch_size": (2, 1, 4),  # of 3 questions
    "rounds": ((1,), (2,), (1, 2)),
    "tools": ((), ("solver",), ("critic", "solver")),
    "latent_lengths": ((), (1, 3)),
    "temperature": (0.0, 2.0),
    "rollouts": (1, 2),
    "retry": (False, True),
    "quantize": ("none", "int8"),
}
NEUTRAL = ("mesh", "batch_size")
"""These change how answers are computed, not which: a run is compared to one with the defaults."""


def allowed(chosen):
    """Recursion needs two rounds; greedy answers would be alike."""
    if chosen.get("methods") == "text_recursive" and chosen.get("rounds") == (1,):
        return False
    return not (chosen.get("rollouts") == 2 and chosen.get("temperature") == 0.0)


CASES = combinations(FACTORS, allowed)
GATE = CASES[1:2]
"""The first one with nothing but other values than the defaults. The gate runs it, and
`-m extended` all others."""


def settings_of(base, case):
    values = copy.deepcopy(base)
    agents = values["system"]["agents"]
    if case["methods"] == MEMORY:  # of one base model
        values["system"]["agents"] = dict.fromkeys(agents, agents["critic"])
    of_evaluation = ("batch_size", "rounds", "latent_lengths", "rollouts", "retry")
    tools = {"agents": case["tools"], "functions": (tiny_pair.TWICE,), "names": (), "calls": 1}
    changes = {f"evaluate.{name}": case[name] for name in of_evaluation}
    changes |= {
        "mesh": case["mesh"],
        "quantize": case["quantize"],
        "num_questions": 3,
        "evaluate.methods": (case["methods"],),
        "sampling.temperature": case["temperature"],
        "tools": tools if case["tools"] else {"names": ()},
    }
    return Settings.from_dict(changed(values, changes))


def test_the_suite_has_all_pairs():
    met = {frozenset(pair) for case in CASES for pair in itertools.combinations(case.items(), 2)}
    missing = [dict(pair) for pair in pairs_of(FACTORS) if pair not in met]
    assert missing == [
        {"methods": "text_recursive", "rounds": (1,)},
        {"temperature": 0.0, "rollouts": 2},
    ]


def test_the_gate_runs_one_of_many_options():
    (case,) = GATE
    assert [name for name in FACTORS if case[name] == FACTORS[name][0]] == ["methods"]


def test_what_the_suite_leaves_out_is_refused(base, tmp_path):
    with pytest.raises(InputError, match="text_recursive needs two or more"):
        settings_of(base, CASES[0] | {"methods": "text_recursive", "rounds": (1,)})
    with pytest.raises(InputError, match=r"evaluate\.rollouts is 2; temperature 0 answers alike"):
        settings_of(base, CASES[0] | {"rollouts": 2, "temperature": 0.0})
    case = next(case for case in CASES if case["methods"] == "latent")
    other = Experiment(settings_of(base, case), tmp_path)
    settings = dataclasses.replace(
        other.settings, evaluate=dataclasses.replace(other.settings.evaluate, methods=(MEMORY,))
    )
    with pytest.raises(InputError, match="all agents must share one base model"):
        Experiment(settings, tmp_path).dry_run()


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_pair.make(tmp_path_factory.mktemp("pair"))


@pytest.fixture(scope="module")
def links(base, tmp_path_factory):
    """By case, a folder of links as training leaves it."""

    @functools.cache
    def made(method):
        settings = settings_of(base, CASES[0] | {"methods": method})
        run = Experiment(settings, tmp_path_factory.mktemp("links"))
        write_links(run.workdir / "links", run.untrained_links(), run.manifest())
        return run.workdir / "links"

    return lambda case: made(MEMORY if case["methods"] == MEMORY else "latent")


@pytest.fixture(scope="module", autouse=True)
def _four_devices():
    with tiny_pair.four_devices():
        yield


@pytest.fixture(scope="module")
def reference(base, links, tmp_path_factory):
    """Records of the same evaluation with the defaults of what is neutral; each runs once."""

    @functools.cache
    def run(*items):
        experiment = Experiment(settings_of(base, dict(items)), tmp_path_factory.mktemp("plain"))
        experiment.evaluate(links(dict(items)))
        return records_of(experiment.workdir)

    return run


def records_of(workdir):
    return (workdir / "evaluate" / "records.jsonl").read_bytes()


class Killed(BaseException):
    """What nothing in between handles."""


def kill(run, links):
    """Evaluates until the records of the first group are written, and a part of the next one's."""

    def killed(file, lines):
        file.write("".join(f"{line}\n" for line in lines) + '{"schema": 2, "id": "')
        file.flush()
        raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(runner, "append_lines", killed)
        run.evaluate(links)


def check(base, links, reference, case, tmp_path):
    settings, links = settings_of(base, case), links(case)
    whole = Experiment(settings, tmp_path / "whole")
    rows = whole.evaluate(links)
    records = records_of(whole.workdir)
    lines = [json.loads(line) for line in records.splitlines()]
    variants = {(r["method"], r["rounds"], r["latent_length"], r["rollout"]) for r in lines}
    assert len(lines) == 3 * len(variants)
    assert len(variants) == len(rows) * case["rollouts"]

    kill(Experiment(settings, tmp_path / "parts"), links)
    assert records_of(tmp_path / "parts") != records
    Experiment(settings, tmp_path / "parts").evaluate(links)
    assert records_of(tmp_path / "parts") == records

    plain = case | {name: FACTORS[name][0] for name in NEUTRAL}
    if plain["batch_size"] == case["batch_size"]:
        assert plain == case or reference(*plain.items()) == records
    else:  # the size of a batch decides on groups, and so on the order of records
        wanted = reference(*plain.items()).splitlines()
        assert sorted(wanted) == sorted(records.splitlines())
    return lines


def named(case):
    return "-".join(str(value) for value in case.values())


@pytest.mark.slow
@pytest.mark.parametrize("case", GATE, ids=named)
def test_some_combinations(base, links, reference, case, tmp_path):
    check(base, links, reference, case, tmp_path)


@pytest.mark.extended
@pytest.mark.parametrize("case", [case for case in CASES if case not in GATE], ids=named)
def test_combinations(base, links, reference, case, tmp_path):
    check(base, links, reference, case, tmp_path)
