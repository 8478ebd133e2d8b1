"""Public figures of NVIDIA GPUs, for floors of measured times.

Peaks are those of dense products: NVIDIA's pages print twice as much, for matrices of which half
are zeros. A GPU under another name, or with a lower power limit, is measured instead
(`experiments.benchmarks.accelerator`).
"""

import dataclasses

_PAGES = "https://www.nvidia.com/en-us/data-center/"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
      device_kind: `jax.Device.device_kind`.
      bandwidth: bytes a second between the memory and the cores.
      flops: peak of bfloat16 products, operations a second.
      source: where the figures are from.
    """

    device_kind: str
    bandwidth: float
    flops: float
    source: str


_ALL = (
    Gpu("NVIDIA A100-SXM4-40GB", 1555e9, 312e12, _PAGES + "a100/"),
    Gpu("NVIDIA A100-SXM4-80GB", 2039e9, 312e12, _PAGES + "a100/"),
    Gpu("NVIDIA A100 80GB PCIe", 1935e9, 312e12, _PAGES + "a100/"),
    Gpu("NVIDIA H100 PCIe", 2000e9, 756e12, _PAGES + "h100/"),
    Gpu("NVIDIA H100 80GB HBM3", 3350e9, 989e12, _PAGES + "h100/"),
    Gpu("NVIDIA H200", 4800e9, 989e12, _PAGES + "h200/"),
    Gpu("NVIDIA L4", 300e9, 121e12, _PAGES + "l4/"),
)

GPUS: dict[str, Gpu] = {gpu.device_kind: gpu for gpu in _ALL}
"""GPUs by `jax.Device.device_kind`."""
