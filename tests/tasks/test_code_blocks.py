"""Where a program is in a text, and which one of several."""

import time

import pytest

from rmas.tasks.code_blocks import find_code

FENCE = "```"
DEFINES = "def area(r):\n    return 3 * r\n"
USES = "print(area(2))\n"
READS = "n = int(input())\nprint(n + 1)\n"
AREA, PROGRAM = {"kind": "function", "name": "area"}, {"kind": "program", "name": ""}


def block(code: str, mark: str = "python") -> str:
    return f"{FENCE}{mark}\n{code.rstrip()}\n{FENCE}\n"


def shifted(text: str, by: str) -> str:
    return "".join(f"{by}{line}\n" for line in text.splitlines())


@pytest.mark.parametrize(
    ("text", "code"),
    [
        (f"Here it is:\n{block('x = 1')}Done.", "x = 1\n"),
        (block("x = 1") + block("x = 2"), "x = 2\n"),
        (block("x = 1", ""), "x = 1\n"),
        (block("x = 1") + block("output", "text"), "x = 1\n"),
        (f"{FENCE}py\nx = 1", "x = 1\n"),  # cut
        (f"~~~Python3\nx = 1\n~~~\n{FENCE}", "x = 1\n"),
        (block("x = 1", "python3.11 title=main.py"), "x = 1\n"),
        (block("x = 1", " {.python}"), "x = 1\n"),
        (f"{FENCE}`markdown\n{block('x = 1')}{FENCE}`", "x = 1\n"),
        (f"{FENCE}python\r\nx = 1\r\n{FENCE}\r\n", "x = 1\r\n"),
        (f"{FENCE}python\n\n{FENCE}", None),
        ("x = 1", None),
        ("I cannot.\nThe answer is x = 5, for example.", None),
        ("", None),
        (block("x" * 300_000), None),
        (block("s = 'a ``` b'"), "s = 'a ``` b'\n"),
        ("<think>" + block("x = 1") + "</think>\nSo:\n" + block("x = 2", ""), "x = 2\n"),
        ("<think>" + block("x = 1") + "</think>\nAs above.", "x = 1\n"),
    ],
)
def test_the_last_block_of_python_counts(text, code):
    assert find_code(text) == code


@pytest.mark.parametrize(
    "text",
    [
        "1. First:\n\n" + shifted(block(DEFINES), "   ") + "2. Done.",
        "* " + shifted(block(DEFINES), "  ").lstrip(),
        "12) " + shifted(block(DEFINES), "    ").lstrip() + "Done.",
        "\t- a list\n" + shifted(block(DEFINES), "\t"),
        shifted(block(DEFINES), "> "),
        shifted(block(shifted(DEFINES, "    ")), "  "),
        block(shifted(DEFINES, "        ")),
    ],
)
def test_indented_and_quoted_blocks_are_shifted_back(text):
    assert find_code(text, AREA) == DEFINES


STRINGS = [
    f'def area(r):\n    """Use:\n\n    {FENCE}\n    area(2)\n    {FENCE}\n    """\n    return r\n',
    f"def area(r):\n    '''\n{FENCE}python\narea(2)\n{FENCE}\n    '''\n    return r\n",
    f'HELP = r"""\n{FENCE}\n""" # it\'s\ndef area(r):\n    return r\n',
]


@pytest.mark.parametrize("code", STRINGS)
def test_a_fence_in_a_string_does_not_end_a_block(code):
    assert find_code(f"So:\n{block(code)}That is all.\n{block(USES)}", AREA) == code


def test_a_string_that_never_ends_does_not_take_the_text_along():
    assert find_code(f"{block('x = 1')}{block('# no')}" + block("'''") + "text") is not None


