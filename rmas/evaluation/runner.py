"""Runs methods over questions and writes one record per question; a killed run resumes exactly.

The plan fixes the order of everything. Records are appended a group at a time and fsynced. A group
whose records are incomplete is run again as a whole, so that the file of a resumed run equals that
of an uninterrupted one. Timings, which differ from run to run, are in a separate file.
"""

import collections
import contextlib
import dataclasses
import functools
import logging
import time
import uuid
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax

from rmas.console import Progress
from rmas.errors import InputError
from rmas.evaluation.ceilings import write_ceilings
from rmas.evaluation.json_lines import line_of, parse_line, scan, whole_lines
from rmas.evaluation.layout import CEILINGS, PROFILE, QUESTIONS, RECORDS, TIMINGS
from rmas.evaluation.merging import merge, warn_of_lost_times, whole_groups
from rmas.evaluation.plan import Asked, Group, Method, Plan
from rmas.evaluation.records import TIMING_SCHEMA
from rmas.files import append_lines, replacing, report_full_disk
from rmas.parallel import barrier, is_first
from rmas.parallel.meters import peak_bytes, seconds_compiling
from rmas.parallel.profile import Profile
from rmas.places import has_file
from rmas.system.answers import Answer
from rmas.tasks.grader import Grade
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row

_log = logging.getLogger(__name__)
ANSWER = "answer: "
"""Begins the names of events in a trace: a group is answered, by this method."""
_MAX_WAIT = 7 * 24 * 3600  # seconds that processes wait for the slowest one's answers


@dataclasses.dataclass(frozen=True)
class _Answered:
    """A group that is answered; `grades()` waits for its grades."""

    group: Group
    rows: Sequence[Row]
    answers: Sequence[Answer]
    timing: dict[str, Any]
    grades: Callable[[], list[Grade]]


def run(plan: Plan, graders: GraderPool, folder: Path) -> list[dict]:
    """Runs the groups that are missing in `folder`; returns all records, in the order of the plan.

    With several processes each one answers its share of these groups and writes its own files;
    the first process merges them, before and after. So a run may be resumed with another number of
    processes. Damaged lines count as missing, with a warning.

    Raises InputError where a row cannot be graded, the disk is full, or a file cannot be read.
    """
    groups = list(plan.groups())
    if is_first():
        merge(folder, groups)
    barrier("earlier records are merged")
    if is_first():
        rounds = {method.rounds for method in plan.methods}
        with report_full_disk(f"{folder / CEILINGS}"):
            write_ceilings(folder / CEILINGS, plan.grader, plan.asked.source, rounds)
    done = whole_groups(whole_lines(folder / RECORDS), groups)
    if is_first():
        warn_of_lost_times(folder / TIMINGS, [groups[n] for n in done], plan.asked.ids)
    count = jax.process_count()
    mine = _share([group for n, group in enumerate(groups) if n not in done])
    if plan.profile_groups and plan.profile_groups[0] >= len(mine):
        _log.warning("profile_groups: nothing is traced, %d groups are left to answer", len(mine))
    seen = sum(map(len, done.values())) if count == 1 else 0
    total = seen + sum(len(group.ids) for group in mine)
    label = "evaluate" if count == 1 else f"evaluate (process 1 of {count})"
    scored: dict[Method, list[float]] = {}
    for n, lines in done.items() if count == 1 else ():
        scores = scored.setdefault(groups[n].method, [])
        scores += [parse_line(line)["scores"]["exact"] for line in lines]
    own_files = _own_file(folder / RECORDS), _own_file(folder / TIMINGS)
    for path in own_files:
        has_file(path)  # what is there instead of a file is told, and not waited for
    with (
        own_files[0].open("a") as record_file,
        own_files[1].open("a") as timing_file,
        Progress(total, start=seen, label=label, unit="answer") as progress,
        Profile(folder / PROFILE, plan.profile_groups, "profile_groups") as profile,
        contextlib.closing(_answered(plan, mine, graders, progress, profile)) as answered,
    ):
        for own in answered:
            method, grades = own.group.method, own.grades()
            three = zip(own.rows, own.answers, grades, strict=True)
            new = [plan.record(own.group, *each) for each in three]
            with report_full_disk(f"{folder / RECORDS}"):
                append_lines(record_file, map(line_of, new))
                append_lines(timing_file, [line_of(own.timing)])
                if is_first() and not has_file(folder / QUESTIONS):
                    _write_questions(plan.asked, folder / QUESTIONS)
            seen += len(new)
            scores = scored.setdefault(method, [])
            scores += [record["scores"]["exact"] for record in new]
            name = f"{method.name} r={method.rounds} accuracy"
            progress.update(seen, **{name: sum(scores) / len(scores)})
    barrier("all questions are answered", _MAX_WAIT)
    if is_first():
        merge(folder, groups)
        with report_full_disk(f"{folder / QUESTIONS}"):
            _repair_questions(plan.asked, folder / QUESTIONS)
    barrier("all records are merged")
    found = whole_groups(whole_lines(folder / RECORDS), groups)
    return [parse_line(line) for n in range(len(groups)) for line in found[n]]


