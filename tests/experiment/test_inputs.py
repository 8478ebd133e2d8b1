"""Wrong input ends in one clear line: what is wrong, where, and what would be right."""

import dataclasses
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from experiments import config
from rmas.errors import InputError
from rmas.experiment import Experiment, Settings, derive
from rmas.experiment.placed import Placed
from rmas.tasks.rows import Row
from rmas.training.objectives import OBJECTIVES
from support.commands import ROOT, run
from support.experiments import experiment, settings

TINY = ROOT / "rmas" / "tiny"
SMALL = {
    "data__train": 64,
    "data__validation": 8,
    "data__test": 8,
    "inner__optim__steps": 2,
    "outer__optim__steps": 2,
    "evaluate__batch_size": 8,
}


def small(workdir: Path, **changes) -> Experiment:
    return experiment(workdir, **SMALL, **changes)


@pytest.fixture
def agents(tmp_path) -> dict[str, str]:
    """The tiny agents, the critic as a copy that a test may damage."""
    copy = tmp_path / "critic"
    shutil.copytree(TINY / "critic", copy)
    return {"planner": str(TINY / "planner"), "critic": str(copy), "solver": str(TINY / "solver")}


def edit_config(folder: str, **changes) -> None:
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def truncate(folder: str) -> None:
    path = Path(folder) / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def edit_tensors(folder: str, change) -> None:
    path = Path(folder) / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncate, ["critic", "model.safetensors"]),
        (
            lambda f: edit_tensors(f, lambda t: t.pop("model.norm.weight")),
            ["critic", "model.norm.weight"],
        ),
        (
            lambda f: edit_tensors(
                f, lambda t: t.update({"model.norm.weight": t["model.norm.weight"][:-1]})
            ),
            ["critic", "model.norm.weight", "79", "80"],
        ),
        (lambda f: edit_config(f, model_type="mamba"), ["critic", "mamba", "llama"]),
        (lambda f: (Path(f) / "tokenizer.json").write_text("{"), ["critic", "tokenizer"]),
        (lambda f: shutil.rmtree(f), ["agent critic: ", "is not a folder"]),
        (
            lambda f: Path(f).rename(Path(f).with_name("critics")),
            ["agent critic: ", "did you mean", "critics"],
        ),
    ],
    ids=["truncated", "missing", "shape", "architecture", "tokenizer", "folder", "renamed"],
)
def test_a_corrupt_agent_folder_is_told_by_name(tmp_path, agents, damage, words):
    damage(agents["critic"])
    with pytest.raises(InputError) as error:
        _ = experiment(tmp_path / "run", system__agents=agents).system
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def prompt_file(tmp_path: Path, edit) -> str:
    raw = json.loads((ROOT / "rmas/system/prompt_sets/relay.json").read_text())
    edit(raw)
    path = tmp_path / "prompts.json"
    path.write_text(json.dumps(raw))
    return str(path)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (
            lambda r: r["roles"]["critic"]["relay"].update(first="{slot:judge} {question}"),
            ["critic", "slot:judge"],
        ),
        (lambda r: r["roles"].pop("solver"), ["solver", "rmas-relay"]),
        (lambda r: r["roles"]["critic"]["relay"].update(first="{answer}"), ["answer", "critic"]),
    ],
    ids=["slot", "role", "field"],
)
def test_a_broken_prompt_set_is_told_by_place(tmp_path, edit, words):
    with pytest.raises(InputError) as error:
        _ = small(tmp_path, system__prompts=prompt_file(tmp_path, edit)).outline
    for word in words:
        assert word in str(error.value)


