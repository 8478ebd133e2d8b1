"""TPU slices that need not exist: the compiler's own description of their devices.

libtpu compiles programs for such devices on any Linux machine; nothing can run on them.
"""

import contextlib
import dataclasses
import functools
import importlib.metadata
import importlib.util
import math
import os
import re
import signal
import threading
from collections.abc import Iterator

import jax
from jax.experimental import topologies
from jax.experimental.compilation_cache import compilation_cache

from rmas.errors import InputError
from rmas.parallel.chips import CHIPS, Chip

_SHAPE = re.compile(r"([a-z0-9]+):([1-9][0-9]{0,3}(?:x[1-9][0-9]{0,3})*)")
_COUNTED = re.compile(r"([a-z0-9]+)-([0-9]{1,5})")
_FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_CUBES = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16")
_MISSING = (
    "needs the compiler for TPUs, libtpu; install it by pip install '.[tpu]' (Linux on x86-64)"
)
_SYNONYMS = {"v5litepod": "v5e", "v5lite": "v5e", "v6litepod": "v6e", "v7x": "tpu7x"}


@dataclasses.dataclass(frozen=True)
class _Generation:
    """What is special about a generation: names of its slices, and how libtpu describes it.

    `cores` is what the number in a name like `v4-32` counts of a chip; `chips` are those of the
    largest slice.
    """

    shapes: tuple[str, ...]
    cores: int
    chips: int
    megacore: bool = False

    @property
    def axes(self) -> int:
        return self.shapes[0].count("x") + 1


_GENERATIONS = {
    "v4": _Generation(_CUBES, cores=2, chips=4096, megacore=True),
    "v5e": _Generation(_FLAT, cores=1, chips=256),
    "v5p": _Generation(_CUBES, cores=2, chips=6144),
    "v6e": _Generation(_FLAT, cores=1, chips=256),
    "tpu7x": _Generation(_CUBES, cores=2, chips=9216),
}


@dataclasses.dataclass(frozen=True)
class SliceSpec:
    """A slice: a generation, by the name of its chip, and the chips along each axis."""

    generation: str
    shape: tuple[int, ...]

    @property
    def chip(self) -> Chip:
        """The figures of each device."""
        return next(chip for chip in CHIPS.values() if chip.name == self.generation)

    @property
    def chips(self) -> int:
        """The number of chips; TPU7x has two devices for each."""
        return math.prod(self.shape)

    @property
    def host(self) -> "SliceSpec":
        """One host of a slice of several, as a slice of its own: 2x2 chips."""
        return dataclasses.replace(self, shape=(2, 2, *(1 for _ in self.shape[2:])))

    def __str__(self) -> str:
        return f"{self.generation}:{'x'.join(map(str, self.shape))}"


def parse_slice(text: str) -> SliceSpec:
    """Parses a slice as in `v5e:2x4` or `v4:2x2x4`; `v5e:1x1` is one chip.

    Raises:
      InputError: an unknown generation, another number of axes, more chips than a slice has, and
        with the shape to write instead: a flat shape whose longer side comes first, or a name that
        counts chips or cores (`v5litepod-8`).
    """
    asked = text.strip().lower()
    if match := _COUNTED.fullmatch(asked):
        raise InputError(f"topology {text!r} counts chips or cores; {_advice(*match.groups())}")
    match = _SHAPE.fullmatch(asked)
    if not match:
        raise InputError(f"topology {text!r} is not a slice; write one as in v5e:2x4 or v4:2x2x4")
    name, shape = match[1], tuple(map(int, match[2].split("x")))
    generation = _GENERATIONS.get(name)
    if generation is None:
        known = ", ".join(_GENERATIONS)
        raise InputError(f"topology {text!r}: generation {name!r} is unknown; known: {known}")
    if len(shape) != generation.axes:
        raise InputError(
            f"topology {text!r}: a slice of {name} has {generation.axes} axes; {_shapes(name)}"
        )
    if math.prod(shape) > generation.chips:
        raise InputError(
            f"topology {text!r} has {math.prod(shape)} chips; a slice of {name} has "
            f"{generation.chips} at most"
        )
    if generation.axes == 2 and shape[0] > shape[1]:
        right = SliceSpec(name, (shape[1], shape[0]))
        raise InputError(f"topology {text!r}: the shorter side comes first; write {right}")
    return SliceSpec(name, shape)


