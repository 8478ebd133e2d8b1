"""What a config file sets, as frozen dataclasses: the one place where a ConfigDict ends."""

import dataclasses
from typing import Literal

from rmas.errors import InputError
from rmas.links import parse_form
from rmas.training.objectives import parse_objective
from rmas.training.optim import Optim


def _at_least(where: str, value: float, least: float) -> None:
    if value < least:
        raise InputError(f"{where} is {value}; it must be at least {least}")


@dataclasses.dataclass(frozen=True)
class SystemSettings:
    """Agents, how they are joined, and what they are told.

    `agents` maps an agent's name to its Hugging Face folder; `style` names a topology, `prompts`
    a packaged prompt set or a JSON file, `family` the task family whose prompts are used.
    """

    style: str
    agents: dict[str, str]
    prompts: str
    family: str
    date: str
    dtype: Literal["float32", "bfloat16"]


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """Rows: `relay` and the sizes of its splits, or a JSON or JSONL file (`field`: where in it)."""

    name: str
    train: int
    validation: int
    test: int
    field: str


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
    """Inner training, each agent alone. `message_tokens` 0 keeps incoming texts whole."""

    optim: Optim
    batch_size: int
    message_tokens: int
    max_length: int
    save_every: int

    def __post_init__(self):
        for name in ("batch_size", "max_length", "save_every"):
            _at_least(f"inner.{name}", getattr(self, name), 1)
        _at_least("inner.message_tokens", self.message_tokens, 0)


@dataclasses.dataclass(frozen=True)
class OuterSettings:
    """Outer training of the whole system.

    `train` names the parts of the links that move: `outer`, or `inner` and `outer`. `shift`,
    `max_latent_tokens`, `max_length` and `earlier_rounds` belong to `teacher_forced`,
    `on_policy` to `align`.
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

    def __post_init__(self):
        for name in ("batch_size", "rounds", "max_latent_tokens", "max_length", "save_every"):
            _at_least(f"outer.{name}", getattr(self, name), 1)
        _at_least("outer.earlier_rounds", self.earlier_rounds, 0)
        if not 0 <= self.on_policy <= 1:
            raise InputError(f"outer.on_policy is {self.on_policy}; it must lie in 0 .. 1")
        if "outer" not in self.train:
            raise InputError(f"outer.train is {self.train}; name outer, or inner and outer")


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """What is compared. `methods` of: latent, text, text_terse, single, untrained.

    `message_tokens` limits messages of text exchange, `terse_tokens` those of its terse control.
    `split` names the rows; `limit` takes the first so many of them, 0 all.
    """

    methods: tuple[Literal["latent", "text", "text_terse", "single", "untrained"], ...]
    rounds: tuple[int, ...]
    split: str
    limit: int
    batch_size: int
    max_new_tokens: int
    message_tokens: int
    terse_tokens: int
    temperature: float
    top_p: float
    top_k: int

    def __post_init__(self):
        if not self.methods or not self.rounds:
            raise InputError("evaluate.methods and evaluate.rounds must not be empty")
        for rounds in self.rounds:
            _at_least("evaluate.rounds", rounds, 1)
        for name in ("batch_size", "max_new_tokens", "message_tokens", "terse_tokens"):
            _at_least(f"evaluate.{name}", getattr(self, name), 1)
        for name in ("limit", "temperature", "top_k"):
            _at_least(f"evaluate.{name}", getattr(self, name), 0)
        if not 0 < self.top_p <= 1:
            raise InputError(f"evaluate.top_p is {self.top_p}; it must lie in (0, 1]")


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole experiment; `seed` decides data, links and evaluation questions.

    `objective` is what outer training minimises: `align`, `rollout`, `teacher_forced`, or
    several with weights, as in `align:1.0,rollout:0.1`.
    """

    seed: int
    latent_steps: int
    objective: str
    system: SystemSettings
    data: DataSettings
    links: LinkSettings
    inner: InnerSettings
    outer: OuterSettings
    evaluate: EvaluateSettings

    def __post_init__(self):
        _at_least("seed", self.seed, 0)
        if self.seed >= 2**32:
            raise InputError(f"seed is {self.seed}; it must be below 2**32")
        _at_least("latent_steps", self.latent_steps, 1)
        parse_objective(self.objective)
