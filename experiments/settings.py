"""What a config file sets, as frozen dataclasses: the one place where a ConfigDict ends."""

import dataclasses
import hashlib
import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from rmas.errors import InputError
from rmas.links import parse_form
from rmas.parallel import parse_mesh
from rmas.system.styles import STYLES, TOPOLOGIES, Style
from rmas.system.topology import Topology, parse_edge
from rmas.tasks.grading import GRADERS
from rmas.tools import FunctionTool
from rmas.training.objectives import parse_objective
from rmas.training.optim import Optim


def _at_least(where: str, value: float, least: float) -> None:
    if value < least:
        raise InputError(f"{where} is {value}; it must be at least {least}")


@dataclasses.dataclass(frozen=True)
class TopologySettings:
    """A collaboration pattern of one's own.

    `agents` are named in the order in which they speak. Edges are written `src->dst`: those of
    `round` carry a message within a round, those of `feedback` into the next one. `output` is
    the agent that answers. An agent plays the role of its own name unless `roles` names another.
    """

    agents: tuple[str, ...]
    round: tuple[str, ...]
    feedback: tuple[str, ...]
    output: str
    roles: dict[str, str] = dataclasses.field(default_factory=dict)

    def named(self, name: str) -> Topology:
        """The topology; raises `InputError` naming the agent or edge at fault."""
        edges = (
            *(parse_edge(text, "round") for text in self.round),
            *(parse_edge(text, "feedback") for text in self.feedback),
        )
        return Topology(name, self.agents, edges, self.output, tuple(self.roles.items()))


