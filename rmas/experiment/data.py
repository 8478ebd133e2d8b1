"""The rows of an experiment: training rows by split, and the questions of an evaluation."""

import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.experiment.settings import Settings
from rmas.places import expanded
from rmas.system.topology import Topology
from rmas.tasks.benchmarks import BENCHMARKS
from rmas.tasks.generated import PUZZLES
from rmas.tasks.rows import Row
from rmas.tasks.sources import RowSource, load_rows_source
from rmas.tasks.tables import SUFFIXES
from rmas.training.loop import Schedule
from rmas.training.validation import check_count
from rmas.training.workdir import PREPARED

_log = logging.getLogger(__name__)


class Data:
    """Rows by split, prepared in a folder when they are first asked for."""

    def __init__(self, settings: Settings, workdir: Path) -> None:
        self._settings = settings
        own = settings.data.folder
        self._folder = expanded(own) if own else workdir / PREPARED

    @functools.cached_property
    def training(self) -> dict[str, RowSource]:
        """The training rows by split. Raises `InputError` where none are named or readable.

        Where they have no split `validation`, rows of the split `train` are held back for it: the
        larger of both stages' `validation_rows`, so that neither stage trains on them.
        """
        s, d = self._settings, self._settings.data
        if not d.name:
            raise InputError(
                f"data.name is empty; name the training rows: a file ({', '.join(SUFFIXES)}), "
                "a dataset of experiments.prepare_data --list, or a generated task"
            )
        splits = self._load(d.name, d.source, d.field)
        count, stage = max((getattr(s, name).validation_rows, name) for name in ("inner", "outer"))
        if count and "train" in splits and "validation" not in splits:
            try:
                train, validation = splits["train"].hold_back(count)
            except InputError as error:
                raise InputError(
                    f"{d.name} has no split 'validation', and {error}; lower "
                    f"{stage}.validation_rows"
                ) from None
            few = len(train) < max(s.inner.batch_size, s.outer.batch_size)
            _log.log(
                logging.WARNING if few else logging.INFO,
                "%s: %d rows are held back for validation, %d are left to train on",
                *(d.name, train.held_back, len(train)),
            )
            splits |= {"train": train, "validation": validation}
        return splits

    def split(self, name: str) -> RowSource:
        """One split of the training rows."""
        return _pick(self.training, name, self._settings.data.name, "data.name")

    def rows(
        self, schedule: Schedule, topology: Topology, agents: Sequence[str]
    ) -> tuple[RowSource, Sequence[Row]]:
        """What a stage trains on, and the validation rows that it measures.

        Raises `InputError` where these rows are too few, or lack a text of `agents`.
        """
        name, source = self._settings.data.name, self.split("train")
        validation: Sequence[Row] = ()
        if schedule.validation_rows:
            validation = self.split("validation")[: schedule.validation_rows]
            check_count(len(validation), schedule.batch_size // schedule.accumulate)
        for rows in (source, validation):
            check_texts(rows, name, topology, agents)
        return source, validation

    @functools.cached_property
    def questions(self) -> RowSource:
        """All rows that an evaluation may ask. Raises `InputError` where none are named."""
        s, e = self._settings, self._settings.evaluate
        name = s.questions_name
        if not name:
            raise InputError(
                "evaluate.data is empty; name the questions to evaluate on: a file "
                f"({', '.join(SUFFIXES)}) or a benchmark ({', '.join(BENCHMARKS)})"
            )
        own = (name, e.source, e.field) if e.data else (name, s.data.source, s.data.field)
        splits = self._load(*own)
        if e.split:
            return _pick(splits, e.split, name, "evaluate.split")
        found = "test" if "test" in splits else next(iter(splits))
        if len(splits) > 1 and found != "test":
            raise InputError(
                f"evaluate.split is empty, and {name} has several: {', '.join(splits)}; name one"
            )
        return splits[found]

    @functools.cached_property
    def asked(self) -> Sequence[Row]:
        """The questions of this evaluation: all, or the first `num_questions`."""
        rows, most, name = self.questions, self._settings.num_questions, self.name
        if name in BENCHMARKS:
            split = self._settings.evaluate.split or BENCHMARKS[name].split
            public = BENCHMARKS[name].source.rows.get(split, 0)
            if len(rows) < public:
                _log.warning(
                    "the files of %s hold %d of the %d public questions: figures are of those only",
                    name,
                    len(rows),
                    public,
                )
        return rows[:most] if 0 < most < len(rows) else rows

    @property
    def name(self) -> str:
        """What is evaluated on, as the settings name it."""
        return self._settings.questions_name

    def _load(self, name: str, source: str, field: str) -> dict[str, RowSource]:
        d = self._settings.data
        given: dict[str, Any] = {"field": field, "source": source}
        given = {key: value for key, value in given.items() if value}
        if name in PUZZLES:
            sizes = {"train": d.train, "validation": d.validation, "test": d.test}
            given |= sizes | {"seed": self._settings.seed}
        path = str(expanded(name)) if name.startswith("~") else name
        return load_rows_source(path, data_dir=self._folder, **given)


def _pick(splits: dict[str, RowSource], name: str, data: str, field: str) -> RowSource:
    if name not in splits:
        raise InputError(f"{field}: {data} has no split {name!r}; it has {', '.join(splits)}")
    return splits[name]


def check_texts(rows: Sequence[Row], name: str, topology: Topology, agents: Sequence[str]) -> None:
    """Raises `InputError` for a training row without a text of these agents or their senders.

    `name` is that of the rows, for the message.
    """
    senders = [e.src for agent in agents for e in topology.incoming(agent)]
    roles = {topology.role(agent) for agent in (*agents, *senders)}
    for row in rows:
        for role in sorted(roles):
            if not row.texts.get(role):
                known = ", ".join(sorted(row.texts)) or "none"
                raise InputError(
                    f"{name}: row {row.id} has no teacher text for the role {role!r} (roles with "
                    f"text: {known}); training needs texts of {', '.join(sorted(roles))} in every "
                    "row; experiments.make_rows makes them from questions by text exchange"
                )
