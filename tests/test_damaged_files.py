"""Every kind of file from outside, damaged in every way: one line, soon, or the truth."""

import contextlib
import functools
import io
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
import sentencepiece
from safetensors.numpy import load_file, save_file

import rmas
from experiments import config
from experiments.build_search_index import jsonl_rows
from rmas.errors import InputError
from rmas.files import read_json
from rmas.models.config import read_spec
from rmas.system import prompts
from rmas.system.load import fingerprint, load_chat
from rmas.tasks import builders
from rmas.tasks.benchmarks import BENCHMARKS, source_of
from rmas.tasks.locate import locate
from rmas.tasks.sources import load_rows_source
from rmas.tools.index import Index, Passage, build
from rmas.tools.toolbox import ToolError
from rmas.weights import torch_archive
from rmas.weights.files import open_files
from rmas.weights.links import load_links, save_links
from rmas.weights.released_links import read_inner, read_outer
from support.damage import damages, replacements, unreadable
from support.make_samples import SAMPLES, write_jsonl, write_parquet

HERE = Path(__file__).parent
PACKAGED = Path(rmas.__file__).parent / "tiny" / "planner"
RELEASED = HERE / "system" / "released_goldens" / "root"
SECONDS = 30
ROWS = [
    {"id": f"r{n}", "question": f"What is {n} + {n}?", "plan": "Add.", "refined_plan": "Add them.",
     "answer": str(2 * n)}
    for n in range(20)
]  # fmt: skip


def own_rows(path):
    return builders.RowFile(
        data_dir=str(path.parent), config=builders.row_file_config(path), file_format="array_record"
    ).read_splits()


def benchmark(name, path):
    files = locate(name, source_of(name), path.parents[path_depth(name)])
    config_ = builders.public_config(name, files)
    made = builders.Public(data_dir=str(path.parent), config=config_, file_format="array_record")
    return {split: list(rows) for split, rows in made.read_splits().items()}


def path_depth(name):
    """How many folders of the repository a benchmark's files lie in."""
    return next(iter(source_of(name).files.values()))[0].count("/")


def search(path):
    return Index(path).search("common w3", 5, 10)


def prepared(path):
    """The rows of the one dataset that is prepared in a folder, without writing it again."""
    return list(load_rows_source(path.parents[4] / "rows.jsonl", data_dir=path.parents[3])["train"])


def links(path):
    def accept(manifest):
        if manifest.get("form") != "linear":
            raise InputError("links of another form")

    return jax.tree.map(np.asarray, load_links(path.parent, accept=accept))


def outer(path):
    edges = {"outer_12": (16, 12)}
    return jax.tree.map(np.asarray, read_outer(path.parent, "math", edges))


def inner(path):
    form, params = read_inner(path.parent, "math", 16)
    return form, jax.tree.map(np.asarray, params)


def agent(path):
    """What an agent's folder says but for its weights: ids of a chat, and those that end a turn."""
    model = read_spec(path.parent)
    chat, eos = load_chat(path.parent, model, "1 May 2025")
    return chat.ids(chat.render("1 + 1", "two")), eos, fingerprint(path.parent)


def tensors(path):
    with open_files(path.parent) as files:
        return {
            name: files.read(name, tuple(slice(n) for n in files.shape(name)))
            for name in sorted(files.names)
        }


def put(path, content):
    path.write_bytes(content)
    return path


def rows_file(folder, write, name):
    write(folder / name, ROWS)
    return folder / name


def sample(name, folder):
    shutil.copytree(SAMPLES / name, folder / name)
    return next(file for file in sorted((folder / name).rglob("*")) if file.is_file())


def index_file(folder):
    build(folder / "index", (Passage(f"t{n}", f"w{n} common " * 20) for n in range(40)))
    return folder / "index"


def links_file(folder, name):
    state = {"inner": {"a": {"proj1": {"kernel": np.ones((4, 4)), "bias": np.zeros(4)}}}}
    save_links(folder / "links", state, {"form": "linear"})
    return folder / "links" / name


def released(folder, *parts):
    shutil.copytree(RELEASED / parts[0], folder / parts[0])
    return folder / Path(*parts)


def agent_file(folder, name, content=None):
    shutil.copytree(PACKAGED, folder / "agent")
    if content is not None:
        (folder / "agent" / name).write_bytes(content)
    return folder / "agent" / name


def processor_template(folder):
    path = agent_file(folder, "chat_template.jinja")
    template = path.read_text()
    path.unlink()
    return put(path.with_suffix(".json"), json.dumps({"chat_template": template}).encode())


def sentencepiece_file(folder):
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["seven and nine", "check the sum"] * 9), model_writer=made,
        vocab_size=60, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    path = agent_file(folder, "tokenizer.model", made.getvalue())
    (path.parent / "tokenizer.json").unlink()
    put(path.parent / "tokenizer_config.json", b'{"eos_token": "</s>"}')
    return path


def index_of_weights(folder):
    path = agent_file(folder, "model.safetensors.index.json")
    whole = path.with_name("model.safetensors")
    arrays = load_file(whole)
    whole.unlink()
    files = {name: f"model-{n % 2}.safetensors" for n, name in enumerate(sorted(arrays))}
    for file in set(files.values()):
        save_file(
            {name: arrays[name] for name in arrays if files[name] == file}, path.parent / file
        )
    return put(path, json.dumps({"weight_map": files}).encode())


