"""Datasets by name or path: random-access rows per split, prepared on first use."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from rmas.errors import InputError
from rmas.parallel import barrier, is_first
from rmas.places import has_entry
from rmas.tasks.benchmarks import BENCHMARKS, TRAINING_SETS, source_of
from rmas.tasks.builders import (
    Generated,
    Public,
    RowBuilder,
    RowFile,
    generated_config,
    open_builder,
    prepare,
    prepared_path,
    public_config,
    row_file_config,
)
from rmas.tasks.generated import PUZZLES
from rmas.tasks.locate import locate
from rmas.tasks.prepared import Records, check_prepared, damaged
from rmas.tasks.rows import Row, from_record
from rmas.tasks.tables import SUFFIXES, nearest

_PREPARE = 4 * 3600  # seconds that processes wait for the first one to write a dataset
GENERATED_DEFAULTS = {"seed": 0, "train": 8000, "validation": 500, "test": 1000}
"""Seed and sizes of generated tasks."""


class RowSource(Sequence[Row]):
    """Rows of one split, read and decoded on access; a slice is a list of rows.

    Attributes:
      origin: where the files of a public dataset came from: `owner/name@commit` of the Hub, or
        `local files`; empty for other datasets.
      held_back: how many rows of the split are left out, since they are for validation.
    """

    def __init__(
        self,
        records: Sequence[dict[str, bytes]],
        name: str,
        origin: str = "",
        *,
        kept: np.ndarray | None = None,
        held_back: int = 0,
    ):
        self._records = records
        self._name = name
        self.origin = origin
        self.held_back = held_back
        self._kept = np.arange(len(records)) if kept is None else kept  # positions in records
        if len(self._kept) == 0:
            raise InputError(f"empty dataset: {name} has no rows; it needs at least one")

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index):
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {self._name}, which has {len(self)} rows")
        return from_record(self._records[int(self._kept[index])])

    def hold_back(self, count: int) -> tuple["RowSource", "RowSource"]:
        """The rows to train on, and `count` other ones as the split `validation`.

        Which ones depends on their questions alone; with a larger `count` they are among those
        held back. No question is in both: other rows of a question that is held back are left out.

        Raises `InputError` where no row would be left to train on.
        """
        questions = [row.question for row in self[:]]
        digests = [hashlib.sha256(question.encode()).digest() for question in questions]
        order = sorted(range(len(self)), key=lambda n: (digests[n], n))
        asked = {questions[n] for n in order[:count]}
        rest = [n for n in range(len(self)) if questions[n] not in asked]
        if not rest:
            raise InputError(
                f"{count} rows for validation leave none of the {len(self)} rows (of "
                f"{len(set(questions))} questions) to train on"
            )
        left_out, named = len(self) - len(rest), self._name.rsplit(" ", 1)[0]
        train = RowSource(
            self._records, self._name, self.origin, kept=self._kept[rest], held_back=left_out
        )
        held = self._kept[order[:count]]
        return train, RowSource(self._records, f"{named} validation", self.origin, kept=held)

    @property
    def version(self) -> str:
        """The name of the dataset with a hash of all that its rows depend on."""
        return self._name.split("/")[1].split(" ")[0]

    @property
    def split(self) -> str:
        """The split's name."""
        return self._name.rsplit(" ", 1)[1]

    def __repr__(self) -> str:
        return f"RowSource({self._name}, {len(self)} rows)"


def load_rows_source(
    name: str | Path = "relay",
    *,
    data_dir: str | Path,
    seed: int | None = None,
    train: int | None = None,
    validation: int | None = None,
    test: int | None = None,
    field: str | None = None,
    source: str | Path | None = None,
) -> dict[str, RowSource]:
    """Rows of every split of a dataset, written under `data_dir` if they are not there yet.

    Only process 0 writes; the others wait for it, so `data_dir` must be shared by all processes.

    Args:
        name: a generated task (`PUZZLES`; splits train, validation, test), a benchmark or training
            set (`benchmarks.py`), or the path of a .json, .jsonl, .csv or .parquet file
            (split train).
        data_dir: where prepared datasets are.
        seed: of a generated task (`GENERATED_DEFAULTS` has the defaults).
        train: size of this split of a generated task.
        validation: size of this split of a generated task.
        test: size of this split of a generated task.
        field: the top-level field with the rows of a JSON file; other files have none.
        source: the folder with the files of a benchmark or training set, or its only file; None
            downloads them.

    Raises:
        InputError: an unknown name, a malformed file, an empty split, settings of another kind
            of dataset, or a `data_dir` that cannot be written or is not shared.
    """
    settings = {"seed": seed, "train": train, "validation": validation, "test": test}
    given = {key: value for key, value in settings.items() if value is not None}
    if source is not None and str(name) not in {*BENCHMARKS, *TRAINING_SETS}:
        raise InputError(f"dataset {name} has no source; only public datasets have one")
    if str(name) in PUZZLES:
        if field is not None:
            raise InputError(f"dataset {name} has no field {field!r}; only files have one")
        config = generated_config(str(name), **{**GENERATED_DEFAULTS, **given})
        return _load(Generated, config, data_dir)
    if given:
        raise InputError(
            f"dataset {name} cannot have {', '.join(given)}: only generated tasks "
            f"({', '.join(PUZZLES)}) have seed and sizes"
        )
    if str(name) in {*BENCHMARKS, *TRAINING_SETS}:
        if field is not None:
            raise InputError(f"dataset {name} has no field {field!r}; only files have one")
        files = locate(str(name), source_of(str(name)), source)
        return _load(Public, public_config(str(name), files), data_dir, files.origin)
    if Path(name).suffix.lower() not in SUFFIXES:
        known = [*PUZZLES, *BENCHMARKS, *TRAINING_SETS]
        meant = nearest(str(name), known)
        raise InputError(
            f"dataset {str(name)[:300]!r} is unknown; "
            + (f"did you mean {meant}? " if meant else "")
            + f"use {', '.join(known)}, or a .json, .jsonl, .csv or .parquet file"
        )
    return _load(RowFile, row_file_config(name, field), data_dir)


def _load(
    kind: type[RowBuilder], config, data_dir: str | Path, origin: str = ""
) -> dict[str, RowSource]:
    folder = prepared_path(kind, config, data_dir)
    if has_entry(folder):
        check_prepared(folder)
    builder = _open(kind, config, data_dir)
    if not builder.data_path.exists():
        if is_first():
            prepare(builder)
        else:
            builder.read_splits()  # so that a faulty source ends every process
    barrier(f"prepared {config.name}", _PREPARE)
    if not builder.data_path.exists():
        raise InputError(
            f"data_dir: {builder.data_path} is not there for process {jax.process_index()}; "
            f"name a folder that all processes share"
        )
    builder = _open(kind, config, data_dir)  # reads the metadata that prepare wrote
    try:
        found = {split: builder.as_data_source(split) for split in builder.info.splits}
    except Exception as error:  # the library's own, of several types
        raise damaged(folder, error) from None
    if not found:
        raise damaged(folder, "no split is listed")
    return {
        split: RowSource(Records(own, folder), f"{builder.info.full_name} {split}", origin)
        for split, own in found.items()
    }


def _open(kind: type[RowBuilder], config, data_dir: str | Path) -> RowBuilder:
    """A builder, which reads the metadata of prepared files if they are there."""
    try:
        return open_builder(kind, config, data_dir)
    except Exception as error:  # the library's own, of several types
        raise damaged(prepared_path(kind, config, data_dir), error) from None
