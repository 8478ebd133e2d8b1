"""Every kind of file that a run writes and reads again: who makes it, and who reads it.

Each stage makes a folder in which work is left or done, and uses it as the same command would when
it is given again. What `use` returns must not depend on what has happened to the files.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments import config as configs
from rmas import embedded
from rmas.checksums import write_checked
from rmas.errors import Stopped
from rmas.evaluation.plan import Method, Plan, by_length
from rmas.evaluation.reporting import make_report, write_summary
from rmas.evaluation.row_maker import RowMaker
from rmas.evaluation.runner import run
from rmas.evaluation.show import read_question, read_records
from rmas.experiment.links import read_links
from rmas.system.answers import Answer
from rmas.system.styles import SEQUENTIAL
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.relay import RELAY
from rmas.tasks.rows import Row
from rmas.tasks.sources import load_rows_source
from rmas.training.hidden_state_cache import cache_hidden_states, scheduled
from rmas.training.loop import Schedule, TrainingTask, fit
from rmas.training.optim import Optim
from rmas.training.workdir import open_workdir
from rmas.weights.links import save_links
from support.tiny_training import PAIR, Case, make_examples, make_rows

FOLDER = "run"
"""The part of a stage's folder that is damaged."""


@dataclasses.dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
      make: writes the files into a folder that is there.
      use: reads them, and returns what came of it; may change the folder.
      files: kind of file -> a pattern of its path in the folder; the largest file counts.
      parts: parts of the result that may differ if a warning says that this file is damaged, or
        if the file is gone.
    """

    make: Callable[[Path], object]
    use: Callable[[Path], Any]
    files: dict[str, str]
    parts: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def file(self, folder: Path, kind: str) -> Path:
        """The file of a kind."""
        found = [path for path in folder.glob(self.files[kind]) if path.is_file()]
        return max(found, key=lambda path: (path.stat().st_size, path.name))


# Training: a task that compiles at once.

LINKS = {"inner": {"a": {"w": np.float32([1.0, -2.0])}}, "outer": {"b": np.float32(0.5)}}
NUMBERS = [Row(str(n), "", "") for n in range(7)]


def _loss(links, frozen, batch, key):
    off = frozen * (batch * links["inner"]["a"]["w"][0] + links["outer"]["b"]) - 1
    return jnp.mean(off**2), {"off": off[0]}


def train(folder: Path, stop: int | None = None) -> dict[str, Any]:
    """Seven steps, of which 3, 6 and 7 are saved; or it is killed in step number `stop`."""

    def prepare(rows, step):
        if step == stop:
            raise Stopped("here")
        return np.float32([int(row.id) + step for row in rows])

    task = TrainingTask(
        label="test",
        loss=_loss,
        links=lambda: jax.tree.map(jnp.asarray, LINKS),
        template=LINKS,
        frozen=jnp.float32(0.7),
        source=NUMBERS,
        prepare=prepare,
        count_tokens=len,
        seed=5,
    )
    links = fit(task, Schedule(Optim(steps=7, lr=0.1), batch_size=3, save_every=3), folder)
    return {
        "links": jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), links),
        "metrics": (folder / "metrics.jsonl").read_bytes(),
    }


def train_killed(folder: Path, listed: bool = True) -> None:
    """What is left of a run that was killed in its last step; its newest list may lack."""
    try:
        train(folder, stop=6)
    except Stopped:
        if not listed:
            (folder / "checkpoints" / "files-6.json").unlink()


CHECKPOINT = {
    "links, optimizer": "checkpoints/6/state/d/*",
    "their parts": "checkpoints/6/state/ocdbt.process_0/d/*",
    "manifest of arrays": "checkpoints/6/state/manifest.ocdbt",
    "manifest of a process": "checkpoints/6/state/ocdbt.process_0/manifest.ocdbt",
    "names of arrays": "checkpoints/6/state/_METADATA",
    "shardings": "checkpoints/6/state/_sharding",
    "kinds of arrays": "checkpoints/6/state/array_metadatas/*",
    "data iterator, facts": "checkpoints/6/info/metadata",
    "score": "checkpoints/6/metrics/metrics",
    "metadata": "checkpoints/6/_CHECKPOINT_METADATA",
}
MARKS = {
    "mark of a step": "checkpoints/6/commit_success.txt",
    "mark of arrays": "checkpoints/6/state/commit_success.txt",
    "mark of facts": "checkpoints/6/info/commit_success.txt",
    "mark of a score": "checkpoints/6/metrics/commit_success.txt",
}

# Evaluation: answers by arithmetic.

QUESTIONS = RELAY.make_rows(5, seed=1)


def evaluate(folder: Path) -> dict[str, Any]:
    """Answers what is missing, and summarises; returns what a report and a look at it show."""

    def answer(questions, batch, rollout):
        return [
            Answer({"b": [f"value {len(q.text) % 17}"]}, {"b": dict.fromkeys(COUNTS, 3)}, text="1")
            for q in questions
        ]

    methods = (Method("latent", 1, answer, latent_length=8), Method("text", 1, answer))
    asked = by_length(QUESTIONS, lambda row: len(row.question))
    open_workdir(folder / "evaluate", {"seed": 1, "data": "five"})
    run(Plan("toy", "relay", methods, asked, batch=2, seed=7), GraderPool(), folder / "evaluate")
    write_summary(folder, {"asked": 5})
    return look(folder)


COUNTS = ("decoded_tokens", "latent_steps", "prompt_tokens", "positions")
TIMES = (
    *("seconds", "cpu_seconds", "timed", "groups", "compile", "phases", "peak_bytes"),
    "against_text",
)


def look(folder: Path) -> dict[str, Any]:
    """A report and a question of an evaluation. Times differ from run to run."""
    report = make_report([folder], folder / "report")
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in report.rows["toy"]]
    records = read_records(folder / "evaluate" / "records.jsonl")
    found = {"remarks": [remark for remark in report.remarks if "plots" not in remark]}
    found["ceilings"] = [row.pop("ceiling") for row in rows]
    found["question"] = read_question(folder / "evaluate" / "records.jsonl", records[0]["id"])
    return found | {"rows": rows, "records": records}


EVALUATION = {
    "records": "evaluate/records.jsonl",
    "timings": "evaluate/timings.jsonl",
    "questions": "evaluate/questions.jsonl",
    "ceilings": "evaluate/ceilings.json",
    "summary": "evaluate/summary.json",
    "identity": "evaluate/config.json",
}


def make_training_rows(folder: Path, stop: int = 99) -> bytes:
    """Training rows from attempts; killed in call number `stop`."""
    calls = []

    def answer(questions, batch, n):
        calls.append(n)
        if len(calls) == stop:
            raise Stopped("here")
        texts = {"planner": ["plan"], "critic": ["fine"], "solver": ["so"]}
        return [Answer(texts, {}, text=f"value {int(q.id) if n else 0}") for q in questions]

    rows, graders = [Row(str(n), f"what is {n}?", str(n)) for n in range(5)], GraderPool()
    maker = RowMaker(
        topology=SEQUENTIAL,
        answer=answer,
        grade=lambda texts, group: graders.grade("relay", texts, group),
        attempts=2,
        batch=2,
    )
    try:
        maker.make(rows, folder)
    except Stopped:
        return b""
    return (folder / "rows.jsonl").read_bytes()


# Cached hidden states, prepared rows, links, settings.

ROWS = make_rows(6)
OWN = {"inner": {"a": {"w": np.float32([[1.0, -2.0]])}}, "outer": {"b": np.float32([0.5])}}
SCHEDULE = Schedule(Optim(steps=6, lr=1e-2, warmup_steps=0), batch_size=4, save_every=100)


@functools.cache
def _case() -> Case:
    return Case(make_examples(PAIR, np.float32))


def hidden_states(folder: Path) -> list[bytes]:
    """All cached states of an agent."""
    case = _case()
    reader = cache_hidden_states(
        "solver",
        folder=folder,
        model=case.spec.model("solver"),
        params=case.params["solver"],
        examples=case.examples,
        source=ROWS,
        schedule=SCHEDULE,
        seed=1,
        dtype="float32",
        key={"data": "six rows"},
    )
    assert reader is not None
    found = reader.read(scheduled(case.examples, SCHEDULE, 1, len(ROWS)))
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(found)]


def rows(folder: Path) -> dict[str, list[Row]]:
    """The prepared rows of a generated task."""
    found = load_rows_source("relay", data_dir=folder, train=7, validation=2, test=3, seed=1)
    return {split: own[:] for split, own in found.items()}


def _manifest() -> dict[str, Any]:
    return {"form": "ln_res", "latent_steps": 8, "rounds": 3} | _case().system.facts()


def links(folder: Path) -> Any:
    """Links, read as what they belong to."""
    template = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, OWN))
    found = read_links(folder, template, _manifest())
    return jax.tree.map(lambda leaf: np.asarray(leaf).tobytes(), found)


def settings(folder: Path) -> Any:
    """The settings of a workdir, as a command reads them."""
    return configs.settings_of(configs.load(str(folder / "settings.json"))).to_dict()


DATA = "generated/*/1.0.0/"
STAGES = {
    "training": Stage(
        train_killed,
        train,
        {"metrics": "metrics.jsonl", "times": "timings.jsonl", "list": "checkpoints/files-6.json"}
        | CHECKPOINT
        | MARKS,
        parts={"metrics": "metrics.jsonl"},
    ),
    "training without a list": Stage(
        functools.partial(train_killed, listed=False), train, CHECKPOINT
    ),
    "evaluation": Stage(evaluate, evaluate, EVALUATION),
    "report": Stage(
        evaluate, look, EVALUATION, {"ceilings": "ceilings.json", "question": "questions.jsonl"}
    ),
    "making rows": Stage(
        functools.partial(make_training_rows, stop=5),
        make_training_rows,
        {"attempts": "attempts.jsonl"},
    ),
    "hidden states": Stage(
        hidden_states,
        hidden_states,
        {"facts": "*/hidden_states.json", "states": "*/*.array_record"},
    ),
    "prepared rows": Stage(
        rows,
        rows,
        {
            "rows": DATA + "*train.array_record*",
            "splits": DATA + "dataset_info.json",
            "features": DATA + "features.json",
            "list": DATA + "files.json",
        },
    ),
    "links": Stage(
        lambda folder: save_links(folder, OWN, _manifest()),
        links,
        {"weights": "links.safetensors", "manifest": "manifest.json"},
    ),
    "settings": Stage(
        lambda folder: write_checked(folder / "settings.json", embedded().to_dict()),
        settings,
        {"settings": "settings.json"},
    ),
}
"""All parts of a run."""
KINDS = [(stage, kind) for stage, own in STAGES.items() for kind in own.files]
"""Every kind of file, by stage."""


def warnings_of(records: list[logging.LogRecord]) -> str:
    """What was warned of."""
    return "\n".join(r.getMessage() for r in records if r.levelno >= logging.WARNING)