def test_prompts_that_are_no_json(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text("{nonsense")
    with pytest.raises(InputError, match=r"prompts\.json is not valid JSON"):
        _ = small(tmp_path, system__prompts=str(path)).outline


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("outer__rounds", 0, "outer.rounds is 0"),
        ("evaluate__rounds", (1, 0), r"evaluate.rounds\[1\] is 0"),
        ("limits__latent_steps", 0, "limits.latent_steps is 0"),
        ("objective", "magic", "magic"),
        ("links__form", "3layer", "3layer"),
        ("data__test", 0, "data.test is 0"),
        ("system__topology__name", "ring", "system.topology.name is 'ring'; known topologies are"),
        ("system__style", "sequential_light", "system.style .* brings its agents"),
        ("system__root", "somewhere", "system.root .* belongs to a released system"),
        ("seed", 2**32, r"seed is 4294967296; it must be at least 0 and below"),
        ("links__form", "linear", "links.init is 'aligned'; form 'linear' has no residual"),
        ("outer__train", ("inner",), "outer.train .* name outer"),
        ("inner__optim__clip", 0.0, "inner.optim.clip is 0.0; it must be above 0"),
        ("inner__save_minutes", float("nan"), "inner.save_minutes is nan; it must be a finite"),
        ("links__ridge", float("nan"), "links.ridge is nan"),
        ("outer__optim__lr", float("inf"), "outer.optim.lr is inf"),
        ("sampling__temperature", float("nan"), "sampling.temperature is nan"),
        ("sampling__temperature", -1.0, "sampling.temperature is -1.0; it must be at least 0"),
        ("sampling__top_p", 0.0, "sampling.top_p is 0.0"),
        ("evaluate__rollouts", 2, "evaluate.rollouts is 2; temperature 0 answers alike"),
        ("evaluate__methods", ("latent", "latent"), "evaluate.methods .* name each value once"),
        ("evaluate__group_batches", -1, "evaluate.group_batches is -1; it must be at least 0"),
        ("evaluate__grader", "luck", "evaluate.grader is 'luck'; known graders are"),
        ("evaluate__grade_seconds", float("inf"), "evaluate.grade_seconds is inf"),
        ("outer__profile_steps", (3, 1), "outer.profile_steps .* name the first step"),
        ("outer__accumulate", 5, "outer.batch_size is 24; .*accumulate, 5"),
        ("limits__own_tokens", {"jury": 3}, "limits.own_tokens: unknown agent 'jury'; known: plan"),
        ("mesh", "rows=2", "'rows'"),
    ],
)
def test_values_that_make_no_sense_are_refused_when_settings_are_made(name, value, words):
    with pytest.raises(InputError, match=words) as error:
        settings(**{name: value})
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.slow
def test_a_question_longer_than_the_context(tmp_path):
    rows = tmp_path / "rows.jsonl"
    texts = dict.fromkeys(("planner", "critic", "solver"), "line one : 1 keep 1 = 1")
    long = {"id": "long-1", "question": "start 4 ; " * 200, "answer": "1", "texts": texts}
    rows.write_text(json.dumps(long) + "\n")
    run = small(
        tmp_path / "run",
        evaluate__data=str(rows),
        evaluate__methods=("text",),
    )
    with pytest.raises(InputError, match=r"positions of agent 'planner', whose context has 256"):
        run.evaluate()


def test_a_malformed_row_is_told_by_file_and_line(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "a", "answer": "1"}\n{"question": 5, "answer": "1"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl.*line 2.*question"):
        _ = small(tmp_path / "run", data__name=str(rows)).data.training


def one_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 2, result.stderr
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    return lines[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "flags", "words"),
    [
        ("quickstart", ["--config.outer.optim.lrr=1"], ["outer.optim.lrr", "lr"]),
        ("train_outer", ["--config.outer.rounds=0"], ["outer.rounds is 0"]),
        ("train_inner", ["--config.inner.batch_size=many"], ["inner.batch_size", "int"]),
        ("evaluate", ["--config=nowhere.py"], ["nowhere.py", "no such file"]),
        ("train_inner", ["--agents=judge"], ["judge", "planner"]),
        ("evaluate", [], ["train_outer"]),
    ],
)
def test_a_wrong_command_exits_with_2_and_one_line(tmp_path, module, flags, words):
    line = one_line(run(module, f"--workdir={tmp_path / 'run'}", *flags))
    assert line.startswith("error: ")
    for word in words:
        assert word in line


