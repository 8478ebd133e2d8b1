"""Chat templates: rendered as transformers does, and stopped whatever they do."""

import os
import re
import signal
import threading
import time

import pytest

from rmas.errors import InputError
from rmas.system import chat_template as module
from rmas.system.chat_template import ChatTemplate, TemplateError
from rmas.system.encode import ChatTokenizer
from rmas.system.prompts import Field, Slot
from support import tokenizers_for_tests as tk

CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": 'what is <b> "7" & 9?\n'},
    {"role": "assistant", "content": "16"},
]
WHOLE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
PARTS = (
    "{% for m in messages %}<{{ m['role'] }}>"
    "{% for part in m['content'] %}{{ part['text'] }}{% endfor %}</{{ m['role'] }}>{% endfor %}"
)
BOTH = "be brief hi"
ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"


def template(text, date="26 Jul 2024", **variables):
    return ChatTemplate(text, variables, date, "agent solver: FOLDER", "chat_template.jinja")


def chat(text, date="26 Jul 2024"):
    return ChatTokenizer(tk.byte_level(text), date=date, where="agent solver: FOLDER")


@pytest.mark.parametrize(
    "text",
    [
        *(tk.CHATML, tk.DATED, WHOLE),
        "  {% for m in messages %}\n  {% if m.role == 'user' %}\n  {{ m | tojson }}\n"
        "  {% endif %}\n  {% endfor %}\n",
        "{{ messages | tojson(indent=2, sort_keys=true) }}{{ 'ä<' | tojson(ensure_ascii=true) }}",
        "{% set ns = namespace(n=0, x=[]) %}{% for m in messages %}{% if m.role == 'system' %}"
        "{% continue %}{% endif %}{% set ns.n = ns.n + 1 %}{% if ns.n == 2 %}{% break %}{% endif %}"
        "{{ m.content | trim }}{% endfor %}{{ ns.n }}",
        "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}"
        "{{ x is defined }}{% endfor %}",
        "{{ tools is none }} {{ documents is none }} {{ add_generation_prompt }} {{ nothing }} "
        "{{ enable_thinking }} {{ bos_token }} {{ eos_token }} {{ pad_token }} {{ date_string }}",
        "{% macro show(m) %}[{{ m.content.split('?')[0] }}]{% endmacro %}{{ show(messages[1]) }}"
        "{{ dict(a=1).items() | list }}{{ messages[1:] | map(attribute='role') | join(',') }}",
    ],
)
@pytest.mark.parametrize("opened", [True, False])
def test_templates_render_as_in_transformers(text, opened):
    tokenizer = tk.byte_level(text)
    own = ChatTokenizer(tokenizer, date="26 Jul 2024", where="here")
    expected = tokenizer.apply_chat_template(
        CHAT,
        tokenize=False,
        add_generation_prompt=opened,
        enable_thinking=False,
        date_string="26 Jul 2024",
    )
    assert own._template.render(CHAT, opened) == expected
    assert expected.strip()


@pytest.mark.parametrize(
    ("date", "form", "expected"),
    [
        ("26 Jul 2024", "%d %b %Y", "26 Jul 2024"),
        ("26 Jul 2024", "%Y-%m-%d %H:%M", "2024-07-26 00:00"),
        ("2026-01-02", "%B %d, %Y", "January 02, 2026"),
        ("3 March 2025", "%y%m%d", "250303"),
        ("March 3, 2025", "%A", "Monday"),
    ],
)
def test_templates_that_format_the_date_get_the_given_one(date, form, expected):
    text = f"{{{{ strftime_now('{form}') }}}} {{{{ messages[-1].content }}}}"
    assert chat(text, date).render("", "hi") == f"{expected} hi"


def test_a_date_that_cannot_be_formatted():
    told = "write system.date as in '26 Jul 2024' or '2024-07-26'"
    with pytest.raises(InputError, match=f"'today' is none that is known; {told}"):
        chat("{{ strftime_now('%Y') }}{{ messages[-1].content }}", "today").render("", "hi")
    text = "{{ date_string }} {{ messages[-1].content }}"
    assert chat(text, "today").render("", "hi") == "today hi"


