"""Records and timings of evaluations, read strictly: errors name the file and the line.

Files of schema 1 lack latent lengths, positions, compile seconds and the ids of timed questions;
there the places of questions among the records stand for the ids. In schemas 1 and 2 every record
has the release's score, from schema 3 on where the release has a rule. Timings tell their schema
from 4 on: methods take turns, and CPU seconds, session and the bucket of questions are known.
Records count reused positions from schema 4 on; earlier versions reused none.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rmas.checksums import read_checked
from rmas.console import printable
from rmas.errors import InputError
from rmas.evaluation.ceilings import Ceilings, read_ceilings
from rmas.evaluation.json_lines import (
    File,
    field,
    hash_file,
    integer_field,
    is_finite,
    name_field,
    scan,
)
from rmas.evaluation.layout import CEILINGS, CONFIG, FOLDER, RECORDS, TIMINGS
from rmas.places import has_file

SCHEMAS = (1, 2, 3, 4)
"""Versions of the format of records that can be read."""
TIMING_SCHEMA = 4
"""Version of the format of timings; lines of earlier ones do not tell theirs."""
COUNTS = ("decoded_tokens", "latent_steps", "prompt_tokens")
"""Counts that every record has of every agent."""
TOKENS = (*COUNTS, "positions", "reused_positions")
"""All counts. Positions are estimated where a record lacks them; reused ones are then none."""


class Variant(NamedTuple):
    """A method at a number of rounds; `latent_length` is None for methods without latents."""

    method: str
    rounds: int
    latent_length: int | None


class Key(NamedTuple):
    """What identifies a record."""

    benchmark: str
    variant: Variant
    question: str
    rollout: int


@dataclasses.dataclass(frozen=True)
class Record:
    """What a report needs of a record.

    Attributes:
      gold: the gold answer.
      counts: `TOKENS` -> the sum over agents.
      scores: each from 0 to 1; always `exact`; `release_compatible` where the release has a rule.
      answered: whether an answer was found in the text.
      retried: whether the answer was asked for a second time.
      note: what grading noted, such as `timeout`; empty for nothing.
      estimated: whether `positions` was missing and is the sum of the other counts.
      digest: hash of the whole record.
      place: `FILE, line N`.
      workdirs: indices of the workdirs (in `Evaluations.files`) that have this record.
    """

    gold: str
    counts: Mapping[str, int]
    scores: Mapping[str, float]
    answered: bool
    retried: bool
    note: str
    estimated: bool
    digest: bytes
    place: str
    workdirs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class TimedGroup:
    """Questions that were answered together, and what was measured; None: the file lacks it.

    Attributes:
      workdir: the index of its workdir in `Evaluations.files`.
      keys: the records of its questions.
      seconds: wall time of the whole group, without compilation.
      cpu_seconds: CPU time of the process.
      compile: seconds of compilation.
      phases: phase -> seconds of the whole group.
      peak_bytes: peak memory up to its end.
      machine: what it ran on; empty where the file does not have it.
      accelerator: whether devices other than CPUs computed.
      bucket: the bucket of the longest question's length in tokens.
      session: names the run of the process that answered; within one, methods take turns. Empty
        in files of earlier versions, in which each method ran alone.
    """

    workdir: int
    keys: Sequence[Key]
    seconds: float
    cpu_seconds: float | None = None
    compile: float | None = None
    phases: Mapping[str, float] = dataclasses.field(default_factory=dict)
    peak_bytes: int | None = None
    machine: str = ""
    accelerator: bool | None = None
    bucket: int | None = None
    session: str = ""


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """All records of some workdirs, and the newest timing of every group of them.

    Attributes:
      questions: benchmark -> variant -> question id -> rollout -> record.
      groups: the group that timed a record, where there is one.
      files: of each workdir, the files that were read: `records`, and where they are there
        `timings` and `ceilings`.
      ceilings: of each workdir, the ceilings on its questions, where they are known.
    """

    questions: Mapping[str, Mapping[Variant, Mapping[str, Mapping[int, Record]]]]
    groups: Mapping[Key, TimedGroup]
    files: Sequence[Mapping[str, File]]
    ceilings: Sequence[Ceilings | None]


def read_evaluations(workdirs: Iterable[Path]) -> Evaluations:
    """Reads the records, timings and ceilings of each workdir; a workdir given twice counts once.

    An incomplete last line is left out; equal records count once.

    Raises InputError, naming file and line: a line that is not a record or timing, two different
    records of one question, variant and rollout, or two gold answers of one question. Also where a
    workdir has no records, or two workdirs have different data under one benchmark's name.
    """
    found: dict[Key, Record] = {}
    golds: dict[tuple[str, str], Record] = {}
    groups: dict[Key, TimedGroup] = {}
    data: dict[str, tuple[Any, Path]] = {}
    files: list[Mapping[str, File]] = []
    ceilings: list[Ceilings | None] = []
    for index, workdir in enumerate(dict.fromkeys(Path(os.path.realpath(w)) for w in workdirs)):
        folder = workdir / FOLDER
        path = folder / RECORDS
        if not has_file(path):
            raise InputError(
                f"{path} is missing; name a workdir of experiments.evaluate, or run it first"
            )
        order, file = _read_records(path, index, found, golds)
        own_files = {"records": file}
        if not order:
            raise InputError(f"{path} has no records yet; let experiments.evaluate continue first")
        _check_data(folder / CONFIG, workdir, {key.benchmark for key in order}, data)
        path = folder / TIMINGS
        if has_file(path):
            newest, own_files["timings"] = _read_timings(path, index, order)
            for group in newest:
                for key in group.keys:
                    groups.setdefault(key, group)
        path = folder / CEILINGS
        ceilings.append(read_ceilings(path))
        if has_file(path):
            own_files["ceilings"] = hash_file(path)
        files.append(own_files)
    grouped: dict[str, dict[Variant, dict[str, dict[int, Record]]]] = {}
    for (benchmark, variant, question, rollout), record in found.items():
        rollouts = grouped.setdefault(benchmark, {}).setdefault(variant, {})
        rollouts.setdefault(question, {})[rollout] = record
    return Evaluations(grouped, groups, files, ceilings)


def _check_data(
    path: Path, workdir: Path, benchmarks: Iterable[str], data: dict[str, tuple[Any, Path]]
) -> None:
    """Refuses other data under the name of a benchmark that an earlier workdir has."""
    config = read_checked(path) if has_file(path) else None
    own = config.get("data") if isinstance(config, dict) else None
    for benchmark in benchmarks if own else ():
        other, first = data.setdefault(benchmark, (own, workdir))
        if other != own:
            raise InputError(
                f"{first} and {workdir} have answers to different data, both named "
                f"{printable(benchmark)}; make a report of each"
            )


def _read_records(
    path: Path,
    workdir: int,
    found: dict[Key, Record],
    golds: dict[tuple[str, str], Record],
) -> tuple[list[Key], File]:
    """Adds a file's records to `found`; returns their keys in the order of the file."""
    order: dict[Key, None] = {}

    def add(value: dict[str, Any], place: str) -> None:
        key, record = _record(value, place, workdir)
        known = found.get(key)
        if known and known.digest != record.digest:
            raise InputError(
                f"{place}: this record of {printable(key.question)} differs from {known.place}, "
                "of the same method, rounds, latent length and rollout; report only one of them"
            )
        first = golds.setdefault((key.benchmark, key.question), record)
        if first.gold != record.gold:
            raise InputError(
                f"{place}: {printable(key.question)} has another gold answer than in "
                f"{first.place}, so these are different questions; make a report of each"
            )
        if known:
            workdirs = dict.fromkeys((*known.workdirs, workdir))
            record = dataclasses.replace(known, workdirs=tuple(workdirs))
        found[key] = record
        order[key] = None

    file = scan(path, add)
    return list(order), dataclasses.replace(file, duplicates=file.lines - len(order))


