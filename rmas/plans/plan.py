"""What a plan says: memory of each device, whether it fits, times and their floors; as text, JSON.

The numbers come from compiled programs (`rmas.experiment.planning` makes plans).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rmas.console import aligned, printable

_GIB = 1 << 30
PARTS = ("weights", "links", "optimizer", "update", "batch", "caches", "activations")
"""Parts of a device's memory, in the order of tables. `update` are the new links and moments beside
the old ones, `batch` a step's input, `caches` keys, values and states, `activations` the rest of
what the program needs while it runs."""


@dataclasses.dataclass(frozen=True)
class Need:
    """What one program needs of each device.

    Attributes:
      program: its name.
      parts: bytes by name (`PARTS`); those that it has not are left out.
      peak: bytes, the most at one time, by the compiler; weights and links that the program does
        not read, but that are in memory, are added.
    """

    program: str
    parts: Mapping[str, int]
    peak: int


@dataclasses.dataclass(frozen=True)
class Time:
    """How long something takes on each device, in seconds.

    Attributes:
      what: as in `latent step of planner`.
      estimate: by the compiler's cycles; None where it gives none.
      floor: by bytes and operations (`rmas.plans.floors`); None where there is none.
    """

    what: str
    estimate: float | None
    floor: float | None


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Collectives of one run of a program: how many, and bytes of their results on one device."""

    program: str
    calls: int
    bytes: int


@dataclasses.dataclass(frozen=True)
class MeshChoice:
    """One mesh among those that were looked at.

    Attributes:
      mesh: as text.
      rows: of a batch, on each device.
      resident: bytes of weights, links and caches on each device, counted from shapes.
      peak: bytes by the compiler; None where it was not compiled or does not fit.
      fits: None where it was not compiled.
      floor: seconds of the floor of the main thing that the stage does.
      estimate: seconds of the same by the compiler.
      divides: whether training can split its batch so.
    """

    mesh: str
    rows: float
    resident: int
    floor: float | None
    peak: int | None = None
    fits: bool | None = None
    estimate: float | None = None
    divides: bool = True


@dataclasses.dataclass(frozen=True)
class Plan:
    """The plan of a stage on a mesh.

    Attributes:
      stage: `inner`, `outer` or `evaluate`.
      system: its name.
      devices: what it is for, as in `v5e:2x4` or `8 CPU devices`.
      mesh: sizes of its axes, as text.
      numbers: dtype and kind of the weights.
      settings: what else it depends on, in words.
      needs: one for each program.
      available: bytes that programs can use of a device; None where it is not known.
      times: estimates and floors; empty without a topology.
      exchanges: what estimates leave out, where devices exchange data.
      problem: one line, where it does not fit; else empty.
      meshes: those that `auto` looked at, best first; of one it is the plan.
      measured: what `MeshChoice.floor` and `estimate` are of.
      remark: about the numbers, in words.
    """

    stage: str
    system: str
    devices: str
    mesh: str
    numbers: str
    settings: str
    needs: tuple[Need, ...] = ()
    available: int | None = None
    times: tuple[Time, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    problem: str = ""
    meshes: tuple[MeshChoice, ...] = ()
    measured: str = ""
    remark: str = ""

    @property
    def fits(self) -> bool | None:
        """Whether all programs fit; None where the memory of a device is not known."""
        if self.problem:
            return False
        return None if self.available is None else True

    @property
    def peak(self) -> int | None:
        """The most bytes of any program on each device; None where one could not be compiled."""
        return max((need.peak for need in self.needs), default=None)

    @property
    def text(self) -> str:
        """The plan for people."""
        what = "evaluation" if self.stage == "evaluate" else f"{self.stage} training"
        lines = [f"{what} of {printable(self.system)}, mesh {self.mesh}, {self.numbers}"]
        lines[0] += f", {self.devices}" if self.devices else ""
        lines.append(self.settings)
        if self.meshes:
            lines += ["", _mesh_table(self.meshes, self.measured)]
        if self.needs:
            lines += ["", _memory_table(self.needs)]
        if self.problem:
            if not (self.meshes or self.needs):
                return self.problem
            lines += ["", self.problem]
        elif self.available is not None and self.peak is not None:
            left = self.available - self.peak
            lines += [
                "",
                f"fits: {self.peak / _GIB:.2f} GiB of {self.available / _GIB:.2f} GiB, "
                f"{left / _GIB:.2f} GiB are left",
            ]
        if self.times:
            lines += ["", _time_table(self.times)]
        for own in self.exchanges:
            if own.calls:
                lines.append(
                    f"not in the estimates: {own.calls:,} exchanges between devices, "
                    f"{own.bytes / 1e9:.2f} GB, in {own.program}"
                )
        if self.remark:
            lines += ["", self.remark]
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.text

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; bytes and seconds."""
        return dataclasses.asdict(self) | {"fits": self.fits, "peak": self.peak}


def _memory_table(needs: Sequence[Need]) -> str:
    if len(needs) == 1:
        rows = [[name, *_size(size)] for name, size in needs[0].parts.items()]
        return aligned([["part", "each device", "bytes"], *rows, ["total", *_size(needs[0].peak)]])
    names = [name for name in PARTS if any(name in need.parts for need in needs)]
    cells = [["each device", *names, "total", "bytes"]]
    for need in needs:
        sizes = [need.parts.get(name) for name in names]
        own = ["-" if n is None else _size(n)[0] for n in sizes]
        cells.append([printable(need.program), *own, *_size(need.peak)])
    return aligned(cells)


def _size(n: int) -> tuple[str, str]:
    return f"{n / _GIB:.3f} GiB", f"{n:,}"


def _time_table(times: Sequence[Time]) -> str:
    cells = [["time", "estimate", "floor"]]
    cells += [[printable(t.what), _seconds(t.estimate), _seconds(t.floor)] for t in times]
    return aligned(cells)


def _seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    for size, unit in ((1, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.2f} {unit}"
    return f"{seconds * 1e6:.2f} us"


def _mesh_table(meshes: Sequence[MeshChoice], measured: str) -> str:
    head = ["mesh", "rows a device", "weights and caches", "peak", "fits"]
    cells = [[*head, f"{measured}, estimate", "floor"]]
    for choice in meshes:
        fits = "not compiled" if choice.divides else "batch does not divide"
        if choice.fits is not None:
            fits = "yes" if choice.fits else "no"
        peak = "-" if choice.peak is None else _size(choice.peak)[0]
        own = [f"{choice.rows:g}", _size(choice.resident)[0], peak, fits]
        cells.append([choice.mesh, *own, _seconds(choice.estimate), _seconds(choice.floor)])
    return aligned(cells)
