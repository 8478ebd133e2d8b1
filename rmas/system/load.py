"""Systems from disk: agents from Hugging Face folders, each set of weights in memory once."""

import dataclasses
import filecmp
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from rmas.errors import InputError
from rmas.files import read_json
from rmas.links import Form, LinkSpec
from rmas.models import ModelSpec, read_spec
from rmas.parallel import placer, single_device_mesh
from rmas.shapes import Params
from rmas.system.encode import ChatTokenizer
from rmas.system.prompts import PromptSet
from rmas.system.topology import Topology
from rmas.system.turn import SystemSpec
from rmas.tools import Toolbox
from rmas.weights import hub
from rmas.weights.load import load_params
from rmas.weights.placement import choose_mesh, heads_of, weight_dtype

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclasses.dataclass(frozen=True, eq=False)
class Agent:
    """A frozen language model: architecture, weights, tokenizer, and the ids that end a turn.

    `source` is the folder or Hub id that it was asked for by (nothing, if it was made in memory),
    `revision` the commit of the latter. `mesh` is where weights lie.
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
    """Agents joined by a topology, with the prompts that they are given.

    `task_family` is the one whose prompts are used (`math`, `code`, `relay`, ...). `tools` are
    what an agent may call while it writes; its system message describes those that its prompts
    do not name.
    """

    topology: Topology
    agents: Mapping[str, Agent]
    prompts: PromptSet
    task_family: str
    tools: Mapping[str, Toolbox] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        self.prompts.check(self.topology, self.task_family)
        for agent in self.tools:
            if agent not in self.agents:
                known = ", ".join(self.agents)
                raise InputError(f"tools are given to unknown agent {agent!r}; known: {known}")

    @property
    def mesh(self) -> Mesh:
        """Where the weights of all agents lie."""
        return self.agents[self.topology.output].mesh

    def spec(self, form: Form) -> SystemSpec:
        """The static facts, with links of the given form."""
        agents = self.topology.agents
        widths = tuple((a, self.agents[a].model.d_model) for a in agents)
        return SystemSpec(
            models=tuple((a, self.agents[a].model) for a in agents),
            links=LinkSpec(form, widths, self.topology.link_edges),
        )

    def params(self) -> dict[str, Params]:
        """Frozen weights by agent; agents with the same weights share their arrays."""
        return {a: self.agents[a].params for a in self.topology.agents}

    def facts(self) -> dict[str, object]:
        """What trained links depend on, for checkpoints and manifests."""
        agents = {a: self.agents[a].fingerprint for a in self.topology.agents}
        facts = system_facts(self.topology, self.prompts, self.task_family, agents)
        told = {agent: text for agent in self.tools if (text := self.tools_text(agent))}
        return facts | ({"tools": told} if told else {})

    def tools_text(self, agent: str) -> str:
        """What an agent's system message says of its tools: those that its prompts do not name."""
        if agent not in self.tools:
            return ""
        parts = self.prompts.template(self.topology.role(agent), self.task_family, "later")
        told = self.prompts.system_text(self.topology)
        return self.tools[agent].describe(told + "".join(p for p in parts if isinstance(p, str)))

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
    """What trained links depend on; `agents` are fingerprints by name."""
    return {
        # Who may call tools is no fact of the links.
        "topology": {k: v for k, v in dataclasses.asdict(topology).items() if k != "callers"},
        "prompts": {"name": prompts.name, "digest": prompts.digest},
        "task_family": task_family,
        "agents": dict(agents),
    }


