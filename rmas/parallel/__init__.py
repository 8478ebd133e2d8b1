"""Start-up of processes, and how arrays are sharded over devices: mesh, rules, constraints."""

from rmas.parallel.axes import (
    Share,
    batch_multiple,
    batch_share,
    constrain,
    current_parts,
    put_batch,
    put_whole,
    replicated,
    whole_batch,
)
from rmas.parallel.mesh import (
    AXES,
    MeshSpec,
    abstract_mesh,
    automatic,
    make_mesh,
    parse_mesh,
    single_device_mesh,
    use,
)
from rmas.parallel.place import Place, Read, placer
from rmas.parallel.processes import (
    all_reduce_max,
    barrier,
    broadcast_from_first,
    is_first,
    is_joined,
    to_host,
)
from rmas.parallel.rules import (
    Heads,
    gather_width,
    is_stacked,
    param_shardings,
    state_shardings,
)
from rmas.parallel.startup import Cluster, start

__all__ = [
    "AXES",
    "Cluster",
    "Heads",
    "MeshSpec",
    "Place",
    "Read",
    "Share",
    "abstract_mesh",
    "all_reduce_max",
    "automatic",
    "barrier",
    "batch_multiple",
    "batch_share",
    "broadcast_from_first",
    "constrain",
    "current_parts",
    "gather_width",
    "is_first",
    "is_joined",
    "is_stacked",
    "make_mesh",
    "param_shardings",
    "parse_mesh",
    "placer",
    "put_batch",
    "put_whole",
    "replicated",
    "single_device_mesh",
    "start",
    "state_shardings",
    "to_host",
    "use",
    "whole_batch",
]
