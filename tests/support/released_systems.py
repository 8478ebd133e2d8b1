"""Tiny random systems of the five released styles, on disk as the release lays them out.

    released_systems.make("mixture", folder)

They hold the traps of real ones: links of each task or for all, an `adapter_config.json` that is
no PEFT config, eos lists and sampling in `generation_config.json`, tokenizers that add a bos,
without a pad token or a system role, with a mark in front of each piece, embeddings with more
rows than there are tokens, a composite checkpoint, two agents with equal weights.
Import after `pytest.importorskip("torch")`.
"""

import json
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from support import tiny_hf, torch_links

PROMPTS = {
    "name": "small",
    "system": {"default": "Be brief.", "deliberation": "Use <python>{{}}</python> or think."},
    "interface": {"program": "Read and print lines."},
    "roles": {
        "planner": {
            "math": {"first": "Plan: {question}", "later": "{question} Heard: {slot:solver} Plan!"},
            "code": {"first": "{question} {interface}", "later": "{slot:solver}{question} Code."},
        },
        "critic": {
            "math": {"first": "{question} The plan: {slot:planner} Mend it."},
            "code": {"first": "{question} {interface} The plan:\n{slot:planner}\n"},
        },
        "solver": {
            "math": {"first": "Solve {question} as \\boxed{{}}. Plan:{slot:critic}"},
            "code": {"first": "{slot:critic} {question} {interface} Write ```python."},
        },
        "math": {"math": {"first": "Sums. {question}", "later": "{slot:summarizer} {question}"}},
        "code": {"math": {"first": "Code. {question}", "later": "Do {slot:summarizer} {question}"}},
        "science": {"math": {"first": "{question}", "later": "New:{slot:summarizer}. {question}"}},
        "summarizer": {
            "math": {"first": "Code:{slot:code}\n{slot:science}{slot:math} Answer {question}"}
        },
        "expert": {
            "math": {"first": "Teach: {question}", "later": "{slot:learner} Teach: {question}"},
            "code": {"first": "{question} {interface}", "later": "{slot:learner} {question}"},
        },
        "learner": {
            "math": {"first": "Answer {question}\n\n{slot:expert}"},
            "code": {"first": "{slot:expert} {question} {interface}"},
        },
        "reflector": {
            "math": {"first": "Think: {question}", "later": "{slot:toolcaller}{question}"}
        },
        "toolcaller": {"math": {"first": "Answer {question} Idea: {slot:reflector}"}},
    },
}
QUESTIONS = (
    "What is 3 + 4?",
    "A train leaves at 7 and goes 120 miles; when is it there?",
    "Le caf\u00e9 costs {2}: how\nmuch are 12?",
)

CHATML = (
    "{%- for m in messages %}{{- '<|im_start|>' + m['role'] + '\\n' + m['content'] + "
    "'<|im_end|>\\n' }}{%- endfor %}{%- if add_generation_prompt %}"
    "{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
# As llama's: the date of its template unless it is told another, and content trimmed.
DATED = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- set date_string = '26 Jul 2024' %}"
    "{%- endif %}{{- date_string + '\\n' }}{%- for m in messages %}"
    "{{- '<|start|>' + m['role'] + '<|stop|>' + m['content'] | trim + '<|eot|>' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start|>assistant<|stop|>' }}{%- endif %}"
)
# As gemma's: turns that alternate, the system message in the first one.
FOLDED = (
    "{{ bos_token }}{%- set system = '' -%}{%- if messages[0]['role'] == 'system' -%}"
    "{%- set system = messages[0]['content'] + '\\n\\n' -%}{%- set messages = messages[1:] -%}"
    "{%- endif -%}{%- for m in messages -%}{{ '<turn>' + m['role'] + '\\n' + "
    "(system if loop.first else '') + m['content'] | trim + '<end>\\n' }}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<turn>model\\n' }}{%- endif -%}"
)
# As mistral's: no system message at all.
ALTERNATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endfor %}"
)
# The word splitting of qwen and llama, which AutoTokenizer restores whatever the file says.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