RECURSIVE = "area = lambda r: r and 3 + area(r - 1)\n"
IMPORTS = (
    f"from solution import area\n{USES}",
    f"import area\n{USES}",
    f"try:\n    from solution import area\nexcept ImportError:\n    pass\n{USES}",
    f"from solution import other as area\n{USES}",
    "area = 3\nprint(area)",
    "for area in (1, 2):\n    print(2)",
    "with open('x') as area:\n    pass",
)
STUBS = (
    "raise NotImplementedError",
    "raise NotImplementedError('write it')",
    "'What it is.'\n    raise NotImplementedError()",
    "'What it is.'\n    ...",
    "pass  # your code",
)


@pytest.mark.parametrize(
    ("text", "interface", "code"),
    [
        (block(DEFINES) + "For example:\n" + block(USES), AREA, DEFINES),
        (block(DEFINES) + block("area = area(1)\nprint(area)"), AREA, DEFINES),
        (block(DEFINES, "") + block(USES), AREA, DEFINES),
        (block("def area(r):\n    pass") + block(DEFINES), AREA, DEFINES),
        (block(DEFINES) + "In short:\n" + block("def area(r): ..."), AREA, DEFINES),
        (block(DEFINES) + f"{FENCE}python\ndef area(r):\n    return (3", AREA, DEFINES),
        (block("area = lambda r: 3 * r") + block(USES), AREA, "area = lambda r: 3 * r\n"),
        (block(RECURSIVE) + block(USES), AREA, RECURSIVE),
        *((block(DEFINES) + "Use it:\n" + block(use), AREA, DEFINES) for use in IMPORTS),
        *((block(use) + block(DEFINES), AREA, DEFINES) for use in IMPORTS),
        *((block(DEFINES) + block(f"def area(r):\n    {body}"), AREA, DEFINES) for body in STUBS),
        (
            block("class Solution:\n    def area(self, r):\n        return r") + block(USES),
            AREA,
            "class Solution:\n    def area(self, r):\n        return r\n",
        ),
        (block(READS) + "Then:\n" + block("python main.py < input", "bash"), PROGRAM, READS),
        (block(READS) + "The input:\n" + block("n = int(input())"), PROGRAM, READS),
        (block(READS) + block("assert 1 + 1 == 2"), PROGRAM, READS),
        (block("import sys\nprint(sys.stdin.read())") + block("def f():\n    return 1"), PROGRAM,
         "import sys\nprint(sys.stdin.read())\n"),
    ],
)  # fmt: skip
def test_what_is_asked_outweighs_what_follows(text, interface, code):
    assert find_code(text, interface) == code


@pytest.mark.parametrize(
    ("text", "interface", "code"),
    [
        (DEFINES, AREA, DEFINES),
        (f"Here is the function.\n\n{DEFINES}\nFor r = 2 it is 6. I hope it helps!", AREA, DEFINES),
        (f"import math\n\n@cached\n{DEFINES}", AREA, f"import math\n\n@cached\n{DEFINES}"),
        (READS, PROGRAM, READS),
        (f"So: {{}}\n{READS}", PROGRAM, READS),
        (
            "Sure:\nimport sys\nfor line in sys.stdin:\n    if line:\n        print(1)\n    else:\n"
            "        print(2)\ntry:\n    pass\nexcept OSError:\n    pass\nThat is it.",
            PROGRAM,
            "import sys\nfor line in sys.stdin:\n    if line:\n        print(1)\n    else:\n"
            "        print(2)\ntry:\n    pass\nexcept OSError:\n    pass\n",
        ),
        (f"So:\n\n{shifted(DEFINES, '    ')}\nThat is it.", AREA, DEFINES),
        (f"So:\n\n{shifted(DEFINES, chr(9))}\nThat is it.", AREA, DEFINES),
        (f"{DEFINES}\nIt prints\n{block('6', '')}", AREA, DEFINES),
    ],
)  # fmt: skip
def test_code_without_a_fence_counts(text, interface, code):
    assert find_code(text, interface) == code


