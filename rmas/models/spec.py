"""`ModelSpec`: the static facts of one architecture; `config.py` reads them from a checkpoint.

Specs are frozen and hashable, so that they can be static arguments of jitted functions. Fields
that a checkpoint decides have no defaults.
"""

import dataclasses
import functools


@dataclasses.dataclass(frozen=True)
class RopeSpec:
    """Rotary position embedding of the first `dim` numbers of a head.

    Attributes:
      theta: base of the frequencies.
      kind: how frequencies are scaled: `default` not at all, `linear` divides all of them by
        `factor`, `llama3` those of long wavelengths (see `ops.inverse_frequencies`).
      factor: for `linear` and `llama3`; the fields after it are for `llama3`.
    """

    theta: float
    dim: int
    kind: str = "default"
    factor: float | None = None
    low_freq_factor: float | None = None
    high_freq_factor: float | None = None
    original_max_positions: int | None = None


@dataclasses.dataclass(frozen=True)
class AttentionLayer:
    """An attention layer. A position attends to the last `window` ones; None means to all."""

    window: int | None
    rope: RopeSpec


@dataclasses.dataclass(frozen=True)
class DeltaLayer:
    """A gated delta-net layer: short convolutions, then a recurrence by the gated delta rule.

    `value_heads` is a multiple of `key_heads`; consecutive value heads share a key head.
    """

    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    conv_width: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Channels of queries, keys and values, in the order in which checkpoints fuse them."""
        key = self.key_heads * self.key_dim
        return key, key, self.value_heads * self.value_dim


LayerSpec = AttentionLayer | DeltaLayer
"""The facts that can differ between the layers of a model."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One decoder architecture.

    Attributes:
      query_scale: factor on attention scores.
      norm_offset: norms multiply by `1 + weight` before rounding to the activations' dtype,
        instead of by `weight` after it.
      post_norms: the outputs of mixer and MLP are normalized, too.
      gated_attention: the query projection also gives a gate for each head (interleaved with the
        queries by head), whose sigmoid multiplies the head's output.
      embed_scale: factor on token embeddings, rounded to the weights' dtype; None means no factor.
      logit_softcap: logits become `cap * tanh(logits / cap)`; None leaves them as they are.
      tied: the head is the transposed embedding.
      max_positions: the longest context.
      unrolled: the model runs layer by layer: none is in the period, all are in `rest`.
    """

    family: str
    vocab_size: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    query_scale: float
    activation: str
    norm_eps: float
    norm_offset: bool
    post_norms: bool
    qkv_bias: bool
    out_bias: bool
    mlp_bias: bool
    qk_norm: bool
    gated_attention: bool
    embed_scale: float | None
    logit_softcap: float | None
    tied: bool
    max_positions: int
    layers: tuple[LayerSpec, ...]
    unrolled: bool = False

    @functools.cached_property
    def period(self) -> tuple[LayerSpec, ...]:
        """The shortest prefix of `layers` that `layers` repeats, the last time perhaps in part."""
        if self.unrolled:
            return ()
        layers = self.layers
        # The lengths of the longest borders of all prefixes (Knuth, Morris and Pratt).
        borders = [0] * len(layers)
        for i in range(1, len(layers)):
            n = borders[i - 1]
            while n and layers[i] != layers[n]:
                n = borders[n - 1]
            borders[i] = n + (layers[i] == layers[n])
        return layers[: len(layers) - borders[-1]]

    @property
    def n_periods(self) -> int:
        """The number of whole repetitions of the period."""
        return len(self.layers) // len(self.period) if self.period else 0

    @property
    def rest(self) -> tuple[LayerSpec, ...]:
        """The layers after the last whole period."""
        return self.layers[self.n_periods * len(self.period) :]

    @property
    def delta(self) -> DeltaLayer | None:
        """The model's gated delta-net layer (all of them are equal); None if it has none."""
        return next((layer for layer in self.layers if isinstance(layer, DeltaLayer)), None)
