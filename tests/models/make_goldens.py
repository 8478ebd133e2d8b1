"""Writes `goldens/`: tiny checkpoints and what PyTorch computes from them.

    PYTHONPATH=.:tests python tests/models/make_goldens.py [CASE ...]

It needs torch; the tests of the result do not.

Each folder is an ordinary checkpoint (`config.json`, `model.safetensors`) with `expected.npz`:
ids and validity of a left-padded batch, states after the final norm, logits, greedy ids; and
`rollout.npz`: a matrix by which states are fed back, and the states of that latent rollout.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
import torch

from support import tiny_hf

GOLDENS = Path(__file__).parent / "goldens"
SMALL = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 4}
CASES = {
    "llama": lambda: tiny_hf.make("llama", **SMALL),
    "llama_biased": lambda: tiny_hf.make("llama_biased", **SMALL),
    "mistral_window": lambda: tiny_hf.make("mistral_window", **SMALL),
    "qwen2": lambda: tiny_hf.make("qwen2", **SMALL),
    "qwen2_mixed": lambda: tiny_hf.make("qwen2_mixed", **SMALL),
    "qwen3": lambda: tiny_hf.make("qwen3", **SMALL),
    "gemma3": lambda: tiny_hf.make("gemma3", num_hidden_layers=4, **SMALL),
    "gemma3_composite": lambda: tiny_hf.composite("gemma3_biased", **SMALL),
    "qwen3_5": lambda: tiny_hf.make("qwen3_5", **SMALL),
    "qwen3_5_composite": lambda: tiny_hf.composite("qwen3_5_untied", num_hidden_layers=4, **SMALL),
}
SHORT, LONG = (12, 5, 1), (70, 41, 1)
"""Lengths of prompts; the long ones reach beyond one chunk of the delta rule."""
NEW = 16
STEPS = 8
MARGIN, KINDS = 5e-3, 8
"""Prompts are drawn until no greedy decision is closer than this, so that rounding does not
decide, and more ids than this come out."""


def greedy(model, ids, valid) -> tuple[np.ndarray, float]:
    """The continuation by transformers, and its closest decision."""
    out = model.generate(
        torch.tensor(ids),
        attention_mask=torch.tensor(valid, dtype=torch.long),
        do_sample=False,
        max_new_tokens=NEW,
        eos_token_id=[],
        output_logits=True,
        return_dict_in_generate=True,
    )
    top = torch.stack(out.logits, 1).topk(2).values
    new = out.sequences[:, ids.shape[1] :].numpy().astype(np.int32)
    return new, float((top[..., 0] - top[..., 1]).min())


def rollout(model, x, valid, map_DD) -> np.ndarray:
    """States at the last position and after it, each fed back; all is read again at every step."""
    states = []
    for _ in range(STEPS + 1):
        h, _ = tiny_hf.hidden_and_logits(model, x, valid)
        states.append(h[:, -1])
        x = np.concatenate([x, (h[:, -1] @ map_DD)[:, None]], 1)
        valid = np.concatenate([valid, np.ones((len(valid), 1), bool)], 1)
    return np.stack(states, 1)


def write(case: str, goldens: Path = GOLDENS) -> None:
    """One folder."""
    model, folder = CASES[case](), goldens / case
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink()
    lengths = np.array(LONG if case.startswith("qwen3_5") else SHORT)
    valid = np.arange(lengths.max()) >= (lengths.max() - lengths)[:, None]
    for seed in itertools.count():
        ids = np.random.default_rng(seed).integers(3, tiny_hf.VOCAB, valid.shape)
        new, margin = greedy(model, ids, valid)
        if margin > MARGIN and len(np.unique(new)) > KINDS:
            break
    embeds = model.get_input_embeddings()(torch.tensor(ids)).numpy()
    states, logits = tiny_hf.hidden_and_logits(model, embeds, valid)
    np.savez_compressed(
        folder / "expected.npz",
        ids=ids.astype(np.int32),
        valid=valid,
        states=states * valid[..., None],
        logits=logits * valid[..., None],
        greedy=new,
    )
    d = embeds.shape[-1]
    map_DD = (0.5 * d**-0.5 * np.random.default_rng(seed).standard_normal((d, d))).astype("f4")
    fed_back = rollout(model, embeds, valid, map_DD)
    np.savez_compressed(folder / "rollout.npz", map=map_DD, states=fed_back)
    kinds = len(np.unique(new))
    print(f"{case}: seed {seed}, closest decision {margin:.4f}, {kinds} different ids")


if __name__ == "__main__":
    for name in sys.argv[1:] or CASES:
        write(name)
