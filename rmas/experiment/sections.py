"""The sections of an experiment's settings: frozen dataclasses, checked when they are made.

The defaults are for real agents; 0, "" and "auto" mean that a value follows from what is known (the
agents' contexts, the data, the devices): see `rmas.experiment.derive`.
"""

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

from rmas.errors import InputError
from rmas.files import open_file
from rmas.links import LINEAR_FORMS, Form, Init, parse_form
from rmas.options import OptionError, Options, as_dict, option
from rmas.places import expanded
from rmas.system.released import DATE
from rmas.system.styles import STYLES, TOPOLOGIES, Style
from rmas.system.topology import Topology, parse_edge
from rmas.tasks.generated import PUZZLES
from rmas.tasks.grading import GRADERS
from rmas.tools import FunctionTool
from rmas.training.loop import Schedule
from rmas.training.optim import Optim


@dataclasses.dataclass(frozen=True)
class TopologySettings(Options):
    """Who speaks to whom: a known topology by its name, or a custom one.

    A custom topology names its agents in the order in which they run, its edges as `src->dst`, and
    the agent that answers. An agent plays the role of its own name unless `roles` names another.
    """

    name: str = option(
        "sequential",
        f"a known topology ({', '.join(TOPOLOGIES)}), or a new name for a custom one",
    )
    agents: tuple[str, ...] = option((), "agents of a custom topology, in order")
    round: tuple[str, ...] = option((), "edges that carry a message within a round")
    feedback: tuple[str, ...] = option((), "edges that carry a message into the next round")
    output: str = option("", "the agent that answers")
    roles: Mapping[str, str] = option(factory=dict, help="agent: role in the prompt set")

    def topology(self) -> Topology:
        """The topology. Raises `InputError` naming the agent or edge at fault."""
        if not self.agents:
            if self.name not in TOPOLOGIES:
                raise self.wrong(
                    "name",
                    f"known topologies are {', '.join(TOPOLOGIES)}; a custom one needs agents, "
                    "round, feedback and output",
                )
            for field in ("round", "feedback", "output"):
                if getattr(self, field):
                    raise self.wrong(
                        field, f"it belongs to a custom topology; {self.name!r} is a known one"
                    )
            roles = tuple(self.roles.items())
            return dataclasses.replace(TOPOLOGIES[self.name], roles=roles)
        if self.name in TOPOLOGIES:
            raise self.wrong("name", "that is a known topology; give yours another name")
        edges = (
            *(parse_edge(text, "round") for text in self.round),
            *(parse_edge(text, "feedback") for text in self.feedback),
        )
        roles = tuple(self.roles.items())
        return Topology(self.name, self.agents, edges, self.output, roles)


@dataclasses.dataclass(frozen=True)
class SystemSettings(Options):
    """The agents, how they are joined, and their prompts.

    Either `agents` of your own in a `topology`, or the `style` of a released system, from the
    folder `root` or from the Hub.
    """

    agents: Mapping[str, str] = option(
        factory=dict, help="agent: Hugging Face folder or Hub id `owner/name[@revision]`"
    )
    topology: TopologySettings = option(factory=TopologySettings, help="who speaks to whom")
    style: str = option("", f"a released system: {', '.join(STYLES)}")
    root: str = option("", "folder of the released system; empty: the Hub")
    prompts: str = option(
        "", "packaged prompt set or JSON file; empty: `default`, or the generated task's own"
    )
    task_family: str = option(
        "", "task family of the prompts; empty: that of the evaluation's data, else `math`"
    )
    date: str = option(DATE, "date for chat templates that print one (or as 2024-07-26)")
    dtype: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "type of the frozen weights; auto: bfloat16 on accelerators, float32 on CPU"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.style and self.style not in STYLES:
            raise self.wrong("style", f"released systems are {', '.join(STYLES)}")
        if self.style and self.agents:
            raise self.wrong("style", "a released system brings its agents; leave agents out")
        if self.style and self.topology != TopologySettings():
            raise OptionError(
                "topology", ": a released system brings its topology; leave it or style out"
            )
        for agent, source in self.agents.items():
            if not source:
                raise OptionError(f"agents.{agent}", " is empty; name a folder or Hub id")
        if self.root and not self.style:
            raise self.wrong("root", "it belongs to a released system; name its style")
        if self.agents:
            known = self.graph().agents
            if set(self.agents) != set(known):
                raise OptionError(
                    "agents",
                    f" are {', '.join(sorted(self.agents))}; topology {self.topology.name!r} has "
                    f"{', '.join(known)}",
                )
        elif self.topology != TopologySettings():
            self.graph()

    @property
    def released(self) -> Style | None:
        """The released system that is meant, if one is."""
        return STYLES[self.style] if self.style else None

    def graph(self) -> Topology:
        """The topology of the system. Raises `InputError` naming what is wrong with it."""
        if self.released:
            return self.released.topology
        try:
            return self.topology.topology()
        except OptionError as error:
            raise error.within("topology") from None