def _advice(name: str, count: str) -> str:
    """What to write instead of a name like `v4-32`."""
    name = _SYNONYMS.get(name, name)
    generation = _GENERATIONS.get(name)
    if generation is None:
        return f"write the generation ({', '.join(_GENERATIONS)}) and the shape, as in v5e:2x4"
    for shape in generation.shapes:
        if math.prod(map(int, shape.split("x"))) * generation.cores == int(count):
            return f"write its shape: {name}:{shape}"
    return _shapes(name)


def _shapes(name: str) -> str:
    return "shapes that work: " + ", ".join(f"{name}:{s}" for s in _GENERATIONS[name].shapes)


def available() -> bool:
    """Whether the compiler for TPUs (libtpu) is installed."""
    return importlib.util.find_spec("libtpu") is not None


def compiler_version() -> str:
    """The version of libtpu, which programs for TPUs depend on.

    Raises `InputError` where it is not installed.
    """
    if not available():
        raise InputError(f"this {_MISSING}")
    return importlib.metadata.version("libtpu")


@functools.cache
def describe_devices(spec: SliceSpec) -> tuple[jax.Device, ...]:
    """The devices of a slice, for `rmas.parallel.make_mesh`; programs only compile for them.

    Their `process_index` is the host that they belong to: a host has 4 chips, and 8 where the
    slice is 2x4 of v5e or v6e.

    Raises:
      InputError: libtpu is not installed, or knows no such slice.
    """
    if not available():
        raise InputError(f"topology {spec} {_MISSING}")
    options: dict[str, object] = {}
    if _GENERATIONS[spec.generation].megacore:
        options["chip_config_name"] = "megacore"
    if spec.chips == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    elif spec.shape == (2, 4):
        options["chips_per_host_bounds"] = (2, 4, 1)
    with _environment(), _own_signals():
        try:
            found = topologies.get_topology_desc(platform="tpu", topology_name=str(spec), **options)
        except jax.errors.JaxRuntimeError as error:
            reason = str(error).partition(": ")[2] or str(error)
            reason = " ".join(reason.split()).rstrip(".")
            raise InputError(
                f"topology {spec}: the compiler knows no such slice ({reason}); "
                f"{_shapes(spec.generation)}"
            ) from None
    return tuple(found.devices)


@contextlib.contextmanager
def _environment() -> Iterator[None]:
    """What libtpu reads when it starts; what is set already stays.

    Without the first three it asks the metadata server of a Cloud machine and warns; without the
    fourth a second process of this machine that loads it fails at a lock file; without the last
    every process leaves files of logs behind, and warns of its own affairs.
    """
    wanted = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v5litepod-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Lets signals do what they did: libtpu, when it starts, takes over those without a handler.

    It prints a stack trace for SIGTERM, and ignores SIGHUP. Python allows handlers in the main
    thread only.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                if handler is not None:  # one that Python did not install cannot be put back
                    signal.signal(number, handler)


@contextlib.contextmanager
def no_compile_cache() -> Iterator[None]:
    """Without JAX's compile cache: what is compiled for described devices cannot be read back.

    JAX decides about the cache once, so the decision is undone before and after.
    """
    name = "jax_enable_compilation_cache"
    before = jax.config.values[name]
    compilation_cache.reset_cache()
    jax.config.update(name, False)
    try:
        yield
    finally:
        compilation_cache.reset_cache()
        jax.config.update(name, before)
