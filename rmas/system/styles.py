"""Styles: the five systems of the public release, and the four topologies that they use.

Facts of the release (paper: arXiv 2604.25917): who speaks to whom, the Hugging Face repositories,
the models that the agents were made from, and how its files name the links.
"""

import dataclasses
from collections.abc import Mapping

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

MIXTURE = Topology(
    name="mixture",
    agents=("math", "code", "science", "summarizer"),
    edges=(
        Edge("math", "summarizer", "round"),
        Edge("code", "summarizer", "round"),
        Edge("science", "summarizer", "round"),
        Edge("summarizer", "math", "feedback"),
        Edge("summarizer", "code", "feedback"),
        Edge("summarizer", "science", "feedback"),
    ),
    output="summarizer",
)

DISTILLATION = Topology(
    name="distillation",
    agents=("expert", "learner"),
    edges=(Edge("expert", "learner", "round"), Edge("learner", "expert", "feedback")),
    output="learner",
)

DELIBERATION = Topology(
    name="deliberation",
    agents=("reflector", "toolcaller"),
    edges=(Edge("reflector", "toolcaller", "round"), Edge("toolcaller", "reflector", "feedback")),
    output="toolcaller",
    callers=("reflector", "toolcaller"),
)

TOPOLOGIES = {t.name: t for t in (SEQUENTIAL, MIXTURE, DISTILLATION, DELIBERATION)}
"""The release's topologies by name."""


@dataclasses.dataclass(frozen=True)
class ReleasedAgent:
    """An agent of a released system.

    Attributes:
      label: its name in the file names of links and in the manifests' roles.
      hub_id: the Hub repository with its weights, tokenizer and inner links.
      base_model: the Hub repository of the model that it is a copy of.
    """

    label: str
    hub_id: str
    base_model: str


@dataclasses.dataclass(frozen=True, eq=False)
class Style:
    """A released system: a topology with its agents and links, on disk or on the Hub.

    A local root holds a folder per agent, with the agent's name, and the folder `outer`.

    Attributes:
      agents: agents by name, in the order of the topology.
      outer_hub_id: the Hub repository with the outer links.
      legacy_keys: the name of each (src, dst) in the manifest of outer links.
      task_scoped: whether there is one set of links per task, not one for all tasks.
    """

    name: str
    topology: Topology
    agents: Mapping[str, ReleasedAgent]
    outer_hub_id: str
    legacy_keys: Mapping[tuple[str, str], str]
    task_scoped: bool

    def link_task(self, task_family: str) -> str | None:
        """The task whose links a family uses: `code`, else `math`; None where all share one set."""
        if not self.task_scoped:
            return None
        return "code" if task_family == "code" else "math"


_SEQUENTIAL_KEYS = {
    ("planner", "critic"): "outer_12",
    ("critic", "solver"): "outer_23",
    ("solver", "planner"): "outer_31",
}

SEQUENTIAL_LIGHT = Style(
    name="sequential_light",
    topology=SEQUENTIAL,
    agents={
        "planner": ReleasedAgent(
            "Planner", "RecursiveMAS/Sequential-Light-Planner-Qwen3-1.7B", "Qwen/Qwen3-1.7B"
        ),
        "critic": ReleasedAgent(
            "Critic",
            "RecursiveMAS/Sequential-Light-Critic-Llama3.2-1B",
            "meta-llama/Llama-3.2-1B-Instruct",
        ),
        "solver": ReleasedAgent(
            "Solver",
            "RecursiveMAS/Sequential-Light-Solver-Qwen2.5-Math-1.5B",
            "Qwen/Qwen2.5-Math-1.5B-Instruct",
        ),
    },
    outer_hub_id="RecursiveMAS/Sequential-Light-Outerlinks",
    legacy_keys=_SEQUENTIAL_KEYS,
    task_scoped=True,
)

