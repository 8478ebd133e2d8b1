"""Records and timings of evaluations, read strictly: what is wrong is told by file and line.

Files of schema 1 lack latent lengths, positions, compile seconds and the ids of batches; the
places of questions in their records stand for the ids.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rmas.console import printable
from rmas.errors import InputError
from rmas.evaluation.report import COUNTS
from rmas.files import read_json

FOLDER, RECORDS, TIMINGS, CONFIG = "evaluate", "records.jsonl", "timings.jsonl", "config.json"
SCHEMAS = (1, 2)
MAX_LINE = 64 << 20
"""The longest line that is read, in bytes."""

_MOST = 2**53  # beyond it a float no longer tells whole numbers apart
_NAME = 200  # characters of a name


class Variant(NamedTuple):
    """A way to answer; `latent_length` is None for methods without latents."""

    method: str
    rounds: int
    latent_length: int | None


class Key(NamedTuple):
    """What there is one record of."""

    benchmark: str
    variant: Variant
    question: str
    rollout: int


@dataclasses.dataclass(frozen=True)
class Record:
    """What a report needs of a record.

    Attributes:
      counts: `decoded_tokens`, `latent_steps`, `prompt_tokens`, `positions`, summed over agents.
      scores: each from 0 to 1; always `exact` and `release_compatible`.
      estimated: whether `positions` was missing, and stands for the sum of the other counts.
      workdirs: places of the workdirs (in `Evaluations.files`) that hold this record.
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
class Batch:
    """Questions that were answered together; seconds are those of the whole batch.

    `compile` and `peak_bytes` are None where the file does not tell, `machine` is empty.
    """

    workdir: int
    keys: Sequence[Key]
    seconds: float
    compile: float | None
    phases: Mapping[str, float]
    peak_bytes: int | None
    machine: str = ""


@dataclasses.dataclass(frozen=True)
class File:
    """A file that was read: its hash, whole lines, and those left out as duplicates or half."""

    path: str
    sha256: str
    lines: int
    duplicates: int = 0
    half_lines: int = 0


@dataclasses.dataclass(frozen=True)
class Evaluations:
    """All records of some workdirs, and the newest timing of every batch of them.

    Attributes:
      questions: benchmark -> variant -> question id -> rollout -> record.
      batches: the batch that timed a record, where there is one.
      files: of each workdir, the records, and the timings or None.
    """

    questions: Mapping[str, Mapping[Variant, Mapping[str, Mapping[int, Record]]]]
    batches: Mapping[Key, Batch]
    files: Sequence[tuple[File, File | None]]


def read_evaluations(workdirs: Sequence[Path]) -> Evaluations:
    """Reads `evaluate/records.jsonl` and `timings.jsonl` of each workdir; one given twice once.

    A last line without its end is left out unless it is whole; equal records count once.
    Raises InputError naming file and line: what is no record or timing, two records of one
    question, variant and rollout that differ, two golds of one question. And where a workdir has
    no records, or other data under the name of one benchmark.
    """
    found: dict[Key, Record] = {}
    golds: dict[tuple[str, str], Record] = {}
    batches: dict[Key, Batch] = {}
    data: dict[str, tuple[Any, Path]] = {}
    files = []
    for number, workdir in enumerate(dict.fromkeys(Path(w).resolve() for w in workdirs)):
        path = workdir / FOLDER / RECORDS
        if not path.is_file():
            raise InputError(
                f"{path} is missing; name a workdir of experiments.evaluate, or run it first"
            )
        order, file = _read_records(path, number, found, golds)
        if not order:
            raise InputError(f"{path} holds no records yet; let experiments.evaluate go on first")
        told = _data_of(workdir / FOLDER / CONFIG)
        for benchmark in {key.benchmark for key in order} if told else ():
            other, first = data.setdefault(benchmark, (told, workdir))
            if other != told:
                raise InputError(
                    f"{first} and {workdir} hold answers to different data, both named "
                    f"{printable(benchmark)}; report them apart"
                )
        path, timings = workdir / FOLDER / TIMINGS, None
        if path.is_file():
            newest, timings = _read_timings(path, number, order)
            for batch in newest:
                if all(key in found and number in found[key].workdirs for key in batch.keys):
                    for key in batch.keys:
                        batches.setdefault(key, batch)
        files.append((file, timings))
    grouped: dict[str, dict[Variant, dict[str, dict[int, Record]]]] = {}
    for (benchmark, variant, question, rollout), record in found.items():
        rollouts = grouped.setdefault(benchmark, {}).setdefault(variant, {})
        rollouts.setdefault(question, {})[rollout] = record
    return Evaluations(grouped, batches, files)


