"""Makes the report of evaluations: a table like the paper's, JSON, and plots.

  python -m experiments.report runs/quickstart
  python -m experiments.report runs/math500 runs/gpqa --out=runs/report

Reads `evaluate/records.jsonl` and `timings.jsonl` of each workdir and writes `report.md`,
`report.json` and plots to --out (default: `report` in the workdir, if there is one alone). Every
number comes from these records, whose hashes are in the report; nothing is run.
"""

from pathlib import Path

from absl import flags

from experiments import app
from rmas.errors import InputError
from rmas.evaluation.comparison import compare
from rmas.evaluation.records import read_evaluation
from rmas.evaluation.reporting import write_report
from rmas.evaluation.tables import text_report

_OUT = flags.DEFINE_string("out", None, "Folder of the report.")
_K = flags.DEFINE_list("k", ["10"], "The k of pass@k, where questions have several rollouts.")
_MOST = 100


def main(argv: list[str]) -> None:
    workdirs = [Path(word).expanduser() for word in argv[1:]]
    if not workdirs:
        raise InputError("name a workdir, as in python -m experiments.report runs/quickstart")
    if len(workdirs) > 1 and not _OUT.value:
        raise InputError("several workdirs need --out, a folder for their report")
    if not all(k.isdecimal() and int(k) > 0 for k in _K.value):
        raise InputError(f"--k={','.join(_K.value)}: name whole numbers above 0, as --k=1,10")
    rows, files = [], []
    for workdir in workdirs:
        evaluation = read_evaluation(workdir)
        rows += [
            r | {"workdir": str(workdir)} for r in compare(evaluation, list(map(int, _K.value)))
        ]
        files += evaluation.files
    out = Path(_OUT.value).expanduser() if _OUT.value else workdirs[0] / "report"
    print(text_report(rows))
    made, missing = write_report(rows, files, out)
    print("written: " + ", ".join(map(str, made)))
    if missing:
        print(missing)


if __name__ == "__main__":
    app.run(main, words=_MOST, resumes=False)
