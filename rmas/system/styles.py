"""The collaboration patterns of the public release, as topologies."""

from rmas.system.topology import Edge, Topology

SEQUENTIAL = Topology(
    name="sequential",
    agents=("planner", "critic", "solver"),
    edges=(
        Edge("planner", "critic", "round"),
        Edge("critic", "solver", "round"),
        Edge("solver", "planner", "feedback"),
    ),
    output="solver",
)

STYLES = {SEQUENTIAL.name: SEQUENTIAL}