def _data_of(path: Path) -> Any:
    """What data an evaluation's config names; None where there is no config."""
    config = read_json(path) if path.is_file() else None
    own = config.get("data") if isinstance(config, dict) else None
    return own.get("name") if isinstance(own, dict) else None


def _read_records(
    path: Path,
    workdir: int,
    found: dict[Key, Record],
    golds: dict[tuple[str, str], Record],
) -> tuple[list[Key], File]:
    """Adds a file's records; returns their keys in the order of the file."""
    order: dict[Key, None] = {}

    def take(value: dict[str, Any], place: str) -> None:
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
                f"{first.place}, so these are different questions; report them apart"
            )
        if known:
            seen = dict.fromkeys((*known.workdirs, workdir))
            record = dataclasses.replace(known, workdirs=tuple(seen))
        found[key] = record
        order[key] = None

    file = _scan(path, take)
    return list(order), dataclasses.replace(file, duplicates=file.lines - len(order))


def _read_timings(path: Path, workdir: int, order: Sequence[Key]) -> tuple[list[Batch], File]:
    """The newest timing of every batch whose questions are known."""
    places: dict[tuple[Variant, int], list[Key]] = {}
    for key in order:
        places.setdefault((key.variant, key.rollout), []).append(key)
    newest: dict[tuple[Variant, int, int], Batch | None] = {}
    benchmarks = {key.benchmark for key in order}
    count = 0

    def take(value: dict[str, Any], place: str) -> None:
        nonlocal count
        count += 1
        variant, rollout = _variant(value, place), _whole(value, "rollout", place, 0, 0)
        start, n = _whole(value, "start", place, 0), _whole(value, "n", place, 1)
        timed = places.get((variant, rollout), [])
        keys: list[Key] | None = timed[start : start + n]
        if "ids" in value:
            ids = value["ids"]
            if not isinstance(ids, list) or not all(isinstance(i, str) for i in ids):
                raise InputError(f"{place}: field 'ids' is no list of question ids")
            if len(ids) != n or len(set(ids)) != n:
                raise InputError(f"{place}: field 'ids' must name n = {n} different questions")
            names = {key.question: key for key in timed}
            keys = [names[i] for i in ids if i in names]
        if len(keys) != n or len(benchmarks) > 1:
            keys = None  # of questions that are not there, or that may be of another benchmark
        newest[variant, rollout, start] = _batch(value, place, workdir, keys)

    file = _scan(path, take)
    batches = [batch for batch in newest.values() if batch]
    return batches, dataclasses.replace(file, duplicates=count - len(newest))


def _record(value: dict[str, Any], place: str, workdir: int) -> tuple[Key, Record]:
    if value.get("schema") not in SCHEMAS:
        raise InputError(f"{place}: field 'schema' is not one of {', '.join(map(str, SCHEMAS))}")
    key = Key(
        _text(value, "benchmark", place),
        _variant(value, place),
        _field(value, "id", str, place),
        _whole(value, "rollout", place, 0),
    )
    counts, estimated = dict.fromkeys((*COUNTS, "positions"), 0), False
    for agent, own in _field(value, "agents", dict, place).items():
        where = f"{place}: agents.{printable(agent)}"
        if not isinstance(own, dict):
            raise InputError(f"{where} is no object")
        numbers = {count: _whole(own, count, where, 0) for count in COUNTS}
        estimated |= "positions" not in own
        numbers["positions"] = _whole(own, "positions", where, 0, sum(numbers.values()))
        counts = {count: counts[count] + numbers[count] for count in counts}
    scores = dict(_field(value, "scores", dict, place))
    for name in dict.fromkeys(("exact", "release_compatible", *scores)):
        score = scores.get(name)
        if not _finite(score) or not 0 <= score <= 1:
            raise InputError(f"{place}: field 'scores.{printable(name)}' is no number from 0 to 1")
    answer = value.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise InputError(f"{place}: field 'answer' is neither text nor null")
    return key, Record(
        gold=_field(value, "gold", str, place),
        counts=counts,
        scores=scores,
        answered=answer is not None,
        retried=_field({"retried": False} | value, "retried", bool, place),
        note=_field({"note": ""} | value, "note", str, place),
        estimated=estimated,
        digest=_digest(value),
        place=place,
        workdirs=(workdir,),
    )