@dataclasses.dataclass(frozen=True)
class SystemSettings:
    """Agents, how they are joined, and what they are told.

    `agents` maps an agent's name to its Hugging Face folder; `style` names a known pattern, or
    the `topology` that is given; `prompts` names a packaged prompt set or a JSON file,
    `task_family` the task family whose prompts are used. Without `agents`, `style` names a
    released system in the folder `root`, or, without one, on the Hub.
    """

    style: str
    agents: dict[str, str]
    prompts: str
    task_family: str
    date: str
    dtype: Literal["float32", "bfloat16"]
    topology: TopologySettings | None = None
    root: str = ""

    @property
    def released(self) -> Style | None:
        """The released system that is meant, if one is."""
        return STYLES.get(self.style) if not self.agents else None

    def pattern(self) -> Topology:
        """Who speaks to whom. Raises `InputError` for what is unknown, and for other agents."""
        if self.released:
            return self.released.topology
        if self.root:
            raise InputError(
                f"system.root belongs to a released system; leave system.agents out and name its "
                f"style ({', '.join(STYLES)}), or leave root out"
            )
        if self.topology is not None:
            if self.style in TOPOLOGIES:
                raise InputError(
                    f"system.style {self.style!r} is a known pattern; give yours another name, "
                    "or leave system.topology out"
                )
            topology = self.topology.named(self.style)
        elif self.style in TOPOLOGIES:
            topology = TOPOLOGIES[self.style]
        else:
            raise InputError(
                f"system.style {self.style!r} is unknown; known: {', '.join(TOPOLOGIES)}; "
                "a pattern of your own is written in system.topology"
            )
        if set(self.agents) != set(topology.agents):
            raise InputError(
                f"system.agents names {', '.join(sorted(self.agents))}; "
                f"style {self.style!r} needs {', '.join(topology.agents)}"
            )
        return topology


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Rows: a generated task and the sizes of its splits, a benchmark, or a file of rows.

    Generated tasks are `relay`, `chain` and `debate`. Benchmarks and training sets are those of
    experiments.prepare_data; `source` is the folder of their files, empty for the Hub, `folder`
    where they are prepared (default: `data` in the workdir). `field` is the one that holds the
    rows of a JSON file.
    """

    name: str
    train: int
    validation: int
    test: int
    field: str
    source: str = ""
    folder: str = ""


@dataclasses.dataclass(frozen=True)
class LinkSettings:
    """Form and initialisation; `ridge` and `aligned_rows` belong to `aligned`."""

    form: str
    init: Literal["random", "gated", "aligned"]
    ridge: float
    aligned_rows: int

    def __post_init__(self):
        if self.init == "aligned" and parse_form(self.form) not in ("mlp_res", "ln_res"):
            raise InputError(
                f"links.init aligned needs a form with a residual and an MLP path, mlp_res or "
                f"ln_res, not {self.form!r}; use init random"
            )
        parse_form(self.form)
        _at_least("links.aligned_rows", self.aligned_rows, 1)
        if self.ridge <= 0:
            raise InputError(f"links.ridge is {self.ridge}; it must be positive")


@dataclasses.dataclass(frozen=True)
class InnerSettings:
    """Inner training, each agent alone. `message_tokens` 0 keeps incoming texts whole.

    `features` says whether the agent's hidden states are computed once and kept in the workdir, as
    float32 or bfloat16: `auto` does so where the schedule reads them twice or more on average. For
    `save_minutes` and what follows it see `outer`.
    """

    optim: Optim
    batch_size: int
    message_tokens: int
    max_length: int
    save_every: int
    save_minutes: float = 0.0
    accumulate: int = 1
    validation_rows: int = 0
    take: Literal["last", "best"] = "last"
    features: Literal["auto", "none", "float32", "bfloat16"] = "auto"

    def __post_init__(self):
        for name in ("batch_size", "max_length", "save_every"):
            _at_least(f"inner.{name}", getattr(self, name), 1)
        _at_least("inner.message_tokens", self.message_tokens, 0)
        _check_pace("inner", self)


def _check_pace(where: str, stage: Any) -> None:
    _at_least(f"{where}.save_minutes", stage.save_minutes, 0)
    _at_least(f"{where}.accumulate", stage.accumulate, 1)
    _at_least(f"{where}.validation_rows", stage.validation_rows, 0)


@dataclasses.dataclass(frozen=True)
class OuterSettings:
    """Outer training of the whole system.

    `train` names the parts of the links that move: `outer`, or `inner` and `outer`. `shift`,
    `max_latent_tokens`, `max_length` and `earlier_rounds` belong to `teacher_forced`,
    `on_policy` to `align`.

    A checkpoint is made every `save_every` steps, and where `save_minutes` have gone by since the
    last one (0: never). A batch is computed in `accumulate` parts. The loss of `validation_rows`
    rows of the split `validation` is measured at every checkpoint; the links that count are those
    of the last step or, with `take` best, of the checkpoint with the lowest validation loss
    (without such rows: training loss). `remat` says what is computed again for gradients to save
    memory: every agent's turn from its messages or, within it, every layer period, too.
    """

    train: tuple[Literal["inner", "outer"], ...]
    optim: Optim
    batch_size: int
    rounds: int
    on_policy: float
    max_latent_tokens: int
    max_length: int
    shift: Literal[0, 1]
    earlier_rounds: float
    save_every: int
    save_minutes: float = 0.0
    accumulate: int = 1
    validation_rows: int = 0
    take: Literal["last", "best"] = "last"
    remat: Literal["turns", "layers"] = "turns"

    def __post_init__(self):
        for name in ("batch_size", "rounds", "max_latent_tokens", "max_length", "save_every"):
            _at_least(f"outer.{name}", getattr(self, name), 1)
        _check_pace("outer", self)
        _at_least("outer.earlier_rounds", self.earlier_rounds, 0)
        if not 0 <= self.on_policy <= 1:
            raise InputError(f"outer.on_policy is {self.on_policy}; it must lie in 0 .. 1")
        if "outer" not in self.train:
            raise InputError(f"outer.train is {self.train}; name outer, or inner and outer")


@dataclasses.dataclass(frozen=True)
class ToolSettings:
    """What agents may call while they write, by tags as in `<python>...</python>`.

    `agents` (empty: those whom the pattern lets call, as deliberation's) may call `names` (python,
    search; empty: none) and the `functions`, plain Python functions with a tag and a description
    for the system message: `FunctionTool("double", "a number; its double comes back", double)`;
    `seconds` is the limit of these, too.
    `search` looks into `index` (from experiments.build_search_index) or, with `tavily`, the web.
    `calls`, `seconds` and `characters` (of a result) are the limits. `unsafe` runs programs on
    machines that cannot contain them.
    """

    agents: tuple[str, ...] = ()
    names: tuple[Literal["python", "search"], ...] = ("python", "search")
    functions: tuple[FunctionTool, ...] = ()
    calls: int = 5
    seconds: float = 10.0
    characters: int = 6000
    index: str = ""
    tavily: bool = False
    unsafe: bool = False

    def __post_init__(self):
        _at_least("tools.calls", self.calls, 1)
        _at_least("tools.characters", self.characters, 100)
        if not 0 < self.seconds < math.inf:
            raise InputError(f"tools.seconds is {self.seconds}; it must be a positive number")
        if self.agents and not self.names and not self.functions:
            raise InputError(
                "tools.agents may call nothing; name python or search in tools.names, or give "
                "tools.functions"
            )

    def facts(self) -> dict[str, Any]:
        """What answers depend on, for JSON: an index by content, functions by source or name.

        Raises `InputError` for an index that cannot be read.
        """
        facts = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        functions = [[f.name, f.description, _source(f.function)] for f in self.functions]
        index = ""
        if self.index and "search" in self.names:
            try:
                with Path(self.index).open("rb") as file:
                    index = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"tools.index {self.index}: {error.strerror}") from None
        return facts | {"functions": functions, "index": index}


def _source(function: Callable) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return getattr(function, "__qualname__", type(function).__qualname__)


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """What is compared. `methods` of: latent, text, text_recursive (that at two rounds or more),
    text_terse, single, untrained.

    `message_tokens` limits messages of text exchange, `terse_tokens` those of its terse control;
    `own_tokens` limits the texts of the agents that it names: their messages in text exchange, and
    the answer of every method if it names the agent that answers.
    `split` names the rows. `task` is what grades; empty: the benchmark's own, or the family's.
    `latent_lengths` are tried one by one in place of `latent_steps`. Every question is answered
    `rollouts` times; with `retry` an answer that cannot be found is asked for once more.
    `grade_seconds` is the time that one grading may take.
    """

    methods: tuple[
        Literal["latent", "text", "text_recursive", "text_terse", "single", "untrained"], ...
    ]
    rounds: tuple[int, ...]
    split: str
    batch_size: int
    max_new_tokens: int
    message_tokens: int
    terse_tokens: int
    temperature: float
    top_p: float
    top_k: int
    own_tokens: dict[str, int] = dataclasses.field(default_factory=dict)
    task: str = ""
    latent_lengths: tuple[int, ...] = ()
    rollouts: int = 1
    retry: bool = False
    grade_seconds: float = 10.0

    def __post_init__(self):
        if self.task and self.task not in GRADERS:
            raise InputError(f"evaluate.task {self.task!r} is unknown; known: {', '.join(GRADERS)}")
        for steps in self.latent_lengths:
            _at_least("evaluate.latent_lengths", steps, 1)
        for name in ("rounds", "latent_lengths"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise InputError(f"evaluate.{name} names a value twice; name each once")
        _at_least("evaluate.rollouts", self.rollouts, 1)
        if self.rollouts > 1 and self.temperature == 0:
            raise InputError(
                f"evaluate.rollouts is {self.rollouts}, but temperature 0 answers alike each time; "
                "raise evaluate.temperature, or take 1"
            )
        if not 0 < self.grade_seconds < math.inf:
            raise InputError(
                f"evaluate.grade_seconds is {self.grade_seconds}; it must be a positive number"
            )
        for agent, tokens in self.own_tokens.items():
            _at_least(f"evaluate.own_tokens.{agent}", tokens, 1)
        if not self.methods or not self.rounds:
            raise InputError("evaluate.methods and evaluate.rounds must not be empty")
        if "text_recursive" in self.methods and max(self.rounds) < 2:
            raise InputError(
                f"evaluate.methods names text_recursive, but evaluate.rounds is {self.rounds}; "
                "add rounds from 2 on, or name text"
            )
        for rounds in self.rounds:
            _at_least("evaluate.rounds", rounds, 1)
        for name in ("batch_size", "max_new_tokens", "message_tokens", "terse_tokens"):
            _at_least(f"evaluate.{name}", getattr(self, name), 1)
        for name in ("temperature", "top_k"):
            _at_least(f"evaluate.{name}", getattr(self, name), 0)
        if not 0 < self.top_p <= 1:
            raise InputError(f"evaluate.top_p is {self.top_p}; it must lie in (0, 1]")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole experiment; `seed` decides data, links and evaluation questions.

    `mesh` is where everything runs: `data=2,fsdp=2,tensor=2` (axes left out are 1), `auto` or
    `single`; results do not depend on it. `quantize` int8 holds the agents' matrices in 8 bits.
    `objective` is what outer training minimises: `align`, `rollout`, `teacher_forced`, or
    several with weights, as in `align:1.0,rollout:0.1`. Evaluation asks the first `num_questions`
    (0: all); with `dry_run` it says what it would do, and loads nothing. Training traces its steps
    from the first of `profile_steps` up to, but not with, the second, for TensorBoard and Perfetto;
    with `plan` it only says what a step would need of each device, for prompts and texts of
    `plan_lengths` tokens.
    """

    seed: int
    mesh: str
    quantize: Literal["none", "int8"]
    latent_steps: int
    objective: str
    system: SystemSettings
    data: DataSettings
    links: LinkSettings
    inner: InnerSettings
    outer: OuterSettings
    evaluate: EvaluateSettings
    tools: ToolSettings = ToolSettings()
    num_questions: int = 0
    dry_run: bool = False
    profile_steps: tuple[int, ...] = ()
    plan: bool = False
    plan_lengths: tuple[int, int] = (512, 256)

    def __post_init__(self):
        _at_least("num_questions", self.num_questions, 0)
        agents = self.system.released.agents if self.system.released else self.system.agents
        for agent in self.evaluate.own_tokens:
            if agent not in agents:
                known = ", ".join(agents)
                raise InputError(f"evaluate.own_tokens: unknown agent {agent!r}; known: {known}")
        _at_least("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise InputError(f"seed is {self.seed}; it must be below 2**32")
        _at_least("latent_steps", self.latent_steps, 1)
        for length in self.plan_lengths:
            _at_least("plan_lengths", length, 1)
        parse_objective(self.objective)
        parse_mesh(self.mesh)
