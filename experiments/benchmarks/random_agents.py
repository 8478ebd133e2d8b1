"""Systems of random weights as a user has systems: model folders with tokenizers, and prompts.

Tokenizers know whole words, one token each, so that lengths are exact. Random weights end no text:
agents are loaded without the tokens that end one, and every text has all its tokens.
"""

import dataclasses
import json
import math
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rmas.errors import InputError
from rmas.models import ModelSpec, abstract_params, init_params
from rmas.models.base import base_models, base_spec
from rmas.models.config import parse_spec
from rmas.shapes import Params
from rmas.system import prompts
from rmas.system.answers import Question
from rmas.system.load import System, load_agents
from rmas.system.styles import SEQUENTIAL, STYLES
from rmas.system.topology import Topology
from rmas.tasks.rows import Row
from rmas.weights.save import save_params

FAMILY = "math"
"""The task family of the prompts."""
_CONTROL = ("<pad>", "<unk>", "<system>", "<user>", "<agent>", "<end>")
_CHAT = 3
"""Control tokens of a chat."""
LEAST_PROMPT = 24
"""Tokens of the shortest prompt that has all its parts."""
_COMMON = {"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": False}
_SMALL = {
    "planner": _COMMON
    | {
        "model_type": "qwen3",
        "vocab_size": 8192,
        "hidden_size": 256,
        "intermediate_size": 768,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rope_theta": 1e6,
    },
    "critic": _COMMON
    | {
        "model_type": "llama",
        "vocab_size": 8192,
        "hidden_size": 320,
        "intermediate_size": 960,
        "num_hidden_layers": 6,
        "num_attention_heads": 5,
        "num_key_value_heads": 1,
        "head_dim": 64,
        "max_position_embeddings": 4096,
        "rope_theta": 5e5,
    },
    "solver": {
        "model_type": "gemma3_text",
        "vocab_size": 8192,
        "hidden_size": 384,
        "intermediate_size": 1152,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "max_position_embeddings": 4096,
        "sliding_window": 256,
        "sliding_window_pattern": 6,
        "tie_word_embeddings": False,
    },
}
"""Agents of three families with 9, 12 and 17 million parameters."""
_TINY: Mapping[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 16,
    "sliding_window": 16,
    "sliding_window_pattern": 2,
}


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Lengths of what is read and written.

    Attributes:
      prompt: tokens of the longest prompt, with its question and without messages.
      rows: questions of a batch.
      seed: of weights, links, prompts and questions.
    """

    prompt: int
    rows: int
    seed: int = 0

    @property
    def parts(self) -> dict[str, int]:
        """Words of a prompt's parts: half of them are the question's."""
        words = self.prompt - _CHAT
        parts = {"system": words // 6, "question": words // 2, "before": words // 12}
        return parts | {"after": words - sum(parts.values())}

    @property
    def mean(self) -> int:
        """Tokens of a prompt without messages, on average over the rows of a batch."""
        longest = self.parts["question"]
        question = sum(_shorter(longest, row) for row in range(self.rows)) / self.rows
        return int(self.prompt - longest + question)

    @property
    def preamble(self) -> int:
        """Those of them before the first message, which all rounds share."""
        return self.mean - self.parts["after"] - 1


def architectures(system: str) -> tuple[Topology, dict[str, ModelSpec]]:
    """A topology with the architecture of each agent.

    Args:
      system: `small` or `tiny`, three agents of as many families; a style, such as
        `sequential_light`; or the names of three base models, with commas.

    Raises:
      InputError: an unknown name.
    """
    if system in ("small", "tiny"):
        less = _TINY if system == "tiny" else {}
        configs = {name: {**config, **less} for name, config in _SMALL.items()}
        return SEQUENTIAL, {name: parse_spec(c, where=name) for name, c in configs.items()}
    if system in STYLES:
        style = STYLES[system]
        bases = {name: agent.base_model for name, agent in style.agents.items()}
        return style.topology, {name: base_spec(base) for name, base in bases.items()}
    names = system.split(",")
    if len(names) == len(SEQUENTIAL.agents) and all(name in base_models() for name in names):
        pairs = zip(SEQUENTIAL.agents, names, strict=True)
        return SEQUENTIAL, {agent: base_spec(name) for agent, name in pairs}
    raise InputError(
        f"--system={system} is no system; known: small, tiny, {', '.join(STYLES)}, or three names "
        f"with commas of {', '.join(base_models())}"
    )


def parameters(specs: Mapping[str, ModelSpec]) -> dict[str, int]:
    """The number of each agent's parameters."""
    return {
        agent: sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_params(spec)))
        for agent, spec in specs.items()
    }


