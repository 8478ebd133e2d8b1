"""Code against the benchmarks' tests, in the sandbox: right, wrong, and tricks."""

import os

import pytest

from rmas.errors import InputError
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.livecodebench_answers import _printed
from rmas.tasks.rows import Row
from rmas.tasks.sources import load_rows_source
from rmas.tools.sandbox import Sandbox, SandboxError
from support.make_samples import SAMPLES

FENCE = "```"


def fenced(code: str) -> str:
    return f"Here it is:\n{FENCE}python\n{code}\n{FENCE}\nDone."


@pytest.fixture(scope="module")
def graders():
    try:
        Sandbox.detect()
    except InputError as error:
        pytest.skip(f"no sandbox here: {error}")
    with GraderPool(seconds=3) as made:
        yield made


@pytest.fixture(scope="module")
def impatient(graders):
    """Graders with a short time limit, for programs that never end."""
    with GraderPool(seconds=1) as made:
        yield made


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")

    def get(name: str) -> list[Row]:
        return load_rows_source(name, data_dir=folder, source=SAMPLES / name)["test"][:]

    return {name: get(name) for name in ("mbppplus", "livecodebench")}


@pytest.mark.parametrize(
    ("code", "passed", "note"),
    [
        ("def add_two(a, b):\n    return a + b", 1, ""),
        ("print('a word')\ndef add_two(a, b):\n    return a + b", 1, ""),
        ("def add_two(a, b):\n    return math.floor(a + b)", 1, ""),  # by the row's imports
        ("import numpy as np\ndef add_two(a, b):\n    return int(np.add(a, b))", 1, ""),
        ("def add_two(a, b):\n    return a - b", 0, "failed"),
        ("def add_three(a, b):\n    return a + b", 0, "failed"),
        ("import sys\nsys.exit(0)", 0, "failed"),
        ("import os\nos._exit(0)", 0, "failed"),
        ("raise SystemExit", 0, "failed"),
        # What would pass for a pass where tests and programs share a process.
        ("open('tests.py', 'w').write('')", 0, "failed"),
        (
            "print('\\n' + open('/dev/stdin').read(), end='', flush=True)\nraise SystemExit",
            0,
            "failed",
        ),
        ("import sys\nsys.stdin.seek(0)\nprint(sys.stdin.read())\nsys.exit()", 0, "failed"),
        (
            "class Same:\n    def __eq__(self, other):\n        return True\n"
            "def add_two(a, b):\n    return Same()",
            0,
            "failed",
        ),
        (
            "import builtins\nbuiltins.zip = lambda *_: []\ndef add_two(a, b):\n    return 0",
            0,
            "failed",
        ),
        ("def assertion(*_):\n    pass\ndef add_two(a, b):\n    return 0", 0, "failed"),
        # The tests and the memory of what runs them are out of reach.
        (
            "import os\ndef add_two(a, b):\n    return 0 if os.path.exists('tests.py') else a + b",
            1,
            "",
        ),
        (
            "import os\ndef add_two(a, b):\n    try:\n        open(f'/proc/{os.getppid()}/mem')\n"
            "    except OSError:\n        return a + b",
            1,
            "",
        ),
        ("import sys\ndef add_two(a, b):\n    sys.exit(0)", 0, "failed"),
        ("def add_two(a, b):\n    return a + b\nif __name__ == '__main__':\n    input()", 1, ""),
        ("def add_two(a, b:\n", 0, "failed"),
        ("while True:\n    pass", 0, "timeout"),
        ("while True:\n    print('x' * 1000)", 0, "timeout"),
    ],
)
def test_mbpp(graders, impatient, rows, code, passed, note):
    own = impatient if note == "timeout" else graders
    (grade,) = own.grade("mbpp", [fenced(code)], rows["mbppplus"][:1])
    assert grade.scores == {"exact": passed}  # the release runs the same tests
    assert grade.note == note


PLANT = """
for name in ("numpy", "math", "collections", "json", "functools"):
    with open(name + ".py", "w") as file:
        file.write(
            "import os, sys\\nframe = sys._getframe()\\nwhile frame:\\n"
            "    if 'token' in frame.f_locals:\\n"
            "        print('\\\\n' + frame.f_locals['token'], end='', flush=True)\\n"
            "        os._exit(0)\\n    frame = frame.f_back\\n"
        )
def square(x):
    pass
"""


def test_modules_that_a_program_plants_are_not_imported(graders):
    """As the first line of every script imports numpy, in the process that knows the token."""
    script = "import numpy as np\nimport functools\nassert np.square(2) == square(2)"
    meta = {"script": script, "imports": ["import math"], "interface": {"name": "square"}}
    row = Row("r", "", "", meta=meta)
    right = "import numpy\ndef square(x):\n    return x * x"
    grades = graders.grade("mbpp", [fenced(PLANT), fenced(right)], [row, row])
    assert [grade.scores["exact"] for grade in grades] == [0, 1]


