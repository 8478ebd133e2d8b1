"""Experiments on the embedded systems, with a few fields changed."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmas.experiment import EMBEDDED, Experiment, Settings


def changed(values: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Nested dicts with dotted names set; a value of None takes a field away."""
    for name, value in changes.items():
        *above, last = name.replace("__", ".").split(".")
        node = values
        for key in above:
            node = node.setdefault(key, {})
        if value is None:
            node.pop(last, None)
        else:
            node[last] = value
    return values


def settings(embedded: str = "relay", **changes: Any) -> Settings:
    """Settings of an embedded system; `outer__rounds=2` sets `outer.rounds`."""
    return Settings.from_dict(changed(EMBEDDED[embedded](), changes))


def experiment(workdir: Path, embedded: str = "relay", **changes: Any) -> Experiment:
    """The experiment of such settings."""
    return Experiment(settings(embedded, **changes), workdir)