def describe(specs: Mapping[str, ModelSpec]) -> str:
    """Each agent with its family and size, for people."""
    counts = parameters(specs)
    return ", ".join(
        f"{agent} ({spec.family}, {counts[agent] / 1e6:.3g} M)" for agent, spec in specs.items()
    )


def check_memory(
    specs: Mapping[str, ModelSpec],
    copies: int,
    itemsize: int,
    folder: Path,
    what: str,
    less: str,
) -> None:
    """Refuses weights that memory or disk cannot hold.

    Args:
      copies: of all weights at one time.
      itemsize: bytes of a number in memory, and on the disk.
      folder: where the weights are written.
      what: the flags that decide it, for the message.
      less: flags of the command that need less.

    Raises:
      InputError: they do not fit; in one line.
    """
    counts = parameters(specs).values()
    # While a folder is written, float32 numbers, their cast and its transposes are there.
    memory = max(copies * itemsize * sum(counts), 12 * max(counts)) * 1.1
    wanted = {"memory": memory, "disk": itemsize * sum(counts)}
    available = {"memory": _available_memory(), "disk": shutil.disk_usage(folder).free}
    for kind, needed in wanted.items():
        if needed > available[kind]:
            raise InputError(
                f"{what} needs about {needed / (1 << 30):.1f} GiB of {kind} for "
                f"{sum(counts) / 1e9:.1f} billion random weights, and "
                f"{available[kind] / (1 << 30):.1f} GiB are free; choose {less}"
            )


def _available_memory() -> float:
    """Bytes that processes can still have; of accelerators, those of the first."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = dict(line.split(":") for line in meminfo.read_text().splitlines())
        return 1024 * int(lines["MemAvailable"].split()[0])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def write_folders(specs: Mapping[str, ModelSpec], folder: Path, dtype: str, seed: int) -> None:
    """Writes each agent's folder below `folder`, under its name; weights have type `dtype`."""
    for n, (agent, spec) in enumerate(specs.items()):
        key = jax.random.fold_in(jax.random.key(seed), n)
        params = jax.tree.map(lambda x: x.astype(dtype), _calm(spec, init_params(spec, key)))
        tokenizer = _tokenizer(spec.vocab_size)
        ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        save_params(spec, params, folder / agent, extra=ids)
        tokenizer.save_pretrained(folder / agent)


def _calm(spec: ModelSpec, params: Params) -> Params:
    """Weights whose layers each add little to their input, so that rounding stays rounding.

    Those of `init_params` alone let tiny differences grow from latent step to latent step, which
    trained weights do not. Embeddings get the root mean square of messages, 1.
    """
    branch = 1 / (2 * len(spec.layers))

    def leaf(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        names = [key.key for key in path]
        if names[0] == "embed":
            return x if spec.embed_scale else x * spec.d_model**0.5
        if names[-1] == "kernel" and names[-2] in ("o_proj", "down_proj"):
            return x * branch
        if names[-2].startswith("post_"):  # a norm behind a branch, which undoes its scale
            return branch * (x + spec.norm_offset) - spec.norm_offset
        return x

    return jax.tree_util.tree_map_with_path(leaf, params)


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    """Whole words between blanks, and a chat template of three control tokens."""
    pad, unknown, system, user, agent, end = _CONTROL
    words = [*_CONTROL, *(f"w{n}" for n in range(size - len(_CONTROL)))]
    core = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unknown))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(token, special=True) for token in _CONTROL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        unk_token=unknown,
        eos_token=end,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (
        f"{{% for m in messages %}}{{{{ '{system} ' if m['role'] == 'system' else '{user} ' }}}}"
        "{{ m['content'] }} {% endfor %}"
        f"{{% if add_generation_prompt %}}{agent} {{% endif %}}"
    )
    return tokenizer


