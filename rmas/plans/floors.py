"""The least time that a device needs: bytes over its memory's bandwidth, operations over its peak.

A latent step or a decoded token reads all weights of its layers and the whole cache, whatever the
number of rows; a prefill multiplies every position with the weights. Exchanges between devices,
activations and everything else come on top, so that no program is faster. Weights that `fsdp`
splits are gathered whole before they are read, and count whole.
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from rmas import parallel
from rmas.models import ModelSpec
from rmas.models.spec import AttentionLayer, DeltaLayer, LayerSpec
from rmas.parallel.axes import parts
from rmas.parallel.chips import Chip
from rmas.plans.arguments import device_bytes, placed
from rmas.shapes import Params
from rmas.weights.placement import abstract_weights, heads_of


@dataclasses.dataclass(frozen=True)
class Work:
    """What one device does at least: bytes that it reads, and operations (two for each product)."""

    bytes: float
    flops: float

    def seconds(self, chip: Chip) -> float:
        """The floor on a chip."""
        return max(self.bytes / chip.bandwidth, self.flops / chip.flops)

    def times(self, n: int) -> "Work":
        """The same n times."""
        return Work(n * self.bytes, n * self.flops)

    def __add__(self, other: "Work") -> "Work":
        return Work(self.bytes + other.bytes, self.flops + other.flops)


@dataclasses.dataclass(frozen=True)
class Share:
    """One model's share of a device: how the mesh splits it and the batch.

    Attributes:
      rows: of a batch, over all devices.
      dtype: of weights and caches.
      link: bytes of the inner link, which each latent step reads.
    """

    model: ModelSpec
    mesh: Mesh | AbstractMesh
    rows: int
    dtype: Any
    quantize: bool = False
    link: int = 0

    @property
    def own_rows(self) -> int:
        """Rows of one device."""
        return -(-self.rows // parts(self.mesh, "batch"))

    @property
    def weights(self) -> int:
        """Bytes of one device's weights, those that `fsdp` splits gathered."""
        return device_bytes(self._params)

    def prefill(self, positions: int, past: int = 0) -> Work:
        """A prefill of so many positions a row, which continues `past` positions."""
        rows, split = self.own_rows, self.mesh.shape["tensor"]
        products = _products(self._params["layers"]) * rows * positions / split
        scores = sum(
            _scores(self.model, layer, past + positions) - _scores(self.model, layer, past)
            for layer in self.model.layers
        )
        layers = device_bytes(self._params["layers"])
        return Work(
            layers + (self.cache(past) if past else 0), 2 * (products + rows * scores / split)
        )

    def latent_step(self, positions: float) -> Work:
        """One latent step after so many positions."""
        found = self._step(positions)
        return Work(found.bytes + self.link, found.flops + self.own_rows * self.link / 2)

    def token(self, positions: float) -> Work:
        """One decoded token after so many positions: a step, and the logits."""
        table = self._params["embed"] if self.model.tied else self._params["head"]
        size = self.model.d_model * self.model.vocab_size
        products = size * self.own_rows / self.mesh.shape["tensor"]
        return self._step(positions) + Work(device_bytes(table), 2 * products)

    def cache(self, positions: float) -> float:
        """Bytes of one device's keys, values and states after so many positions."""
        layers = self.model.layers
        return self.own_rows * sum(self._cache(layer, positions) for layer in layers)

    def _step(self, positions: float) -> Work:
        layers = self._params["layers"]
        products = _products(layers) * self.own_rows / self.mesh.shape["tensor"]
        return Work(device_bytes(layers) + self.cache(positions), 2 * products)

    def _cache(self, layer: LayerSpec, positions: float) -> float:
        """Bytes of one row's cache of one layer; those of a window are what it looks at."""
        split = self.mesh.shape["tensor"]
        if isinstance(layer, DeltaLayer):
            state = layer.value_heads * layer.key_dim * layer.value_dim * 4
            return state / (split if layer.key_heads % split == 0 else 1)
        seen = positions if layer.window is None else min(positions, layer.window)
        heads = self.model.n_kv_heads
        own = heads // split if heads % split == 0 else heads
        return 2 * own * self.model.head_dim * seen * np.dtype(self.dtype).itemsize

    @functools.cached_property
    def _params(self) -> Params:
        shape = self.mesh.shape
        sizes = (shape["data"] * shape["fsdp"], 1, shape["tensor"])
        gathered = AbstractMesh(sizes, parallel.AXES, (AxisType.Auto,) * 3)
        shapes = abstract_weights(self.model, self.dtype, self.quantize)
        at = parallel.param_shardings(gathered, shapes, heads_of(self.model))
        return jax.tree.map(placed, shapes, at)


def _products(params: Params) -> int:
    """Products of a vector with all matrices."""
    found = jax.tree_util.tree_flatten_with_path(params)[0]
    return sum(x.size for path, x in found if path[-1].key == "kernel")


def _scores(model: ModelSpec, layer: LayerSpec, positions: int) -> float:
    """Products of one row's queries with keys, and of weights with values; causal."""
    if not isinstance(layer, AttentionLayer) or not positions:
        return 0.0
    window = positions if layer.window is None else min(positions, layer.window)
    seen = window - window * window / (2 * positions)  # by a query, on average
    return 2 * model.n_heads * model.head_dim * positions * seen
