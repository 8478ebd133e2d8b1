"""TFDS builders: a dataset is written once as array_record files and read back at random.

The name of a builder's config has a hash of everything that the rows depend on, so that files of
other settings, of an edited source or of a changed generator are never read. TensorFlow is not
needed.
"""

import abc
import hashlib
import inspect
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import tensorflow_datasets as tfds

from rmas.errors import InputError
from rmas.files import open_file, replacing_folder
from rmas.tasks import columns, tables
from rmas.tasks import files as rows_of_files
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.files import parse_records
from rmas.tasks.generated import PUZZLES
from rmas.tasks.locate import Files
from rmas.tasks.prepared import list_prepared
from rmas.tasks.puzzle import MIX
from rmas.tasks.rows import Row, to_record
from rmas.tasks.tables import Cells, Placed, read_records

_FIELDS = ("id", "question", "answer", "texts", "meta")


# mypy does not see the arguments of the library's own __init_subclass__.
class RowBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Writes splits of `Row`s in their order; a subclass implements `read_splits`."""

    VERSION = tfds.core.Version("1.0.0")
    # Nothing is downloaded, so no file of checksums is searched. (The search imports
    # importlib_resources, which TFDS does not declare.)
    code_path = None

    def __init_subclass__(cls) -> None:
        with tfds.core.registered.skip_registration():
            super().__init_subclass__()

    @abc.abstractmethod
    def read_splits(self) -> Mapping[str, Iterable[Row]]:
        """The rows of every split. Raises InputError for a faulty source.

        Large sources are iterators that read, and raise, as they advance.
        """

    def _info(self) -> tfds.core.DatasetInfo:
        features = tfds.features.FeaturesDict({name: tfds.features.Text() for name in _FIELDS})
        return tfds.core.DatasetInfo(builder=self, features=features, disable_shuffling=True)

    def _split_generators(self, dl_manager):
        return {name: self._generate_examples(rows) for name, rows in self.read_splits().items()}

    def _generate_examples(self, rows):
        for index, row in enumerate(rows):
            yield index, to_record(row)

    # The library's versions of these warn that the config is not a built-in one, and print that a
    # dataset of unknown size is downloaded.

    def _create_builder_config(self, builder_config, version):
        return builder_config

    def _log_download_bytes(self):
        pass

    def _log_download_done(self):
        pass


@dataclass(eq=False, kw_only=True)
class GeneratedConfig(tfds.core.BuilderConfig):
    """Settings of `Generated`, made by `generated_config`."""

    task: str
    seed: int
    sizes: Mapping[str, int]


class Generated(RowBuilder):
    """A generated task; its splits share no question and no id."""

    builder_config: GeneratedConfig

    def read_splits(self) -> dict[str, list[Row]]:
        """The splits train, validation and test."""
        config = self.builder_config
        rows = PUZZLES[config.task].make_rows(sum(config.sizes.values()), config.seed)
        # The test rows come first: they stay the same when the other sizes change.
        splits, start = {}, 0
        for name in ("test", "validation", "train"):
            splits[name] = rows[start : start + config.sizes[name]]
            start += config.sizes[name]
        return splits


def generated_config(
    task: str, seed: int, train: int, validation: int, test: int
) -> GeneratedConfig:
    """Settings of `Generated`; their name has a hash of them and of a sample of the rows."""
    sizes = {"train": train, "validation": validation, "test": test}
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"empty dataset: {task} split {name!r} has size {size}; use 1 or more")
    if seed < 0:
        raise InputError(f"{task} seed is {seed}; it must be 0 or more")
    probe = [to_record(row) for row in PUZZLES[task].make_rows(32, seed)]
    digest = _digest(MIX.tolist(), probe, sizes, seed)
    name = f"{task}-seed{seed}-{train}-{validation}-{test}-{digest}"
    return GeneratedConfig(name=name, task=task, seed=seed, sizes=sizes)


@dataclass(eq=False, kw_only=True)
class RowFileConfig(tfds.core.BuilderConfig):
    """Settings of `RowFile`, made by `row_file_config`."""

    path: Path
    field: str | None
    sha256: str


class RowFile(RowBuilder):
    """The rows of a file of one's own (`rmas/tasks/files.py`) as the split `train`."""

    builder_config: RowFileConfig

    def read_splits(self) -> dict[str, list[Row]]:
        """The split train."""
        config = self.builder_config
        records = read_records(config.path, config.field)
        rows = list(parse_records(records, config.path.stem))
        if _digest_of(config.path) != config.sha256:
            raise InputError(f"{config.path}: the file changed while it was read; start again")
        if not rows:
            raise InputError(f"empty dataset: {config.path} has no rows; it needs at least one")
        return {"train": rows}


