"""Whatever a tool does, a call gives an answer."""

import threading
import time

import pytest

from rmas.errors import InputError
from rmas.tools.tags import Call
from rmas.tools.toolbox import MAX_HANGING, FunctionTool, Toolbox, ToolError


def double(body: str) -> int:
    return 2 * int(body)


def leave(body: str) -> str:
    raise SystemExit(body)


def refuse(body: str) -> str:
    raise ToolError("not today")


class Broken:
    name, description = "broken", "a tool with a fault"

    def __call__(self, body: str) -> str:
        raise KeyError(body)


BOX = Toolbox(
    [
        FunctionTool("double", "a number;\n  it comes back doubled.", double),
        FunctionTool("leave", "never comes back", leave),
        FunctionTool("refuse", "never helps", refuse),
        FunctionTool("quiet", "says nothing", lambda body: ""),
        Broken(),
    ]
)


@pytest.mark.parametrize(
    ("tool", "body", "failed", "text"),
    [
        ("double", " 21\n", False, "42"),
        ("quiet", "x", False, "(no output)"),
        ("double", "two", True, "error: ValueError: invalid literal for int() with base 10: 'two'"),
        ("double", " \n", True, "error: there is nothing between the tags of double"),
        ("leave", "now", True, "error: SystemExit: now"),
        ("refuse", "x", True, "error: ToolError: not today"),
        ("broken", "x", True, "error: broken failed: KeyError: 'x'"),
        (
            "web_search",
            "x",
            True,
            "error: there is no tool web_search; "
            "the tools are: double, leave, refuse, quiet, broken",
        ),
    ],
)
def test_answers(tool, body, failed, text):
    call = Call(tool, body, 0)
    answer = BOX.run(call)
    assert (answer.call, answer.failed, answer.text) == (call, failed, text)


def test_unclosed_tags_are_told():
    answer = BOX.unclosed("double", 7)
    assert answer.failed
    assert answer.call == Call("double", "", 7)
    assert "the tag double was not closed" in answer.text


def test_prompts_get_a_line_for_each_tool():
    assert BOX.describe().splitlines()[0] == (
        "<double>...</double>: a number; it comes back doubled."
    )
    assert len(BOX.describe().splitlines()) == len(BOX.names) == 5


def test_a_function_that_hangs_is_left_and_in_the_end_not_called_any_more():
    release, calls = threading.Event(), []

    def hang(body: str) -> str:
        calls.append(body)
        release.wait()
        return body

    box = Toolbox([FunctionTool("hang", "waits", hang, timeout=0.05)])
    start = time.monotonic()
    for _ in range(MAX_HANGING):
        assert box.run(Call("hang", "x", 0)).text == "error: hang took longer than 0.05 s"
    assert box.run(Call("hang", "x", 0)).text == "error: hang hangs in earlier calls"
    assert len(calls) == MAX_HANGING
    assert time.monotonic() - start < 5
    release.set()
    for _ in range(100):
        answer = box.run(Call("hang", "y", 0))
        if not answer.failed:
            break
        time.sleep(0.01)
    assert answer.text == "y"


@pytest.mark.parametrize(
    ("tools", "message"),
    [
        ([FunctionTool("Double", "x", double)], "tool name 'Double' cannot be a tag"),
        ([FunctionTool("result", "x", double)], "tool name 'result' cannot be a tag"),
        ([FunctionTool("a>", "x", double)], "tool name 'a>' cannot be a tag"),
        ([FunctionTool("a", " ", double)], "tool a has no description"),
        ([FunctionTool("a", "x", double)] * 2, "two tools are named 'a'"),
    ],
)
def test_tools_that_cannot_be(tools, message):
    with pytest.raises(InputError, match=message):
        Toolbox(tools)


@pytest.mark.parametrize(
    ("function", "timeout", "message"),
    [(3, 1.0, "tool a: 3 cannot be called"), (double, 0.0, "timeout is 0.0; it must be positive")],
)
def test_functions_that_cannot_be(function, timeout, message):
    with pytest.raises(InputError, match=message):
        FunctionTool("a", "x", function, timeout)
