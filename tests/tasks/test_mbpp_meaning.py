"""MBPP+: scripts that ask more of values, arguments and errors than their equality."""

import pytest

MEANING = """
import collections, dataclasses, enum, functools, operator, typing
class Error(ValueError):
    def __init__(self, text, more=None):
        super().__init__(text, more)
    def __str__(self):
        return self.args[0]
class Vector(typing.NamedTuple):
    x: int
    y: object
@functools.total_ordering
@dataclasses.dataclass(frozen=True)
class Card:
    rank: int
    def __lt__(self, other): return self.rank < other.rank
KEPT = Card(9)
def f(kind, *arguments, **named):
    def change():
        for x in arguments:
            if isinstance(x, list):
                x.sort(reverse=True)
            elif isinstance(x, dict):
                x.pop(2)
            elif isinstance(x, set):
                x.remove(2)
            elif isinstance(x, (bytearray, collections.deque)):
                x.append(7)
            else:
                x[0] *= 2
    def fail(error):
        raise error
    def swallow(function):
        try:
            function(0)
        except ZeroDivisionError as error:
            return str(error)
    return {
        "ordered": lambda: collections.OrderedDict([(1, 2), (3, 4)]),
        "counter": lambda: collections.Counter("aab"),
        "default": lambda: collections.defaultdict(list, a=[1]),
        "own default": lambda: collections.defaultdict(lambda: 5),
        "vector": lambda: [Vector(1, [2]), (Vector(3, Vector(4, None)),)],
        "card": Card, "kept": lambda *_: KEPT,
        "error": lambda: fail(Error("neg", 2)), "key": lambda: fail(KeyError("k")),
        "system": lambda: open("/no/file"), "index": lambda: [][1],
        "apply": lambda function, *values: function(*values),
        "map": lambda function, values: [function(v) for v in values],
        "swallow": swallow, "pass": lambda function, x: function(lambda y: y + x),
        "change": lambda *_: change(), "grow": lambda a, b=None: (a if b is None else b).append(1),
        "same": lambda x=None: x, "sort": lambda x: x.sort() or x, "nest": lambda p: p[0].clear(),
        "type": lambda x: type(x), "named": lambda: f, "long": lambda: np.longdouble(1.5),
    }[kind](*arguments, **named)
import numpy as np
"""
MEANT = """
import collections, operator, numpy as np
a0 = np.array([1, 2])
ordered = collections.OrderedDict([(1, 2), (3, 4)])
assert f("ordered") == ordered and f("ordered") == {3: 4, 1: 2}
assert f("ordered") != collections.OrderedDict([(3, 4), (1, 2)])
assert list(f("same", ordered)) == [1, 3] and type(f("apply", dict, ordered)) is dict
assert f("counter").most_common(1) == [("a", 2)] and f("counter")["z"] == 0
assert f("counter") + f("counter") == collections.Counter("aaaabb")
assert f("default")["zz"] == [] and f("own default")["zz"] == 5 and f("default") == {"a": [1]}
one, (other,) = f("vector")
assert one.x == 1 and one == (1, [2]) and other.y.x == 4 and other._fields == ("x", "y")
assert repr(one) == "Vector(x=1, y=[2])" and other._replace(x=5)[0] == 5
assert f("card", 3) == f("card", 3) != f("card", 4) and f("card", 3) < f("card", 4)
assert len({f("card", 3), f("card", 3)}) == 1 and f("kept") is f("kept")
assert sorted([f("card", 2), f("card", 1)])[0].rank == 1
for kind, error, arguments in (
    ("error", ValueError, None), ("key", KeyError, ("k",)), ("system", FileNotFoundError, None),
    ("index", LookupError, None),
):
    try:
        f(kind)
    except error as found:
        assert arguments is None or found.args == arguments
        assert kind != "error" or str(found) == "neg"
        assert kind != "system" or found.errno == 2
    else:
        raise SystemExit(1)
assert f("apply", lambda y: y + 1, 3) == 4 and f("apply", len, "abc") == 3
assert f("map", int, ["1", "2"]) == [1, 2] and f("map", str.upper, "ab") == ["A", "B"]
assert f("apply", operator.add, 1, 2) == 3 and f("apply", np.sum, [1, 2]) == 3
seen = []
assert f("map", seen.append, [1, (2,)]) == [None, None] and seen == [1, (2,)]
assert f("apply", lambda n: n and f("card", n).rank + f("same", n - 1), 3) == 5  # within a call
assert f("swallow", lambda x: 1 / x) == "division by zero"
try:
    f("apply", lambda x: {}[x], "k")
except KeyError as error:
    assert error.args == ("k",)
else:
    raise SystemExit(1)
assert f("pass", lambda g: g(2), 3) == 5 and f("same", MEANT := lambda: 0) is MEANT
a, b, c, d, e, g = [1, 3, 2], {1: [1], 2: 0}, {1, 2}, bytearray(b"a"), collections.deque([1]), a0
f("change", a, b, c, d, e, g)
assert (a, b, c, d, e) == ([3, 2, 1], {1: [1]}, {1}, b"a\\x07", collections.deque([1, 7]))
assert g.tolist() == [2, 2]
counts = collections.Counter([1, 2, 2])
assert f("change", counts) is None and counts == collections.Counter([1])
f("grow", a)
f("grow", [], b=a)
assert a == [3, 2, 1, 1, 1] and f("same", a) is a and f("same", x=a) is a and f("sort", a) is a
assert a == [1, 1, 1, 2, 3] and f("same", [1]) is not a
pair = ([1], 2)
f("nest", pair)
assert pair == ([], 2)
assert f("type", None) is type(None) and f("type", ordered) is collections.OrderedDict
assert f("named").__name__ == "f" and f("long") == 1.5
"""