@pytest.mark.slow
def test_a_workdir_of_another_config_is_refused_by_name(tmp_path):
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in SMALL.items()]
    folder = f"--workdir={tmp_path / 'run'}"
    first = run("train_inner", folder, "--agents=critic", *flags)
    assert first.returncode == 0, first.stderr
    again = run("train_inner", folder, "--agents=critic", *flags, "--config.inner.optim.lr=1.0")
    line = one_line(again)
    assert "inner.optim.lr" in line
    assert "1.0" in line


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody may write")
def test_a_workdir_that_cannot_be_written(tmp_path):
    with pytest.raises(InputError, match=r"workdir /proc/run.* cannot be made"):
        small(Path("/proc/run"), data__folder=str(tmp_path / "data")).train_inner()


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file"):
        small(tmp_path / "run", data__folder=str(tmp_path / "data")).train_inner()


@pytest.mark.parametrize("stage", ["inner", "teacher_forced", "rollout"])
def test_a_training_row_longer_than_the_context(tmp_path, stage):
    run = small(tmp_path)
    texts = dict.fromkeys(("planner", "critic", "solver"), ("line one : 1 keep 1 = 1",))
    row = Row("long-1", "start 4 ; " * 200, "1", texts)
    examples = dataclasses.replace(run.examples("outer"), max_length=4096)
    with pytest.raises(InputError, match=r"agent 'planner', whose context has 256"):
        if stage == "inner":
            examples.inner("planner", [row], [0])
        else:
            OBJECTIVES[stage].prepare(examples, [row])


def test_an_edited_file_of_rows_is_another_experiment(tmp_path):
    rows = tmp_path / "rows.jsonl"
    found = []
    for answer in ("1", "2"):
        texts = {"planner": "a", "critic": "b", "solver": "c"}
        rows.write_text(json.dumps({"question": "q", "answer": answer, "texts": texts}) + "\n")
        found.append(small(tmp_path / "run", data__name=str(rows)).data.split("train").version)
    assert found[0] != found[1]


def test_unknown_agents_are_reported_before_anything_is_trained(tmp_path):
    with pytest.raises(InputError, match="agent 'judge' is unknown; known: planner, critic"):
        small(tmp_path / "run").train_inner(["planner", "judge"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data__name": None}, "data.name is empty; name the training rows"),
        ({"data__name": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"system__agents": None}, "system.agents is empty; name the folder or Hub id"),
    ],
)
def test_what_is_missing_is_named(tmp_path, changes, words):
    with pytest.raises(InputError, match=words):
        small(tmp_path, **changes).train_inner()


def test_questions_are_never_guessed_from_training_rows(tmp_path):
    texts = {"planner": "a", "critic": "b", "solver": "c"}
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"question": "q", "answer": "1", "texts": texts}) + "\n")
    run = small(tmp_path / "run", data__name=str(rows), system__task_family="relay",
                system__prompts="relay")  # fmt: skip
    with pytest.raises(InputError, match=r"evaluate\.data is empty; name the questions"):
        run.check()
    again = small(tmp_path / "run", data__name=str(rows), evaluate__data=str(rows),
                  system__task_family="relay", system__prompts="relay")  # fmt: skip
    again.check()
    assert len(again.data.asked) == 1


def test_facts_need_no_weights_and_paths_of_questions_do_not_count(tmp_path, monkeypatch):
    """What an evaluation belongs to: known before weights are read, the same for a moved file."""

    def load(*_, **__):
        raise AssertionError("weights are read")

    found = []
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        questions = tmp_path / place / "rows.jsonl"
        questions.write_text('{"id": "1", "question": "start 4 ; stop one ?", "answer": "4"}\n')
        run = small(tmp_path / "run", evaluate__data=str(questions), evaluate__methods=("text",))
        monkeypatch.setattr(Placed, "_load", load)
        with pytest.raises(AssertionError, match="weights are read"):
            run.evaluate()
        found.append((tmp_path / "run" / "evaluate" / "config.json").read_bytes())
        run.manifest()
    assert found[0] == found[1]
    assert b"rows.jsonl" not in found[0]


