"""Systems from disk: agents from Hugging Face folders, each set of weights in memory once."""

import dataclasses
import filecmp
import hashlib
import io
import os
from collections.abc import Mapping
from pathlib import Path

from jax.sharding import Mesh
from jax.typing import DTypeLike

from rmas.errors import InputError
from rmas.files import open_file, read_json
from rmas.links import Form, LinkSpec
from rmas.models import ModelSpec, read_spec
from rmas.parallel import placer, single_device_mesh
from rmas.places import has_file
from rmas.shapes import Params
from rmas.system.encode import ChatTokenizer
from rmas.system.prompts import PromptSet
from rmas.system.tokenizer_files import load_tokenizer, template_file
from rmas.system.topology import Topology
from rmas.system.turn import SystemSpec
from rmas.tools import Toolbox
from rmas.weights import hub
from rmas.weights.agents import AgentParams
from rmas.weights.load import load_params
from rmas.weights.placement import choose_mesh, heads_of, weight_dtype


@dataclasses.dataclass(frozen=True, eq=False)
class Agent:
    """A frozen language model.

    Attributes:
      model: its architecture.
      params: its weights.
      chat: its tokenizer.
      eos: the ids that end a turn.
      fingerprint: a digest of its folder (`fingerprint`).
      source: the folder or Hub id that it was loaded from; empty if it was made in memory.
      revision: the commit, if it came from the Hub.
      mesh: the devices that hold its weights.
    """

    model: ModelSpec
    params: Params
    chat: ChatTokenizer
    eos: tuple[int, ...]
    fingerprint: str
    source: str = ""
    revision: str | None = None
    mesh: Mesh = dataclasses.field(default_factory=single_device_mesh)


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """Agents joined by a topology, with their prompts and tools.

    Attributes:
      topology: who speaks to whom.
      agents: by name.
      prompts: the prompt set.
      task_family: whose prompts are used (`math`, `code`, `relay`, ...).
      tools: by agent, what it may call while it writes; its system message describes the tools
        that its prompts do not name.

    Raises `InputError` if prompts do not fit the topology, or if tools are given to no agent.
    """

    topology: Topology
    agents: Mapping[str, Agent]
    prompts: PromptSet
    task_family: str
    tools: Mapping[str, Toolbox] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        self.prompts.check(self.topology, self.task_family)
        for agent in self.tools:
            if agent not in self.agents:
                known = ", ".join(self.agents)
                raise InputError(f"tools are given to unknown agent {agent!r}; known: {known}")

    @property
    def mesh(self) -> Mesh:
        """The devices that hold the weights of all agents."""
        return self.agents[self.topology.output].mesh

    def spec(self, form: Form) -> SystemSpec:
        """The static facts, with links of the given form."""
        agents = self.topology.agents
        widths = tuple((a, self.agents[a].model.d_model) for a in agents)
        return SystemSpec(
            models=tuple((a, self.agents[a].model) for a in agents),
            links=LinkSpec(form, widths, self.topology.link_edges),
        )

    def params(self) -> AgentParams:
        """Frozen weights by agent; agents that share weights share these arrays."""
        return AgentParams((a, self.agents[a].params) for a in self.topology.agents)

    def facts(self) -> dict[str, object]:
        """What trained links depend on, as JSON values for checkpoints and manifests."""
        agents = {a: self.agents[a].fingerprint for a in self.topology.agents}
        facts = system_facts(self.topology, self.prompts, self.task_family, agents)
        tools = {agent: text for agent in self.tools if (text := self.tools_text(agent))}
        return facts | ({"tools": tools} if tools else {})

    def tools_text(self, agent: str) -> str:
        """Describes the tools of an agent that its prompts do not name; may be empty."""
        if agent not in self.tools:
            return ""
        parts = self.prompts.template(self.topology.role(agent), self.task_family, "later")
        texts = [self.prompts.system_text(self.topology), *(p for p in parts if isinstance(p, str))]
        return self.tools[agent].describe("".join(texts))

    def origins(self) -> dict[str, dict[str, str | None]]:
        """Where each agent came from: its Hub id with the commit, or its folder's name."""
        agents = {a: self.agents[a] for a in self.topology.agents}
        return {
            a: {
                "source": own.source if own.revision else Path(own.source).name,
                "revision": own.revision,
            }
            for a, own in agents.items()
        }


def system_facts(
    topology: Topology, prompts: PromptSet, task_family: str, agents: Mapping[str, str]
) -> dict[str, object]:
    """What trained links depend on, as JSON values; `agents` are fingerprints by name."""
    return {
        # Links do not depend on who may call tools.
        "topology": {k: v for k, v in dataclasses.asdict(topology).items() if k != "callers"},
        "prompts": {"name": prompts.name, "digest": prompts.digest},
        "task_family": task_family,
        "agents": dict(agents),
    }


