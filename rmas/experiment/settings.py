"""Settings of an experiment: nested frozen dataclasses with defaults, checked when made."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from rmas.checksums import without_checksum
from rmas.errors import InputError
from rmas.experiment.recipes import recipe_values
from rmas.experiment.sections import (
    DataSettings,
    EvaluateSettings,
    InnerSettings,
    LinkSettings,
    OuterSettings,
    SystemSettings,
    ToolSettings,
)
from rmas.options import OptionError, Options, as_dict, build, option
from rmas.parallel import parse_mesh
from rmas.places import expanded
from rmas.system.answers import Limits
from rmas.system.prompts import packaged
from rmas.system.sampling import Sampling
from rmas.tasks.benchmarks import BENCHMARKS, TRAINING_SETS
from rmas.tasks.generated import PUZZLES
from rmas.training.objectives import OBJECTIVES, parse_objective


@dataclasses.dataclass(frozen=True)
class Settings(Options):
    """A whole experiment."""

    seed: int = option(
        0, "decides generated data, initial links, batches and sampling", least=0, below=2**32
    )
    objective: str = option(
        "align",
        f"of outer training: {', '.join(OBJECTIVES)}, or a sum as in align:1,rollout:.1",
    )
    mesh: str = option(
        "auto", "devices, as in data=2,fsdp=2,tensor=2; auto: all of them; single: the first one"
    )
    quantize: Literal["none", "int8"] = option("none", "hold the agents' matrices in 8 bits")
    num_questions: int = option(0, "evaluate only the first so many; 0: all", least=0)
    system: SystemSettings = option(factory=SystemSettings, help="agents, topology, prompts")
    data: DataSettings = option(factory=DataSettings, help="training rows")
    links: LinkSettings = option(factory=LinkSettings, help="form and start of the links")
    inner: InnerSettings = option(factory=InnerSettings, help="inner training")
    outer: OuterSettings = option(factory=OuterSettings, help="outer training")
    limits: Limits = option(factory=Limits, help="lengths of what agents produce")
    sampling: Sampling = option(factory=Sampling, help="how tokens are drawn")
    evaluate: EvaluateSettings = option(factory=EvaluateSettings, help="what is compared")
    tools: ToolSettings = option(factory=ToolSettings, help="what agents may call")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_objective(self.objective)
        parse_mesh(self.mesh)
        if self.evaluate.rollouts > 1 and self.sampling.temperature == 0:
            raise self.evaluate.wrong(
                "rollouts", "temperature 0 answers alike each time; raise sampling.temperature"
            ).within("evaluate")
        if self.system.style and self.links.form != LinkSettings().form:
            raise self.links.wrong(
                "form", "a released system brings its links; leave it out"
            ).within("links")
        if self.system.agents or self.system.style:
            known = self.system.graph().agents
            for where, agents in (
                ("limits.own_tokens", self.limits.own_tokens),
                ("tools.agents", self.tools.agents),
            ):
                for agent in agents:
                    if agent not in known:
                        raise OptionError(
                            where, f": unknown agent {agent!r}; known: {', '.join(known)}"
                        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "") -> "Settings":
        """Settings from nested dicts that name what differs from the defaults.

        They may be those of a `settings.json`, with its checksum.

        Raises `InputError` naming the field at fault by its dotted path below `where`.
        """
        try:
            values = without_checksum(values) if isinstance(values, Mapping) else values
        except ValueError as error:
            raise InputError(f"settings: {error}") from None
        return build(cls, values, where)

    def with_recipe(self, name: str) -> "Settings":
        """The same with the values of a named recipe (`recipes.RECIPES`), such as `release`.

        Raises `InputError` for an unknown name.
        """
        return build(Settings, recipe_values(name), base=self)

    def anchored(self) -> "Settings":
        """The same with absolute paths, for use from another folder; names stay as they are."""

        def anchor(name: str) -> str:
            path = expanded(name)
            return str(path.absolute()) if name and path.exists() else name

        s, replace = self, dataclasses.replace
        agents = {agent: anchor(source) for agent, source in s.system.agents.items()}
        prompts = s.system.prompts if s.system.prompts in packaged() else anchor(s.system.prompts)
        system = replace(s.system, agents=agents, prompts=prompts, root=anchor(s.system.root))
        places = {name: anchor(getattr(s.data, name)) for name in ("source", "folder")}
        data = replace(s.data, name=self._anchored_data(s.data.name, anchor), **places)
        evaluate = replace(
            s.evaluate,
            data=self._anchored_data(s.evaluate.data, anchor),
            source=anchor(s.evaluate.source),
        )
        tools = replace(s.tools, index=anchor(s.tools.index))
        return replace(s, system=system, data=data, evaluate=evaluate, tools=tools)

    @staticmethod
    def _anchored_data(name: str, anchor: Callable[[str], str]) -> str:
        return name if name in {*PUZZLES, *BENCHMARKS, *TRAINING_SETS} else anchor(name)

    def to_dict(self) -> dict[str, Any]:
        """All fields as nested dicts of plain values (functions of tools by name)."""
        names = [f.name for f in self.tools.functions]
        plain = as_dict(self)
        return plain | {"tools": plain["tools"] | {"functions": names}}

    @property
    def questions_name(self) -> str:
        """The data that is evaluated on: a benchmark, file or generated task; "" if none is."""
        own = self.data.name
        return self.evaluate.data or (own if own in {*PUZZLES, *BENCHMARKS} else "")