def _batch(
    value: dict[str, Any], place: str, workdir: int, keys: Sequence[Key] | None
) -> Batch | None:
    """A checked timing; None where its questions are not known."""
    phases = _field({"phases": {}} | value, "phases", dict, place)
    for name in phases:
        _text({"phases": name}, "phases", place)
    numbers = {"seconds": value.get("seconds"), "compile": value.get("compile", 0.0)}
    for name, number in {**numbers, **{f"phases.{n}": s for n, s in phases.items()}}.items():
        if not _finite(number) or number < 0:
            raise InputError(f"{place}: field '{name}' is no number of seconds")
    peak = value.get("peak_bytes")
    if peak is not None:
        peak = _whole(value, "peak_bytes", place, 0)
    compiled = float(numbers["compile"]) if "compile" in value else None
    if keys is None:
        return None
    machine = _field({"machine": ""} | value, "machine", str, place)
    return Batch(workdir, keys, float(numbers["seconds"]), compiled, phases, peak, machine)


def _variant(value: dict[str, Any], place: str) -> Variant:
    length = value.get("latent_length")
    if length is not None:
        length = _whole(value, "latent_length", place, 1)
    return Variant(_text(value, "method", place), _whole(value, "rounds", place, 1), length)


def _scan(path: Path, take: Callable[[dict[str, Any], str], None]) -> File:
    """Calls `take(object, "FILE, line N")` for each line, and hashes all there is."""
    digest, lines, half = hashlib.sha256(), 0, 0
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE + 1):
                digest.update(line)
                place = f"{path}, line {lines + 1}"
                if len(line) > MAX_LINE:
                    raise InputError(f"{place} is longer than {MAX_LINE >> 20} MiB")
                try:
                    value = json.loads(line.decode("utf-8"))
                except (ValueError, RecursionError):
                    value = None
                if value is None and not line.endswith(b"\n"):
                    half = 1
                    break
                if not isinstance(value, dict):
                    raise InputError(f"{place} is no JSON object; give the files of an evaluation")
                take(value, place)
                lines += 1
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    return File(printable(str(path)), digest.hexdigest(), lines, half_lines=half)


def _digest(value: dict[str, Any]) -> bytes:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).digest()


def _field(value: Mapping[str, Any], name: str, kind: type, place: str) -> Any:
    words = {str: "text", dict: "object", bool: "true or false"}[kind]
    if not isinstance(value.get(name), kind):
        raise InputError(f"{place}: field {name!r} is missing or no {words}")
    return value[name]


def _text(value: Mapping[str, Any], name: str, place: str) -> str:
    """A name that goes into tables and file names."""
    found = _field(value, name, str, place)
    if not found or len(found) > _NAME or printable(found) != found:
        raise InputError(f"{place}: field {name!r} is no plain name of at most {_NAME} characters")
    return found


def _whole(
    value: Mapping[str, Any], name: str, place: str, least: int, default: int | None = None
) -> int:
    found = value.get(name, default)
    if not isinstance(found, int) or isinstance(found, bool) or not least <= found < _MOST:
        raise InputError(f"{place}: field {name!r} is missing or no whole number from {least} on")
    return found


def _finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) < _MOST and math.isfinite(value)
