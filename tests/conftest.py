"""All tests run on the CPU backend, whatever the machine has."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest


@dataclasses.dataclass(frozen=True)
class Tiny:
    """One tiny random model: in PyTorch, on disk, and as we load it."""

    torch: Any
    folder: Path
    spec: Any
    params: Any


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny(case)` for the cases of `tiny_hf.py`; skips where torch is not installed."""
    pytest.importorskip("torch")
    import tiny_hf

    from rmas.models import ModelSpec
    from rmas.weights import load_params

    @functools.cache
    def get(case: str) -> Tiny:
        folder = tmp_path_factory.mktemp(case)
        model = tiny_hf.model(case)
        model.save_pretrained(folder)
        spec = ModelSpec.from_config(folder)
        return Tiny(model, folder, spec, load_params(spec, folder))

    return get
