"""MBPP+'s kinds of scripts: what a function returns means there what it means in one process."""

import inspect
import textwrap
import time

import pytest

VALUES = (
    "None, True, 0, -(7**99), 7**9999, 1.5, -0.0, float('inf'), 1 - 2j, 'é\\ud800', b'b', "
    "bytearray(b'c'), [1, [2], 'a'], (1, ()), [(1, 'a'), (2, 'b')], [[1], [2.5]], "
    "((1, 2), (3, 4)), {1, (2,)}, frozenset({'a'}), {'k': {1: (2,)}, (1, 2): []}, "
    "collections.deque([1]), range(3), decimal.Decimal('1.50'), fractions.Fraction(1, 3), "
    "datetime.date(2024, 2, 29), datetime.datetime(2024, 2, 29, 12, 30, 1, 5), "
    "datetime.timedelta(1, 2), int, slice(1, None)"
)
MODULES = "import collections, datetime, decimal, fractions, math\n"


def test_data_go_in_and_out_as_they_are(grade):
    script = f"""
        values = [{VALUES}]
        for v in values:
            found = same(v)
            assert type(found) is type(v) and found == v and repr(found) == repr(v)
            assert same(key=[v, (v,)]) == [v, (v,)]
        assert math.isnan(same(float('nan')))
        deep = []
        for _ in range(2000):
            deep = [deep]
        found = same(deep)
        for _ in range(2000):
            (found,) = found
        assert found == []
    """
    code = "def same(x=None, key=None):\n    return key if key else x"
    assert grade(code, MODULES + textwrap.dedent(script), name="same") == (1, "")


KINDS = '''
import collections, enum, numpy as np
class Text(str): pass
class Colour(enum.IntEnum): RED = 3
Pair = collections.namedtuple("Pair", "a b")
class Point:
    """Equal to everything."""
    def __init__(self, x): self.x = x
    def far(self, by): return Point(self.x + by)
    def __eq__(self, other): return True
    def __len__(self): return self.x
    def __str__(self): return f"at {self.x}"
def count(n):
    for k in range(n): yield k
def f(kind):
    return {
        "match": re.search("b+", "abbc"), "no match": re.search("x", "abbc"),
        "counter": collections.Counter("aab"), "default": collections.defaultdict(list, a=[1]),
        "ordered": collections.OrderedDict(a=1), "text": Text("abc"), "enum": Colour.RED,
        "pair": Pair(1, 2), "integer": np.int64(3), "float": np.float32(0.5),
        "bool": np.bool_(True), "array": np.array([1.0, 2.0]),
        "table": np.arange(4).reshape(2, 2), "point": Point(3),
        "empty": Point(0), "generator": count(3), "map": map(str, range(3)),
        "closure": lambda x: x + 1,
        "keys": {1: 2, 3: 4}.keys(), "values": {1: 2, 3: 4}.values(), "items": {1: 2}.items(),
        "object": object(), "class": Point, "reversed": reversed([1, 2]), "zip": zip("ab", [1, 2]),
        "nested": [re.search("b+", "abbc"), (count(2),)],
    }[kind]
def fail(x):
    raise {0: ValueError("bad"), 1: KeyError("k"), 2: re.error("own")}[x]
f.fail = fail
'''


def asserts() -> None:
    """The script: what holds for the values themselves."""
    f = f  # noqa: F821
    np = __import__("numpy")
    assert f("match") is not None and f("no match") is None
    assert f("match") and bool(f("match")) and not f("no match")
    assert f("match").group() == "bb" and f("match").span() == (1, 3) and f("match")[0] == "bb"
    assert (f("match") is not None) == True  # noqa: E712
    assert f("counter") == {"a": 2, "b": 1} and f("default") == {"a": [1]}
    assert f("ordered") == {"a": 1} and f("text") == "abc" and f("enum") == 3
    assert f("pair") == (1, 2) and f("integer") == 3 and f("float") == 0.5 and f("bool")
    assert list(f("array")) == [1, 2] and f("array").dtype == np.float64
    np.testing.assert_allclose(f("array"), [1, 2 + 1e-9], atol=1e-6)
    assert f("table").shape == (2, 2) and f("table").tolist() == [[0, 1], [2, 3]]
    assert f("point").x == 3 and f("point").far(2).x == 5 and len(f("point")) == 3
    assert f("point") and not f("empty") and f("empty") is not None and str(f("point")) == "at 3"
    assert f("point") != 3 and f("point") != "at 3" and [f("point")] != [3]
    assert list(f("generator")) == [0, 1, 2] and sum(f("generator")) == 3
    assert next(f("generator")) == 0 and set(f("map")) == {"0", "1", "2"} and "2" in f("map")
    assert f("generator") != [0, 1, 2] and list(f("zip")) == [("a", 1), ("b", 2)]
    assert list(f("reversed")) == [2, 1] and f("closure")(1) == 2
    assert f("keys") == {1, 3} and f("keys") != [1, 3] and f("items") == {(1, 2)}
    assert list(f("values")) == [2, 4] and len(f("values")) == 2
    assert f("object") is not None and f("object") != f("object") and f("class")(7).x == 7
    first, (second,) = f("nested")
    assert first.group() == "bb" and list(second) == [0, 1]
    for n, kind in enumerate((ValueError, KeyError, Exception)):
        try:
            f.fail(n)
        except kind as error:
            assert n != 0 or str(error) == "bad"
        else:
            raise SystemExit(1)


