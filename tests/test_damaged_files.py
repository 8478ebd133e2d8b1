"""Every kind of file from outside, damaged in every way: one line, soon, or the truth."""

import contextlib
import functools
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from experiments import config
from rmas.errors import InputError
from rmas.files import read_json
from rmas.models.config import read_spec
from rmas.system import prompts
from rmas.system.load import load_chat
from rmas.tasks import builders
from rmas.tasks.benchmarks import BENCHMARKS, source_of
from rmas.tasks.locate import locate
from rmas.tasks.sources import load_rows_source
from rmas.tools.index import Index, Passage, build
from rmas.tools.toolbox import ToolError
from rmas.weights import torch_archive
from rmas.weights.files import open_files
from rmas.weights.links import load_links, save_links
from rmas.weights.released_links import read_outer
from support import tokenizers_for_tests as tokens_for_tests
from support.damage import damages, replacements
from support.make_samples import SAMPLES, write_jsonl, write_parquet
from support.tiny_systems import model_spec

HERE = Path(__file__).parent
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
    return jax.tree.map(np.asarray, load_links(path.parent))


def outer(path):
    edges = {"outer_12": (16, 12)}
    return jax.tree.map(np.asarray, read_outer(path.parent, "math", edges))


def tensors(path):
    with open_files(path.parent) as files:
        return {
            name: files.read(name, tuple(slice(n) for n in files.shape(name)))
            for name in sorted(files.names)
        }


def chat(path):
    tokens, ends = load_chat(path.parent, model_spec("qwen2", 16, 1 << 16), "26 Jul 2024")
    return tokens.encode("Be brief.", ("the plan ", prompts.Slot("a"), "is"), {}), ends


def chat_file(folder, name):
    """A file of an agent's folder that says how it reads and ends a chat."""
    tokens_for_tests.byte_level().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    (folder / "generation_config.json").write_text('{"eos_token_id": [0, 3]}')
    return folder / name


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
    "manifest of links": (lambda f: links_file(f, "manifest.json"), links, False),
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
    "model weights": (lambda f: released(f, "planner", "model.safetensors"), tensors, False),
    **{
        name: (lambda f, name=name: chat_file(f, name), chat, False)
        for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
    },
    "generation_config.json": (
        lambda f: chat_file(f, "generation_config.json"), chat, False
    ),
    "settings": (
        lambda f: put(f / "settings.json", b'{"seed": 3, "outer": {"rounds": 2}}'),
        lambda path: config.load(str(path)).to_dict(), False,
    ),
    "config file": (
        lambda f: put(f / "mine.py", b"from ml_collections import ConfigDict\n\n\n"
                      b"def get_config():\n    return ConfigDict({'seed': 3})\n"),
        lambda path: config.load(str(path)).to_dict(), False,
    ),
    "prepared rows": (lambda f: prepared_file(f, "*.array_record*"), prepared, False),
    "prepared dataset_info": (lambda f: prepared_file(f, "dataset_info.json"), prepared, False),
    "prepared features": (lambda f: prepared_file(f, "features.json"), prepared, False),
}  # fmt: skip
"""Every kind of file that is read."""
MAY_BE_GONE = {"benchmark livecodebench", "generation_config.json", "tokenizer_config.json"}
"""One of several files: the others are read; an evaluation says that questions lack."""


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
    assert {name: fault for name, fault in wrong.items() if fault} == {}
