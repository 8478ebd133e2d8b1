"""Hub ids, without a network: a small Hub on the loopback, the client's cache, and neither.

The client reads its settings when it is imported, so each setting is a process of its own.
"""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from urllib.parse import unquote, urlsplit

import jax
import numpy as np
import pytest

from rmas.errors import InputError
from rmas.models import read_spec
from rmas.weights import load_params
from rmas.weights.hub import LINK_FILES, Located, resolve

ROOT = Path(__file__).parents[2]
PLANNER = ROOT / "rmas" / "tiny" / "planner"
OLD, NEW = "a" * 40, "b" * 40
PROGRAM = """
import json, sys
from rmas.errors import InputError
from rmas.weights import hub
assert "huggingface_hub" not in sys.modules
for arguments in json.loads(sys.argv[1]):
    try:
        found = hub.resolve(*arguments)
        print(json.dumps([str(found.path), found.source, found.revision]), flush=True)
    except InputError as error:
        print(json.dumps(str(error)), flush=True)
"""


def ask(folder, *questions, **env):
    """What `resolve` answers in a fresh process that stands in `folder`: Located, or a line."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    home = {"HF_HOME": str(folder / "home"), "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, json.dumps(questions)],
        env={**clean, **home, "PYTHONPATH": str(ROOT), **env},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    # Nothing more, in particular no progress bars.
    assert all(line.startswith("No files matched") for line in done.stderr.splitlines())
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(questions)
    return [a if isinstance(a, str) else Located(Path(a[0]), a[1], a[2]) for a in answers]


def line_with(answer, *parts):
    """Checks that an answer is one line with these parts in it."""
    assert isinstance(answer, str), answer
    assert "\n" not in answer
    for part in parts:
        assert part in answer


class Hub(http.server.ThreadingHTTPServer):
    """The part of the Hub's interface that downloads use."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos: dict[str, dict[str, dict[str, bytes]]] = {}  # name -> commit -> files
        self.branches: dict[tuple[str, str], str] = {}  # (name, branch) -> commit
        self.lost: set[str] = set()  # files that the server cannot give
        self.fetched: list[str] = []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        if path[:2] == ["api", "models"] and len(path) >= 6:
            return self.about("/".join(path[2:4]), path[4], path[5])
        if len(path) >= 5 and path[2] == "resolve":
            return self.file("/".join(path[:2]), path[3], "/".join(path[4:]))
        return self.reply(404)

    do_HEAD = do_GET

    def about(self, name, what, revision):
        if name == "lab/broken":
            return self.reply(500)
        if name not in self.server.repos:
            # The Hub does not tell whether a private one exists.
            return self.reply(401, **{"X-Error-Code": "RepoNotFound"})
        commit = self.server.branches.get((name, revision), revision)
        files = self.server.repos[name].get(commit)
        if files is None:
            return self.reply(404, **{"X-Error-Code": "RevisionNotFound"})
        if what == "revision":
            content = {"id": name, "sha": commit, "siblings": [{"rfilename": f} for f in files]}
        else:
            content = [
                {"type": "file", "path": f, "size": len(data), "oid": _etag(data)}
                for f, data in files.items()
            ]
        return self.reply(200, json.dumps(content).encode(), **{"Content-Type": "application/json"})

    def file(self, name, commit, file):
        if name == "lab/gated":
            return self.reply(403, **{"X-Error-Code": "GatedRepo"})
        if name == "lab/forbidden":
            return self.reply(403)
        if file in self.server.lost:
            return self.reply(404, **{"X-Error-Code": "EntryNotFound"})
        data = self.server.repos[name][commit][file]
        if self.command == "GET":
            self.server.fetched.append(f"{name}/{file}")
        return self.reply(200, data, **{"ETag": f'"{_etag(data)}"', "X-Repo-Commit": commit})

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


def _etag(data):
    return hashlib.sha1(data).hexdigest()


