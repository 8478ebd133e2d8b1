"""Makes the report of evaluations: tables like the paper's, JSON, and plots.

  python -m experiments.report runs/quickstart
  python -m experiments.report runs/math500 runs/gpqa --out=runs/report

Reads `evaluate/records.jsonl` and `timings.jsonl` of each workdir and writes `report.md`,
`report.json` and plots to --out (default: `report` in the workdir, if there is one alone). Every
number comes from these files, whose hashes are in the report; nothing is run.
"""

from pathlib import Path

from absl import flags

from experiments import app
from rmas.errors import InputError
from rmas.evaluation.comparison import compare
from rmas.evaluation.records import FOLDER, RECORDS, File, read_evaluations
from rmas.evaluation.reporting import write_report
from rmas.evaluation.tables import text_report
from rmas.files import read_json

_OUT = flags.DEFINE_string("out", None, "Folder of the report (default: WORKDIR/report).")
_K = flags.DEFINE_integer("k", None, "The k of pass@k (default: as many rollouts as there are).", 1)
_MOST = 1000


def main(argv: list[str]) -> None:
    named = (Path(word).expanduser() for word in argv[1:])
    workdirs = list({path.resolve(): path for path in named}.values())
    if not workdirs:
        raise InputError("name a workdir, as in python -m experiments.report runs/quickstart")
    if len(workdirs) > 1 and not _OUT.value:
        raise InputError("several workdirs need --out=FOLDER, a folder for their report")
    started = [workdir for workdir in workdirs if not _is_empty(workdir)]
    evaluations = read_evaluations(started or workdirs)
    rows = compare(evaluations, _K.value)
    least = [row["rollouts"][0] for own in rows.values() for row in own]
    if _K.value and _K.value > max(least):
        raise InputError(
            f"--k={_K.value}: no method has so many rollouts of every question; "
            f"the most is {max(least)}"
        )
    out = Path(_OUT.value).expanduser() if _OUT.value else workdirs[0] / "report"
    draw = _can_draw()
    paths = write_report(rows, evaluations.files, out, draw)
    print(text_report(rows))
    print("\n".join(f"written: {path}" for path in paths))
    for workdir in workdirs:
        if workdir not in started:
            print(f"left out: the evaluation in {workdir} has no records yet")
        elif wrong := _unfinished(workdir, evaluations.files[started.index(workdir)][0]):
            print(f"unfinished: the evaluation in {workdir} {wrong}; give its command again")
    if not draw:
        print("no plots: they need matplotlib, pip install -e '.[plots]'")


def _is_empty(workdir: Path) -> bool:
    """Whether an evaluation was begun there, and has written nothing yet."""
    path = workdir / FOLDER / RECORDS
    return path.is_file() and path.stat().st_size == 0


def _unfinished(workdir: Path, file: File) -> str:
    """What an evaluation lacks; empty where it is whole."""
    path = workdir / FOLDER / "summary.json"
    if not path.is_file():
        return "has not ended"
    lines, wanted = file.lines - file.duplicates, read_json(path).get("records", 0)
    return f"has {lines:,} of its {wanted:,} records" if lines < wanted else ""


def _can_draw() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    app.run(main, words=_MOST, resumes=False)
