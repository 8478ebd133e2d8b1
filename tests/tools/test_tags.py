"""Tool calls are found as soon as they close, and nothing else is taken for one."""

import time

import pytest

from rmas.tools.results import render
from rmas.tools.tags import Call, find_call, find_unclosed

NAMES = frozenset({"python", "search", "my-tool_2"})


def test_a_call_is_found_when_its_tag_closes_and_not_before():
    text = "Let me see.\n<python>\nprint(1 < 2)\n</python>\nand so"
    closed = text.index("</python>") + len("</python>")
    for end in range(len(text) + 1):
        found = find_call(text[:end], NAMES)
        if end < closed:
            assert found is None
        else:
            assert found == Call("python", "\nprint(1 < 2)\n", closed)


@pytest.mark.parametrize(
    ("text", "tool", "body"),
    [
        ("<search>capital of France</search>", "search", "capital of France"),
        ("<PYTHON>1</Python>", "python", "1"),
        ('<python lang="3.11" id=1>1</python >', "python", "1"),
        ("<my-tool_2>x</my-tool_2>", "my-tool_2", "x"),
        ("<python></python>", "python", ""),
        ("a < b <python>1</python> c > d", "python", "1"),
        # Tags in a body are part of it.
        ("<python>print('<search>q</search>')</python>", "python", "print('<search>q</search>')"),
        ("<python>\nprint('<python>')\n</python>", "python", "\nprint('<python>')\n"),
        ("<python>'<result>'</python>", "python", "'<result>'"),
        ("<python>'</search>'</python>", "python", "'</search>'"),
        ("so <python>f('<python>')</python>", "python", "f('<python>')"),
        # Talk about a tag is no call, nor does it hide the next one.
        ("I use <python> for that: <python>1</python>", "python", "1"),
        ("I may use `<python>`, or `<search>`.\n<search>q</search>", "search", "q"),
        ("I never saw a <result> so far. <python>1</python>", "python", "1"),
        # Closing tags without an opening one are nothing.
        ("</python></search> <python>1</python>", "python", "1"),
        ("<python/><python>1</python>", "python", "1"),
        # Echoes of results call nothing.
        ("<result>\n<python>0</python>\n</result>\n<python>1</python>", "python", "1"),
        # Tags that mean a tool, which there is not.
        ("<web_search>q</web_search>", "web_search", "q"),
        ("<tool_call>{}</tool_call>", "tool_call", "{}"),
        ("<Code-Interpreter>1</Code-Interpreter>", "code-interpreter", "1"),
    ],
)
def test_what_is_a_call(text, tool, body):
    found = find_call(text, NAMES)
    assert (found.tool, found.body) == (tool, body)
    assert text[: found.end].endswith(">")
    assert find_unclosed(text[: found.end - 1], NAMES) in (tool, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "plain </ text",
        "<b>bold</b> <answer>4</answer> <think>x</think> <research>y</research>",
        "<python>1</search>",
        "<python>1</python",
        "< python>1</ python>",
        "<result>\n<python>1</python>",
        "<result><python>1</python></result>",
        "<pythonic>1</pythonic>",
        "<pyth\non>1</python>",
    ],
)
def test_what_is_no_call(text):
    assert find_call(text, NAMES) is None


@pytest.mark.parametrize(
    ("text", "tool"),
    [
        ("<python>\nprint(1)", "python"),
        ("so <search>capital of", "search"),
        ("<python>1</search>", "python"),
        ("<python>1</python", "python"),
        ("at last <python>", "python"),
        ("<web_search>q", "web_search"),
        ("I used <python> to check. The answer is 4.", None),
        ("With `<python>` I got 4.", None),
        ("<result>\n4", None),
        ("4 </python>", None),
        ("<b>4", None),
    ],
)
def test_what_is_left_open(text, tool):
    assert find_call(text, NAMES) is None
    assert find_unclosed(text, NAMES) == tool


def test_the_next_call_is_looked_for_behind_the_last_result():
    text = "<python>1</python>" + render("<python>no</python></result>")
    assert find_call(text, NAMES, len(text)) is None
    text += "<search>q</search>"
    start = text.index("</python>") + len("</python>")  # even if the result is looked at, too
    assert find_call(text, NAMES, start) == Call("search", "q", len(text))


def test_the_search_takes_linear_time():
    for text in ("<python " * 40_000, "<python>" * 40_000, "</" + "<" * 300_000, "<a_" * 90_000):
        start = time.perf_counter()
        assert find_call("</" + text, NAMES) is None
        assert time.perf_counter() - start < 2
