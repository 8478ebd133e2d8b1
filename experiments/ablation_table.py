"""The table of `experiments.ablation`: a row per variant, over its seeds.

  python -m experiments.ablation_table runs/ablation
  python -m experiments.ablation_table runs/first runs/second --out=records.jsonl
  python -m experiments.ablation_table records.jsonl --page=docs/recipes.md --region=relay

Reads the records of workdirs, or files of records, that were made with one config, joins them and
prints the table; nothing is run. `--out` writes the joined records. The table is in Markdown;
`--page` puts it between the comments `ablation REGION: begin` and `ablation REGION: end` of a page.
"""

from pathlib import Path

from absl import flags

from experiments import app
from experiments.ablation_records import RECORDS, markdown, read_records
from experiments.benchmarks.output_file import output_file
from experiments.benchmarks.page_region import PageRegion
from rmas.errors import InputError
from rmas.evaluation.json_lines import line_of
from rmas.files import atomic_write_text
from rmas.places import expanded, has_file

_OUT = flags.DEFINE_string("out", "", "A file for the joined records.")
_PAGE = flags.DEFINE_string("page", "", "A page whose marked part becomes the table.")
_REGION = flags.DEFINE_string("region", "", "The name in the comments of that part.")


def main(argv: list[str]) -> None:
    """Joins records and prints their table."""
    if not argv[1:]:
        raise InputError("name a workdir, as in python -m experiments.ablation_table runs/ablation")
    if bool(_PAGE.value) != bool(_REGION.value):
        raise InputError("--page and --region belong together, as in --page=page.md --region=relay")
    page = PageRegion.of(_PAGE.value, f"ablation {_REGION.value}")
    out = output_file("out", _OUT.value)
    records = read_records([_file(expanded(word)) for word in argv[1:]])
    if not records:
        raise InputError("there are no records yet; give the command of the ablation first")
    text = markdown(records)
    if out:
        atomic_write_text(out, "".join(f"{line_of(r)}\n" for r in records))
    if page:
        page.replace(text)
    print(text, end="")
    for written in filter(None, (out, page and page.path)):
        print(f"written: {written}")


def _file(path: Path) -> Path:
    found = path / RECORDS if path.is_dir() else path
    if not has_file(found):
        raise InputError(
            f"{found}: no such file; name workdirs of experiments.ablation, or their records"
        )
    return found


if __name__ == "__main__":
    app.run(main, words=1000, resumes=False)
