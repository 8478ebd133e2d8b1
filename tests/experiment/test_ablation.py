"""Variants of training on a tiny pair of agents: shared inner links, stages, diverged runs."""

import json
import os
import shutil

import numpy as np
import pytest

from experiments.ablation import chosen, current
from experiments.ablation_records import append, interval, markdown, read_records
from experiments.ablation_variants import SWEEPS, sweeps_of
from rmas.errors import InputError
from rmas.experiment import EMBEDDED, Settings
from rmas.experiment.ablation import Ablation, Variant, changed
from rmas.weights.links import load_links
from support import tiny_pair
from support.commands import ROOT, run

SHORT = {"outer.optim.steps": 2, "outer.batch_size": 2, "outer.optim.lr": 1e-2}
STAGES = ({**SHORT}, {**SHORT, "objective": "hop", "outer.optim.warmup_steps": 0})


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    values = tiny_pair.make(tmp_path_factory.mktemp("pair"))
    values["inner"] = {"optim": {"steps": 2}, "batch_size": 2}
    values["links"] = {"aligned_rows": 4}
    values["evaluate"] |= {"rounds": (1,)}
    return Settings.from_dict(values)


@pytest.fixture(scope="module")
def done(base, tmp_path_factory):
    """Two stages, their first one alone, and a rate that no training survives."""
    folder = tmp_path_factory.mktemp("ablation")
    variants = {
        "both": Variant("s", "both", STAGES),
        "first": Variant("s", "first", STAGES[:1]),
        "lost": Variant("s", "lost", ({**SHORT, "outer.optim.steps": 4, "outer.optim.lr": 1e30},)),
    }
    ablation = Ablation.of(base, folder)
    return folder, {name: ablation.run(variant, 1) for name, variant in variants.items()}


def test_records(done):
    _, records = done
    assert [r["status"] for r in records.values()] == ["ok", "ok", "diverged"]
    both = records["both"]
    assert (both["inner_steps"], both["steps"], both["seed"]) == (2, 4, 1)
    assert both["changes"] == [dict(changes) for changes in STAGES]
    (row,) = both["rows"]
    assert (row["method"], row["rounds"], row["n"]) == ("latent", 1, 5)
    assert 0 <= row["accuracy_low"] <= row["accuracy"] <= row["accuracy_high"] <= 1
    assert records["lost"]["rows"] == []
    assert "the loss of step" in records["lost"]["message"]
    json.dumps(records)


def test_stages_go_on_from_each_other_and_share_inner_links(done):
    folder, records = done
    assert len(list((folder / "inner").iterdir())) == 1
    own = folder / "outer" / records["both"]["digest"]
    first = folder / "outer" / records["first"]["digest"] / "stage1" / "outer" / "links"
    a, b = load_links(first)[0], load_links(own / "stage1" / "outer" / "links")[0]
    for name in ("critic->solver", "solver->critic"):
        x, y = (np.asarray(links["outer"][name]["proj1"]["kernel"]) for links in (a, b))
        np.testing.assert_array_equal(x, y)
    config = json.loads((own / "stage2" / "outer" / "config.json").read_text())
    assert config["given links"] and "given links" not in json.loads(
        (own / "stage1" / "outer" / "config.json").read_text()
    )


def test_equal_settings_in_other_words_are_one_run(base, tmp_path):
    ablation = Ablation.of(base, tmp_path)

    def digest(*stages, seed=0):
        return ablation.digest(Variant("s", "v", stages), seed)

    assert digest({}) == digest({"outer.optim.lr": base.outer.optim.lr})
    assert len({digest({}), digest({}, {}), digest({}, seed=1), digest({"mesh": "auto"})}) == 4
    with pytest.raises(InputError, match=r"outer\.optim\.rate: no such field"):
        digest({"outer.optim.rate": 1})


def test_records_do_not_depend_on_where_agents_and_workdir_lie(base, tmp_path):
    agents = {}
    for agent, folder in base.system.agents.items():
        agents[agent] = str(shutil.copytree(folder, tmp_path / agent))
    rows = {}
    for name, text in (("a", "1"), ("b", "1"), ("other", "2")):
        rows[name] = tmp_path / f"{name}.jsonl"
        rows[name].write_text(text)

    def facts(workdir, **values):
        more = {name.replace("__", "."): value for name, value in values.items()}
        ablation = Ablation.of(changed(base, more), tmp_path / workdir)
        return ablation.digest(Variant("s", "v"), 1), ablation.base_facts

    here = facts("a", data__name=str(rows["a"]))
    assert here == facts("b", data__name=str(rows["b"]), system__agents=agents, seed=4)
    swapped = dict(zip(agents, reversed(agents.values()), strict=True))
    for other in (
        facts("a", data__name=str(rows["other"])),
        facts("a", data__name=str(rows["a"]), system__agents=swapped),
    ):
        assert other[0] != here[0] and other[1] != here[1]


