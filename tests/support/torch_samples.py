"""What the archives in `torch_archives/` hold, as numpy; `make_torch_archives.py` made them."""

from pathlib import Path

import ml_dtypes
import numpy as np

FOLDER = Path(__file__).parents[1] / "weights" / "torch_archives"


def views() -> dict[str, np.ndarray]:
    """Every kind of view and type; the first five share one storage of 12 numbers."""
    base = np.arange(12, dtype=np.float32).reshape(3, 4) / 4
    return {
        "whole": base,
        "turned": base.T,
        "row": base[1],
        "columns": base[:, 1::2],
        "corner": base[1:, 2:].T,
        "spread": np.broadcast_to(np.float32(1.5), (2, 3)),
        "scalar": np.float32(2.5).reshape(()),
        "empty": np.zeros((0, 3), np.float32),
        "half": np.array([0.5, -2], np.float16),
        "brain": np.array([[1, -0.25, 3e38]]).astype(ml_dtypes.bfloat16),
        "double": np.array([1 / 3, -1e300]),
        "parameter": np.array([[7.0], [8.0]], np.float32),
    }


def module_state() -> dict[str, np.ndarray]:
    """The state dict of a linear layer, from 3 to 2, and a norm: `0.weight [2, 3]`, ..."""
    return {
        "0.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "0.bias": np.array([6, 7], np.float32),
        "1.weight": np.array([8, 9], np.float32),
        "1.bias": np.array([10, 11], np.float32),
    }