SCRIPT = textwrap.dedent(
    inspect.getsource(asserts).partition('"""\n    f = ')[2].partition("\n")[2]
)


def test_what_is_no_data_means_what_it_means_in_one_process(grade):
    assert grade(KINDS, SCRIPT) == (1, "")
    names: dict = {}
    exec(f"import re\n{KINDS}", names)
    script = "\n".join(line for line in SCRIPT.splitlines() if "!= 3" not in line)
    exec(script, names)  # but for what is equal to everything, the same


NOT_NONE = """
def assertion(out, exp, atol):
    exact_match = exp == (out is not None)
    {check}
for text, exp in zip(["aabbbb", "aabAbbbc", "accddbbjjjb"], [True, False, True]):
    assertion(f(text), exp, 0)
"""


@pytest.mark.parametrize("check", ["assert exact_match", "pass"])
def test_a_match_where_the_script_asks_whether_there_is_one(grade, check):
    """As the reference solutions of Mbpp/737, 787 and 794, whose scripts compute and do not ask."""
    code = "def f(text):\n    return re.search('a.*?b$', text)"
    assert grade(code, NOT_NONE.format(check=check)) == (1, "")
    stub = "def f(text):\n    return None"
    assert grade(stub, NOT_NONE.format(check=check))[0] == float(check == "pass")


LARGE = {
    "pairs of a grid": """
def near(point, found=[]):
    if not point:
        yield found
    else:
        first, *rest = point
        yield from [p for n in range(first - 1, first + 2) for p in near(rest, found + [n])]
def {name}(point):
    return list(near(point))
""",
    "combinations": """
import itertools
def {name}(point):
    return list(itertools.combinations_with_replacement("RGBYOPV", 10 + len(point) // 9))
""",
    "a dictionary": "def {name}(point):\n    return {{n: [str(n)] for n in range(9 ** 5)}}",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LARGE)
def test_large_values_cost_less_than_ten_times_their_computing(grade, kind):
    """As Mbpp/630 and 255, whose scripts compute what they expect."""
    reference, code = (LARGE[kind].format(name=name) for name in ("reference", "f"))
    loop = "for point in [tuple(range(10))] * 2:\n    assert f(point) == reference(point)"
    script = f"{reference}\n{loop}"
    names: dict = {}
    start = time.monotonic()
    exec(f"{code}\n{script}", names)
    alone = time.monotonic() - start
    start = time.monotonic()
    assert grade(code, script) == (1, "")
    assert time.monotonic() - start < 2 + 10 * alone


def test_the_time_limit_is_that_of_a_call(grade):
    """A script of many calls may take longer, up to its own limit."""
    code = "import time\ndef f(x):\n    time.sleep(x)\n    return x"
    assert grade(code, "for _ in range(4):\n    assert f(0.4) == 0.4", seconds=1) == (1, "")
    assert grade(code, "assert f(9) == 9", seconds=1) == (0, "timeout")
    assert grade(code, "while True:\n    f(0.1)", seconds=0.25) == (0, "timeout")


HOSTILE = {
    # what it does before it returns a wrong value, or none
    "stops and ends all processes": """
        for pid in [os.getppid(), 1, *map(int, filter(str.isdigit, os.listdir("/proc")))]:
            for number in (signal.SIGSTOP, signal.SIGKILL):
                if pid != os.getpid():
                    try:
                        os.kill(pid, number)
                    except OSError:
                        pass
        assert len(list(filter(str.isdigit, os.listdir("/proc")))) == 2
    """,
    "answers in another's place": """
        for n in range(3, 64):
            for line in (b'["value", 3', b'["value", 3]' + bytes(9), b"[]", b'["value", {"a": 1}]'):
                try:
                    os.write(n, line + b"\\n")
                except OSError:
                    pass
        os._exit(0)
    """,
    "floods the judge": """
        for n in range(3, 64):
            try:
                while True:
                    os.write(n, b"[" * 65536)
            except OSError:
                pass
    """,
    "looks for the tests": """
        for folder, _, files in os.walk("/"):
            library = folder.startswith(("/usr", "/lib", os.__file__[:5]))
            if "tests.py" in files and not library and "site-packages" not in folder:
                return 3
        return 0
    """,
    "sends what numpy reads as memory": """
        class Array:
            __array_interface__ = {"data": (1, True), "shape": (1,), "typestr": "<f8", "version": 3}
        return Array()
    """,
    "ends itself": "os.kill(os.getpid(), 9)",
    "leaves with the status of success": "sys.exit(0)",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_function_cannot_pass_without_the_right_value(grade, name):
    body = textwrap.indent(textwrap.dedent(HOSTILE[name]), "    ")
    code = f"import os, signal, sys\ndef f():\n{body}\n    return 4"
    script = "import numpy as np\nout = f()\nif out != 3:\n    np.testing.assert_allclose(out, 3)\n"
    assert grade(code, script + "assert f() == 3", seconds=3)[0] == 0