@dataclasses.dataclass(frozen=True)
class DataSettings(Options):
    """Training rows: a file, a training set or benchmark, or a generated task.

    A file (.json, .jsonl, .csv, .parquet) has `question`, `answer` and the roles' teacher texts.
    """

    name: str = option(
        "", f"file, name of prepare_data --list, or generated task ({', '.join(PUZZLES)})"
    )
    source: str = option("", "folder with the public files of a named dataset; empty: the Hub")
    field: str = option("", "top-level field that holds the rows of a JSON file")
    folder: str = option("", "where rows are prepared; empty: `data` in the workdir")
    train: int = option(8000, "of a generated task", unit="rows", least=1)
    validation: int = option(500, "of a generated task", unit="rows", least=1)
    test: int = option(1000, "of a generated task", unit="rows", least=1)


@dataclasses.dataclass(frozen=True)
class LinkSettings(Options):
    """The RecursiveLinks: their form, and how they start.

    `random` is the release's initialisation; `gated` starts residual links as their residual path;
    `aligned` also fits the residual path by ridge regression on teacher texts; `head` needs no
    training: inner links map the language-model head's rows to the embeddings, outer links the
    sender's embeddings to the receiver's (LatentMAS).
    """

    form: str = option(
        "ln_res", "linear, linear_res, mlp, mlp_res (the paper's) or ln_res (the release's)"
    )
    init: Init = option("aligned", "initialisation")
    ridge: float = option(
        1e-3, "of aligned and head: penalty relative to the mean squared feature", above=0
    )
    aligned_rows: int = option(
        512, "of aligned: rows to fit on; of head: to measure sizes on", unit="rows", least=1
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        form = parse_form(self.form)
        if self.init == "aligned" and form not in ("mlp_res", "ln_res"):
            raise self.wrong(
                "init",
                f"form {self.form!r} has no residual and MLP path to align; use form mlp_res or "
                "ln_res, or init random",
            )
        if self.init == "head" and form not in LINEAR_FORMS:
            raise self.wrong(
                "init", f"form {self.form!r} is not linear; use form linear or linear_res"
            )

    @property
    def parsed_form(self) -> Form:
        """The form by our own name."""
        return parse_form(self.form)


@dataclasses.dataclass(frozen=True)
class InnerSettings(Schedule):
    """Inner training: each agent alone learns to map its hidden states to its own embeddings."""

    max_length: int = option(
        0, "longer rows are cut; 0: 2,048, or the agent's context", least=0, unit="tokens"
    )
    message_tokens: int = option(
        0,
        "incoming teacher texts are cut to so many, in hop and distill, too; 0: whole",
        unit="tokens",
        least=0,
    )
    mean: Literal["rows", "tokens"] = option(
        "rows", "what counts alike in the loss of a batch: its rows, or all tokens (the release)"
    )
    rounds: Literal["all", "first"] = option(
        "all", "the round of a row's prompt: drawn from all, or the first (the release)"
    )
    cut: Literal["left", "right"] = option(
        "left", "the side on which longer rows are cut (the release: right)"
    )
    cache_states: Literal["auto", "none", "float32", "bfloat16"] = option(
        "auto",
        "keep the agent's hidden states on disk, in this type; auto: where each is read twice or "
        "more on average",
    )


@dataclasses.dataclass(frozen=True)
class OuterSettings(Schedule):
    """Outer training: the links of the whole system learn together."""

    optim: Optim = option(factory=lambda: Optim(lr=1e-4), help="the optimizer")
    batch_size: int = option(8, "rows of an update", unit="rows", least=1)
    save_every: int = option(100, "between regular checkpoints", unit="steps", least=1)
    train: tuple[Literal["inner", "outer"], ...] = option(
        ("inner", "outer"), "links that move: outer, or inner and outer"
    )
    rounds: int = option(3, "recursion rounds in training", least=1)
    max_length: int = option(
        0, "longer rows are cut on the left; 0: 4,096, or the smallest context", least=0,
        unit="tokens",
    )  # fmt: skip
    on_policy: float = option(
        0.5,
        "of align, hop and distill: share of rows that read the links' own messages",
        least=0,
        most=1,
    )
    max_latent_tokens: int = option(
        80,
        "of teacher_forced: states of a text that are passed on as its message",
        unit="tokens",
        least=1,
    )
    shift: Literal[0, 1] = option(
        0, "of teacher_forced: 0 takes states at a text's positions (the release), 1 one earlier"
    )
    validate: Literal["rollout", "objective"] = option(
        "rollout",
        "what is measured on validation rows: cross-entropy of the answer after true rollouts, or "
        "the objective",
    )
    earlier_rounds: float = option(
        0.0, "of teacher_forced: weight of the rounds before the last (the release: 0 or 0.1)",
        least=0,
    )  # fmt: skip
    remat: Literal["turns", "layers"] = option(
        "turns", "activation checkpointing: whole turns, or also every layer period within them"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.train)) < len(self.train):
            raise self.wrong("train", "name each once")
        if "outer" not in self.train:
            raise self.wrong("train", "name outer, or inner and outer")


