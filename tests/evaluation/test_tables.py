"""The tables say what the rows say, and names in them are safe to print."""

import pytest

from rmas.evaluation.records import read_evaluations
from rmas.evaluation.summary import summarise, summarise_workdir
from rmas.evaluation.tables import markdown_report, table, text_report
from support.evaluations import compared, record, write

HEAD = [
    "method", "rounds", "accuracy", "95 % interval", "ceiling", "decoded tokens", "latent steps",
    "s per 100", "CPU s per 100", "time ratio", "n",
]  # fmt: skip


def both(*workdirs):
    found = read_evaluations(workdirs)
    return summarise(found), found.files


def report_of(*workdirs):
    return markdown_report(*both(*workdirs))


@pytest.fixture
def workdir(tmp_path):
    return compared(tmp_path / "run")


def section(text, head):
    """The lines below a heading, up to the next one."""
    _, _, rest = text.partition(f"{head}\n")
    return rest.split("\n#")[0]


def cells(text, method):
    """Cells of the first line of a method in a Markdown table."""
    line = next(line for line in text.splitlines() if line.startswith(f"| {method} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_same_columns_everywhere(workdir):
    """On the terminal after an evaluation, in the report and on its terminal."""
    expected = [
        HEAD,
        ["latent", "1", "1.000", "0.510-1.000", "0.750", "20.0", "16.0", "50.00", "75.00",
         "3.00 [3.00, 3.00] (2 groups)", "4"],
        ["text", "1", "0.500", "0.150-0.850", "0.750", "80.0", "0.0", "150.00", "225.00", "-", "4"],
    ]  # fmt: skip
    lines = table(summarise_workdir(workdir)).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split() for line in (lines[0], *lines[2:])] == [
        " ".join(line).split() for line in expected
    ]
    rows, files = both(workdir)
    assert text_report(rows).splitlines()[:5] == ["gsm8k", *lines]
    text = markdown_report(rows, files)
    assert [cells(text, line[0]) for line in expected] == expected


def test_against_text_exchange(workdir):
    rows, files = both(workdir)
    expected = [
        "latent", "1", "+0.500 [+0.000, +1.000]", "0.5", "4.00 [4.00, 4.00]", "1.00 [1.00, 1.00]",
        "4", "2", "0",
    ]  # fmt: skip
    text = section(markdown_report(rows, files), "### Against text exchange")
    assert cells(text, "latent") == expected
    assert "| text |" not in text
    shown = text_report(rows).split("\n\n")[1].splitlines()
    assert shown[0] == "against text exchange"
    assert shown[3].split() == " ".join(expected).split()


def test_without_text_exchange_there_is_no_comparison(tmp_path):
    rows, files = both(write(tmp_path, [record(0)]))
    assert "gainst text exchange" not in text_report(rows)
    assert "### Against" not in markdown_report(rows, files)
    assert cells(markdown_report(rows, files), "latent")[-3:] == ["-", "-", "1"]


def test_files_are_named_with_their_hashes(workdir):
    rows, files = both(workdir)
    text = markdown_report(rows, files)
    for kind in ("records", "timings", "ceilings"):
        file = files[0][kind]
        assert f"{file.path}: {file.lines} lines; sha256 `{file.sha256}`" in text
    path = workdir / "evaluate" / "records.jsonl"
    first = path.read_text().splitlines()[0]
    path.write_text(path.read_text() + first + "\n" + first[:50])
    assert ": 9 lines, 1 of them superseded or repeated, an incomplete last line left" in report_of(
        workdir
    )


def test_tables_have_as_many_cells_as_heads(workdir):
    text = report_of(workdir)
    heads = [line for line in text.splitlines() if line.startswith("| method")]
    assert len(heads) == 3  # results, comparison, cost
    block = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line.count("|"))
            continue
        assert len(set(block)) <= 1
        block = []


