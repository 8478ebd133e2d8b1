"""Writes the files of an evaluation's results: `summary.json`, and a report of some workdirs."""

import dataclasses
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas import __version__
from rmas.checksums import read_checked, write_checked
from rmas.errors import InputError
from rmas.evaluation import plots
from rmas.evaluation.json_lines import File
from rmas.evaluation.layout import FOLDER, RECORDS, SUMMARY, TIMINGS
from rmas.evaluation.records import Evaluations, Key, read_evaluations
from rmas.evaluation.results import ResultRow, RowsByBenchmark
from rmas.evaluation.statistics import FLIPS, SAMPLES
from rmas.evaluation.summary import summarise, summarise_workdir
from rmas.evaluation.tables import markdown_report
from rmas.evaluation.times import time_warnings
from rmas.files import replacing_folder, write_json
from rmas.places import has_file

SCHEMA = 2
"""Version of the format of `report.json`."""

_PLOTS = {
    "accuracy_rounds": plots.plot_rounds,
    "accuracy_tokens": plots.plot_tokens,
    "time_phases": plots.plot_phases,
}


@dataclasses.dataclass(frozen=True)
class Report:
    """A report that was written.

    Attributes:
      rows: benchmark -> rows.
      paths: the files that were written.
      remarks: a line on each workdir that is left out, unfinished, or lacks times, and on missing
        plots.
      warnings: benchmark -> a line on each reason to doubt its times.
    """

    rows: RowsByBenchmark
    paths: Sequence[Path]
    remarks: Sequence[str]
    warnings: Mapping[str, Sequence[str]]


def write_summary(workdir: Path, data: Mapping[str, Any]) -> list[ResultRow]:
    """Writes `evaluate/summary.json` of a finished evaluation; returns its rows.

    The file holds `data` (facts about the questions), `records` (their number) and `rows`.
    """
    rows = summarise_workdir(workdir)
    records = sum(row["records"] for row in rows)
    content = {"data": data, "records": records, "rows": rows}
    has_file(workdir / FOLDER / SUMMARY)  # what is there instead of a file is told
    write_checked(workdir / FOLDER / SUMMARY, content)
    return rows


def make_report(workdirs: Sequence[Path], out: Path | None = None, k: int | None = None) -> Report:
    """Summarises evaluations, and writes `report.md`, `report.json` and plots to the folder `out`.

    Workdirs whose evaluation has no records yet are left out. `out` is `report` in the workdir
    where there is one alone; `k` is that of pass@k (`summarise`).

    Raises InputError for files that are missing or damaged, a `k` that no method has so many
    rollouts for, several workdirs without `out`, and a folder that cannot be written.
    """
    workdirs = list({os.path.realpath(path): path for path in workdirs}.values())
    if not workdirs:
        raise InputError("a report needs at least one workdir")
    if out is None and len(workdirs) > 1:
        raise InputError("a report of several workdirs needs a folder to be written to")
    started = [workdir for workdir in workdirs if not _is_empty(workdir)]
    evaluations = read_evaluations(started or workdirs)
    rows = summarise(evaluations, k)
    most = max(row["rollouts"][0] for own in rows.values() for row in own)
    if k is not None and not 1 <= k <= most:
        raise InputError(
            f"k of pass@k is {k}; it must be from 1 to {most}, the most rollouts that any method "
            "has of every question"
        )
    draw = plots.can_draw()
    warnings = time_warnings(evaluations, rows)
    out = out or workdirs[0] / "report"
    paths = write_report(rows, evaluations.files, out, draw, warnings)
    remarks = [
        f"left out: the evaluation in {workdir} has no records yet"
        for workdir in workdirs
        if workdir not in started
    ]
    for workdir, files in zip(started, evaluations.files, strict=True):
        if missing := _unfinished(workdir, files["records"]):
            remarks.append(
                f"unfinished: the evaluation in {workdir} {missing}; give its command again"
            )
    for index, workdir in enumerate(started):
        if remark := _untimed(evaluations, index):
            remarks.append(f"no times of {remark} in {workdir / FOLDER / TIMINGS}")
    if not draw:
        remarks.append("no plots: they need matplotlib, pip install -e '.[plots]'")
    return Report(rows, paths, remarks, warnings)