def prepared_file(folder, pattern):
    write_jsonl(folder / "rows.jsonl", ROWS)
    load_rows_source(folder / "rows.jsonl", data_dir=folder / "data")
    return next((folder / "data").rglob(pattern))


Make = Callable[[Path], Path]
KINDS: dict[str, tuple[Make, Callable, bool]] = {
    # name: (makes a file in a folder, reads it, whether any change of content is noticed)
    "rows, parquet": (lambda f: rows_file(f, write_parquet, "rows.parquet"), own_rows, False),
    "rows, jsonl": (lambda f: rows_file(f, write_jsonl, "rows.jsonl"), own_rows, False),
    "rows, json": (lambda f: put(f / "rows.json", json.dumps(ROWS).encode()), own_rows, False),
    **{
        f"benchmark {name}": (
            functools.partial(sample, name), functools.partial(benchmark, name), False
        )
        for name in BENCHMARKS
        if (SAMPLES / name).is_dir()
    },
    "prompt set": (
        lambda f: Path(shutil.copy(HERE / "system" / "released_goldens" / "prompts.json", f)),
        lambda path: prompts.load(str(path)), False,
    ),
    "questions": (lambda f: put(f / "q.json", b'["What is 1 + 1?", "And 2?"]'), read_json, False),
    "search index": (index_file, search, True),
    "links": (lambda f: links_file(f, "links.safetensors"), links, True),
    "manifest of links": (lambda f: links_file(f, "manifest.json"), links, True),
    "released link": (
        lambda f: Path(shutil.copy(RELEASED / "planner" / "adapter(math).pt", f)),
        torch_archive.read, True,
    ),
    "outerlink_config.json": (
        lambda f: released(f, "outer", "outerlink_config.json"), outer, False
    ),
    "outer link": (
        lambda f: released(f, "outer", "Planner-Critic-Outerlink(math).pt"), outer, True
    ),
    "model config": (
        lambda f: released(f, "planner", "config.json"), lambda p: read_spec(p.parent), False
    ),
    "generation_config.json": (
        lambda f: agent_file(f, "generation_config.json", b'{"eos_token_id": [46, 47]}'), agent,
        False,
    ),
    "tokenizer.json": (lambda f: agent_file(f, "tokenizer.json"), agent, False),
    "tokenizer_config.json": (lambda f: agent_file(f, "tokenizer_config.json"), agent, False),
    "special_tokens_map.json": (
        lambda f: agent_file(f, "special_tokens_map.json", b'{"additional_special_tokens": []}'),
        agent, False,
    ),
    "chat template": (lambda f: agent_file(f, "chat_template.jinja"), agent, False),
    "chat template of a processor": (processor_template, agent, False),
    "SentencePiece model": (sentencepiece_file, agent, False),
    "index of weights": (index_of_weights, tensors, True),
    "innerlink_config.json": (
        lambda f: released(f, "planner", "innerlink_config.json"), inner, False
    ),
    "documents": (
        lambda f: put(f / "docs.jsonl", b'{"title": "a", "text": "b c"}\n' * 9),
        lambda path: list(jsonl_rows(path)[1]), False,
    ),
    "model weights": (lambda f: released(f, "planner", "model.safetensors"), tensors, False),
    "settings": (
        lambda f: put(f / "settings.json", b'{"seed": 3, "outer": {"rounds": 2}}'),
        lambda path: config.load(str(path)).to_dict(), False,
    ),
    "config file": (
        lambda f: put(f / "mine.py", b"from ml_collections import ConfigDict\n\n\n"
                      b"def get_config():\n    return ConfigDict({'seed': 3})\n"),
        lambda path: config.load(str(path)).to_dict(), False,
    ),
    "prepared rows": (lambda f: prepared_file(f, "*.array_record*"), prepared, True),
    "prepared dataset_info": (lambda f: prepared_file(f, "dataset_info.json"), prepared, True),
    "prepared features": (lambda f: prepared_file(f, "features.json"), prepared, True),
}  # fmt: skip
"""Every kind of file that is read."""
MAY_BE_GONE = {"benchmark livecodebench", "generation_config.json", "tokenizer_config.json",
               "special_tokens_map.json", "innerlink_config.json"}  # fmt: skip
"""One of several files: the others are read, and the evaluation says that questions lack. The
others are optional."""


@contextlib.contextmanager
def soon():
    def late(*_):
        raise TimeoutError(f"not done after {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(read, path, whole, checked):
    """What is wrong with how a damaged file is read; empty where nothing is."""
    try:
        with soon():
            found = read(path)
    except (InputError, ToolError) as error:
        return "several lines" if "\n" in str(error) else ""
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    return "a wrong result" if checked and repr(found) != whole else ""


@pytest.mark.parametrize("kind", KINDS)
def test_damage_is_one_line_or_changes_nothing(kind, tmp_path):
    make, read, checked = KINDS[kind]
    path = make(tmp_path)
    (tmp_path / "unreadable").mkdir()
    whole, content = repr(read(path)), path.read_bytes()
    wrong = {}
    for name, damaged in damages(content).items():
        path.write_bytes(damaged)
        wrong[name] = outcome(read, path, whole, checked)
    for name, replace in replacements(path).items():
        if name == "gone" and kind in MAY_BE_GONE:
            continue
        replace()
        wrong[name] = outcome(read, path, whole, checked=True)
    path = make(tmp_path / "unreadable")
    with unreadable(path), pytest.raises((InputError, ToolError), match=r"^[^\n]*$"):
        read(path)
    assert {name: fault for name, fault in wrong.items() if fault} == {}
