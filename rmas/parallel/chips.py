"""Public figures of TPU chips, counted per device as JAX counts devices.

A chip of v4 and v5p is one device with two cores (megacore), one of v5e and v6e one device with
one core; each core of a TPU7x chip is a device of its own, so its figures are half of the chip's.

The compiler reports times in cycles of a clock that Cloud TPU's pages do not state. Here it is
`flops / (2 * products)`, the published peak over the products that the matrix units of a device
form in a cycle: 8 x 128^2 on v4 and v5p, 4 x 128^2 on v5e (which gives 1.05, 1.75 and 1.5 GHz).
The page of v6e names two units of 256^2, but the compiler's own estimate of a large product of
bfloat16 matrices is 2.8 x 256^2 products a cycle, and 3.2 x 256^2 on TPU7x: four units' worth is
the next whole number, which gives 1.75 and 2.2 GHz. At these clocks the compiler expects a copy to
move 72 to 81 % of the published bandwidth on every generation.
"""

import dataclasses

_PAGES = "https://cloud.google.com/tpu/docs/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of a TPU generation.

    Attributes:
      name: as users write it, in `v5e:2x4`.
      device_kind: `jax.Device.device_kind`.
      hbm_bytes: memory as specified; the compiler keeps some of it for itself.
      bandwidth: bytes a second between the memory and the cores.
      flops: peak of bfloat16 products, operations a second.
      int8_ops: peak of int8 products, operations a second; that of bfloat16 where the chip has no
        faster unit.
      clock_hz: cycles a second of the compiler's estimates (see the module).
      per_host: devices of a host of a slice of several hosts.
      source: where the public figures are from.
    """

    name: str
    device_kind: str
    hbm_bytes: int
    bandwidth: float
    flops: float
    int8_ops: float
    clock_hz: float
    per_host: int
    source: str


_GIB = 1 << 30
_ALL = (
    Chip("v4", "TPU v4", 32 * _GIB, 1200e9, 275e12, 275e12, 1.05e9, 4, _PAGES + "v4"),
    Chip("v5e", "TPU v5 lite", 16 * _GIB, 819e9, 197e12, 393e12, 1.5e9, 4, _PAGES + "v5e"),
    Chip("v5p", "TPU v5", 95 * _GIB, 2765e9, 459e12, 918e12, 1.75e9, 4, _PAGES + "v5p"),
    Chip("v6e", "TPU v6 lite", 32 * _GIB, 1638e9, 918e12, 1836e12, 1.75e9, 4, _PAGES + "v6e"),
    Chip("tpu7x", "TPU7x", 96 * _GIB, 3690e9, 1153.5e12, 1153.5e12, 2.2e9, 8, _PAGES + "tpu7x"),
)

CHIPS: dict[str, Chip] = {chip.device_kind: chip for chip in _ALL}
"""Chips by `jax.Device.device_kind`."""