@pytest.mark.parametrize("name", EMBEDDED)
def test_all_variants_are_settings_of_the_embedded_systems(name, tmp_path):
    base = Settings.from_dict(EMBEDDED[name]())
    sweeps = sweeps_of(base)
    assert tuple(sweeps) == SWEEPS
    variants = [variant for sweep in sweeps.values() for variant in sweep]
    assert len({variant.key for variant in variants}) == len(variants) > 50
    assert not any("," in variant.key for variant in variants)  # --only splits at commas
    ablation = Ablation.of(base, tmp_path)
    for variant in variants:
        assert len(ablation.stages(variant, 2)) == len(variant.stages)


def test_variants_follow_the_lengths_of_the_config():
    base = changed(Settings(), {"outer.optim.steps": 120, "outer.batch_size": 12})
    variants = {v.key: v for sweep in sweeps_of(base).values() for v in sweep}
    curriculum = variants["rounds/hop of 1 then 2 then 3 rounds"].stages
    assert [stage["outer.optim.steps"] for stage in curriculum] == [40, 40, 40]
    (release,) = variants["release/release"].stages
    assert release["outer.optim.steps"] * release["outer.batch_size"] == 120 * 12
    rows = base.inner.optim.steps * base.inner.batch_size
    assert release["inner.optim.steps"] * release["inner.batch_size"] == rows
    none = changed(base, {"outer.optim.steps": 0, "objective": "hop"})
    (release, align) = (sweeps_of(none)[s][n].stages[0] for s, n in (("release", 0), ("rates", 0)))
    assert release["outer.optim.steps"] == 0 and align["objective"] == "align"
    assert variants["objectives/align then rollout"].stages[1]["outer.optim.steps"] == 30


def test_variants_are_chosen_by_name():
    sweeps = sweeps_of(Settings())
    assert {v.sweep for v in chosen(sweeps, ["forms", "rates"], [])} == {"forms", "rates"}
    (hop,) = chosen(sweeps, ["objectives"], ["objectives/hop"])
    assert hop.key == "objectives/hop"
    with pytest.raises(InputError, match="--sweeps: 'form' is unknown; known: objectives"):
        chosen(sweeps, ["form"], [])
    with pytest.raises(InputError, match="--only: 'objectives/hop' is no variant"):
        chosen(sweeps, ["forms"], ["objectives/hop"])


def record(variant, seed, accuracy=0.5, sweep="s", base="b"):
    rows = [{"rounds": 1, "n": 100, "accuracy": accuracy, "ceiling": 0.5}]
    status = {"status": "diverged", "rows": []} if accuracy is None else {"status": "ok"}
    own = {"sweep": sweep, "variant": variant, "seed": seed, "base": base, "digest": "d"}
    own |= {"changes": [{}, {"outer.optim.lr": 1e-4}], "steps": 3, "inner_steps": 2}
    return {**own, "seconds": 4.0, "rows": rows, **status}


def test_records_survive_a_kill(tmp_path):
    path = tmp_path / "ablation.jsonl"
    for seed, accuracy in ((0, 0.1), (1, 0.2), (1, 0.3)):
        append(path, record("v", seed, accuracy))

    def found():
        return {r["seed"]: r["rows"][0]["accuracy"] for r in read_records([path])}

    with open(path, "a") as file:
        file.write('{"sweep": "s", "var')
    assert found() == {0: 0.1, 1: 0.3}  # the later one
    append(path, record("v", 2, 0.4))
    os.truncate(path, path.stat().st_size - 1)  # a line that lacks its end alone
    append(path, record("v", 3, 0.5))
    assert found() == {0: 0.1, 1: 0.3, 2: 0.4, 3: 0.5}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", "1"),
        ("seed", -1),
        ("sweep", ["x"]),
        ("variant", 3),
        ("base", {}),
        ("status", "?"),
        ("seconds", "x"),
        ("steps", None),
        ("changes", [1]),
        ("rows", 3),
        ("rows", [{}]),
        ("rows", [{"rounds": 1, "n": 0, "accuracy": 0.5, "ceiling": None}]),
        ("rows", [{"rounds": 1, "n": 5, "accuracy": 1.5, "ceiling": None}]),
    ],
)
def test_damaged_records_are_named(name, value, tmp_path):
    path = tmp_path / "ablation.jsonl"
    append(path, record("v", 0) | {name: value})
    with pytest.raises(InputError, match=r"line 1: field .*; take the line out"):
        read_records([path])


def test_seeds_of_other_settings_are_not_averaged():
    records = [record("v", 0), record("v", 1) | {"steps": 4}]
    with pytest.raises(InputError, match="s/v: its seeds were run with different settings"):
        markdown(records)


def test_records_of_what_a_variant_meant_before_are_put_aside(base, tmp_path):
    ablation = Ablation.of(base, tmp_path)
    sweeps = {"s": (Variant("s", "v"),)}
    digest = ablation.digest(sweeps["s"][0], 0)
    append(tmp_path / "ablation.jsonl", record("v", 0) | {"digest": digest})
    append(tmp_path / "ablation.jsonl", record("v", 1))
    append(tmp_path / "ablation.jsonl", record("gone", 0))
    assert [r["seed"] for r in current(tmp_path, ablation, sweeps)] == [0]
    assert len(read_records([tmp_path / "ablation-outdated.jsonl"])) == 2
    assert [r["seed"] for r in read_records([tmp_path / "ablation.jsonl"])] == [0]


