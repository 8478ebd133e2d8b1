"""Makes the report of evaluations: a table like the paper's, JSON, and plots.

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
from rmas.evaluation.records import read_evaluations
from rmas.evaluation.reporting import write_report
from rmas.evaluation.tables import text_report

_OUT = flags.DEFINE_string("out", None, "Folder of the report (default: WORKDIR/report).")
_K = flags.DEFINE_integer("k", None, "The k of pass@k (default: as many rollouts as there are).", 1)
_MOST = 1000


def main(argv: list[str]) -> None:
    workdirs = [Path(word).expanduser() for word in argv[1:]]
    if not workdirs:
        raise InputError("name a workdir, as in python -m experiments.report runs/quickstart")
    if len(workdirs) > 1 and not _OUT.value:
        raise InputError("several workdirs need --out=FOLDER, a folder for their report")
    evaluations = read_evaluations(workdirs)
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
        if not (workdir / "evaluate" / "summary.json").is_file():
            print(f"unfinished: the evaluation in {workdir} has not ended; give its command again")
    if not draw:
        print("no plots: they need matplotlib, pip install -e '.[plots]'")


def _can_draw() -> bool:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return False
    return True


if __name__ == "__main__":
    app.run(main, words=_MOST, resumes=False)