AGENTS = {
    "sequential_light": {
        "planner": ("qwen3", 16, "chatml"),
        "critic": ("llama", 24, "dated"),
        "solver": ("qwen2", 32, "chatml"),
    },
    "sequential_scaled": {
        "planner": ("gemma3", 16, "folded"),
        "critic": ("llama", 12, "dated"),
        "solver": ("qwen3_5", 20, "chatml"),
    },
    "mixture": {
        "math": ("qwen2", 16, "chatml"),
        "code": ("qwen2", 32, "chatml"),
        "science": ("mistral", 24, "alternate"),
        "summarizer": ("qwen3_5", 20, "chatml"),
    },
    "distillation": {
        "expert": ("qwen3_5_untied", 24, "chatml"),
        "learner": ("qwen3_5", 16, "chatml"),
    },
    "deliberation": {
        "reflector": ("qwen3_5", 24, "chatml"),
        "toolcaller": ("qwen3_5", 24, "chatml"),
    },
}
"""Per style and agent: case of `tiny_hf`, width, tokenizer."""
KEYS = {
    "sequential": ("planner critic 12", "critic solver 23", "solver planner 31"),
    "mixture": (
        "math summarizer 1s",
        "code summarizer 2s",
        "science summarizer 3s",
        "summarizer math s1",
        "summarizer code s2",
        "summarizer science s3",
    ),
    "distillation": ("expert learner el", "learner expert le"),
    "deliberation": ("reflector toolcaller rt", "toolcaller reflector tr"),
}
SMALLER = {
    "gemma3": {"num_hidden_layers": 3, "sliding_window_pattern": 2},
    "llama": {"num_hidden_layers": 2, "head_dim": 8},
    "qwen3_5": {"num_hidden_layers": 4},
    "qwen3_5_untied": {"num_hidden_layers": 3},
}

DAMPED = 0.75
"""Over rounds of latent steps, rounding grows: by matrices of this part of `tiny_hf`'s, little."""


def make(style: str, root: Path) -> None:
    """Writes a system: a folder for each agent, and `outer`."""
    agents, paradigm = AGENTS[style], style.split("_")[0]
    scoped = paradigm in ("sequential", "distillation")
    for n, (name, (case, width, kind)) in enumerate(agents.items()):
        _make_agent(root / name, case, width, kind)
        _inner_links(root / name, name, style, width, scoped, seed=n)
    if style == "deliberation":
        shutil.copy(root / "reflector/model.safetensors", root / "toolcaller/model.safetensors")
    _outer_links(
        root / "outer", paradigm, {a: width for a, (_, width, _) in agents.items()}, scoped
    )


