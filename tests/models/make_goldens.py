"""Writes `goldens/`: tiny checkpoints and what PyTorch computes from them.

    python tests/models/make_goldens.py    (needs torch; the tests of the result do not)

Each folder is an ordinary checkpoint (`config.json`, `model.safetensors`) with `expected.npz`:
ids and validity of a left-padded batch, states after the final norm, logits, greedy ids.
"""

import itertools
import sys
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import tiny_hf

GOLDENS = Path(__file__).parent / "goldens"
SMALL = {"hidden_size": 24, "intermediate_size": 32, "num_attention_heads": 4}
CASES = ["llama", "llama_biased", "mistral_window", "qwen2", "qwen2_mixed", "qwen3"]
LENGTHS = (12, 5, 1)
NEW = 16
MARGIN = 5e-3
"""Prompts are drawn until no greedy decision is closer than this: rounding must not decide."""


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


def main() -> None:
    valid = np.arange(max(LENGTHS)) >= max(LENGTHS) - np.array(LENGTHS)[:, None]
    for case in CASES:
        model = tiny_hf.make(case, **SMALL)
        folder = GOLDENS / case
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink()
        for seed in itertools.count():
            ids = np.random.default_rng(seed).integers(3, tiny_hf.VOCAB, valid.shape)
            new, margin = greedy(model, ids, valid)
            if margin > MARGIN:
                break
        embeds = model.get_input_embeddings()(torch.tensor(ids))
        states, logits = tiny_hf.hidden_and_logits(model, embeds, valid)
        np.savez_compressed(
            folder / "expected.npz",
            ids=ids.astype(np.int32),
            valid=valid,
            states=states * valid[..., None],
            logits=logits * valid[..., None],
            greedy=new,
        )
        kinds = len(np.unique(new))
        print(f"{case}: seed {seed}, closest decision {margin:.4f}, {kinds} different ids")


if __name__ == "__main__":
    main()
