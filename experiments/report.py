"""Makes the report of evaluations: tables like the paper's, JSON, and plots.

  python -m experiments.report runs/quickstart
  python -m experiments.report runs/math500 runs/gpqa --out=runs/report

Reads `evaluate/records.jsonl` and `timings.jsonl` of each workdir and writes `report.md`,
`report.json` and plots to --out (default: `report` in the workdir, if there is one alone). Every
number comes from these files, whose hashes are in the report; nothing is run.
"""

import os

from absl import flags

from experiments import app
from rmas.console import printable
from rmas.errors import InputError
from rmas.evaluation.reporting import make_report
from rmas.evaluation.tables import text_report
from rmas.places import expanded

_OUT = flags.DEFINE_string("out", None, "Folder of the report (default: WORKDIR/report).")
_K = flags.DEFINE_integer("k", None, "The k of pass@k (default: as many rollouts as there are).", 1)
_MOST = 1000


def main(argv: list[str]) -> None:
    """Writes a report of one or more workdirs."""
    workdirs = [expanded(word) for word in argv[1:]]
    if not workdirs:
        raise InputError("name a workdir, as in python -m experiments.report runs/quickstart")
    if len({os.path.realpath(path) for path in workdirs}) > 1 and not _OUT.value:
        raise InputError("several workdirs need --out=FOLDER, a folder for their report")
    out = expanded(_OUT.value) if _OUT.value else None
    report = make_report(workdirs, out, _K.value)
    print(text_report(report.rows))
    told = [
        f"times of {printable(benchmark)}: {line}"
        for benchmark, lines in report.warnings.items()
        for line in lines
    ]
    print("\n".join([*(f"written: {path}" for path in report.paths), *report.remarks, *told]))


if __name__ == "__main__":
    app.run(main, words=_MOST, resumes=False)