def test_what_scripts_ask_of_values_arguments_and_errors(grade):
    assert grade(MEANING, MEANT) == (1, "")
    names: dict = {}
    exec(MEANING, names)
    exec(MEANT, names)  # in one process the same


@pytest.mark.parametrize(
    "script",
    [
        "assert f('ordered') == collections.OrderedDict([(3, 4), (1, 2)])",
        "assert f('counter')['a'] == 3",
        "assert f('vector')[0] == (1, [3])",
        "assert f('card', 3) == 3",
        "try:\n    f('error')\nexcept KeyError:\n    pass",
        "a = [2, 1]\nf('same', a)\nassert a == [1, 2]",
        "a = [2, 1]\nassert f('sort', a) == [2, 1]",
        "assert f('apply', lambda x: x + 1, 1) == 3",
    ],
)
def test_what_does_not_hold_in_one_process_fails(grade, script):
    assert grade(MEANING, f"import collections\n{script}") == (0, "failed")


def test_arguments_that_cannot_be_sent(grade):
    note = "an argument of the tests is no data"
    assert grade(MEANING, "f('same', [object()])") == (0, note)


REPLIES = {
    "a call of a library's function": """
        ["call", 0, [["import os; os._exit(0)"], {"dict": [[], []]}]]""".strip(),
    "a call of what was not given": """["call", 1, [[], {"dict": [[], []]}]]""",
    "names that are code": """["value", {"namedtuple": [["a", "b=[].c()"], [1]]}]""",
    "a type that is no data": """["value", {"type": "__loader__"}]""",
    "a factory that is none": """["value", {"defaultdict": ["exec", [], []]}]""",
}


@pytest.mark.parametrize("name", REPLIES)
def test_nothing_that_a_function_sends_is_run_by_the_tests(grade, name):
    code = f"""
        import os
        def f(function):
            for n in range(3, 64):
                try:
                    os.write(n, {REPLIES[name]!r}.encode() + b"\\n")
                except OSError:
                    pass
    """
    assert grade(code, "f(exec)", seconds=3) == (0, "failed")