def write_json(path: Path, content) -> Path:
    """Writes and returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n")
    return path


def _make_agent(folder: Path, case: str, width: int, kind: str) -> None:
    tokenizer = _tokenizer(kind, size=20 + width)
    other = tokenizer.convert_tokens_to_ids("3")
    changes = SMALLER.get(case, {}) | {
        "intermediate_size": 24,
        "hidden_size": width,
        "vocab_size": len(tokenizer) + 7 & ~7,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    make_model = tiny_hf.composite if case == "gemma3" else tiny_hf.make
    model = make_model(case, **changes)
    for name, parameter in model.named_parameters():
        if "layers" in name and parameter.ndim == 2:
            parameter.data *= DAMPED
    # Some texts should end.
    model.get_output_embeddings().weight.data[tokenizer.eos_token_id] *= 1.5
    model.generation_config = transformers.GenerationConfig(
        do_sample=True,
        temperature=0.6,
        top_k=20,
        repetition_penalty=1.5,
        eos_token_id=[tokenizer.eos_token_id, other],
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _corpus() -> Iterable[str]:
    yield from QUESTIONS
    yield 10 * "system\nuser\nassistant\n\n"
    for families in PROMPTS["roles"].values():
        yield from (text for phases in families.values() for text in phases.values())


def _tokenizer(kind: str, size: int) -> transformers.PreTrainedTokenizerFast:
    """A tokenizer with about `size` merged tokens."""
    template, special, names = {
        "chatml": (
            CHATML,
            ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"],
            {"pad_token": "<|endoftext|>", "eos_token": "<|im_end|>"},
        ),
        "dated": (
            DATED,
            ["<|begin|>", "<|start|>", "<|stop|>", "<|eot|>"],
            {"bos_token": "<|begin|>", "eos_token": "<|eot|>"},
        ),
        "folded": (
            FOLDED,
            ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>", "<end>"],
            {"pad_token": "<pad>", "eos_token": "<eos>", "bos_token": "<bos>"},
        ),
        "alternate": (
            ALTERNATE,
            ["<unk>", "<s>", "</s>"],
            {"bos_token": "<s>", "eos_token": "</s>"},
        ),
    }[kind]
    if kind in ("chatml", "dated"):
        core = _byte_level(special, size)
    else:
        names["unk_token"] = "<unk>"
        core = _metaspace(special, size, "never" if kind == "folded" else "first")
    if bos := names.get("bos_token"):
        core.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))]
        )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, clean_up_tokenization_spaces=False, **names
    )
    tokenizer.chat_template = template
    return tokenizer


def _byte_level(special: list[str], size: int) -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(WORDS), "isolated")
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.pre_tokenizer = pre_tokenizers.Sequence([split, bytes_of])
    core.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=len(alphabet) + size, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(_corpus(), trainer)
    core.add_special_tokens([tokenizers.AddedToken(t, special=True) for t in special])
    return core


def _metaspace(special: list[str], size: int, prepend: str) -> tokenizers.Tokenizer:
    core = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend)
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    strip = [decoders.Strip(" ", 1, 0)] if prepend == "first" else []
    core.decoder = decoders.Sequence([*steps, *strip])
    special = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    alphabet = sorted({c for text in _corpus() for c in text if c.isascii()} | set("\u2581"))
    trainer = trainers.BpeTrainer(
        vocab_size=len(special) + len(alphabet) + size,
        special_tokens=special,
        limit_alphabet=len(alphabet),
        initial_alphabet=alphabet,
        show_progress=False,
    )
    core.train_from_iterator(_corpus(), trainer)
    whole = json.loads(core.to_str())
    # Bytes are tokens like any other, not control tokens.
    whole["added_tokens"] = [t for t in whole["added_tokens"] if t["content"][:3] != "<0x"]
    return tokenizers.Tokenizer.from_str(json.dumps(whole))


def _inner_links(folder: Path, agent: str, style: str, width: int, scoped: bool, seed: int) -> None:
    manifest = {"format_version": 1, "role": agent, "style": style}
    names = {"adapter": "adapter.pt"}
    if scoped:
        names = {task: f"adapter({task}).pt" for task in ("math", "code")}
        manifest["tasks"] = {
            task: {"task": task, "adapter.pt": name, "adapter_config.json": "adapter_config.json"}
            for task, name in names.items()
        }
    else:
        manifest |= names
    for n, name in enumerate(names.values()):
        _save_link(folder / name, torch_links.Inner("ln_res", width), [seed, n])
    write_json(folder / "innerlink_config.json", manifest)
    write_json(folder / "adapter_config.json", {"adapter_type": "ln_res_adapter"})


def _outer_links(folder: Path, paradigm: str, widths: dict[str, int], scoped: bool) -> None:
    def entry(src: str, dst: str, key: str, task: str | None) -> dict:
        name = f"{src.title()}-{dst.title()}-Outerlink{f'({task})' if task else ''}.pt"
        module = torch_links.Outer("ln_res", widths[src], widths[dst])
        _save_link(folder / name, module, [9, *map(ord, f"{key}{task}")])
        return {
            "legacy_key": f"outer_{key}",
            "filename": name,
            "source_role": src.title(),
            "target_role": dst.title(),
            "adapter_type": "outer_ln_res_adapter",
            "in_dim": widths[src],
            "out_dim": widths[dst],
        }

    def entries(task: str | None) -> list[dict]:
        return [entry(*words.split(), task) for words in KEYS[paradigm]]

    folder.mkdir(parents=True)
    manifest = {"format_version": 1, "paradigm": paradigm}
    if scoped:
        tasks = {t: {"task": t, "adapters": entries(t)} for t in ("math", "code")}
        manifest |= {"tasks": tasks}
    else:
        manifest |= {"adapters": entries(None)}
    write_json(folder / "outerlink_config.json", manifest)


def _save_link(path: Path, module: torch.nn.Module, seed: list[int]) -> None:
    """Every parameter is random."""
    random = np.random.default_rng(seed)
    for name, parameter in module.named_parameters():
        fan_in = parameter.shape[-1] if parameter.ndim == 2 else 4
        value = random.standard_normal(parameter.shape) * fan_in**-0.5
        if name in ("post_ln.bias", "ln_target.bias"):
            value *= 0.2  # or all messages look alike
        elif "ln" in name and name.endswith("weight"):
            value += 1.0
        parameter.data = torch.tensor(value, dtype=torch.float32)
    torch.save(module.state_dict(), path)
