"""Damage to every file that a run reads again: one line, or the same result and nothing silent.

Each damage of `support/damage.py` is done to each kind of file of `support/workdir_stages.py`; then
the same work is done again. The whole product takes minutes:

    pytest -n 0 -m extended tests/experiment/test_damaged_workdirs.py
"""

import contextlib
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rmas.errors import InputError
from support.damage import damages, replacements
from support.workdir_stages import KINDS, STAGES, Stage, warnings_of

SECONDS = 30
FEW = ("flipped", "fifo", "replaced by deep_json", "cut", "gone", "replaced by json", "loop")
"""One damage whose name begins like each of these is in the quick suites."""
SLOW = [pair for pair in KINDS if pair[0] == "training without a list"]
TRAINING = [pair for pair in KINDS if pair[0] == "training"]
REST = [pair for pair in KINDS if pair not in SLOW and pair not in TRAINING]


@contextlib.contextmanager
def limited(what: str) -> Iterator[None]:
    """Fails where the block takes too long, even in a call that waits for a file."""

    def late(*_: object) -> None:
        raise AssertionError(f"{what}: not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A stage's folder as it was left, and what comes of it undamaged."""
    known: dict[str, tuple[Path, Any]] = {}

    def get(name: str) -> tuple[Path, Any]:
        if name not in known:
            folder = tmp_path_factory.mktemp("made")
            STAGES[name].make(folder)
            again = tmp_path_factory.mktemp("used") / "run"
            shutil.copytree(folder, again)
            known[name] = folder, STAGES[name].use(again)
        return known[name]

    return get


def outcome(stage: Stage, folder: Path, wanted: Any, damaged: Path, caplog) -> str:
    """`refused`, `reported` (by a warning or remark) or `same`; a wrong result fails."""
    caplog.clear()
    try:
        found = stage.use(folder)
    except InputError as error:
        assert "\n" not in str(error)
        assert str(folder) in str(error), error
        return "refused"
    told = warnings_of(caplog.records)
    if isinstance(found, dict) and any("unfinished" in line for line in found.get("remarks", ())):
        return "reported"
    if damaged.name == "timings.jsonl" and isinstance(found, dict) and "remarks" in found:
        lost = [line for line in found["remarks"] if line.startswith("no times of")]
        told += "".join(lost)
        found = found | {"remarks": [line for line in found["remarks"] if line not in lost]}
    for part, name in stage.parts.items():
        gone = damaged.name == name and not damaged.exists()
        if gone or f"{name} is damaged" in told:
            found, wanted = ({k: v for k, v in d.items() if k != part} for d in (found, wanted))
    assert found == wanted
    return "reported" if told else "same"


def check(made, name: str, kind: str, folder: Path, caplog, few: tuple[str, ...] = ()) -> list[str]:
    stage, (whole, wanted) = STAGES[name], made(name)
    path = folder / "run" / stage.file(whole, kind).relative_to(whole)
    content = (whole / path.relative_to(folder / "run")).read_bytes()
    every: dict[str, Any] = {**damages(content), **replacements(path)}
    chosen = [next(n for n in [*every][::-1] if n.startswith(f)) for f in few] or [*every]
    outcomes = []
    for damage in chosen:
        shutil.rmtree(folder / "run", ignore_errors=True)
        shutil.copytree(whole, folder / "run")
        if isinstance(every[damage], bytes):
            path.write_bytes(every[damage])
        else:
            every[damage]()
        with limited(f"{name}: {kind} {damage}"):
            try:
                outcomes.append(outcome(stage, folder / "run", wanted, path, caplog))
            except Exception as error:
                raise AssertionError(f"{name}: {kind} {damage}: {error!r}") from error
    return outcomes


@pytest.fixture(autouse=True)
def _no_plots(monkeypatch):
    monkeypatch.setattr("rmas.evaluation.plots.can_draw", lambda: False)


@pytest.mark.parametrize("place", range(len(TRAINING)), ids=lambda n: TRAINING[n][1])
def test_damage_in_a_training(made, place, tmp_path, caplog):
    """Another one for each kind of file."""
    check(made, *TRAINING[place], tmp_path, caplog, few=(FEW[place % len(FEW)],))


@pytest.mark.slow
@pytest.mark.parametrize("place", range(len(SLOW)), ids=lambda n: SLOW[n][1])
def test_damage_behind_a_kill(made, place, tmp_path, caplog):
    """The newest checkpoint of a killed run has no list of its files."""
    check(made, *SLOW[place], tmp_path, caplog, few=(FEW[place % len(FEW)],))


@pytest.mark.parametrize(("name", "kind"), REST)
def test_some_damage(made, name, kind, tmp_path, caplog):
    check(made, name, kind, tmp_path, caplog, few=FEW[:3])


@pytest.mark.extended
@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_damage(made, name, kind, tmp_path, caplog):
    outcomes = check(made, name, kind, tmp_path, caplog)
    counts = {word: outcomes.count(word) for word in sorted(set(outcomes))}
    print(f"{name}: {kind}: {len(outcomes)} damages: {counts}")
