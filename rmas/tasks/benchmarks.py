"""The public datasets that are known by name: where they are, and how they are read and graded."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rmas.tasks import columns
from rmas.tasks.choice_answers import CHOICE
from rmas.tasks.columns import Read
from rmas.tasks.grader import Grader
from rmas.tasks.livecodebench_answers import LIVECODEBENCH
from rmas.tasks.math_answers import INTEGER, MATH, WORD_PROBLEM
from rmas.tasks.mbpp_answers import MBPP
from rmas.tasks.qa_answers import QA
from rmas.tasks.tables import Cells


@dataclass(frozen=True)
class Source:
    """A dataset repository of the Hugging Face Hub.

    Attributes:
      repo: its id; empty where the files are not on the Hub.
      files: patterns of file names by split, in the order in which they are read.
      rows: the number of rows of each split.
      revision: a branch or commit; the commit that is downloaded is recorded.
      access: how to get access, where the repository is gated or the files are not on the Hub.
    """

    repo: str
    files: Mapping[str, tuple[str, ...]]
    rows: Mapping[str, int]
    revision: str = "main"
    access: str = ""


@dataclass(frozen=True)
class Benchmark:
    """A dataset to evaluate on.

    Attributes:
      title: its name in text.
      grader: what grades its answers.
      task_family: the task family of its prompts (with the fallbacks of `PromptSet.template`).
      source: where it is.
      read: `read(cells)` returns `(id, question, answer, meta)` of one record (`columns.py`).
      split: the split to evaluate on.
    """

    title: str
    grader: Grader
    task_family: str
    source: Source
    read: Callable[[Cells], Read]
    split: str = "test"


def _one(repo: str, files: str | tuple[str, ...], rows: int, access: str = "") -> Source:
    named = (files,) if isinstance(files, str) else files
    return Source(repo, {"test": named}, {"test": rows}, access=access)


_GPQA_ACCESS = (
    "accept its terms on the Hub and log in by `hf auth login` (they ask not to show its questions "
    "in public)"
)
_LCB = ("test.jsonl", *(f"test{n}.jsonl" for n in range(2, 7)))

BENCHMARKS: Mapping[str, Benchmark] = {
    "math500": Benchmark(
        "MATH-500", MATH, "math",
        _one("HuggingFaceH4/MATH-500", "test.jsonl", 500), columns.math500,
    ),
    "aime25": Benchmark(
        "AIME 2025", INTEGER, "math", _one("math-ai/aime25", "test.jsonl", 30), columns.aime
    ),
    "aime26": Benchmark(
        "AIME 2026", INTEGER, "math",
        _one("MathArena/aime_2026", "data/train-*.parquet", 30), columns.aime,
    ),
    "gpqa": Benchmark(
        "GPQA-Diamond", CHOICE, "gpqa",
        _one("Idavidrein/gpqa", "gpqa_diamond.csv", 198, _GPQA_ACCESS), columns.gpqa,
    ),
    "medqa": Benchmark(
        "MedQA", CHOICE, "choice",
        _one("GBaker/MedQA-USMLE-4-options", "phrases_no_exclude_test.jsonl", 1273), columns.medqa,
    ),
    "medqa_release": Benchmark(
        "MedQA, the release's 300 rows", CHOICE, "choice",
        _one("", "dataset/medqa.json", 300, "it is a file of the public release; clone that"),
        columns.medqa_release,
    ),
    "mbppplus": Benchmark(
        "MBPP+", MBPP, "code",
        _one("evalplus/mbppplus", "data/test-*.parquet", 378), columns.mbppplus,
    ),
    "livecodebench": Benchmark(
        "LiveCodeBench v6", LIVECODEBENCH, "code",
        _one("livecodebench/code_generation_lite", _LCB, 1055), columns.livecodebench,
    ),
    "hotpotqa": Benchmark(
        "HotpotQA", QA, "reasoning",
        _one("hotpotqa/hotpot_qa", "distractor/validation-*.parquet", 7405), columns.hotpotqa,
    ),
    "bamboogle": Benchmark(
        "Bamboogle", QA, "reasoning",
        _one("chiayewken/bamboogle", "data/test-*.parquet", 125), columns.bamboogle,
    ),
    "gsm8k": Benchmark(
        "GSM8K", WORD_PROBLEM, "math",
        Source(
            "openai/gsm8k",
            {"test": ("main/test-*.parquet",), "train": ("main/train-*.parquet",)},
            {"test": 1319, "train": 7473},
        ),
        columns.gsm8k,
    ),
}  # fmt: skip
"""Benchmarks by name.

To add one, change at most three files:

1. this file: a row of this table;
2. `columns.py`: a function that reads its columns, for `Benchmark.read`;
3. where its answers need a new way of grading: a new file `<kind>_answers.py` that defines a
   `Grader`, as `choice_answers.py` does. `GRADERS` and the report read it from this table.

(Its tests read a sample that `tests/support/make_samples.py` writes.)
"""


def _training(name: str, rows: int) -> Source:
    return Source(f"RecursiveMAS/{name}", {"train": ("*.parquet", "*/*.parquet")}, {"train": rows})


TRAINING_SETS: Mapping[str, Source] = {
    name.lower(): _training(name, rows)
    for name, rows in (
        ("Sequential-Math", 1904),
        ("Sequential-Code", 19890),
        ("Distillation-Math", 1904),
        ("Distillation-Code", 19890),
        ("Mixture-Math", 1904),
        ("Mixture-Code", 2000),
        ("Mixture-Science", 1000),
        ("Mixture-Summarizer", 4904),
        ("Mixture-Outer", 4904),
        ("Deliberation", 5000),
    )
}
"""The release's training sets by name, in the flat columns of `files.py`.

The release gives the rows of `mixture-summarizer` and `mixture-outer` as about 4.9 thousand; here
it is the sum of the parts.
"""


def source_of(name: str) -> Source:
    """Where a benchmark or training set is. Raises KeyError for another name."""
    return BENCHMARKS[name].source if name in BENCHMARKS else TRAINING_SETS[name]
