"""Options: checks when they are made, dotted names of what is wrong, what `--help` is made from."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Literal

import pytest

from rmas.errors import InputError
from rmas.options import Options, as_dict, build, described, option


@dataclasses.dataclass(frozen=True)
class Part(Options):
    """A part."""

    rate: float = option(0.5, "how fast", unit="1/s", above=0, most=1)
    kind: Literal["a", "b"] = option("a", "which")


@dataclasses.dataclass(frozen=True)
class Whole(Options):
    """A whole."""

    steps: int = option(3, "how many", least=1)
    flag: bool = option(False, "whether")
    names: tuple[str, ...] = option((), "some names")
    pair: tuple[int, int] = option((1, 2), "two numbers", least=0)
    own: Mapping[str, int] = option(factory=dict, help="by name", least=1)
    part: Part = option(factory=Part, help="its part")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.pair[0] > self.pair[1]:
            raise self.wrong("pair", "the first must not be larger")


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"steps": 0}, "steps is 0; it must be at least 1"),
        ({"steps": 2.0}, "steps is 2.0; it must be int"),
        ({"steps": True}, "steps is True; it must be int"),
        ({"flag": 1}, "flag is 1; it must be bool"),
        ({"names": "ab"}, "names is 'ab'; it must be tuple of str"),
        ({"names": ("a", 1)}, "names[1] is 1; it must be str"),
        ({"pair": (1,)}, "pair is (1,) (tuple); it must be (int, int)"),
        ({"pair": (-1, 2)}, "pair[0] is -1; it must be at least 0"),
        ({"pair": (2, 1)}, "pair is (2, 1) (tuple); the first must not be larger"),
        ({"own": {"x": 0}}, "own.x is 0; it must be at least 1"),
        ({"own": 3}, "own is 3; it must be dict of int"),
        ({"part": 3}, "part is 3; it must be Part"),
        ({"part": {"rate": math.nan}}, "part.rate is nan; it must be a finite number above 0 and"),
        ({"part": {"rate": math.inf}}, "part.rate is inf; it must be a finite number above 0 and"),
        ({"part": {"rate": 0}}, "part.rate is 0; it must be above 0 and at most 1"),
        ({"part": {"kind": "c"}}, "part.kind is 'c'; it must be 'a' or 'b'"),
        ({"part": {"rat": 1}}, "part.rat: no such field; did you mean rate?"),
        ({"setps": 1}, "setps: no such field; did you mean steps?"),
    ],
)
def test_what_makes_no_sense_is_named_by_its_path(values, line):
    with pytest.raises(InputError) as error:
        build(Whole, values)
    assert str(error.value).startswith(line)
    with pytest.raises(InputError) as error:
        build(Whole, values, "config")
    assert str(error.value).startswith(f"config.{line}")


def test_python_is_checked_alike():
    with pytest.raises(InputError, match="rate is nan; it must be a finite number"):
        Part(rate=math.nan)
    with pytest.raises(InputError, match="steps is 0"):
        dataclasses.replace(Whole(), steps=0)


def test_a_dict_goes_there_and_back():
    values = {"names": ["x"], "own": {"a": 4}, "part": {"rate": 1}}
    made = build(Whole, values)
    assert made == Whole(names=("x",), own={"a": 4}, part=Part(rate=1.0))
    assert type(made.part.rate) is float
    assert build(Whole, json.loads(json.dumps(as_dict(made)))) == made


def test_fields_are_described_in_order_sections_last():
    found = {field.name: field for field in described(Whole)}
    assert list(found) == [
        *("steps", "flag", "names", "pair", "own"),
        *("part", "part.rate", "part.kind"),
    ]
    rate = found["part.rate"]
    assert (rate.kind, rate.default, rate.unit) == ("float", 0.5, "1/s")
    assert (rate.help, rate.bounds) == ("how fast", "above 0 and at most 1")
    assert found["part"].section is Part
    assert found["own"].default == {}
    assert found["own"].kind == "dict of int"


@dataclasses.dataclass(frozen=True)
class Slow(Whole):
    """A whole whose part has another default."""

    part: Part = option(factory=lambda: Part(rate=0.1), help="its part")


def test_a_section_may_have_defaults_of_its_own():
    assert build(Slow, {"part": {"kind": "b"}}) == Slow(part=Part(rate=0.1, kind="b"))
    found = {field.name: field for field in described(Slow)}
    assert found["part.rate"].default == 0.1