def load_system(topology: Topology, folder: Path, sizes: Sizes, dtype: str) -> System:
    """The agents of `folder` as a user loads them, with prompts, and without ends of texts."""
    sources = {agent: str(folder / agent) for agent in topology.agents}
    agents = load_agents(sources, date="", dtype=dtype)
    endless = {name: dataclasses.replace(agent, eos=()) for name, agent in agents.items()}
    texts = json.dumps(_prompt_set(topology, sizes))
    return System(topology, endless, prompts.from_json(texts, "the benchmark's prompts"), FAMILY)


def _prompt_set(topology: Topology, sizes: Sizes) -> dict[str, Any]:
    """A system text, and for each role the question, its slots and words around them."""
    random, parts = np.random.default_rng([sizes.seed, 1]), sizes.parts
    roles = {}
    for agent in topology.agents:
        before, after = (_words(random, parts[name]) for name in ("before", "after"))
        phases = {}
        for phase in ("first", "later"):
            slots = [
                f"{{slot:{e.src}}}"
                for e in topology.incoming(agent)
                if e.when == "round" or phase == "later"
            ]
            phases[phase] = " ".join([before, "{question}", *slots, after])
        roles[agent] = {FAMILY: phases}
    system = _words(random, parts["system"])
    return {"name": "random words", "system": {"default": system}, "roles": roles}


def make_questions(sizes: Sizes, number: int) -> list[Question]:
    """A batch of questions; batches of other numbers have other words, and the same lengths.

    Each row is shorter than the one before it by a sixteenth, the fifth as long as the first.
    """
    random, longest = np.random.default_rng([sizes.seed, 2, number]), sizes.parts["question"]
    return [
        Question(f"{number}-{row}", _words(random, _shorter(longest, row)))
        for row in range(sizes.rows)
    ]


def make_rows(sizes: Sizes, topology: Topology, number: int, text: int) -> list[Row]:
    """A batch of rows for training: questions of `make_questions`, and a text for each agent.

    `text` is the tokens of the longest, the one that ends it included; rows differ as questions do.
    """
    random = np.random.default_rng([sizes.seed, 3, number])
    return [
        Row(
            q.id,
            q.text,
            answer="",
            texts={a: (_words(random, _shorter(text - 1, row)),) for a in topology.agents},
        )
        for row, q in enumerate(make_questions(sizes, number))
    ]


def _shorter(longest: int, row: int) -> int:
    return longest - (row % 4) * (longest // 16)


def _words(random: np.random.Generator, count: int) -> str:
    """Words that the tokenizers of all agents know."""
    most = _TINY["vocab_size"] - len(_CONTROL)
    return " ".join(f"w{n}" for n in random.integers(0, most, count))


def check_context(
    specs: Mapping[str, ModelSpec], topology: Topology, sizes: Sizes, longest: int, flags: str
) -> None:
    """Refuses prompts that are too short for their parts, or lengths that no context can hold.

    `longest` is the most of what stands in a slot, or follows a prompt, which `flags` of the
    command set. Raises `InputError`.
    """
    if sizes.prompt < LEAST_PROMPT:
        raise InputError(f"--prompt_tokens={sizes.prompt}; at least {LEAST_PROMPT}")
    for agent, spec in specs.items():
        needed = sizes.prompt + longest * (1 + len(topology.incoming(agent)))
        if needed > spec.max_positions:
            raise InputError(
                f"{agent} would need {needed} positions, and its context has "
                f"{spec.max_positions}; lower --prompt_tokens, {flags}"
            )