def load_agents(
    sources: Mapping[str, str],
    date: str,
    dtype=None,
    mesh: Mesh | str | None = None,
    quantize: bool = False,
    local: bool = False,
) -> dict[str, Agent]:
    """Loads agents by name, from folders or Hub ids.

    Weights that several agents share are read once and held once: those of one folder, and those
    of folders whose weight files are equal byte by byte.

    Args:
      dtype: what weights are cast to, as in `weight_dtype`.
      mesh: where weights lie, as in `choose_mesh`; None means one device.
      quantize: hold matrices as int8.
      local: of a run of many processes, take the devices of this one alone.

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
        chat, eos = load_chat(at.path, model, date)
        if source not in shares:
            place = placer(mesh, heads_of(model))
            held[source] = load_params(model, at.path, dtype, place, quantize)
        params = held[shares.get(source, source)]
        agents[source] = Agent(
            model, params, chat, eos, fingerprint(at.path), at.source, at.revision, mesh
        )
    return {name: agents[source] for name, source in sources.items()}


def load_agent(source: str, date: str, dtype=None) -> Agent:
    """One agent; see `load_agents`."""
    return load_agents({"agent": source}, date, dtype)["agent"]


def shared_weights(paths: Mapping[str, Path], models: Mapping[str, ModelSpec]) -> dict[str, str]:
    """Which agents can share the weights of an earlier one: name -> name of the first.

    Their architectures are equal, and their weight files byte by byte.
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
    """Whether two folders hold the same weights; contents are read only where sizes agree."""
    if one.samefile(other):
        return True
    files = [sorted(folder.glob("*.safetensors")) for folder in (one, other)]
    sizes = [[(f.name, f.stat().st_size) for f in group] for group in files]
    return sizes[0] == sizes[1] and all(
        filecmp.cmp(a, b, shallow=False) for a, b in zip(*files, strict=True)
    )


def load_chat(path: Path, model: ModelSpec, date: str) -> tuple[ChatTokenizer, tuple[int, ...]]:
    """The chat side of an agent's folder; code in it is never run."""
    tokenizer = load_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer names no eos token; decoding could not stop")
    chat = ChatTokenizer(tokenizer, date=date, where=str(path))
    _check_ids(path, model, chat)
    return chat, _eos_ids(path, tokenizer.eos_token_id)


def load_tokenizer(path: Path) -> Any:
    """The tokenizer of a model folder.

    A folder that names the generic class is read as `tokenizer.json` says. `AutoTokenizer` would
    rebuild it by the model's family instead (qwen2: with that family's own word splitting).
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        # AutoTokenizer would make an empty one of the model's family.
        raise InputError(f"{path} holds no tokenizer; expected {' or '.join(TOKENIZER_FILES)}")
    config = path / "tokenizer_config.json"
    try:
        named = json.loads(config.read_text()).get("tokenizer_class") if config.is_file() else None
        generic = named in ("TokenizersBackend", "PreTrainedTokenizerFast")
        loader = PreTrainedTokenizerFast if generic else AutoTokenizer
        return loader.from_pretrained(str(path), local_files_only=True, trust_remote_code=False)
    # The loaders raise whatever their parsers do.
    except Exception as e:
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise InputError(f"{path}: the tokenizer cannot be loaded: {reason}") from e


def _check_ids(path: Path, model: ModelSpec, chat: ChatTokenizer) -> None:
    """Ids beyond the embeddings would read NaN; added tokens that no chat uses may lie there."""
    added = chat.tokenizer.added_tokens_decoder
    own = [i for i in chat.tokenizer.get_vocab().values() if i not in added]
    largest = max([*own, *chat.ids(chat.render("a", "b")), chat.tokenizer.eos_token_id])
    if largest >= model.vocab_size:
        raise InputError(
            f"{path}: the tokenizer has ids up to {largest}, but the model only "
            f"{model.vocab_size} embeddings; they do not belong together"
        )


def _eos_ids(path: Path, own: int) -> tuple[int, ...]:
    """The tokenizer's eos and those that the model's configuration files name."""
    ids = {own}
    for name in ("config.json", "generation_config.json"):
        file = path / name
        if file.is_file():
            settings = read_json(file)
            if not isinstance(settings, dict):
                raise InputError(f"{file} is not a JSON object")
            found = settings.get("eos_token_id")
            found = found if isinstance(found, list) else [found]
            ids |= {i for i in found if isinstance(i, int)}
    return tuple(sorted(ids))


def fingerprint(directory: Path) -> str:
    """A digest of a model folder: small files whole, of each weight file a part.

    Of weights the size and one MiB at the start (with its table of tensors), the middle and
    the end are read: enough to tell models apart without reading gigabytes.
    """
    digest = hashlib.sha256()
    for file in sorted(directory.glob("*.safetensors")):
        size, part = file.stat().st_size, 1 << 20
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as f:
            for start in (0, max(size // 2 - part // 2, 0), max(size - part, 0)):
                f.seek(start)
                digest.update(f.read(part))
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        file = directory / name
        if file.is_file():
            digest.update(name.encode() + file.read_bytes())
    return digest.hexdigest()[:16]
