"""Wrong input ends in one clear line: what is wrong, where, and what would be right."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from experiments import stages
from experiments.assembly import Assembly
from experiments.configs.tiny_sequential import get_config
from experiments.freeze import freeze
from experiments.settings import Settings
from rmas.errors import InputError
from rmas.tasks.rows import Row
from support.commands import ROOT, run

TINY = ROOT / "rmas" / "tiny"
SMALL = {
    "data.train": 64,
    "data.validation": 8,
    "data.test": 8,
    "inner.optim.steps": 2,
    "outer.optim.steps": 2,
    "evaluate.batch_size": 8,
}


def assembly(workdir: Path, **changes) -> Assembly:
    config = get_config()
    config.update_from_flattened_dict(
        SMALL | {name.replace("__", "."): value for name, value in changes.items()}
    )
    return Assembly(freeze(config, Settings), workdir)


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
        (lambda f: shutil.rmtree(f), ["critic", "is not a folder"]),
    ],
    ids=["truncated", "missing", "shape", "architecture", "tokenizer", "folder"],
)
def test_a_corrupt_agent_folder_is_told_by_name(tmp_path, agents, damage, words):
    damage(agents["critic"])
    config = get_config()
    config.system.agents.update(agents)
    with pytest.raises(InputError) as error:
        _ = Assembly(freeze(config, Settings), tmp_path / "run").system
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
        _ = assembly(tmp_path, system__prompts=prompt_file(tmp_path, edit)).system
    for word in words:
        assert word in str(error.value)


def test_prompts_that_are_no_json(tmp_path):
    path = tmp_path / "prompts.json"
    path.write_text("{nonsense")
    with pytest.raises(InputError, match=r"prompts\.json is not valid JSON"):
        _ = assembly(tmp_path, system__prompts=str(path)).system


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("outer__rounds", 0, "outer.rounds is 0"),
        ("evaluate__rounds", (1, 0), "evaluate.rounds is 0"),
        ("latent_steps", 0, "latent_steps is 0"),
        ("objective", "magic", "magic"),
        ("links__form", "3layer", "3layer"),
        ("data__test", 0, "test"),
        ("system__style", "ring", "ring"),
    ],
)
def test_values_out_of_range(tmp_path, name, value, words):
    with pytest.raises(InputError, match=words):
        a = assembly(tmp_path, **{name: value})
        _ = a.system
        _ = a.rows


@pytest.mark.slow
def test_a_question_longer_than_the_context(tmp_path):
    rows = tmp_path / "rows.jsonl"
    texts = dict.fromkeys(("planner", "critic", "solver"), "line one : 1 keep 1 = 1")
    long = {"id": "long-1", "question": "start 4 ; " * 200, "answer": "1", "texts": texts}
    rows.write_text(json.dumps(long) + "\n")
    a = assembly(
        tmp_path / "run",
        data__name=str(rows),
        evaluate__split="train",
        evaluate__methods=("text",),
    )
    with pytest.raises(InputError, match=r"positions of agent 'planner', whose context has 256"):
        stages.evaluate_stage(a)


def test_a_malformed_row_is_told_by_file_and_line(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "a", "answer": "1"}\n{"question": 5, "answer": "1"}\n')
    with pytest.raises(InputError, match=r"rows\.jsonl.*line 2.*question"):
        _ = assembly(tmp_path / "run", data__name=str(rows)).rows


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
    assembly(tmp_path)  # the settings are sound
    flags = [f"--config.{name}={value}" for name, value in SMALL.items()]
    folder = f"--workdir={tmp_path / 'run'}"
    first = run("train_inner", folder, "--agents=critic", *flags)
    assert first.returncode == 0, first.stderr
    again = run("train_inner", folder, "--agents=critic", *flags, "--config.inner.optim.lr=1.0")
    line = one_line(again)
    assert "inner.optim.lr" in line
    assert "1.0" in line


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder nobody may write")
def test_a_workdir_that_cannot_be_written():
    with pytest.raises(InputError, match=r"workdir /proc/run.* cannot be made"):
        stages.inner_stage(assembly(Path("/proc/run")))


def test_a_workdir_that_is_a_file(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(InputError, match="is a file"):
        stages.inner_stage(assembly(tmp_path / "run"))


@pytest.mark.parametrize("stage", ["inner", "teacher_forced", "rollout"])
def test_a_training_row_longer_than_the_context(tmp_path, stage):
    a = assembly(tmp_path)
    texts = dict.fromkeys(("planner", "critic", "solver"), ("line one : 1 keep 1 = 1",))
    row = Row("long-1", "start 4 ; " * 200, "1", texts)
    examples = a.examples(a.settings.outer.max_length)
    with pytest.raises(InputError, match=r"agent 'planner', whose context has 256"):
        if stage == "inner":
            examples.inner("planner", [row], [0])
        else:
            getattr(examples, stage)([row])


def test_an_edited_file_of_rows_is_another_experiment(tmp_path):
    rows = tmp_path / "rows.jsonl"
    found = []
    for answer in ("1", "2"):
        texts = {"planner": "a", "critic": "b", "solver": "c"}
        rows.write_text(json.dumps({"question": "q", "answer": answer, "texts": texts}) + "\n")
        found.append(assembly(tmp_path / "run", data__name=str(rows)).identity()["data"]["name"])
    assert found[0] != found[1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"links__form": "linear"}, "links.init aligned needs"),
        ({"outer__train": ("inner",)}, "outer.train"),
        ({"seed": 2**32}, r"below 2\*\*32"),
        ({"inner__optim__clip": 0.0}, "clip 0.0 must be positive"),
    ],
)
def test_settings_that_would_fail_late_or_silently(tmp_path, changes, words):
    config = get_config()
    config.inner.optim.clip = 1.0
    flat = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(flat)
    with pytest.raises(InputError, match=words):
        freeze(config, Settings)