def row_file_config(path: str | Path, field: str | None = None) -> RowFileConfig:
    """Settings of `RowFile`; their name has a hash of the file's name and content."""
    path = Path(path)
    sha256 = _digest_of(path)
    stem = re.sub(r"[^A-Za-z0-9]+", "_", path.stem)[:40]
    digest = _digest(sha256, path.name, field)
    return RowFileConfig(name=f"{stem}-{digest}", path=path, field=field, sha256=sha256)


@dataclass(eq=False, kw_only=True)
class PublicConfig(tfds.core.BuilderConfig):
    """Settings of `Public`, made by `public_config`."""

    dataset: str
    files: Files


class Public(RowBuilder):
    """A benchmark, or a training set of the release, from its public files."""

    builder_config: PublicConfig

    def read_splits(self) -> dict[str, Iterator[Row]]:
        """The splits that there are files of."""
        config = self.builder_config
        reader = _benchmark_rows if config.dataset in BENCHMARKS else _training_rows
        return {
            split: reader(config.dataset, paths) for split, paths in config.files.splits.items()
        }


def public_config(dataset: str, files: Files) -> PublicConfig:
    """Settings of `Public`; their name has a hash of the files and of the code that reads them."""
    contents = {
        split: [_digest_of(path) for path in paths] for split, paths in files.splits.items()
    }
    readers = [inspect.getsource(module) for module in (columns, tables, rows_of_files)]
    name = f"{dataset.replace('-', '_')}-{_digest(contents, readers)}"
    return PublicConfig(name=name, dataset=dataset, files=files)


def _benchmark_rows(name: str, paths: Iterable[Path]) -> Iterator[Row]:
    benchmark = BENCHMARKS[name]
    seen: dict[str, str] = {}
    for n, (place, record) in enumerate(_records(paths)):
        own, question, answer, meta = benchmark.read(Cells(record, place))
        row = Row(f"{name}/{own}" if own else f"{name}-{n:06d}", question, answer, meta=meta)
        if row.id in seen:
            raise InputError(f"{place}: the id {row.id!r} is also that of {seen[row.id]}")
        seen[row.id] = place
        yield row


def _training_rows(name: str, paths: Iterable[Path]) -> Iterator[Row]:
    yield from parse_records(_records(paths), name)


def _records(paths: Iterable[Path]) -> Iterator[Placed]:
    """The records of all files, none of which may be empty."""
    for path in paths:
        empty = True
        for placed in read_records(path):
            empty = False
            yield placed
        if empty:
            raise InputError(f"empty dataset: {path} has no rows; it needs at least one")


def _digest_of(path: Path) -> str:
    try:
        with open_file(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"{str(path)[:300]}: cannot be read ({error.strerror}); name a file of "
            f"{', '.join(tables.SUFFIXES)}"
        ) from None


def prepare(builder: RowBuilder) -> None:
    """Writes the builder's files, all or on an error none, unless they are there.

    Raises InputError for a faulty source, and where the files cannot be written.
    """
    builder.read_splits()  # raises the reader's own errors before TFDS wraps them
    target = Path(builder.data_path)
    if target.exists():
        return
    try:
        tfds.disable_progress_bar()
        with replacing_folder(target) as made:
            work = open_builder(type(builder), builder.builder_config, made.with_name("work"))
            work.download_and_prepare()
            os.rename(work.data_path, made)
            list_prepared(made)
    except InputError as error:  # without the notes that TFDS adds
        raise InputError(str(error)) from None
    except OSError as error:
        raise InputError(
            f"data_dir: {str(target)[:300]} cannot be written ({error.strerror or error}); name a "
            "writable folder"
        ) from None


def open_builder(kind: type[RowBuilder], config, data_dir: str | Path) -> RowBuilder:
    """A builder whose files are, or will be, under `data_dir`."""
    return kind(data_dir=str(data_dir), config=config, file_format="array_record")


def prepared_path(kind: type[RowBuilder], config, data_dir: str | Path) -> Path:
    """The folder in which `open_builder`'s builder has, or will have, its files."""
    return Path(data_dir) / kind.name / config.name / str(kind.VERSION)


def _digest(*parts) -> str:
    text = json.dumps([str(RowBuilder.VERSION), *parts], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