def load_agents(
    sources: Mapping[str, str],
    date: str,
    *,
    dtype: DTypeLike | None = None,
    mesh: Mesh | str | None = None,
    quantize: bool = False,
    local: bool = False,
) -> dict[str, Agent]:
    """Loads agents by name, from folders or Hub ids.

    Weights that several agents share are read once and held once: those of one folder, and those
    of folders whose weight files are equal byte by byte.

    Args:
      sources: by agent, its folder or Hub id.
      date: for chat templates that print one.
      dtype: what weights are cast to, as in `weight_dtype`.
      mesh: where weights lie, as in `choose_mesh`; None means one device.
      quantize: hold matrices as int8.
      local: in a run of many processes, use only the devices of this one.

    Raises `InputError` naming the folder and what is wrong in it.
    """
    located = {source: hub.resolve(source) for source in dict.fromkeys(sources.values())}
    paths = {source: at.path for source, at in located.items()}
    models = {source: read_spec(path) for source, path in paths.items()}
    shares = shared_weights(paths, models)
    dtype = weight_dtype(dtype)
    owners = [spec for source, spec in models.items() if source not in shares]
    mesh = choose_mesh(mesh, owners, dtype, quantize, local)
    held: dict[str, Params] = {}
    agents: dict[str, Agent] = {}
    for source, at in located.items():
        model = models[source]
        names = ", ".join(name for name, own in sources.items() if own == source)
        chat, eos = load_chat(at.path, model, date, agent=names)
        if source not in shares:
            place = placer(mesh, heads_of(model))
            held[source] = load_params(model, at.path, dtype, place, quantize)
        params = held[shares.get(source, source)]
        agents[source] = Agent(
            model=model,
            params=params,
            chat=chat,
            eos=eos,
            fingerprint=fingerprint(at.path),
            source=at.source,
            revision=at.revision,
            mesh=mesh,
        )
    return {name: agents[source] for name, source in sources.items()}


def shared_weights(paths: Mapping[str, Path], models: Mapping[str, ModelSpec]) -> dict[str, str]:
    """Which agents can share the weights of an earlier one: name -> name of the first.

    They can if their architectures are equal, and their weight files are equal byte by byte.
    """
    first: list[str] = []
    shares: dict[str, str] = {}
    for name, path in paths.items():
        alike = (n for n in first if models[n] == models[name] and _equal(paths[n], path))
        owner = next(alike, None)
        if owner is None:
            first.append(name)
        else:
            shares[name] = owner
    return shares


def _equal(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights; contents are read only if sizes are equal."""
    if one.samefile(other):
        return True
    files = [
        [file for file in sorted(folder.glob("*.safetensors")) if has_file(file)]
        for folder in (one, other)
    ]
    sizes = [[(f.name, f.stat().st_size) for f in group] for group in files]
    return sizes[0] == sizes[1] and all(
        filecmp.cmp(a, b, shallow=False) for a, b in zip(*files, strict=True)
    )


def load_chat(
    path: Path, model: ModelSpec, date: str, agent: str = ""
) -> tuple[ChatTokenizer, tuple[int, ...]]:
    """The tokenizer of an agent's folder, and the ids that end a turn.

    These are the tokenizer's eos token, those that `config.json` and `generation_config.json`
    name, and the control token that the chat template puts after an assistant's text. `agent` is
    its name, for errors.

    Raises `InputError` for a tokenizer that is missing, has no eos token, or does not fit the
    model.
    """
    tokenizer, symbols = load_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise InputError(
            f"{path}: the tokenizer has no eos token, so decoding could not stop; set eos_token in "
            "tokenizer_config.json"
        )
    where = f"agent {agent}: {path}" if agent else str(path)
    chat = ChatTokenizer(
        tokenizer, date=date, where=where, template_file=template_file(path), symbols=symbols
    )
    _check_ids(path, model, chat)
    closing = [] if chat.closing_id is None else [chat.closing_id]
    return chat, tuple(sorted({*_eos_ids(path, tokenizer.eos_token_id), *closing}))


def _check_ids(path: Path, model: ModelSpec, chat: ChatTokenizer) -> None:
    """Refuses a tokenizer with ids beyond the embeddings, except added tokens that no chat uses.

    The embedding of such an id would be NaN.
    """
    added = chat.tokenizer.added_tokens_decoder
    own = [i for i in chat.tokenizer.get_vocab().values() if i not in added]
    used = [*chat.ids(chat.render("a", "b")), chat.tokenizer.eos_token_id, chat.closing_id or 0]
    largest = max([*own, *used])
    if largest >= model.vocab_size:
        raise InputError(
            f"{path}: the tokenizer has ids up to {largest}, but the model has only "
            f"{model.vocab_size} embeddings; they do not belong together"
        )


def _eos_ids(path: Path, own: int) -> set[int]:
    """The tokenizer's eos id and those that the model's configuration files name."""
    ids = {own}
    for name in ("config.json", "generation_config.json"):
        file = path / name
        if has_file(file):
            settings = read_json(file)
            if not isinstance(settings, dict):
                raise InputError(f"{file} is not a JSON object")
            found = settings.get("eos_token_id")
            found = found if isinstance(found, list) else [found]
            ids |= {i for i in found if type(i) is int}  # true is no id
    return ids


def fingerprint(directory: Path) -> str:
    """A digest of a model folder: 16 hexadecimal digits.

    Small files are read whole; of each weight file the size and one MiB at the start (with its
    table of tensors), the middle and the end: enough to distinguish models without reading
    gigabytes.

    Raises `InputError` for a file that cannot be read.
    """
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        with _opened(file) as f:
            size, part = os.fstat(f.fileno()).st_size, 1 << 20
            digest.update(f"{file.name} {size}\n".encode())
            for start in (0, max(size // 2 - part // 2, 0), max(size - part, 0)):
                f.seek(start)
                digest.update(f.read(part))
    names = ["config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
    # Files that count only where the usual ones are missing.
    names += ["tokenizer.model"] * (not has_file(directory / "tokenizer.json"))
    names += ["chat_template.json"] * (template_file(directory) == "chat_template.json")
    for name in names:
        file = directory / name
        if has_file(file):
            with _opened(file) as f:
                digest.update(name.encode() + f.read())
    return digest.hexdigest()[:16]


def _opened(file: Path) -> io.BufferedReader:
    try:
        return open_file(file)
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
