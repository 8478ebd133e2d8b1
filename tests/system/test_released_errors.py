"""What is wrong with a released system is told in one line, with what would be right."""

import json
import logging
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import rmas
from rmas.errors import InputError
from rmas.tools import FunctionTool, Toolbox
from support.commands import run

GOLDENS = Path(__file__).parent / "released_goldens"
PROMPTS = GOLDENS / "prompts.json"
STYLE = "sequential_scaled"


@pytest.fixture
def root(tmp_path):
    """A system of one's own."""
    return Path(shutil.copytree(GOLDENS / "root", tmp_path / "root"))


def load(root, style=STYLE, task="math", prompts=PROMPTS, **options):
    return rmas.load_system(
        style, root, task_family=task, dtype="float32", prompts=str(prompts), **options
    )


def refused(*told: str, **arguments) -> None:
    """Loading fails with one line that holds all that should be told."""
    with pytest.raises(InputError) as error:
        load(**arguments)
    line = str(error.value)
    assert "\n" not in line
    for words in told:
        assert words in line, line


def edit_json(path: Path, change) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_tensors(path: Path, change) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def outer_math(manifest: dict) -> list[dict]:
    return manifest["tasks"]["math"]["adapters"]


def test_the_root(root, tmp_path):
    refused("nowhere is not a folder", "planner, critic, solver, outer", root=tmp_path / "nowhere")
    refused(
        "folders are missing: math, code, science, summarizer",
        "mixture needs",
        root=root,
        style="mixture",
    )
    refused("style 'sequential' is unknown", "sequential_light", root=root, style="sequential")


@pytest.mark.parametrize("name", ["critic", "outer"])
def test_a_missing_folder(root, name):
    shutil.rmtree(root / name)
    refused(
        str(root),
        f"folders are missing: {name};",
        "needs planner, critic, solver, outer",
        root=root,
    )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("critic/adapter(math).pt", "no such file"),
        ("outer/Critic-Solver-Outerlink(math).pt", "no such file"),
        ("outer/outerlink_config.json", "no such file"),
        ("planner/model.safetensors", "holds no weights; expected model.safetensors or"),
        ("solver/config.json", "no such file"),
        ("planner/tokenizer.json", "holds no tokenizer; expected tokenizer.json"),
        ("planner/chat_template.jinja", "the tokenizer has no chat template"),
    ],
)
def test_a_missing_file(root, name, told):
    (root / name).unlink()
    folder = str((root / name).parent)
    at_fault = folder if "holds no" in told or "chat" in told else str(root / name)
    refused(at_fault, told, root=root)