@pytest.fixture(scope="module")
def hub():
    planner = {p.name: p.read_bytes() for p in PLANNER.iterdir()}
    unread = {
        "modeling.py": b"raise SystemExit",
        "pytorch_model.bin": b"pickle",
        "optimizer.pt": b"x",
        "onnx/model.safetensors": b"x",
        "consolidated.safetensors": b"x",
        "README.md": b"x",
    }
    links = {"A-B-Outerlink(math).pt": b"1", "outerlink_config.json": b"{}", "setup.py": b"x"}
    with Hub() as server:
        server.repos = {
            "lab/planner": {OLD: {**planner, **unread, "adapter(math).pt": b"1"}},
            "lab/links": {OLD: links},
            "lab/empty": {OLD: {"README.md": b"x"}},
            "lab/gated": {OLD: planner},
            "lab/forbidden": {OLD: planner},
        }
        server.branches = {(name, "main"): OLD for name in server.repos}
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def downloaded(hub, tmp_path_factory):
    """A folder whose cache holds two repositories, and what the downloads answered."""
    folder = tmp_path_factory.mktemp("downloaded")
    hub.lost = {"config.json"}
    (failed,) = ask(folder, ["lab/planner"], HF_ENDPOINT=hub.url)
    before, hub.lost, hub.fetched = list(hub.fetched), set(), []
    answers = ask(
        folder,
        ["lab/planner"],
        ["lab/links", None, LINK_FILES],
        ["lab/planner@nightly"],
        ["lab/gated"],
        ["lab/forbidden"],
        ["lab/unknown", "v1"],
        ["lab/broken"],
        ["lab/empty"],
        HF_ENDPOINT=hub.url,
    )
    return folder, failed, before, list(hub.fetched), answers


def test_a_download_is_pinned_and_loads(downloaded):
    folder, *_, (planner, *_) = downloaded
    assert (planner.source, planner.revision) == ("lab/planner", OLD)
    assert planner.path.is_relative_to(folder / "home")
    spec = read_spec(planner.path)
    assert spec == read_spec(PLANNER)
    there, here = load_params(spec, planner.path), load_params(spec, PLANNER)
    jax.tree.map(np.testing.assert_array_equal, there, here)


def test_only_what_is_read_is_fetched(downloaded):
    _, _, _, _, (planner, links, *_) = downloaded
    names = {p.name for p in PLANNER.iterdir()} | {"adapter(math).pt"}
    assert {p.name for p in planner.path.rglob("*")} == names
    assert {p.name for p in links.path.rglob("*")} == {
        "A-B-Outerlink(math).pt",
        "outerlink_config.json",
    }


def test_a_failed_download_goes_on_where_it_stopped(downloaded):
    _, failed, before, after, _ = downloaded
    line_with(failed, "the download failed (RemoteEntryNotFoundError: 404", "hf download")
    assert before and not set(before) & set(after)
    assert "lab/planner/config.json" in after


def test_refusals_of_the_hub(downloaded, hub):
    folder, *_, (_, _, revision, gated, forbidden, unknown, broken, empty) = downloaded
    line_with(revision, "the model lab/planner on the Hub has no revision 'nightly'")
    line_with(gated, f"accept its terms at {hub.url}/lab/gated", "hf auth login", str(folder))
    line_with(forbidden, "denies access to lab/forbidden (status 403)", "hf auth login")
    line_with(unknown, "the Hub has no model lab/unknown", "private")
    line_with(broken, f"{hub.url} cannot be reached (it answered 500)", "hf download lab/broken")
    line_with(empty, "lab/empty: the repository has none of config.json, ")


def test_offline_the_cache_is_used_and_named(downloaded):
    folder, *_, (planner, *_) = downloaded
    again, pinned, tag, other, lacking = ask(
        folder,
        ["lab/planner"],
        ["lab/planner", OLD],
        ["lab/planner", "v2"],
        ["lab/other"],
        ["lab/planner", None, ["modeling*", "README.md"]],
        HF_HUB_OFFLINE="1",
    )
    assert again == planner
    assert pinned == planner
    line_with(tag, "HF_HUB_OFFLINE is set", "hf download lab/planner --revision v2")
    line_with(other, "HF_HUB_OFFLINE is set", f"no folder {folder}/lab/other")
    (folder / "lab" / "others").mkdir(parents=True)
    (near,) = ask(folder, ["lab/other"], HF_HUB_OFFLINE="1")
    line_with(near, f"no folder {folder}/lab/other (did you mean {Path('lab/others')}?)")
    (folder / "lab" / "others").rmdir()
    (folder / "lab").rmdir()
    line_with(other, f"hf download lab/other --local-dir {folder}/lab/other")
    line_with(lacking, "the download cache lacks its files")