def test_a_sandbox_that_fails_is_not_a_wrong_answer(graders, rows, monkeypatch):
    """Once it may; twice ends the run, so that the same command grades the answer."""
    calls, run = [], Sandbox.run

    def failing(*arguments, **named):
        calls.append(arguments)
        if len(calls) < fail:
            for stream in (arguments[2], named["stdout"]):  # as `run` does
                os.close(stream)
            raise SandboxError("bwrap: Resource temporarily unavailable")
        return run(*arguments, **named)

    monkeypatch.setattr(Sandbox, "run", failing)
    code, fail = [fenced("def add_two(a, b):\n    return a + b")], 2
    (grade,) = graders.grade("mbpp", code, rows["mbppplus"][:1])
    assert (grade.scores["exact"], len(calls)) == (1, 4)  # each time the tests and the program
    fail = 99
    with pytest.raises(InputError, match=r"the sandbox no longer runs .* temporarily unavailable"):
        graders.grade("mbpp", code, rows["mbppplus"][:1])


def test_mbpp_without_code(graders, rows):
    (grade,) = graders.grade("mbpp", ["I cannot."], rows["mbppplus"][1:])
    assert (grade.answer, grade.scores["exact"], grade.note) == (None, 0, "no code")


STOP = """
import os, signal, time
for pid in {os.getppid(), 1, *map(int, filter(str.isdigit, os.listdir("/proc")))} - {os.getpid()}:
    for number in (signal.SIGSTOP, signal.SIGKILL):
        try:
            os.kill(pid, number)
        except OSError:
            pass
time.sleep(1.5)
print(sum(map(int, input().split())))
"""
SUM = "print(sum(map(int, input().split())))"
ORDERED = "def order(a, b):\n    return sorted([a, b])"
NEED_THEIR_MODULE = (
    "import pickle\nclass A:\n    pass\nassert type(pickle.loads(pickle.dumps(A()))) is A",
    "import __main__\nx = 3\nassert __main__.x == 3",
    "import sys\nx = 3\nassert sys.modules[__name__].x == 3",
)
POOL = """
import multiprocessing
def double(x):
    return 2 * x
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(2) as pool:
        print(sum(pool.map(double, map(int, input().split()))) // 2)
"""
ORDER = "class Solution:\n    def order(self, a: int, b: int) -> List[int]:\n        return {}"


@pytest.mark.parametrize(
    ("which", "code", "note"),
    [
        (0, SUM, ""),
        (0, "a, b = map(int, input().split())\nprint(f'{a + b}.0 ')", ""),  # numbers by value
        (0, "print(3)", "failed"),  # passes the public test alone
        (0, "print(3)\nprint()\nprint(4)", "failed"),
        # A status other than 0, with the right output.
        (0, SUM + "\nraise SystemExit(1)", "failed"),
        (0, SUM + "\nimport os, sys\nsys.stdout.flush()\nos._exit(137)", "failed"),
        (0, SUM + "\nimport os, sys\nsys.stdout.flush()\nos.kill(os.getpid(), 9)", "failed"),
        # Nothing is left from one test for the next.
        (0, "import os\nos.path.exists('x') and print(input())\nopen('x', 'w')", "failed"),
        (0, STOP, "timeout"),
        (0, "while True: pass", "timeout"),
        # The prelude of the benchmark's own harness, and its recursion limit.
        (
            0,
            "a, b = map(int, input().split())\nprint(floor(math.fsum(accumulate([a, b])) - a))",
            "",
        ),
        (0, "def deep(n):\n    return n and 1 + deep(n - 1)\ndeep(20000)\n" + SUM, ""),
        *((0, f"{code}\n{SUM}", "") for code in NEED_THEIR_MODULE),
        (0, POOL, ""),
        *((1, f"{code}\n{ORDERED}", "") for code in NEED_THEIR_MODULE),
        (1, f"class Solution:\n    def other(self):\n        pass\n{ORDERED}", ""),
        (1, f"class Solution:\n    def __init__(self, a):\n        pass\n{ORDERED}", ""),
        (1, "def order(a, b):\n    sqrt(a)\n    return sorted([a, b], key=cmp_to_key(sub))", ""),
        (1, ORDER.format("sorted([a, b])"), ""),
        (1, ORDER.format("tuple(sorted([a, b]))"), ""),
        (1, "def order(a, b):\n    print('noise')\n    return [min(a, b), max(a, b)]", ""),
        (1, ORDER.format("[a, b]"), "failed"),
        (1, ORDER.format("{1, 2}"), "failed"),
        (1, ORDER.replace("order", "other").format("[]"), "failed"),
        (1, "import os\nos._exit(0)", "failed"),
    ],
)
def test_livecodebench(graders, impatient, rows, which, code, note):
    own = impatient if note == "timeout" else graders
    (grade,) = own.grade("livecodebench", [fenced(code)], [rows["livecodebench"][which]])
    assert grade.note == note
    assert grade.scores["exact"] == float(not note)


def test_tests_that_cannot_be_read_are_an_error(graders, rows):
    row = rows["livecodebench"][0]
    broken = Row(row.id, row.question, "", meta=dict(row.meta) | {"private": "no base64!"})
    with pytest.raises(InputError, match=r"livecodebench/abc1_a, private tests: the tests are"):
        graders.grade("livecodebench", [fenced(SUM)], [broken])
    none = Row(row.id, row.question, "", meta=dict(row.meta) | {"private": "", "public": "[]"})
    with pytest.raises(InputError, match="there are no tests"):
        graders.grade("livecodebench", [fenced(SUM)], [none])


def test_outputs_that_are_not_numbers():
    assert not _printed("snan", "1")
    assert not _printed("nan", "1")
    assert _printed("1.0", "1")
