"""The mesh of devices. It always has three axes, whose sizes are parsed from a line of text.

`data` splits the rows of a batch; `fsdp` splits rows too, and all weights: each layer's are
gathered where a prefill uses them, and one agent's once a turn, before its latent steps. `tensor`
splits heads, MLP widths and the vocabulary. Devices are laid out host by host, so that the groups
of `tensor` stay inside of one host wherever its devices allow it.
"""

import contextlib
import dataclasses
import math
import re
from collections.abc import Sequence

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from rmas.errors import InputError

AXES = ("data", "fsdp", "tensor")
"""The names of the axes, in the order of the mesh."""
_SIZE = re.compile(r"-1|[1-9][0-9]{0,8}")
_MOST_TENSOR = 8
LEAST_ROWS = {"tpu": 2, "gpu": 1}
"""Rows that `auto` wants on each device, by platform; elsewhere (CPU) it does not look at rows.

A product of one row does not use a TPU's matrix unit: docs/devices.md has what tokens then take."""


@dataclasses.dataclass(frozen=True)
class MeshSpec:
    """Sizes of the axes. One of them may be -1: as many devices as the other axes leave.

    With `auto`, they are the first of `ranked`.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1
    auto: bool = False

    @property
    def sizes(self) -> tuple[int, int, int]:
        """The sizes in the order of `AXES`."""
        return self.data, self.fsdp, self.tensor

    def share(self, processes: int) -> "MeshSpec":
        """The part of the mesh that belongs to one of `processes` processes, split along `data`.

        Raises:
          InputError: `processes` does not divide `data`: weights would be split over processes.
        """
        if self.auto or -1 in self.sizes:
            return self
        if self.data % processes and self.sizes != (1, 1, 1):
            raise InputError(
                f"mesh {self}: each of {processes} processes holds all agents on its own devices, "
                f"so data must be a multiple of {processes}; or use auto"
            )
        return dataclasses.replace(self, data=max(self.data // processes, 1))

    def __str__(self) -> str:
        pairs = zip(AXES, self.sizes, strict=True)
        return "auto" if self.auto else ",".join(f"{axis}={size}" for axis, size in pairs)


@dataclasses.dataclass(frozen=True)
class Rows:
    """What `auto` looks at in a batch.

    Attributes:
      batch: its rows; with gradient accumulation, those of a part.
      exact: whether the mesh must divide the batch, as in training; inference fills it up.
      least: the rows that each device should have; see `LEAST_ROWS`.
    """

    batch: int
    exact: bool = False
    least: int = 1

    def on(self, platform: str) -> "Rows | None":
        """The same for the devices of a platform; None where `auto` does not look at rows."""
        least = LEAST_ROWS.get(platform)
        return None if least is None else dataclasses.replace(self, least=least)


def parse_mesh(text: str) -> MeshSpec:
    """Parses a mesh: `data=2,fsdp=2,tensor=2` (axes left out are 1), `auto`, or `single`.

    The empty text means `single`, one device.

    Raises:
      InputError: an unknown or repeated axis, or a size other than a positive number or one -1.
    """
    if text.strip() in ("", "single"):
        return MeshSpec()
    if text.strip() == "auto":
        return MeshSpec(auto=True)
    sizes: dict[str, int] = {}
    for part in text.split(","):
        axis, _, size = (piece.strip() for piece in part.partition("="))
        if axis not in AXES:
            known = f"{', '.join(AXES)} (as in data=2,tensor=4); or use auto or single"
            raise InputError(f"mesh {text!r}: unknown axis {axis!r}; known: {known}")
        if axis in sizes:
            raise InputError(f"mesh {text!r}: {axis} is given twice; give it once")
        if not _SIZE.fullmatch(size):
            wanted = "a positive number, or -1 for all remaining devices"
            raise InputError(f"mesh {text!r}: {axis} is {size!r}; it must be {wanted}")
        sizes[axis] = int(size)
    if list(sizes.values()).count(-1) > 1:
        raise InputError(f"mesh {text!r}: two axes are -1; only one can be")
    data, fsdp, tensor = (sizes.get(axis, 1) for axis in AXES)
    return MeshSpec(data, fsdp, tensor)


def ranked(
    n_devices: int,
    heads: Sequence[int] = (),
    *,
    per_host: int | None = None,
    weights: Sequence[float] = (),
    bytes_per_device: float | None = None,
    rows: Rows | None = None,
) -> list[MeshSpec]:
    """The sensible meshes of all devices for frozen weights, best first: `auto` is the first.

    `tensor` is one of the sizes that divide the number of devices of a host and every agent's
    key/value heads, 8 at most. `fsdp` gathers an agent's weights at every turn: it is more than 1
    only beside the largest `tensor`, and only where weights do not fit without it. Among these a
    mesh is better

    1. if the weights fit, also beside those that a turn gathers, or else the less is missing;
    2. the less it uses `fsdp`;
    3. if it divides a batch that must not be filled up;
    4. the fewer rows its devices lack of those that they should have;
    5. the smaller its `tensor`: splitting rows costs no communication.

    Args:
      heads: key/value heads of each agent.
      per_host: devices of one host; None means all of them.
      weights: bytes of each agent's, once where agents share them; empty means that they fit.
      bytes_per_device: memory of one device for weights; None means enough.
      rows: of a batch; None leaves out 3 and 4.
    """
    common = math.gcd(n_devices, per_host or n_devices, *heads)
    tensors = [n for n in range(1, _MOST_TENSOR + 1) if common % n == 0]
    rest = n_devices // tensors[-1]
    choices = [(1, tensor) for tensor in tensors]
    choices += [(fsdp, tensors[-1]) for fsdp in range(2, rest + 1) if rest % fsdp == 0]
    parts = sum(weights) / bytes_per_device if bytes_per_device else 0.0
    largest = max(weights, default=0) / bytes_per_device if bytes_per_device else 0.0

    def in_a_turn(fsdp: int, tensor: int) -> float:
        """The share of a device's memory that all take, one agent's whole but for `tensor`."""
        return round((parts + largest * (fsdp - 1)) / (fsdp * tensor), 6)

    def rank(choice: tuple[int, int]) -> tuple[float, ...]:
        fsdp, tensor = choice
        missing = max(parts - fsdp * tensor, 0)
        beyond = max(in_a_turn(*choice) - 1, 0)
        cut, lacking = 0, 0.0
        if rows is not None:
            shares = n_devices // tensor
            cut = rows.batch % shares if rows.exact else 0
            lacking = max(rows.least - rows.batch / shares, 0)
        return (missing, beyond, fsdp, cut > 0, lacking, tensor)

    enough = next((fsdp for fsdp, tensor in choices if in_a_turn(fsdp, tensor) <= 1), rest)
    kept = [choice for choice in choices if choice[0] <= enough]
    return [MeshSpec(n_devices // math.prod(c), *c) for c in sorted(kept, key=rank)]


def make_mesh(spec: MeshSpec, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Makes a mesh of `devices`, by default all devices of all processes.

    A mesh of one device uses the first of `devices` (by default only where there is one process);
    any other mesh uses all of them, in the order of hosts, and on each host of ids. Neighbours
    along `tensor` are so on one host if it divides the number of a host's devices.

    Raises:
      InputError: the product of the sizes is not the number of devices.
    """
    one = devices is not None or jax.process_count() == 1
    devices = jax.devices() if devices is None else list(devices)
    if spec.sizes == (1, 1, 1) and not spec.auto and one:
        devices = devices[:1]
    types = (AxisType.Auto,) * len(AXES)
    sizes = mesh_sizes(spec, len(devices), f" ({devices[0].platform})")
    ordered = np.empty(len(devices), object)
    ordered[:] = sorted(devices, key=lambda d: (d.process_index, d.id))
    return Mesh(ordered.reshape(sizes), AXES, axis_types=types)