def test_templates_that_read_parts_get_them():
    c = chat(PARTS)
    assert c.render("be brief", "hi") == "<system>be brief</system><user>hi</user>"
    assert c.render("", "hi") == "<user>hi</user>"
    encoded = c.encode("be brief", ("a ", Slot("x"), Field("question")), {"question": "q"})
    assert [i for i in encoded if isinstance(i, Slot)] == [Slot("x")]
    assert c.tokenizer.decode(c.close) == "</assistant>"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # Its system message would be left out without a word.
        ("{{ messages[-1]['content'] }}", "be brief\n\nhi"),
        # It looks for parts in one message and for text in the other.
        ("{{ messages[0]['content'] | string }} {{ messages[1]['content'][0].text }}", BOTH),
        ("{{ messages[0]['content'][0].text }} {{ messages[1]['content'] | string }}", BOTH),
        # The same, but without a system message.
        (
            "{{ raise_exception('no') if messages[0].role == 'system' }}"
            "{{ messages[0]['content'][0]['text'] }}",
            "be brief\n\nhi",
        ),
        # Parts, and no system message.
        (
            PARTS.replace("<{{", "{{ raise_exception('no') if m.role == 'system' }}<{{", 1),
            "<user>be brief\n\nhi</user>",
        ),
        # What a template makes of letters is its own affair.
        ("{% for m in messages %}{{ m['content'] | upper }}{% endfor %}", "BE BRIEFHI"),
        ("{% for m in messages %}{{ m['content'][:3] }}{% endfor %}", None),
        # Text is taken as text wherever it comes through.
        (WHOLE, "system: be brief\nuser: hi\n"),
    ],
)
def test_no_text_is_dropped(text, expected):
    if expected is None:
        with pytest.raises(InputError, match="FOLDER: the chat template "):
            chat(text).render("be brief", "hi")
    else:
        assert chat(text).render("be brief", "hi") == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("\n{{ 1 + messages[0]['content'] }}", "TypeError: unsupported operand .*line 2"),
        ("{{ a.b.c }}", "UndefinedError: 'a' is undefined .*line 1"),
        ("{{ 1 / 0 }}", "ZeroDivisionError: division by zero"),
        ("{{ raise_exception('not\n\tlike this') }}", r"fails: not like this \("),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "RecursionError: "),
        ("{{ 'x' * 10 ** 12 }}", "MemoryError"),
        ("{{ ('x' * 2 ** 31) | length }}", "MemoryError"),
        ("{% include 'x' %}", "TypeError: no loader"),
        ("{{ strftime_now(3) }}", r"TypeError: strftime\(\)"),
        ("{% for i in range(100001) %}{% endfor %}", "OverflowError: Range too big"),
        ("{% if %}", "TemplateSyntaxError: .*line 1"),
        ("{{ " + "(" * 5000, "RecursionError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ 'x' * 2 ** 21 }}", r"it writes more than 1\d+ characters"),
        ("{% for i in range(99999) %}{{ 'x' * 999 }}{% endfor %}", "it writes more than"),
    ],
)
def test_errors_inside_a_template_are_one_line(text, told):
    where = {"where": "agent solver: FOLDER", "template_file": "chat_template.jinja"}
    c = ChatTokenizer(tk.byte_level(text), date="1 May 2025", **where)
    for system in ("", "be brief"):
        with pytest.raises(InputError, match=told) as e:
            c.render(system, "hi")
        assert str(e.value).startswith("agent solver: FOLDER: the chat template fails: ")
        assert re.search(r"\(chat_template.jinja(, line \d)?\)$", str(e.value))
        assert "\n" not in str(e.value) and len(str(e.value)) < 400


@pytest.mark.parametrize(
    "text", [ENDLESS, "{% set n = namespace(x='') %}" + ENDLESS.replace("%}{%", "%}{{ n.x }}{%")]
)
def test_templates_without_end_are_stopped(text, monkeypatch):
    monkeypatch.setattr(module, "SECONDS", 0.5)
    began = time.monotonic()
    with pytest.raises(InputError, match=r"fails: it does not end within 0\.5 s"):
        chat(text).render("be brief", "hi")
    assert time.monotonic() - began < 10
    # The next chat gets another process.
    monkeypatch.undo()
    assert template(WHOLE).render(CHAT[:1], True) == "system: be brief\n"


def test_long_messages_are_no_fault():
    for text in ("x" * 1_500_000, "ü\U0001f600\ud800" * 30_000):
        found = template(WHOLE * 2).render([{"role": "user", "content": text}], True)
        assert found == f"user: {text}\n" * 2


def test_a_process_that_is_gone_is_replaced():
    assert template(WHOLE).render(CHAT[:1], True)
    own = module._process._worker._process
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # sent to a whole group
        os.kill(own.pid, number)
    assert template(WHOLE).render(CHAT[:1], True)
    assert own.poll() is None
    own.kill()
    assert template(WHOLE).render(CHAT[:1], True) == "system: be brief\n"
    assert module._process._worker._process.pid != own.pid
    module._process.close()
    assert template(WHOLE).render(CHAT[:1], True) == "system: be brief\n"


def test_threads_take_turns():
    found: list[str] = []

    def render(n):
        for k in range(20):
            text = template("{{ messages[0].content }}").render(
                [{"role": "user", "content": f"{n} {k}"}], True
            )
            found.append(text)

    threads = [threading.Thread(target=render, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(f"{n} {k}" for n in range(4) for k in range(20))


def test_errors_in_one_form_are_no_fault_of_another():
    with pytest.raises(TemplateError):
        template("{{ raise_exception('no') }}").render(CHAT, True)


def test_named_templates():
    named = {"rag": "R {{ messages[-1].content }}", "tool_use": "T"}
    with pytest.raises(InputError, match="with the names rag, tool_use, and none is named 'defau"):
        chat(named)
    assert chat({**named, "default": WHOLE}).render("", "hi") == "user: hi\n"
