"""The public datasets that are known by name: where they are, and how their columns are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rmas.tasks import columns
from rmas.tasks.columns import Read
from rmas.tasks.tables import Cells


@dataclass(frozen=True)
class Source:
    """A dataset repository of the Hugging Face Hub.

    Attributes:
      repo: its id.
      files: patterns of file names by split, in the order in which they are read.
      rows: how many rows each split is known to have.
      revision: a branch or commit; the commit that is fetched is written down.
      access: how to get access, where it is not open.
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
      grader: what grades it (`grading.GRADERS`).
      task_family: the task family whose prompts are used (`PromptSet.template` falls back from it).
      read: its columns -> `(id, question, answer, meta)`.
      split: the one that is evaluated.
    """

    title: str
    grader: str
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
        "MATH-500", "math", "math",
        _one("HuggingFaceH4/MATH-500", "test.jsonl", 500), columns.math500,
    ),
    "aime25": Benchmark(
        "AIME 2025", "integer", "math", _one("math-ai/aime25", "test.jsonl", 30), columns.aime
    ),
    "aime26": Benchmark(
        "AIME 2026", "integer", "math",
        _one("MathArena/aime_2026", "data/train-*.parquet", 30), columns.aime,
    ),
    "gpqa": Benchmark(
        "GPQA-Diamond", "choice", "gpqa",
        _one("Idavidrein/gpqa", "gpqa_diamond.csv", 198, _GPQA_ACCESS), columns.gpqa,
    ),
    "medqa": Benchmark(
        "MedQA", "choice", "choice",
        _one("GBaker/MedQA-USMLE-4-options", "phrases_no_exclude_test.jsonl", 1273), columns.medqa,
    ),
    "mbppplus": Benchmark(
        "MBPP+", "mbpp", "code",
        _one("evalplus/mbppplus", "data/test-*.parquet", 378), columns.mbppplus,
    ),
    "livecodebench": Benchmark(
        "LiveCodeBench v6", "livecodebench", "code",
        _one("livecodebench/code_generation_lite", _LCB, 1055), columns.livecodebench,
    ),
    "hotpotqa": Benchmark(
        "HotpotQA", "qa", "reasoning",
        _one("hotpotqa/hotpot_qa", "distractor/validation-*.parquet", 7405), columns.hotpotqa,
    ),
    "bamboogle": Benchmark(
        "Bamboogle", "qa", "reasoning",
        _one("chiayewken/bamboogle", "data/test-*.parquet", 125), columns.bamboogle,
    ),
    "gsm8k": Benchmark(
        "GSM8K", "math", "math",
        Source(
            "openai/gsm8k",
            {"test": ("main/test-*.parquet",), "train": ("main/train-*.parquet",)},
            {"test": 1319, "train": 7473},
        ),
        columns.gsm8k,
    ),
}  # fmt: skip
"""Benchmarks by name."""


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

The rows of the summarizer's and the outer set are given as about 4.9 thousand; the sum of their
parts stands here.
"""


def source_of(name: str) -> Source:
    """Where a benchmark or training set is; KeyError for another name."""
    return BENCHMARKS[name].source if name in BENCHMARKS else TRAINING_SETS[name]