def _read_timings(path: Path, workdir: int, order: Sequence[Key]) -> tuple[list[TimedGroup], File]:
    """The newest timing of every group whose questions are known."""
    places: dict[tuple[Variant, int], list[Key]] = {}
    for key in order:
        places.setdefault((key.variant, key.rollout), []).append(key)
    newest: dict[tuple[Variant, int, int], TimedGroup | None] = {}
    benchmarks = {key.benchmark for key in order}
    count = 0

    def add(value: dict[str, Any], place: str) -> None:
        nonlocal count
        count += 1
        check_timing(value, place)
        variant, rollout = _variant(value, place), value.get("rollout", 0)
        start, n = value["start"], value["n"]
        timed = places.get((variant, rollout), [])
        keys = timed[start : start + n]
        if "ids" in value:
            names = {key.question: key for key in timed}
            keys = [names[i] for i in value["ids"] if i in names]
        # Not of questions that are missing, or that may belong to another benchmark.
        known = len(keys) == n and len(benchmarks) == 1
        newest.pop((variant, rollout, start), None)  # so that the dict is in the order of lines
        newest[variant, rollout, start] = _group(value, workdir, keys) if known else None

    file = scan(path, add)
    last = {key: group for group in newest.values() if group for key in group.keys}
    groups = [
        group
        for group in dict.fromkeys(last.values())
        if all(last[key] is group for key in group.keys)  # not a part of a group timed anew
    ]
    return groups, dataclasses.replace(file, duplicates=count - len(newest))


