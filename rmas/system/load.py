"""Systems from disk: agents from Hugging Face folders, each set of weights in memory once."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.links import Form, LinkSpec
from rmas.models import ModelSpec
from rmas.shapes import Params
from rmas.system.encode import ChatTokenizer
from rmas.system.prompts import PromptSet
from rmas.system.stage import SystemSpec
from rmas.system.topology import Topology
from rmas.weights.load import load_params

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")


@dataclasses.dataclass(frozen=True, eq=False)
class Agent:
    """A frozen language model: architecture, weights, tokenizer, and the ids that end a turn."""

    model: ModelSpec
    params: Params
    chat: ChatTokenizer
    eos: tuple[int, ...]
    fingerprint: str


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """Agents joined by a topology, with the prompts that they are given.

    `family` is the task family whose prompts are used (`math`, `code`, `relay`, ...).
    """

    topology: Topology
    agents: Mapping[str, Agent]
    prompts: PromptSet
    family: str

    def __post_init__(self):
        self.prompts.check(self.topology, self.family)

    def spec(self, form: Form) -> SystemSpec:
        """The static facts, with links of the given form."""
        agents = self.topology.agents
        widths = tuple((a, self.agents[a].model.d_model) for a in agents)
        return SystemSpec(
            models=tuple((a, self.agents[a].model) for a in agents),
            links=LinkSpec(form, widths, self.topology.link_edges),
        )

    def params(self) -> dict[str, Params]:
        """Frozen weights by agent; agents with the same folder share their arrays."""
        return {a: self.agents[a].params for a in self.topology.agents}

    def facts(self) -> dict[str, object]:
        """What trained links depend on, for checkpoints and manifests."""
        return {
            "topology": dataclasses.asdict(self.topology),
            "prompts": {"name": self.prompts.name, "digest": self.prompts.digest},
            "family": self.family,
            "agents": {a: self.agents[a].fingerprint for a in self.topology.agents},
        }


def load_agents(directories: Mapping[str, str], date: str, dtype=None) -> dict[str, Agent]:
    """Loads agents by name; folders named twice are read once and shared.

    Raises `InputError` naming the folder and what is wrong in it.
    """
    loaded: dict[Path, Agent] = {}
    for directory in directories.values():
        path = Path(directory).resolve()
        if path not in loaded:
            loaded[path] = load_agent(directory, date, dtype)
    return {name: loaded[Path(d).resolve()] for name, d in directories.items()}


def load_agent(directory: str, date: str, dtype=None) -> Agent:
    """One agent from an ordinary Hugging Face folder; code in it is never run."""
    path = Path(directory)
    model = ModelSpec.from_config(path)
    params = load_params(model, path, dtype)
    tokenizer = load_tokenizer(path)
    if tokenizer.eos_token_id is None:
        raise InputError(f"{path}: the tokenizer names no eos token; decoding could not stop")
    chat = ChatTokenizer(tokenizer, date=date, where=str(path))
    _check_ids(path, model, chat)
    return Agent(
        model=model,
        params=params,
        chat=chat,
        eos=_eos_ids(path, tokenizer.eos_token_id),
        fingerprint=fingerprint(path),
    )


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
            try:
                found = json.loads(file.read_text()).get("eos_token_id")
            except (ValueError, AttributeError) as e:
                raise InputError(f"{file} is not a JSON object: {e}") from e
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
