"""Training as the front door runs it: what is checked before the first step."""

import json

import pytest

from rmas.errors import InputError
from rmas.experiment.data import check_texts
from rmas.experiment.links import (
    read_inner_links,
    warn_of_questions,
    warn_of_validation,
    write_links,
)
from rmas.tasks.rows import Row
from rmas.tasks.sources import load_rows_source
from rmas.training.workdir import open_workdir
from support.experiments import experiment


def test_no_agent_is_trained_in_a_workdir_of_another_config(tmp_path):
    """The last agent's folder is another config's: the first ones are left alone, too."""
    made = experiment(tmp_path, data__train=8, links__init="random")
    other = tmp_path / "inner" / "solver"
    other.mkdir(parents=True)
    (other / "config.json").write_text('{"seed": 5}')
    (other / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="inner/solver was made by another config"):
        made.train_inner()
    assert not (tmp_path / "settings.json").exists()
    left = {path.name for path in (tmp_path / "inner" / "planner").iterdir()}
    assert "metrics.jsonl" not in left and "links" not in left


def test_a_refused_training_leaves_the_settings_as_they_were(tmp_path):
    """Inner links of other agents are refused; the workdir keeps its own settings."""
    made = experiment(tmp_path, data__train=8, links__init="random")
    manifest = made.manifest()
    agents = manifest["agents"] | {"critic": "another"}
    for agent, link in made.initial_links()["inner"].items():
        folder = tmp_path / "inner" / agent / "links"
        write_links(folder, {"inner": {agent: link}}, manifest | {"agents": agents})
    (tmp_path / "settings.json").write_text("{}")
    with pytest.raises(InputError, match="were trained with another agents"):
        made.train_outer()
    assert (tmp_path / "settings.json").read_text() == "{}"


def test_rows_without_a_text_are_reported_before_training(tmp_path):
    texts = {"planner": "a", "critic": "b", "solver": "c"}
    rows = [{"question": "q", "answer": "1", "texts": texts}] * 2
    rows[1] = rows[1] | {"texts": {"planner": "a", "critic": "b"}}
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    run = experiment(tmp_path, data__name=str(tmp_path / "rows.json"))
    source, topology = run.data.split("train"), run.outline.topology
    check_texts(source, "rows.jsonl", topology, ["critic"])
    line = r"rows.jsonl: row rows-000001 has no teacher text for the role 'solver' .*make_rows"
    with pytest.raises(InputError, match=line):
        check_texts(source, "rows.jsonl", topology, ["solver"])
    with pytest.raises(InputError, match="row rows-000001"):  # the planner reads the solver
        run.train_inner(["planner"])
    assert not (tmp_path / "inner").exists()


def test_inner_links_of_fewer_rounds_are_not_warned_of(tmp_path, caplog):
    """Outer training trains them for its own rounds."""
    made = experiment(tmp_path, data__train=8, links__init="random")
    folders = {}
    for agent, link in made.initial_links()["inner"].items():
        folders[agent] = tmp_path / agent
        write_links(folders[agent], {"inner": {agent: link}}, made.manifest() | {"rounds": 1})
    read = read_inner_links(folders, made.outline.link_template, made.manifest())
    assert read.keys() == folders.keys()
    assert "rounds" not in caplog.text


