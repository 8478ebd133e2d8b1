"""Public figures of TPU chips, counted per device as JAX counts devices.

A chip of v4 and v5p is one device with two cores (megacore), one of v5e and v6e one device with
one core; each core of a TPU7x chip is a device of its own, so its figures are half of the chip's.

The compiler reports times in cycles of a clock that Cloud TPU's pages do not state. Here it is
`flops / (2 * products)`, the published peak over the products that the matrix units of a device
form in a cycle: 8 x 128^2 on v4 and v5p, 4 x 128^2 on v5e, which gives 1.05, 1.75 and 1.5 GHz.
Versions of the page of v6e name two units of 256^2, or four; four are assumed, on TPU7x too, which
gives 1.75 and 2.2 GHz.
"""

import dataclasses

_PAGES = "https://cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a TPU generation.

    Attributes:
      name: as users write it, in `v5e:2x4`.
      device_kind: `jax.Device.device_kind`.
      usable_bytes: what the compiler leaves to a program, as it says where one is too large (on
        v5p 95.74 GiB, where the page names 95 GB of memory).
      bandwidth: bytes a second between the memory and the cores.
      flops: peak of bfloat16 products, operations a second; int8 matrices are
        multiplied as bfloat16, too.
      clock_hz: cycles a second of the compiler's estimates (see the module).
      source: where the public figures are from.
    """

    name: str
    device_kind: str
    usable_bytes: int
    bandwidth: float
    flops: float
    clock_hz: float
    source: str


_GIB = 1 << 30
_ALL = (
    Chip(
        name="v4",
        device_kind="TPU v4",
        usable_bytes=123 * _GIB // 4,
        bandwidth=1200e9,
        flops=275e12,
        clock_hz=1.05e9,
        source=_PAGES + "v4",
    ),
    Chip(
        name="v5e",
        device_kind="TPU v5 lite",
        usable_bytes=63 * _GIB // 4,
        bandwidth=819e9,
        flops=197e12,
        clock_hz=1.5e9,
        source=_PAGES + "v5e",
    ),
    Chip(
        name="v5p",
        device_kind="TPU v5",
        usable_bytes=int(95.74 * _GIB),
        bandwidth=2765e9,
        flops=459e12,
        clock_hz=1.75e9,
        source=_PAGES + "v5p",
    ),
    Chip(
        name="v6e",
        device_kind="TPU v6 lite",
        usable_bytes=125 * _GIB // 4,
        bandwidth=1638e9,
        flops=918e12,
        clock_hz=1.75e9,
        source=_PAGES + "v6e, " + _PAGES + "tpu7x (bandwidth)",
    ),
    Chip(
        name="tpu7x",
        device_kind="TPU7x",
        usable_bytes=379 * _GIB // 4,
        bandwidth=3690e9,
        flops=1153.5e12,
        clock_hz=2.2e9,
        source=_PAGES + "tpu7x",
    ),
)

CHIPS: dict[str, Chip] = {chip.device_kind: chip for chip in _ALL}
"""Chips by `jax.Device.device_kind`."""
