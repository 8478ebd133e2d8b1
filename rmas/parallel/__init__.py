"""How a program starts, and how its arrays lie on devices: mesh, rules, constraints."""

from rmas.parallel.axes import batch_multiple, constrain, put_batch, replicated, whole_batch
from rmas.parallel.mesh import (
    AXES,
    MeshSpec,
    abstract_mesh,
    automatic,
    make_mesh,
    parse_mesh,
    use,
)
from rmas.parallel.place import Place, Read, placer
from rmas.parallel.rules import Heads, is_stacked, param_shardings
from rmas.parallel.startup import start

__all__ = [
    "AXES",
    "Heads",
    "MeshSpec",
    "Place",
    "Read",
    "abstract_mesh",
    "automatic",
    "batch_multiple",
    "constrain",
    "is_stacked",
    "make_mesh",
    "param_shardings",
    "parse_mesh",
    "placer",
    "put_batch",
    "replicated",
    "start",
    "use",
    "whole_batch",
]
