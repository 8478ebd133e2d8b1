"""Makes `links.npz`: released links by PyTorch, so that parity is checked without it.

  PYTHONPATH=.:tests python tests/goldens/make_links.py

Keys: `<kind>/<form>/h` (states), `/y` (what the link makes of them), `/<tensor name>`.
"""

from pathlib import Path

import numpy as np
import torch

from support import torch_links

HERE = Path(__file__).parent

if __name__ == "__main__":
    arrays = {}
    for kind in ("inner", "outer"):
        for form in torch_links.FORMS:
            module = torch_links.make(kind, form, 8, 6)
            h = np.random.default_rng(7).standard_normal((2, 3, 8)).astype(np.float32)
            arrays[f"{kind}/{form}/h"] = h
            arrays[f"{kind}/{form}/y"] = module(torch.tensor(h)).numpy()
            for name, tensor in torch_links.state_dict(module).items():
                arrays[f"{kind}/{form}/{name}"] = tensor
    np.savez_compressed(HERE / "links.npz", **arrays)