def test_rows_that_do_not_fit_are_told_before_training(tmp_path, caplog):
    """Inner training cuts them, but says what outer training will say, before its first step."""
    texts = dict.fromkeys(("planner", "critic", "solver"), "a")
    rows = [{"question": "start 4 ; " * n, "answer": "1", "texts": texts} for n in (1, 200, 2)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    run = experiment(
        tmp_path,
        data__name=str(tmp_path / "rows.json"),
        inner__batch_size=3,
        mesh="data=8",
    )
    for agent in run.outline.topology.agents:
        (tmp_path / "inner" / agent / "links").mkdir(parents=True)
    with pytest.raises(InputError, match=r"rows.json: row rows-000001: question .* whose context"):
        run.train_outer()
    assert not (tmp_path / "outer").exists()
    with pytest.raises(InputError, match="batch_size"):
        run.train_inner()
    assert "outer training will refuse these rows" in caplog.text


@pytest.mark.parametrize(
    ("count", "words"),
    [(4, "row v-3 has no teacher text for the role"), (2, "there are 2 validation rows, but a")],
)
def test_validation_rows_are_checked_before_training(tmp_path, count, words):
    """Both stages: not at the first checkpoint, when hours have passed."""
    texts = dict.fromkeys(("planner", "critic", "solver"), ("a",))
    stage = {"validation_rows": 4, "batch_size": 8, "accumulate": 2}
    run = experiment(
        tmp_path, **{f"{s}__{k}": v for s in ("inner", "outer") for k, v in stage.items()}
    )
    rows = [Row(f"v-{n}", "q", "1", texts if n < 3 else {}) for n in range(count)]
    run.data.training = {"train": run.data.split("train"), "validation": rows}
    with pytest.raises(InputError, match=words):
        run.train_inner()
    assert not (tmp_path / "inner").exists()
    with pytest.raises(InputError, match=words):
        run.data.rows(run.settings.outer, run.outline.topology, run.outline.topology.agents)


def test_rows_of_a_file_are_held_back_from_both_stages(tmp_path):
    """Always the same questions; what is trained with them and without them is not one run."""
    texts = {"planner": "a", "critic": "b", "solver": "c"}
    rows = [{"question": f"q{n}", "answer": "1", "texts": texts} for n in range(40)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))

    def split_of(name, seed=0, inner=0, outer=0):
        values = {"seed": seed, "data__name": str(tmp_path / "rows.json")}
        for stage, count in (("inner", inner), ("outer", outer)):
            values |= {f"{stage}__validation_rows": count, f"{stage}__batch_size": 8}
        own = experiment(tmp_path, **values)
        s, topology = own.settings, own.outline.topology
        train, validation = own.data.rows(getattr(s, name), topology, topology.agents)
        return [r.id for r in train], [r.id for r in validation], own._identity()["data"]

    everything, none, plain = split_of("outer")
    assert len(everything) == 40 and none == [] and "held_back_for_validation" not in plain
    train, validation, data = split_of("outer", outer=16)
    assert len(validation) == 16 and sorted(train + validation) == everything
    assert train == sorted(train) and sorted(validation) not in (everything[:16], everything[-16:])
    assert data == {**plain, "held_back_for_validation": 16}
    assert split_of("inner", seed=5, outer=16) == (train, [], data)
    assert split_of("inner", inner=8, outer=16) == (train, validation[:8], data)
    with pytest.raises(InputError, match=r"40 rows .* leave none of .*lower outer\.val"):
        split_of("inner", outer=40)


def test_rows_that_training_has_seen_are_named(tmp_path, caplog):
    """Where an evaluation asks them, and where later settings hold them back for validation."""
    texts = {"planner": "a", "critic": "b", "solver": "c"}
    rows = [{"question": f"q{n // 2}", "answer": "1", "texts": texts} for n in range(8)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    source = load_rows_source(tmp_path / "rows.json", data_dir=tmp_path / "data")["train"]
    whole = {"version": source.version, "split": "train"}
    train, validation = source.hold_back(3)
    assert len(validation) == 3 and validation.split == "validation"
    assert len(train) == train.held_back == 4  # the fourth has the question of one of the three
    assert not {r.question for r in train} & {r.question for r in validation}
    assert [r.id for r in source.hold_back(2)[1]] == [r.id for r in validation[:2]]

    def warnings(warn, *args):
        caplog.clear()
        warn(*args)
        return [record.getMessage() for record in caplog.records]

    seen, part = tmp_path / "seen", tmp_path / "part"
    open_workdir(seen, {"data": whole})
    open_workdir(part, {"data": {**whole, "held_back_for_validation": 4}})
    words = "the links were trained on these very questions"
    assert warnings(warn_of_questions, [part, seen, tmp_path], whole) == [words]
    assert warnings(warn_of_questions, [part], whole) == [
        f"{words}, but for 4 rows held back for validation"
    ]
    for folder, data in ((tmp_path, whole), (seen, {**whole, "split": "test"})):
        assert warnings(warn_of_questions, [folder], data) == []
    (found,) = warnings(warn_of_validation, [seen, part, tmp_path], train)
    assert found.startswith(f"{seen} was trained on rows that are held back")
    assert warnings(warn_of_validation, [seen, part], source) == []


def test_prepared_rows_do_not_make_a_folder_anothers(tmp_path):
    """Rows that a refused command prepared serve the next one, whatever its config."""
    experiment(tmp_path, data__train=8).data.split("train")
    assert any(file.is_file() for file in (tmp_path / "data").rglob("*"))
    open_workdir(tmp_path, {"base": 1})
    open_workdir(tmp_path, {"base": 2})
    (tmp_path / "results.jsonl").write_text("{}\n")
    with pytest.raises(InputError, match="was made by another config: base is 2 there and 3 here"):
        open_workdir(tmp_path, {"base": 3})
