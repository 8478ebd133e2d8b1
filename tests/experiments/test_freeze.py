import dataclasses
from pathlib import Path
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict, config_dict

from experiments.freeze import freeze
from rmas.errors import InputError


@dataclasses.dataclass(frozen=True)
class Optim:
    lr: float
    warmup: int = 10
    schedule: Literal["cosine", "constant"] = "cosine"

    def __post_init__(self):
        if self.lr <= 0:
            raise ValueError(f"lr {self.lr} must be above 0")


@dataclasses.dataclass(frozen=True)
class Settings:
    optim: Optim
    agents: tuple[str, ...]
    name: str | None = None
    shuffle: bool = True
    pair: tuple[int, float] = (1, 1.0)
    folder: Path | None = None
    ceilings: dict[str, float] = dataclasses.field(default_factory=dict)
    second: Optim | None = None
    stops: tuple[Optim, ...] = ()
    limit: int | float = 3
    free: Any = None


def config(**changes) -> ConfigDict:
    return ConfigDict({"optim": {"lr": 1}, "agents": ["planner", "critic"], **changes})


def test_all_kinds_of_fields():
    made = freeze(
        config(
            name=config_dict.placeholder(str),
            pair=(2, 3),
            folder="a/b",
            ceilings={"a": 1},
            second={"lr": 0.5, "schedule": "constant"},
            stops=[{"lr": 2.0}],
            limit=7,
            free={"x": {"y": 1}},
        ),
        Settings,
    )
    assert made == Settings(
        optim=Optim(1.0),
        agents=("planner", "critic"),
        pair=(2, 3.0),
        folder=Path("a/b"),
        ceilings={"a": 1.0},
        second=Optim(0.5, schedule="constant"),
        stops=(Optim(2.0),),
        limit=7,
        free={"x": {"y": 1}},
    )
    assert [type(x) for x in (made.optim.lr, made.pair[1], made.limit, made.free)] == [
        float,
        float,
        int,
        dict,
    ]


def test_a_reference_is_followed():
    linked = config()
    linked.optim.warmup = 3
    linked.limit = linked.optim.get_ref("warmup")
    assert freeze(linked, Settings).limit == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"agent": 1}, r"config.agent: no such field; did you mean agents\?"),
        ({"zzz": 1}, r"config.zzz: no such field; the fields are optim, agents, name, shuffle,"),
        ({"optim": {"lrr": 1}}, r"config.optim.lrr: no such field; did you mean lr\?"),
        ({"optim": {}}, "config.optim.lr is missing; wanted float"),
        ({"optim": 3}, r"config.optim is 3 \(int\); wanted Optim"),
        ({"optim": {"lr": "1e-3"}}, r"config.optim.lr is '1e-3' \(str\); wanted float"),
        ({"optim": {"lr": True}}, r"config.optim.lr is True \(bool\); wanted float"),
        ({"optim": {"lr": 1, "warmup": 1.0}}, r"config.optim.warmup is 1.0 \(float\); wanted int"),
        ({"optim": {"lr": 1, "warmup": True}}, r"warmup is True \(bool\); wanted int"),
        ({"optim": {"lr": 1, "warmup": None}}, "config.optim.warmup is None; wanted int"),
        ({"optim": {"lr": 1, "schedule": "cosin"}}, "wanted 'cosine' or 'constant'"),
        ({"optim": {"lr": -1}}, "config.optim: lr -1.0 must be above 0"),
        ({"agents": "planner"}, r"config.agents is 'planner' \(str\); wanted tuple\[str, ...\]"),
        ({"agents": ("a", 2)}, r"config.agents\[1\] is 2 \(int\); wanted str"),
        ({"pair": (1, 2.0, 3)}, r"config.pair is .*; wanted tuple\[int, float\]"),
        ({"pair": {"a": 1}}, r"config.pair is a group of fields; wanted tuple\[int, float\]"),
        ({"name": 3}, r"config.name is 3 \(int\); wanted str or None"),
        ({"shuffle": 1}, r"config.shuffle is 1 \(int\); wanted bool"),
        ({"ceilings": {"a": "b"}}, "config.ceilings.a is 'b'"),
        ({"second": {"lr": "x"}}, "config.second.lr is 'x'"),
        ({"stops": ({"lr": 1}, {"lr": "x"})}, r"config.stops\[1\].lr is 'x'"),
        ({"limit": "x"}, "wanted int or float"),
    ],
)
def test_wrong_fields_are_named(changes, message):
    with pytest.raises(InputError, match=message) as error:
        freeze(config(**changes), Settings)
    assert "\n" not in str(error.value)


def test_missing_tuple_is_named():
    with pytest.raises(InputError, match=r"settings.agents is missing; wanted tuple\[str, ...\]"):
        freeze({"optim": {"lr": 1}}, Settings, where="settings")