@dataclasses.dataclass(frozen=True)
class ToolSettings(Options):
    """What agents may call while they write, by tags as in `<python>...</python>`.

    `functions` are plain Python functions, given in a config file or in Python, as
    `FunctionTool("double", "Doubles a number.", double)`.
    """

    agents: tuple[str, ...] = option(
        (), "who may call; empty: those that the topology lets call, as in deliberation"
    )
    names: tuple[Literal["python", "search"], ...] = option(
        ("python", "search"), "tools that they may call"
    )
    functions: tuple[FunctionTool, ...] = option((), "functions that they may call (not by flag)")
    calls: int = option(5, "calls of an answer at most", least=1)
    seconds: float = option(10.0, "time limit of a call", unit="s", above=0)
    characters: int = option(6000, "of a result at most", least=100)
    index: str = option("", "file of experiments.build_search_index, for search")
    tavily: bool = option(False, "search the web with Tavily (needs a key)")
    unsafe: bool = option(False, "run programs also where this machine cannot contain them")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("agents", "names"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise self.wrong(name, "name each once")
        if self.agents and not self.names and not self.functions:
            raise self.wrong("agents", "they may call nothing: name python or search in names")
        if self.tavily and self.index:
            raise self.wrong("tavily", "search has one source: leave out tavily, or index")

    def facts(self) -> dict[str, Any]:
        """What answers depend on, for JSON: an index by content, functions by source or name.

        Raises `InputError` for an index that cannot be read.
        """
        functions = [[f.name, f.description, _source(f.function)] for f in self.functions]
        index = ""
        if self.index and "search" in self.names:
            try:
                with open_file(expanded(self.index)) as file:
                    index = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise InputError(f"tools.index {self.index}: {error.strerror}") from None
        return as_dict(self) | {"functions": functions, "index": index}


def _source(function: Callable) -> str:
    try:
        return inspect.getsource(function)
    except (OSError, TypeError):
        return getattr(function, "__qualname__", type(function).__qualname__)


@dataclasses.dataclass(frozen=True)
class EvaluateSettings(Options):
    """What is compared, and on which questions."""

    data: str = option(
        "", "benchmark, file or generated task; empty: `data.name`, where that has questions"
    )
    split: str = option("", "of the data; empty: the benchmark's own, test, or the only one")
    source: str = option("", "folder with the benchmark's public files; empty: the Hub")
    field: str = option("", "top-level field that holds the questions of a JSON file")
    methods: tuple[
        Literal[
            "latent",
            "latent_memory",
            "text",
            "text_recursive",
            "text_terse",
            "single",
            "untrained",
        ],
        ...,
    ] = option(("latent", "text", "single"), "what is compared")
    rounds: tuple[int, ...] = option((1, 2, 3), "numbers of rounds", least=1)
    batch_size: int = option(16, "questions that are answered together", least=1)
    group_batches: int = option(
        0,
        "batches of a group, which each method answers before the next group begins; 0: an eighth "
        "of all, from 1 to 8",
        unit="batches",
        least=0,
    )
    terse_tokens: int = option(
        0, "of text_terse: longest message; 0: as many as latent steps", unit="tokens", least=0
    )
    latent_lengths: tuple[int, ...] = option(
        (), "latent steps to try one by one; empty: limits.latent_steps", unit="steps", least=1
    )
    rollouts: int = option(1, "answers to every question", least=1)
    retry: bool = option(False, "ask once more where no answer can be found in the text")
    profile_groups: tuple[int, ...] = option(
        (),
        "first group to trace and first not to, of those that are answered now, for TensorBoard "
        "and Perfetto; empty: none",
        least=0,
    )
    grader: str = option("", f"what scores answers: {', '.join(GRADERS)}; empty: the data's own")
    grade_seconds: float = option(10.0, "time limit of one grading", unit="s", above=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("methods", "rounds"):
            if not getattr(self, name):
                raise self.wrong(name, "name at least one")
        for name in ("methods", "rounds", "latent_lengths"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise self.wrong(name, "name each value once")
        if self.grader and self.grader not in GRADERS:
            raise self.wrong("grader", f"known graders are {', '.join(GRADERS)}")
        span = self.profile_groups
        if span and (len(span) != 2 or not span[0] < span[1]):
            raise self.wrong("profile_groups", "name the first group and the one after the last")
        if "text_recursive" in self.methods and max(self.rounds) < 2:
            raise self.wrong("rounds", "text_recursive needs two or more; add them, or name text")