@pytest.mark.parametrize(
    "name",
    ["critic/adapter(math).pt", "outer/Critic-Solver-Outerlink(math).pt", "solver/config.json"],
)
def test_a_git_lfs_pointer_in_place_of_a_file(root, name):
    (root / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(f"{root / name} is a Git LFS pointer, not the file itself", root=root)


def test_no_inner_link_at_all(root):
    for name in ("innerlink_config.json", "adapter(math).pt", "adapter(code).pt"):
        (root / "solver" / name).unlink()
    refused("solver holds no inner link: expected innerlink_config.json", root=root)


def test_a_link_of_other_dimensions(root):
    manifest = root / "outer" / "outerlink_config.json"
    edit_json(manifest, lambda m: outer_math(m)[0].update(in_dim=17))
    refused(str(manifest), "outer_12 is from 17 to 12", "needs 16 to 12", root=root)
    other = outer_math(json.loads(manifest.read_text()))[1]["filename"]
    edit_json(manifest, lambda m: outer_math(m)[0].update(in_dim=16, filename=other))
    refused(other, "wrong dimensions", "ln_source.weight is (12,), not (16,)", root=root)
    shutil.copy(root / "critic/adapter(math).pt", root / "planner/adapter(math).pt")
    refused("planner/adapter(math).pt", "pre_ln.bias is (12,), not (16,)", root=root)


def test_an_unknown_task(root):
    lacks = "no prompts of role 'planner' for task family 'poetry'; the role has math, code"
    refused(lacks, root=root, task="poetry")
    edit_json(root / "critic/innerlink_config.json", lambda m: m["tasks"].pop("code"))
    refused("critic/innerlink_config.json", "'code'; known: 'math'", root=root, task="code")


def test_an_unknown_architecture(root):
    edit_json(root / "critic/config.json", lambda c: c.update(model_type="mamba"))
    refused("critic/config.json", "unknown architecture 'mamba'", "qwen3_5", root=root)


def test_weights_that_do_not_fit(root):
    """Of the first agent, so that no other is loaded before."""
    path = root / "planner/model.safetensors"
    whole = path.read_bytes()
    norm = "language_model.model.norm.weight"
    edit_tensors(path, lambda t: t.update({"language_model.extra": np.ones(1, np.float32)}))
    refused("planner", "unexpected 1 tensors: language_model.extra", root=root)
    path.write_bytes(whole)
    edit_tensors(path, lambda t: t.pop(norm))
    refused("planner", f"missing 1 tensors: {norm}", root=root)
    path.write_bytes(whole)
    edit_tensors(path, lambda t: t.update({norm: np.ones(15, np.float32)}))
    refused("planner", f"wrong shape: {norm} is (15,), not (16,)", root=root)
    path.write_bytes(whole)
    truncate(path)
    refused(str(path), "is damaged or not a safetensors file", root=root)


def test_a_damaged_link(root):
    path = root / "planner/adapter(math).pt"
    truncate(path)
    refused(str(path), root=root)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda p: p["roles"].pop("critic"), ["'small' has no role 'critic'"]),
        (
            lambda p: p["roles"]["critic"]["math"].update(first="{slot:judge} {question}"),
            ["role 'critic'", "{slot:judge} has no edge judge->critic"],
        ),
        (
            lambda p: p["roles"]["solver"]["math"].update(first="{question}"),
            ["role 'solver'", "edge critic->solver has no slot; add {slot:critic}"],
        ),
    ],
    ids=["role", "unknown slot", "no slot"],
)
def test_a_prompt_set_that_does_not_fit(root, tmp_path, change, told):
    file = shutil.copy(PROMPTS, tmp_path)
    edit_json(Path(file), change)
    refused(*told, root=root, prompts=file)


def test_no_prompt_set(root, tmp_path):
    refused("cannot read prompt set", "nothing.json", root=root, prompts=tmp_path / "nothing.json")


@pytest.mark.parametrize(
    ("mesh", "told"),
    [
        ("rows=8", "unknown axis 'rows'; known: data, fsdp, tensor"),
        ("data=two", "data is 'two'; it must be a positive number"),
        ("data=3", "needs 3 devices, but there are 8 (cpu); choose sizes whose product is 8"),
    ],
)
def test_a_mesh(root, mesh, told):
    refused("mesh", told, root=root, mesh=mesh)


def test_our_prompts_under_released_links_are_warned_of(root, caplog):
    """Their own come from `experiments.import_prompts`; where they are given nothing is said."""
    with caplog.at_level(logging.INFO, "rmas"):
        load(root)
        assert "prompts" not in caplog.text
        rmas.load_system(STYLE, root)
    (record,) = (r for r in caplog.records if "import_prompts" in r.getMessage())
    assert record.levelno == logging.WARNING
    assert re.search("links .* not with the set 'rmas-default'", record.getMessage())
    assert "python -m experiments.import_prompts --release=CLONE --out=FILE" in record.getMessage()


def no_list(root: Path) -> None:
    (root / "questions.json").write_text('{"q": "What?"}')


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (no_list, "questions.json must be a JSON list of texts, at least one"),
        (
            lambda root: shutil.rmtree(root / "solver"),
            "folders are missing: solver; sequential_scaled needs",
        ),
        (lambda root: truncate(root / "planner/model.safetensors"), "model.safetensors is damaged"),
    ],
    ids=["questions", "role", "weights"],
)
def test_the_command_ends_with_one_line_and_status_2(root, tmp_path, damage, told):
    (root / "questions.json").write_text('["What?"]')
    damage(root)
    flags = {
        "style": STYLE,
        "root": root,
        "questions": root / "questions.json",
        "prompts": PROMPTS,
        "out": tmp_path / "out",
    }
    done = run("dump_latents", *(f"--{k}={v}" for k, v in flags.items()))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line
    assert not list((tmp_path / "out").glob("*"))


def test_tools_of_a_style_whose_agents_call_none():
    box = Toolbox([FunctionTool("double", "a number; its double comes back", str)])
    with pytest.raises(InputError, match="no agent of style 'mixture' calls tools"):
        rmas.load_system("mixture", "nowhere", tools=box)
