"""All tests run on eight fake devices of the CPU backend, whatever the machine has.

They share one compile cache, with the processes that they start: a folder of this run, or the
one that JAX_COMPILATION_CACHE_DIR names, which a second run finds filled.
"""

import atexit
import importlib.metadata
import os
import re
import shutil
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "1"  # tests read the compiler's warnings
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # workers of pytest-xdist inherit it
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="rmas-tests-xla-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
# Tests look for the warnings of the compiler for TPUs, which then also writes them to files.
os.environ.setdefault("TPU_MIN_LOG_LEVEL", "0")
if "TPU_LOG_DIR" not in os.environ:
    os.environ["TPU_LOG_DIR"] = tempfile.mkdtemp(prefix="rmas-tests-tpu-")
    atexit.register(shutil.rmtree, os.environ["TPU_LOG_DIR"], ignore_errors=True)
# Nearly all of the tests' time is compilation of small programs, so XLA optimizes little; the
# fixture `optimized` is for tests of what it optimizes. Later releases lack the first flag.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
    )
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")

import dataclasses
import functools
import types
from pathlib import Path
from typing import Any

import jax
import pytest

from support import libtpu

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
    """Programs are forgotten after a module that leaves very many.

    Each one that XLA compiles for the CPU takes memory maps, of which Linux gives a process 65,530;
    a worker that keeps them all comes close, and the compiler crashes beyond.
    """
    yield
    maps = Path("/proc/self/maps")
    if not maps.is_file() or maps.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()


@pytest.fixture
def optimized():
    """XLA's passes over programs are those that users have."""
    name = "jax_disable_most_optimizations"
    before = jax.config.values[name]
    jax.config.update(name, False)
    yield
    jax.config.update(name, before)


@pytest.fixture(scope="session")
def torch() -> types.ModuleType:
    """PyTorch; skips where it is not installed."""
    return pytest.importorskip("torch")


_NAMES = {"torch": r"\btorch\b|\btiny\b", "tpu": r"\bmark\.tpu\b"}


def pytest_ignore_collect(collection_path, config):
    """`-m torch` and `-m tpu` alone import only files that name PyTorch, `tiny` or the mark."""
    if (names := _NAMES.get(config.option.markexpr)) and collection_path.suffix == ".py":
        return not re.search(names, collection_path.read_text()) or None
    return None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks tests that need PyTorch, and leaves out what is `extended` unless `-m` names that.

    Without libtpu, those that need it are skipped.
    """
    if "extended" not in config.option.markexpr:
        left_out = [item for item in items if "extended" in item.keywords]
        items[:] = [item for item in items if "extended" not in item.keywords]
        config.hook.pytest_deselected(items=left_out)
    for item in items:
        if "torch" in item.fixturenames or hasattr(item.module, "torch"):
            item.add_marker("torch")
        if "tpu" in item.keywords and not libtpu.available():
            item.add_marker(pytest.mark.skip(reason="needs libtpu: pip install '.[tpu]'"))


def pytest_runtest_setup(item):
    """Tests for TPUs see the warnings of their compiler."""
    if "tpu" in item.keywords and libtpu.available():
        libtpu.load()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.skipped and "'torch'" in str(report.longrepr) and "torch" not in item.keywords:
        report.outcome = "failed"
        report.longrepr = "needs torch without the fixture `torch`, by which the gate selects it"
    return report


@pytest.fixture(scope="session")
def tiny(torch, tmp_path_factory):
    """`tiny(case)` for the cases of `tiny_hf.py`."""
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
