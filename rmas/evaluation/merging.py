"""Merges the files that the processes of a run have written, and finds what is answered in them.

Damaged lines count as missing, with a warning and a copy of the file.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas.checksums import CHECKSUM
from rmas.evaluation.json_lines import keep_damaged, parse_line, whole_lines
from rmas.evaluation.layout import RECORDS, TIMINGS
from rmas.evaluation.plan import Group, RecordKey
from rmas.evaluation.records import check_record, check_timing
from rmas.files import atomic_write_text
from rmas.places import has_file

_log = logging.getLogger(__name__)


def merge(folder: Path, groups: Sequence[Group]) -> None:
    """Merges the files of all processes: complete groups once, in the order of the plan.

    Timings stay as they are: a later one of the same questions counts.
    """
    for name, of_records in ((RECORDS, True), (TIMINGS, False)):
        path = folder / name
        parts = sorted(folder.glob(f"{path.stem}.*{path.suffix}"))
        parts = [part for part in parts if part.suffixes[0][1:].isdecimal()]
        check = check_record if of_records else check_timing
        lines = [line for file in (path, *parts) for line in _sound_lines(file, check)]
        if of_records:
            found = whole_groups(lines, groups)
            lines = [line for n in sorted(found) for line in found[n]]
        if lines or has_file(path):
            atomic_write_text(path, "".join(f"{line}\n" for line in lines))
        for part in parts:
            part.unlink()


def whole_groups(lines: Sequence[str], groups: Sequence[Group]) -> dict[int, list[str]]:
    """Index of a group in `groups` -> its records in order, of groups that have all of them.

    The lines may be in any order, as those of a run that answered method after method.
    """
    known: dict[RecordKey | None, str] = {}
    for line in lines:
        known.setdefault(_key(line), line)
    found = {}
    for n, group in enumerate(groups):
        own = [known.get(group.key(question)) for question in group.ids]
        if all(line is not None for line in own):
            found[n] = [line for line in own if line is not None]
    return found


def warn_of_lost_times(path: Path, answered: Sequence[Group], asked: Sequence[str]) -> None:
    """Warns where groups that are answered already have no times; `asked` are all ids in order."""
    names = ("method", "rounds", "latent_length")
    timed: set[RecordKey] = set()
    for timing in map(parse_line, whole_lines(path)):
        start = timing["start"]
        ids = timing.get("ids", asked[start : start + timing["n"]])
        variant = (*map(timing.get, names), timing.get("rollout", 0))
        timed.update((*variant, question) for question in ids)
    if lost := sum(any(group.key(own) not in timed for own in group.ids) for group in answered):
        told = "%s: the times of %d of the %d groups that are answered already are lost"
        _log.warning(told, path, lost, len(answered))


def _sound_lines(path: Path, check: Callable[[dict[str, Any], str], None]) -> list[str]:
    """The lines of a file that are what was written; warns, and keeps a copy, if others are not."""
    lines = whole_lines(path)
    damaged = [n for n, line in enumerate(lines) if not _is_sound(line, check)]
    if damaged:
        kept = keep_damaged(path)
        _log.warning(
            "%s: line %d %s damaged: %s; the file as it was is now %s",
            path,
            damaged[0] + 1,
            "is" if len(damaged) == 1 else f"and {len(damaged) - 1} more are",
            "its groups are answered again" if check is check_record else "its times are lost",
            kept.name,
        )
    return [line for n, line in enumerate(lines) if n not in set(damaged)]


def _is_sound(line: str, check: Callable[[dict[str, Any], str], None]) -> bool:
    try:
        value = parse_line(line)
        if f'"{CHECKSUM}"' not in line:  # of an earlier version
            check(value, "")
    except ValueError:
        return False
    return True


def _key(line: str) -> RecordKey | None:
    """What identifies the record in a line; None where there is no record."""
    names = ("method", "rounds", "latent_length", "rollout", "id")
    try:
        record: Mapping[str, Any] = parse_line(line)
        key = tuple(record[name] for name in names)
        hash(key)
        return key
    except (ValueError, KeyError, TypeError):
        return None
