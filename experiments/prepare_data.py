"""Prepares a benchmark or a training set, and shows what is there.

  python -m experiments.prepare_data --list
  python -m experiments.prepare_data --dataset=math500 --source=DIR
  python -m experiments.prepare_data --dataset=gsm8k

--source is a folder with the dataset's public files (or SPLIT.jsonl, .json, .csv, .parquet);
without one they are downloaded from the Hugging Face Hub, or found in its cache. Evaluation and
training prepare what they need by themselves; a changed file makes another dataset.
"""

from absl import flags

from experiments import app
from rmas.console import aligned, printable
from rmas.errors import InputError
from rmas.tasks.benchmarks import BENCHMARKS, TRAINING_SETS, source_of
from rmas.tasks.sources import load_rows_source
from rmas.tasks.tables import nearest

_DATASET = flags.DEFINE_string("dataset", None, "Name of the dataset (see --list).")
_SOURCE = flags.DEFINE_string(
    "source", None, "Folder with its public files, or its file (default: the Hub)."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "runs/data", "Where it is prepared.")
_LIST = flags.DEFINE_boolean("list", False, "Print the known datasets.")
_SHOWN = 160


def main(_: list[str]) -> None:
    """Prepares a dataset, or lists those that are known."""
    if _LIST.value:
        print(known())
        return
    name = _DATASET.value
    if name is None:
        raise InputError("--dataset is missing; name one of those that --list prints")
    if name not in {*BENCHMARKS, *TRAINING_SETS}:
        names = ", ".join([*BENCHMARKS, *TRAINING_SETS])
        meant = nearest(name, [*BENCHMARKS, *TRAINING_SETS])
        hint = f"did you mean {meant}? " if meant else ""
        raise InputError(f"dataset {name[:300]!r} is unknown; {hint}known: {names}")
    splits = load_rows_source(name, data_dir=_DATA_DIR.value, source=_SOURCE.value)
    expected = source_of(name).rows
    for split, rows in splits.items():
        print(f"{name} {split}: {len(rows):,} rows (public: {expected[split]:,})")
        if name == "gpqa":
            print("  (its terms ask not to show questions)")
            continue
        row = rows[0]
        print(f"  {printable(row.id)}: {printable(row.question[:_SHOWN])}")
        print(f"  gold: {printable(row.answer[:_SHOWN]) or '(tests)'}")
    whole = next(iter(splits.values()))
    print(f"from: {printable(whole.origin)}")
    print(f"prepared in {_DATA_DIR.value} as {whole.version}")


def known() -> str:
    """The table of datasets."""
    cells = [["name", "what", "rows", "graded by", "Hub dataset", "access"]]
    for name, benchmark in BENCHMARKS.items():
        own = benchmark.source
        rows = f"{own.rows[benchmark.split]:,}"
        access = "open" if not own.access else "gated" if own.repo else "the release's clone"
        repo = own.repo or "-"
        cells.append([name, benchmark.title, rows, benchmark.grader.name, repo, access])
    for name, own in TRAINING_SETS.items():
        cells.append([name, "training rows", f"{own.rows['train']:,}", "-", own.repo, "open"])
    return aligned(cells)


if __name__ == "__main__":
    app.run(main)