def _untimed(evaluations: Evaluations, index: int) -> str:
    """How many records of a workdir have no time that a report can show; empty if all have."""
    own = [
        Key(benchmark, variant, question, rollout) in evaluations.groups
        for benchmark, variants in evaluations.questions.items()
        for variant, questions in variants.items()
        for question, rollouts in questions.items()
        for rollout, record in rollouts.items()
        if index in record.workdirs
    ]
    return "" if all(own) else f"{own.count(False):,} of {len(own):,} records"


def _is_empty(workdir: Path) -> bool:
    """Whether an evaluation was started there and has written nothing yet."""
    path = workdir / FOLDER / RECORDS
    return has_file(path) and path.stat().st_size == 0


def _unfinished(workdir: Path, records: File) -> str:
    """What an evaluation lacks; empty where it is complete."""
    path = workdir / FOLDER / SUMMARY
    if not has_file(path):
        return "has not ended"
    lines, summary = records.lines - records.duplicates, read_checked(path)
    wanted = summary.get("records", 0) if isinstance(summary, dict) else None
    if not isinstance(wanted, int):
        raise InputError(
            f"{path} is not a summary; give the command of the evaluation again, which writes it "
            "anew"
        )
    return f"has {lines:,} of its {wanted:,} records" if lines < wanted else ""


def write_report(
    rows: RowsByBenchmark,
    files: Iterable[Mapping[str, File]],
    out: Path,
    draw: bool = True,
    warnings: Mapping[str, Sequence[str]] | None = None,
) -> list[Path]:
    """Writes `report.md`, `report.json` and, with `draw`, plots; returns their paths.

    All files are written, or on an error none. With several benchmarks a plot's name starts with
    its benchmark. Raises InputError where the folder cannot be written, or matplotlib is missing.
    """
    listed = list(files)
    try:
        with replacing_folder(out, last=("report.md", "report.json")) as folder:
            drawn = _draw(rows, folder) if draw else {}
            text = markdown_report(rows, listed, drawn, warnings)
            (folder / "report.md").write_text(text, encoding="utf-8")
            write_json(
                folder / "report.json",
                {
                    "schema": SCHEMA,
                    "rmas": __version__,
                    "bootstrap": {"samples": SAMPLES, "flips": FLIPS, "seed": 0, "interval": 0.95},
                    "files": [
                        {"kind": kind, **dataclasses.asdict(file)}
                        for own_files in listed
                        for kind, file in own_files.items()
                    ],
                    "benchmarks": rows,
                    "warnings": warnings or {},
                    "plots": drawn,
                },
            )
    except OSError as error:
        raise InputError(f"report in {out} cannot be written: {error.strerror}") from None
    made = [name for names in drawn.values() for name in names]
    return [out / name for name in ("report.md", "report.json", *made)]


def _draw(rows: RowsByBenchmark, out: Path) -> dict[str, list[str]]:
    """File names of the plots by benchmark; none of phases where no row has any."""
    drawn: dict[str, list[str]] = {}
    for number, (benchmark, own) in enumerate(rows.items(), 1):
        start = ""
        if len(rows) > 1:  # the number keeps names apart that become equal
            plain = re.sub(r"[^A-Za-z0-9]+", "_", benchmark)[:40]
            start = f"{plain}_" if plain == benchmark else f"{plain}_{number}_"
        for name, plot in _PLOTS.items():
            if name == "time_phases" and not any(row["phases"] for row in own):
                continue
            drawn.setdefault(benchmark, []).append(f"{start}{name}.png")
            plot(own, out / f"{start}{name}.png", benchmark)
    return drawn