def _share(missing: Sequence[Group]) -> list[Group]:
    """What this process answers of the missing groups.

    The same questions by all methods, so that their times are of one machine; where there are more
    processes than such parts, single groups.
    """
    index, count = jax.process_index(), jax.process_count()
    parts = list(dict.fromkeys((group.rollout, group.start) for group in missing))
    if len(parts) < count:
        return list(missing[index::count])
    mine = set(parts[index::count])
    return [group for group in missing if (group.rollout, group.start) in mine]


def _answered(
    plan: Plan,
    groups: Sequence[Group],
    graders: GraderPool,
    progress: Progress,
    profile: Profile,
) -> Generator[_Answered]:
    """Answers groups, in order.

    Where an accelerator computes, the answers of one group are graded while the next is answered.
    On CPUs graders would take the cores from the method that is timed.
    """
    session = uuid.uuid4().hex
    begun: set[tuple[Method, int]] = set()
    pending: collections.deque[_Answered] = collections.deque()
    threads = ThreadPoolExecutor(1, thread_name_prefix="grading")
    try:
        for n, group in enumerate(groups):
            profile.before(n)
            rows, method = plan.asked.rows(group.start, group.end), group.method
            first = (method, group.bucket) not in begun
            if first:
                begun.add((method, group.bucket))
                what = f"{method.name} r={method.rounds}, questions of up to {group.bucket} tokens"
                progress.compiling(what)
            answers, timing = _answer(plan, group, rows, first, session)
            texts = [answer.text for answer in answers]
            grade = functools.partial(graders.grade, plan.grader, texts, rows)
            later = threads.submit(grade).result if plan.accelerator else grade
            pending.append(_Answered(group, rows, answers, timing, later))
            if not plan.accelerator or len(pending) > 1:
                yield pending.popleft()
        yield from pending
    finally:
        threads.shutdown(wait=False, cancel_futures=True)


def _answer(
    plan: Plan, group: Group, rows: Sequence[Row], first: bool, session: str
) -> tuple[list[Answer], dict[str, Any]]:
    """The answers of a group, the `first` one of its length or not, and its timing."""
    method, compiled = group.method, seconds_compiling()
    questions = [question_of(row) for row in rows]
    if method.warm and first:
        # The last batch, which has the group's bucket, and one more question, which takes the
        # place of the first text that ends.
        method.answer(questions[-plan.batch - 1 :], plan.batch, group.rollout)
    # Run and timed again if something was compiled, as for the shape of a longer message.
    for _ in range(2 if method.warm else 1):
        method.clock.pop()  # drops what ran before
        before, began, worked = seconds_compiling(), time.perf_counter(), time.process_time()
        with jax.profiler.TraceAnnotation(f"{ANSWER}{method.name} r={method.rounds}"):
            answers = method.answer(questions, plan.batch, group.rollout)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - worked
        after = seconds_compiling()
        if after == before:
            break
    charged = method.clock.charged  # for preambles that another method has read
    return answers, {
        "schema": TIMING_SCHEMA,
        "method": method.name,
        "rounds": method.rounds,
        "latent_length": method.latent_length,
        "rollout": group.rollout,
        "start": group.start,
        "n": len(group.ids),
        "ids": list(group.ids),
        "bucket": group.bucket,
        "seconds": seconds - (after - before) + charged,
        "cpu_seconds": cpu_seconds * (1 + charged / seconds),
        "compile": after - compiled,
        "phases": method.clock.pop(),
        "peak_bytes": peak_bytes(),
        "machine": plan.machine,
        "session": session,
        "accelerator": plan.accelerator,
    }


def _write_questions(asked: Asked, path: Path) -> None:
    """Writes the texts of all questions; records have only ids."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for row in asked.source:
            file.write(line_of({"id": row.id, "question": row.question}) + "\n")


def _repair_questions(asked: Asked, path: Path) -> None:
    """Writes the texts of all questions again where their file is gone or damaged."""
    there = has_file(path)
    try:
        if there and scan(path, lambda *_: None).lines == len(asked.source):
            return
    except InputError as error:
        _log.warning("%s: it is written anew", error)
    _write_questions(asked, path)


def _own_file(path: Path) -> Path:
    """The file that this process appends to: `path`, or `records.3.jsonl` in process 3 of many."""
    if jax.process_count() == 1:
        return path
    return path.with_name(f"{path.stem}.{jax.process_index()}{path.suffix}")