def test_records_of_several_workdirs_become_one_table(tmp_path):
    for name, records in {
        "a": [record("release", 0, sweep="release"), record("hop", 1, sweep="objectives")],
        "b": [
            record("align", 0, sweep="objectives"),
            record("hop", 0, sweep="objectives"),
            record("release", 0, 0.25, sweep="release"),
        ],
        "other": [record("align", 0, sweep="objectives", base="c")],
    }.items():
        (tmp_path / name).mkdir()
        for own in records:
            append(tmp_path / name / "ablation.jsonl", own)
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- ablation relay: begin -->\n<!-- ablation relay: end -->\nafter\n")
    joined = tmp_path / "joined.jsonl"
    words = [str(tmp_path / "a"), str(tmp_path / "b" / "ablation.jsonl")]
    done = run("ablation_table", *words, f"--out={joined}", f"--page={page}", "--region=relay")
    assert done.returncode == 0, done.stderr
    assert [(r["variant"], r["seed"]) for r in read_records([joined])] == [
        ("align", 0),
        ("hop", 0),
        ("hop", 1),
        ("release", 0),
    ]
    table = markdown(read_records([joined]))
    assert table.strip() in page.read_text()
    assert done.stdout == f"{table}written: {joined}\nwritten: {page}\n"
    assert "| release | 0.250 [" in done.stdout  # the later one of the same variant and seed
    assert "| hop | 0.500 [0.500, 0.500] | 0, 1 |" in done.stdout
    refused = run("ablation_table", *words, str(tmp_path / "other"))
    assert refused.returncode == 2 and "records of different configs" in refused.stderr
    refused = run("ablation_table", str(tmp_path / "none"))
    assert refused.returncode == 2 and "no such file" in refused.stderr
    (tmp_path / "empty.jsonl").touch()
    refused = run("ablation_table", str(tmp_path / "empty.jsonl"))
    assert refused.returncode == 2 and "there are no records yet" in refused.stderr
    refused = run("ablation_table", *words, f"--page={page}")
    assert refused.returncode == 2 and "--page and --region belong together" in refused.stderr


def test_the_table_has_intervals_over_seeds_and_says_what_diverged():
    records = [record("a", n, x) for n, x in enumerate((0.4, 0.5, 0.6))]
    records += [record("b", 0, None), record("b", 1, 0.25)]
    text = markdown(records)
    # Student's t with two degrees of freedom: 4.303 standard errors.
    told = "the config; then outer.optim.lr=0.0001"
    half = 4.30265 * 0.1 / 3**0.5
    assert (
        f"| a | 0.500 [{0.5 - half:.3f}, {0.5 + half:.3f}] | 0, 1, 2 | 2 + 3 | 4 | {told} |" in text
    )
    assert "| *ceiling* | 0.500 |" in text
    assert f"| 0, 1 | 2 + 3 | 4 | diverged: 1 of 2; {told} |" in text
    assert interval([0.25], 100) == pytest.approx((0.25, 0.1755, 0.3430), abs=1e-4)


def test_variants_for_generated_tasks_are_refused_with_rows_of_ones_own(base, tmp_path):
    rows = [{"question": "ab", "answer": "c", "texts": {"critic": "ab", "solver": "c"}}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = changed(base, {"data.name": str(tmp_path / "rows.jsonl")})
    config = tmp_path / "config.json"
    config.write_text(json.dumps(own.to_dict()))
    for sweep, told in (
        ("rows", "data.train is of generated tasks alone; leave rows/100 rows, rows/500 rows, "),
        (
            "objectives",
            "lower outer.validation_rows; leave objectives/hop with validation, "
            "objectives/align then rollout out, by",
        ),
    ):
        words = f"--config={config}", f"--workdir={tmp_path / 'run'}", f"--sweeps={sweep}"
        refused = run("ablation", *words)
        assert refused.returncode == 2 and told in refused.stderr, refused.stderr


def test_the_command_lists_variants_and_refuses_others():
    listed = run("ablation", "--list", "--sweeps=rates")
    assert listed.returncode == 0, listed.stderr
    assert len(listed.stdout.splitlines()) == len(sweeps_of(Settings())["rates"])
    refused = run("ablation", "--sweeps=rates,none")
    assert refused.returncode == 2 and "--sweeps: 'none' is unknown" in refused.stderr
    empty = run("ablation", "--seeds=")
    assert empty.returncode == 2 and "--seeds is empty" in empty.stderr
    refused = run("ablation", "--seeds=one")
    assert refused.returncode == 2 and "--seeds: 'one' is not a whole number" in refused.stderr


@pytest.mark.parametrize("name", ["relay", "digits", "debate"])
def test_tables_of_the_docs_are_those_of_their_records(name):
    records = read_records([ROOT / "docs" / "records" / f"ablation_{name}.jsonl"])
    assert markdown(records).strip() in (ROOT / "docs" / "recipes.md").read_text()