def test_stored_functions_of_tools_ask_for_the_config(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text(json.dumps({"tools": {"functions": ["double"]}}))
    with pytest.raises(InputError, match=r"functions of tools cannot be stored; name the config"):
        config.load(str(path))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"seed": 10**400}, "seed is 1000.*; it must be at least 0 and below 4294967296"),
        ({"links": {"ridge": 10**400}}, "links.ridge is 1000.* must be a finite number"),
        ({"system": {"topology": {"round": ["a->b"]}}}, "system.topology.round .* custom topology"),
        ({"system": {"style": "mixture", "topology": {"name": "x"}}}, "brings its topology"),
        ({"system": {"style": "mixture"}, "links": {"form": "mlp_res"}}, "links.form .* its links"),
        ({"system": {"agents": {"planner": ""}}}, "system.agents.planner is empty"),
        ({"tools": {"names": ["python", "python"]}}, "tools.names .* name each once"),
        ({"outer": {"train": ["outer", "outer"]}}, "outer.train .* name each once"),
        ({"tools": {"tavily": True, "index": "i"}}, "tools.tavily .* search has one source"),
        ({"inner": {"validation_rows": 3}}, "inner.validation_rows .* at least 16, as many"),
        ({"outer": {"profile_steps": [5, 3000]}}, "outer.profile_steps .* of 2000 steps"),
        ([1], r"Settings is \[1\] \(list\); it must be a dict of fields"),
    ],
)  # fmt: skip
def test_contradictions_and_odd_values_are_refused(values, words):
    with pytest.raises(InputError, match=words):
        Settings.from_dict(values)


def test_a_known_topology_may_have_other_roles():
    roles = {"solver": "critic"}
    graph = settings(system__topology={"name": "sequential", "roles": roles}).system.graph()
    assert (graph.role("solver"), graph.role("planner")) == ("critic", "planner")


def test_what_is_stored_is_what_was_given_with_absolute_paths(tmp_path, monkeypatch):
    """So that later overrides derive what follows from them, from any folder."""
    questions = tmp_path / "q.jsonl"
    questions.write_text('{"question": "start 4 ; stop one ?", "answer": "4"}\n')
    monkeypatch.chdir(tmp_path)
    run = small(tmp_path / "run", evaluate__data="q.jsonl")
    run.train_inner(agents="critic")
    stored = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert stored["evaluate"]["data"] == str(questions)
    assert stored["evaluate"]["grader"] == stored["system"]["task_family"] == ""
    assert stored["data"]["name"] == "relay"
    again = Experiment(Settings.from_dict(stored), tmp_path / "run")
    assert again.settings.evaluate.grader == "relay"


def test_lengths_leave_room_for_messages_and_for_agents_alone(tmp_path):
    """An agent alone answers as long as the system; text exchange needs part of the context."""
    changes = {"limits": {"latent_steps": 8}, "data__test": 4}
    found = {}
    for methods in (("latent",), ("latent", "text")):
        run = experiment(tmp_path, evaluate__methods=methods, **changes)
        longest = derive.longest_prompt(run.settings, run.outline.unloaded(), run.data)
        lengths, _ = derive.lengths(run.settings, run.outline, longest)
        found[methods] = lengths.limits.max_new_tokens
        assert longest + found[methods] <= 256
    assert found["latent", "text"] == (256 - longest) // 2 < found[("latent",)] <= 128
    with pytest.raises(InputError, match=r"takes 256: nothing is left for an answer"):
        derive.lengths(run.settings, run.outline, 256)


@pytest.mark.parametrize(("method", "told"), [("text", True), ("latent", False)])
def test_a_dry_run_tells_of_texts_that_may_not_fit(tmp_path, method, told, caplog):
    limits = {"limits__max_new_tokens": 150, "limits__message_tokens": 100}
    small(tmp_path, evaluate__methods=(method,), **limits).dry_run()
    assert ("256 positions, but text exchange may need" in caplog.text) == told


def test_a_dry_run_lists_what_was_derived(tmp_path, caplog):
    told = small(tmp_path, system__dtype="auto").dry_run()
    assert "needs links: train them with this workdir, or name their folder" in caplog.text
    caplog.clear()
    small(tmp_path, system__dtype="auto").dry_run(links="nowhere")
    assert "needs links: nowhere does not exist" in caplog.text
    assert "system.dtype = float32: devices of platform cpu" in told
    assert "inner.max_length = 256: the context of planner" in told
    assert all(re.search(rf"{what} about \d\.\d\d GiB more", told) for what in ("needs", "twice:"))
    assert "which the methods answer in turn: " in told and "gathers" not in told
    told = small(tmp_path, mesh="fsdp=-1").dry_run()
    assert re.search(r"turn gathers about \d\.\d\d GiB of weights", told) and "twice" not in told
