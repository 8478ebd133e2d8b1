"""The tool `search`: what an agent gets back, and what is told before a run starts."""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rmas.errors import InputError
from rmas.tools.index import Index, Passage, build
from rmas.tools.search import KEY, SearchTool, Tavily, open_search
from rmas.tools.tags import Call
from rmas.tools.toolbox import Toolbox


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "i"
    build(path, [Passage("Paris", "The capital of\nFrance."), Passage("Rome", "The capital.")])
    return path


def test_titles_and_passages_come_back(index):
    tool = SearchTool(open_search(index))
    assert tool("\ncapital of\n France ") == (
        "[1] Paris\nThe capital of\nFrance.\n\n[2] Rome\nThe capital."
    )
    assert tool("qwertz") == "nothing found; try other words"
    assert SearchTool(Index(index), count=1)("capital Rome") == "[1] Rome\nThe capital."
    box = Toolbox([tool])
    assert box.run(Call("search", "?!", 0)).text == "error: the query has no words"
    assert "up to 5 matching passages" in box.describe()


def test_a_run_without_an_index_does_not_start(tmp_path, index, monkeypatch):
    monkeypatch.delenv(KEY, raising=False)
    with pytest.raises(InputError, match=r"needs either an index .* and has neither"):
        open_search()
    with pytest.raises(InputError, match=r"needs either an index .* not both"):
        open_search(index, tavily=True)
    with pytest.raises(InputError, match="does not exist; make it with"):
        open_search(tmp_path / "missing")
    with pytest.raises(InputError, match="TAVILY_API_KEY is not set"):
        open_search(tavily=True)


@pytest.mark.parametrize("key", ["tvly a", "tvly-\nx", "tvly-é"])
def test_what_is_no_key_is_told_without_showing_it(monkeypatch, key):
    monkeypatch.setenv(KEY, key)
    with pytest.raises(InputError, match=r"^TAVILY_API_KEY is not a key; Tavily needs one$"):
        open_search(tavily=True)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"count": 0}, "search count is 0"), ({"seconds": 0.0}, r"search seconds is 0\.0")],
)
def test_settings_that_cannot_be(index, settings, message):
    with pytest.raises(InputError, match=message):
        SearchTool(Index(index), **settings)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setenv(KEY, "tvly-good")
    monkeypatch.setitem(__import__("sys").modules, "tavily", None)
    with pytest.raises(InputError, match=re.escape("pip install 'rmas[tavily]'")):
        Tavily()


class Service(BaseHTTPRequestHandler):
    """The two questions of Tavily's interface that are asked, for one good key."""

    def answer(self, good: dict) -> None:
        fine = self.headers["Authorization"] == "Bearer tvly-good"
        body = json.dumps(good if fine else {"detail": {"error": "no such key"}}).encode()
        self.send_response(200 if fine else 401)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.answer({"key": {"usage": 1, "limit": None}} if self.path == "/usage" else {})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if asked["query"] == "fail":
            self.send_error(500)
            return
        found = {"title": "T", "url": "https://x.org", "content": asked["query"], "score": 1}
        self.answer({"results": [found] * asked["max_results"]})

    def log_message(self, *_):
        pass


@pytest.fixture
def service():
    pytest.importorskip("tavily", reason="the extra `tavily` is not installed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_tavily_answers(service, monkeypatch):
    monkeypatch.setenv(KEY, " tvly-good\n")
    tool = SearchTool(Tavily(service), count=2)
    assert tool("who\n is") == ("[1] T (https://x.org)\nwho is\n\n[2] T (https://x.org)\nwho is")
    answer = Toolbox([tool]).run(Call("search", "fail", 0))
    assert answer.failed
    assert answer.text.startswith("error: Tavily: ")
    assert "tvly" not in answer.text


def test_a_wrong_key_is_told_when_the_run_starts(service, monkeypatch):
    monkeypatch.setenv(KEY, "tvly-bad")
    with pytest.raises(InputError, match=r"Tavily refuses the key in TAVILY_API_KEY \(status 401"):
        Tavily(service)


def test_no_network_is_told_when_the_run_starts(service, monkeypatch):
    monkeypatch.setenv(KEY, "tvly-good")
    with pytest.raises(InputError, match=r"Tavily cannot be reached .* search needs an index"):
        Tavily("http://127.0.0.1:9")