def test_scores_are_shown_where_they_differ(tmp_path):
    same = report_of(write(tmp_path / "1", [record(0), record(1, exact=0.0)]))
    assert "Our score and the public release's agree on every record." in same
    assert "first numbers" not in section(same, "### Scores")
    for name, reason in (
        ("math500", "the integer parts of the first numbers agree"),
        ("gpqa", "counts an answer without any letter as A"),
        ("gsm8k", "its command does not offer this benchmark"),
        ("mine", "its rules read some answers differently"),
    ):
        differ = {"exact": 0.0, "release_compatible": 1.0, "f1": 0.25}
        records = [record(0, benchmark=name, answer=None, note="timeout", scores=differ)]
        scores = section(report_of(write(tmp_path / name, records)), "### Scores")
        assert cells(scores, "latent") == ["latent", "1", "0.000", "1.000", "0", "1"]
        assert reason in scores
        assert "| latent | 1 | 0.250 |" in scores
        assert "| latent | 1 | 1 | 0 | timeout 1 |" in scores


@pytest.mark.parametrize(
    ("name", "data"), [("aime25", "AIME 2025"), ("hotpotqa", "HotpotQA"), ("mine", "this data")]
)
def test_without_a_rule_of_the_release_the_report_says_so(tmp_path, name, data):
    records = [record(q, benchmark=name, scores={"exact": float(q)}) for q in (0, 1)]
    path = write(tmp_path, records)
    (row,) = summarise_workdir(path)
    assert (row["accuracy"], row["release_compatible"]) == (0.5, None)
    assert (row["ours_only"], row["release_only"]) == (0, 0)
    scores = section(report_of(path), "### Scores")
    assert (
        f"The published code of RecursiveMAS has no rule that scores {data}, so only our own score"
        in scores
    )
    assert "agree on every record" not in scores and "scores differently" not in scores


def test_records_with_and_without_the_release_s_score(tmp_path):
    """As where a workdir of an earlier version is continued: no mean of a part is shown."""
    records = [record(0), record(1, scores={"exact": 1.0})]
    for one in records:
        one["benchmark"] = "math500"
    path = write(tmp_path, records)
    (row,) = summarise_workdir(path)
    assert (row["accuracy"], row["release_compatible"]) == (1.0, None)
    scores = section(report_of(path), "### Scores")
    assert "Not all records have the score by the public release's rule" in scores
    assert "no rule that scores" not in scores


def test_the_release_runs_the_tests_of_mbpp_as_we_do(tmp_path):
    records = [record(0, benchmark="mbppplus", scores={"exact": 1.0})]
    scores = section(report_of(write(tmp_path, records)), "### Scores")
    assert "The public release runs the same tests as our score does" in scores
    assert "no rule that scores" not in scores


def test_pass_at_k_and_lengths(tmp_path):
    records = [record(0, length=m, rollout=n, exact=float(n == 0)) for m in (8, 16) for n in (0, 1)]
    records += [record(0, "text")]
    text = report_of(write(tmp_path, records))
    assert "| ceiling | pass@k | decoded tokens |" in text
    for m in (8, 16):
        assert cells(text, f"latent m={m}")[5] == "1.000 (k=2)"
        assert cells(section(text, "### Cost"), f"latent m={m}")[2] == str(m)
    assert cells(text, "text")[5] == "-"


def test_costs(workdir):
    found = cells(section(report_of(workdir), "### Cost"), "latent")
    phases = "render 0.125, write 0.375"
    assert found == [
        "latent",
        "1",
        "8",
        "60.0",
        "60.0",
        "9.0",
        "1.0",
        "1.00",
        phases,
        "4",
        "4",
        "2",
    ]


def test_estimated_positions_are_reported(tmp_path):
    line = record(0)
    del line["agents"]["a"]["positions"]
    text = report_of(write(tmp_path, [line, record(1)]))
    assert "1 records have no positions" in text
    assert "no positions" not in report_of(write(tmp_path / "2", [record(1)]))


def test_names_are_shown_as_they_are(tmp_path):
    name = "<b>|[x](http://e.org)`*![y](z)"
    records = [record(0, method=name, benchmark=name, note="<i>\x1b[2J")]
    text = report_of(write(tmp_path, records))
    safe = "\\<b\\>\\|\\[x\\](http://e.org)\\`\\*\\!\\[y\\](z)"
    assert f"## {safe}\n" in text and f"| {safe} |" in text
    assert "\\<i\\>\\\\x1b[2J" in text and "\x1b" not in text
    assert "<b>" not in text.replace("\\<b", "")