def test_a_branch_moves_and_a_hash_stays(downloaded, hub):
    folder, *_ = downloaded
    hub.repos["lab/links"][NEW] = {"A-B-Outerlink.pt": b"2", "outerlink_config.json": b"{}"}
    hub.branches["lab/links", "main"] = NEW
    moved, pinned, short = ask(
        folder,
        ["lab/links", None, LINK_FILES],
        [f"lab/links@{OLD}", None, LINK_FILES],
        ["lab/links@main", "main", LINK_FILES],
        HF_ENDPOINT=hub.url,
    )
    assert (moved.revision, pinned.revision, short.revision) == (NEW, OLD, NEW)
    assert (moved.path / "A-B-Outerlink.pt").read_bytes() == b"2"
    assert (pinned.path / "A-B-Outerlink(math).pt").read_bytes() == b"1"
    assert pinned.source == f"lab/links@{OLD}"


def test_unreachable_uses_a_cache_that_others_filled(tmp_path):
    snapshot = tmp_path / "cache" / "models--lab--old" / "snapshots" / OLD
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "cache" / "models--lab--old" / "refs").mkdir()
    (tmp_path / "cache" / "models--lab--old" / "refs" / "main").write_text(OLD)
    nowhere = "http://127.0.0.1:1"  # refuses every connection
    cached, missing = ask(
        tmp_path,
        ["lab/old"],
        ["lab/new"],
        HF_ENDPOINT=nowhere,
        HF_HUB_CACHE=str(tmp_path / "cache"),
    )
    assert cached == Located(snapshot, "lab/old", OLD)
    line_with(missing, f"{nowhere} cannot be reached (ConnectError", f"{tmp_path}/lab/new")


def test_a_local_folder_always_wins(tmp_path, monkeypatch):
    (tmp_path / "lab" / "planner@v1").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("lab", "lab/planner@v1", str(tmp_path), "."):
        assert resolve(name, "v3") == Located(Path(name), name, None)
    assert resolve("~/lab") == Located(tmp_path / "lab", "~/lab", None)


@pytest.mark.parametrize(
    ("source", "revision", "told"),
    [
        ("", None, "'' is not a folder; expected a folder or a Hub id owner/name[@revision]"),
        ("planner", None, "'planner' is not a folder"),
        ("./lab/planner", None, "is not a folder"),
        ("../lab", None, "is not a folder"),
        ("/lab/planner", None, "is not a folder"),
        ("~nobody-at-all/planner", None, "the home folder of nobody-at-all is not known"),
        ("lab/a/b", None, "is not a folder"),
        ("lab/a..b", None, "is not a folder"),
        ("lab/a--b", None, "is not a folder"),
        ("lab/ä", None, "is not a folder"),
        ("hf://lab/planner", None, "is not a folder"),
        ("file", None, "'file' is a file; expected a folder"),
        ("lab/file", None, "'lab/file' is a file"),
        ("lab/Q4.gguf", None, "is a file with GGUF weights (llama.cpp), which are not read; use"),
        ("lab/planner@", None, "'' is not a branch, tag or commit hash"),
        ("lab/planner", "../../x", "'../../x' is not a branch"),
        ("lab/planner@/x", None, "'/x' is not a branch"),
        ("lab/planner@v1", "v2", "the name has revision 'v1', but revision='v2'"),
    ],
)
def test_names_that_can_be_neither(tmp_path, monkeypatch, source, revision, told):
    (tmp_path / "lab").mkdir()
    for name in ("file", "lab/file", "lab/Q4.gguf"):
        (tmp_path / name).write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as error:
        resolve(source, revision)
    line_with(str(error.value), told)