SEQUENTIAL_SCALED = Style(
    name="sequential_scaled",
    topology=SEQUENTIAL,
    agents={
        "planner": ReleasedAgent(
            "Planner", "RecursiveMAS/Sequential-Scaled-Planner-Gemma3-4B", "google/gemma-3-4b-it"
        ),
        "critic": ReleasedAgent(
            "Critic",
            "RecursiveMAS/Sequential-Scaled-Critic-Llama3.2-3B",
            "meta-llama/Llama-3.2-3B-Instruct",
        ),
        "solver": ReleasedAgent(
            "Solver", "RecursiveMAS/Sequential-Scaled-Solver-Qwen3.5-4B", "Qwen/Qwen3.5-4B"
        ),
    },
    outer_hub_id="RecursiveMAS/Sequential-Scaled-Outerlinks",
    legacy_keys=_SEQUENTIAL_KEYS,
    task_scoped=True,
)

RELEASED_MIXTURE = Style(
    name="mixture",
    topology=MIXTURE,
    agents={
        "math": ReleasedAgent(
            "Math",
            "RecursiveMAS/Mixture-Math-DeepSeek-R1-Distill-Qwen-1.5B",
            "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B",
        ),
        "code": ReleasedAgent(
            "Code",
            "RecursiveMAS/Mixture-Code-Qwen2.5-Coder-3B",
            "Qwen/Qwen2.5-Coder-3B-Instruct",
        ),
        "science": ReleasedAgent(
            "Science", "RecursiveMAS/Mixture-Science-BioMistral-7B", "BioMistral/BioMistral-7B"
        ),
        "summarizer": ReleasedAgent(
            "Summarizer", "RecursiveMAS/Mixture-Summarizer-Qwen3.5-2B", "Qwen/Qwen3.5-2B"
        ),
    },
    outer_hub_id="RecursiveMAS/Mixture-Outerlinks",
    legacy_keys={
        ("math", "summarizer"): "outer_1s",
        ("code", "summarizer"): "outer_2s",
        ("science", "summarizer"): "outer_3s",
        ("summarizer", "math"): "outer_s1",
        ("summarizer", "code"): "outer_s2",
        ("summarizer", "science"): "outer_s3",
    },
    task_scoped=False,
)

RELEASED_DISTILLATION = Style(
    name="distillation",
    topology=DISTILLATION,
    agents={
        "expert": ReleasedAgent(
            "Expert", "RecursiveMAS/Distillation-Expert-Qwen3.5-9B", "Qwen/Qwen3.5-9B"
        ),
        "learner": ReleasedAgent(
            "Learner", "RecursiveMAS/Distillation-Learner-Qwen3.5-4B", "Qwen/Qwen3.5-4B"
        ),
    },
    outer_hub_id="RecursiveMAS/Distillation-Outerlinks",
    legacy_keys={("expert", "learner"): "outer_el", ("learner", "expert"): "outer_le"},
    task_scoped=True,
)

RELEASED_DELIBERATION = Style(
    name="deliberation",
    topology=DELIBERATION,
    agents={
        "reflector": ReleasedAgent(
            "Reflector", "RecursiveMAS/Deliberation-Reflector-Qwen3.5-4B", "Qwen/Qwen3.5-4B"
        ),
        "toolcaller": ReleasedAgent(
            "Toolcaller", "RecursiveMAS/Deliberation-Toolcaller-Qwen3.5-4B", "Qwen/Qwen3.5-4B"
        ),
    },
    outer_hub_id="RecursiveMAS/Deliberation-Outerlinks",
    legacy_keys={("reflector", "toolcaller"): "outer_rt", ("toolcaller", "reflector"): "outer_tr"},
    task_scoped=False,
)

STYLES = {
    s.name: s
    for s in (
        SEQUENTIAL_LIGHT,
        SEQUENTIAL_SCALED,
        RELEASED_MIXTURE,
        RELEASED_DISTILLATION,
        RELEASED_DELIBERATION,
    )
}
"""Released systems by name."""