def _record(value: dict[str, Any], place: str, workdir: int) -> tuple[Key, Record]:
    if value.get("schema") not in SCHEMAS:
        raise InputError(f"{place}: field 'schema' must be one of {', '.join(map(str, SCHEMAS))}")
    key = Key(
        name_field(value, "benchmark", place),
        _variant(value, place),
        field(value, "id", str, place),
        integer_field(value, "rollout", place, 0),
    )
    counts, estimated = dict.fromkeys(TOKENS, 0), False
    for agent, own in field(value, "agents", dict, place).items():
        where = f"{place}: agents.{printable(agent)}"
        if not isinstance(own, dict):
            raise InputError(f"{where} must be an object")
        numbers = {count: integer_field(own, count, where, 0) for count in COUNTS}
        estimated |= "positions" not in own
        numbers["positions"] = integer_field(own, "positions", where, 0, sum(numbers.values()))
        reused = {"reused_positions": 0} | own  # earlier versions reused none
        numbers["reused_positions"] = integer_field(reused, "reused_positions", where, 0)
        counts = {count: counts[count] + numbers[count] for count in counts}
    scores = dict(field(value, "scores", dict, place))
    for name in dict.fromkeys(("exact", *scores)):
        score = scores.get(name)
        if not is_finite(score) or not 0 <= score <= 1:
            raise InputError(
                f"{place}: field 'scores.{printable(name)}' must be a number from 0 to 1"
            )
    answer = value.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise InputError(f"{place}: field 'answer' must be text or null")
    return key, Record(
        gold=field(value, "gold", str, place),
        counts=counts,
        scores=scores,
        answered=answer is not None,
        retried=field({"retried": False} | value, "retried", bool, place),
        note=field({"note": ""} | value, "note", str, place),
        estimated=estimated,
        digest=_digest(value),
        place=place,
        workdirs=(workdir,),
    )


def check_record(value: dict[str, Any], place: str) -> None:
    """Raises InputError, naming the field, for what is not a record."""
    _record(value, place, 0)


def check_timing(value: dict[str, Any], place: str) -> None:
    """Raises InputError, naming the field, for what is not the timing of a group."""
    _variant(value, place)
    if value.get("schema", TIMING_SCHEMA) != TIMING_SCHEMA:
        told = f"field 'schema' of a timing must be {TIMING_SCHEMA}, or be missing"
        raise InputError(f"{place}: {told}")
    integer_field(value, "rollout", place, 0, 0)
    integer_field(value, "start", place, 0)
    n = integer_field(value, "n", place, 1)
    if "ids" in value:
        ids = value["ids"]
        if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
            raise InputError(f"{place}: field 'ids' must be a list of question ids")
        if len(ids) != n or len(set(ids)) != n:
            raise InputError(f"{place}: field 'ids' must name n = {n} different questions")
    phases = field({"phases": {}} | value, "phases", dict, place)
    for name in phases:
        name_field({"phases": name}, "phases", place)
    numbers = {"seconds": value.get("seconds")}
    numbers |= {name: value.get(name, 0.0) for name in ("cpu_seconds", "compile")}
    for name, number in {**numbers, **{f"phases.{n}": s for n, s in phases.items()}}.items():
        if not is_finite(number) or number < 0:
            raise InputError(f"{place}: field '{name}' must be a number of seconds, 0 or more")
    if value.get("peak_bytes") is not None:
        integer_field(value, "peak_bytes", place, 0)
    for name in ("machine", "session"):
        field({name: ""} | value, name, str, place)
    field({"accelerator": False} | value, "accelerator", bool, place)
    integer_field(value, "bucket", place, 1, 1)


def _group(value: Mapping[str, Any], workdir: int, keys: Sequence[Key]) -> TimedGroup:
    """The timing of the records `keys`, which `check_timing` has accepted."""
    return TimedGroup(
        workdir=workdir,
        keys=keys,
        seconds=float(value["seconds"]),
        cpu_seconds=float(value["cpu_seconds"]) if "cpu_seconds" in value else None,
        compile=float(value["compile"]) if "compile" in value else None,
        phases=value.get("phases", {}),
        peak_bytes=value.get("peak_bytes"),
        machine=value.get("machine", ""),
        accelerator=value.get("accelerator"),
        bucket=value.get("bucket"),
        session=value.get("session", ""),
    )


def _variant(value: dict[str, Any], place: str) -> Variant:
    length = value.get("latent_length")
    if length is not None:
        length = integer_field(value, "latent_length", place, 1)
    return Variant(
        name_field(value, "method", place), integer_field(value, "rounds", place, 1), length
    )


def _digest(value: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()
