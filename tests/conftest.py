"""All tests run on eight fake devices of the CPU backend, whatever the machine has."""

import os

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "1"  # tests read the compiler's warnings

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import pytest

# Set here, not in the environment: programs that tests start have one device, as users do. What
# runs without a mesh uses the first device only.
jax.config.update("jax_num_cpu_devices", 8)


@dataclasses.dataclass(frozen=True)
class Tiny:
    """One tiny random model: in PyTorch, on disk, and as we load it."""

    torch: Any
    folder: Path
    spec: Any
    params: Any


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
    """Programs are forgotten with their module.

    Each one that XLA compiles for the CPU takes memory maps, of which Linux gives a process 65,530;
    a worker that keeps them all comes close, and the compiler crashes beyond.
    """
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """`tiny(case)` for the cases of `tiny_hf.py`; skips where torch is not installed."""
    pytest.importorskip("torch")
    from rmas.models import read_spec
    from rmas.weights import load_params
    from support import tiny_hf

    @functools.cache
    def get(case: str) -> Tiny:
        folder = tmp_path_factory.mktemp(case)
        model = tiny_hf.model(case)
        model.save_pretrained(folder)
        spec = read_spec(folder)
        return Tiny(model, folder, spec, load_params(spec, folder))

    return get