def single_device_mesh() -> Mesh:
    """The mesh of one device: `jax.default_device`, else the first of this process."""
    chosen, here = getattr(jax.config, "jax_default_device", None), jax.local_devices()
    return make_mesh(MeshSpec(), [chosen] if chosen in here else here)


def abstract_mesh(spec: MeshSpec, n_devices: int) -> AbstractMesh:
    """A mesh of `n_devices` devices that need not exist, for plans; of one device, if so asked.

    Raises `InputError` as `make_mesh` does.
    """
    if spec.sizes == (1, 1, 1) and not spec.auto:
        n_devices = 1
    types = (AxisType.Auto,) * len(AXES)
    return AbstractMesh(mesh_sizes(spec, n_devices), AXES, types)


def mesh_sizes(spec: MeshSpec, n_devices: int, kind: str = "") -> tuple[int, ...]:
    """The sizes of all axes on `n_devices` devices; `kind` describes these in errors.

    Raises:
      InputError: the product of the sizes is not `n_devices`.
    """
    sizes: tuple[int, ...] = (ranked(n_devices)[0] if spec.auto else spec).sizes
    fixed = abs(math.prod(sizes))
    if -1 in sizes:
        sizes = tuple(n_devices // fixed if size == -1 else size for size in sizes)
    if math.prod(sizes) != n_devices:
        need = f"a multiple of {fixed}" if -1 in spec.sizes else f"{fixed}"
        there = f"{n_devices}{kind}"
        right = f"choose sizes whose product is {n_devices}, -1 for one axis, or auto"
        raise InputError(f"mesh {spec} needs {need} devices, but there are {there}; {right}")
    return sizes


def use(mesh: Mesh) -> contextlib.AbstractContextManager:
    """Makes `mesh` the current one (`jax.set_mesh`); not inside of a function that is traced.

    Inside, everything runs on all devices of the mesh: uncommitted arrays are replicated onto it,
    and JAX refuses arrays that were put on other devices.
    """
    return jax.set_mesh(mesh)