@pytest.mark.parametrize("use", ["", block(USES)])
@pytest.mark.parametrize(
    "text",
    [
        f"{FENCE}python\n{DEFINES}{FENCE}.\nThat is it.\n",
        f"{FENCE}python\n{DEFINES}{FENCE}<|im_end|>\n",
        f"{FENCE}python\n{DEFINES}{FENCE} as asked\n",
        f"1. So:\n\n   {FENCE}python\n{shifted(DEFINES, '   ')}   {FENCE}, done.\n",
        f"{FENCE}python\n{DEFINES.rstrip()}{FENCE}\n",
        f"{FENCE}python\n{DEFINES.rstrip()} {FENCE} That is it.\n",
        f"{FENCE}python\n{DEFINES}",  # not closed before the next
        f"{FENCE}python\n{DEFINES.replace('    ', chr(160) * 4)}{FENCE}\n",
        f"{FENCE}python\n>>> {DEFINES.rstrip().replace(chr(10), chr(10) + '... ')}\n{FENCE}\n",
        f"{FENCE}pycon\n>>> {DEFINES.replace(chr(10), chr(10) + '... ')}\n{FENCE}\n",
        f"{FENCE}python\ndef area(r):\n{FENCE}\nand\n\n{FENCE}python\n    return 3 * r\n{FENCE}\n",
    ],
)  # fmt: skip
def test_what_python_cannot_read_is_tried_as_what_it_may_mean(text, use):
    assert (find_code(text + use, AREA) or "").rstrip() == DEFINES.rstrip()


def test_a_block_that_goes_on_in_the_next_one():
    first, second = "def area(r):\n    s = 3", "    return s * r\n"
    text = f"{block(first)}and then\n{block(second)}{block(USES)}"
    assert find_code(text, AREA) == f"{first}\n{second}"


def test_other_ways_to_write_code():
    short = "def area(r): return 3 * r"
    for text in (f"{FENCE}{short}{FENCE}", f"- {FENCE}python {short}{FENCE}\nDone."):
        assert find_code(text + "\n" + block(USES), AREA) == f"{short}\n"
    calls = ">>> def area(r):\n...     return 3 * r\n...\n>>> area(2)\n6\n"
    assert find_code(block(calls), AREA) == DEFINES + "\narea(2)\n"
    # What is valid stays as it is, with what it quotes.
    code = f"def area(r):\n    return '{FENCE}\xa0>>> 1'\n"
    assert find_code(block(code), AREA) == code


def test_what_another_block_defines_precedes_the_code():
    first = "import math\n\ndef half(x):\n    return math.floor(x / 2)\n\nprint(half(3))"
    second = "def area(r):\n    return half(r)\n"
    found = find_code(f"First:\n{block(first)}Then:\n{block(second)}{block(USES)}", AREA)
    assert found == "import math\ndef half(x):\n    return math.floor(x / 2)\n" + second
    names: dict = {}
    exec(found, names)
    assert names["area"](5) == 2


@pytest.mark.parametrize(
    "part",
    [
        *(f"{FENCE}x\n", f"{FENCE}python\n'''\n{FENCE}\n", "if a\n", "x = 1\n", "> ", "'"),
        *(f"{FENCE}python\nx\n{FENCE}y z\n", f"{FENCE}python\n{FENCE}a\n    return 1\n{FENCE}\n"),
        *(f"{FENCE}python\nreturn 1\n{FENCE}\n", ">>> x\n", f"{FENCE}x{FENCE}", "    x = 1\n"),
        *(f"{FENCE}\narea(x)\n{FENCE}\n", "1. ", "a+", "import a\n", f'"""\n{FENCE}\n', "(", "f("),
    ],
)
def test_long_texts_take_little_time(part):
    """At worst in proportion to their length: no text costs a second for 100,000 characters."""
    text = (part * 100_000)[:100_000]
    start = time.process_time()
    for whole in (text, f"{FENCE}python\n{text}"):
        find_code(whole, AREA)
    assert time.process_time() - start < 4
