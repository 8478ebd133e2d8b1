"""`ModelSpec`: the static facts of one architecture; `config.py` reads them from a checkpoint.

Specs are frozen and hashable: they are jit statics. No field has a default that a checkpoint
could decide.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeSpec:
    """Rotary embedding of the first `dim` numbers of a head: base, and how angles are rescaled.

    `linear` divides all frequencies by `factor`, `llama3` those of long wavelengths.
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
    """A layer that mixes positions by attention; `window` None means attention to all."""

    window: int | None
    rope: RopeSpec


@dataclasses.dataclass(frozen=True)
class DeltaLayer:
    """A layer that mixes positions by a gated delta rule behind short convolutions.

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
"""What distinguishes one layer from the next."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """One decoder architecture.

    Attributes:
      query_scale: factor on attention scores.
      norm_offset: norms multiply by `1 + weight`, before rounding, not by `weight` after it.
      post_norms: mixer and MLP are normed behind, too.
      gated_attention: queries come with a gate of their size (interleaved by head), whose
        sigmoid multiplies what a head reads.
      embed_scale: factor on token embeddings, rounded to the weights' type; None for none.
      logit_softcap: logits become `cap * tanh(logits / cap)`; None for none.
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

    @property
    def period(self) -> tuple[LayerSpec, ...]:
        """The shortest prefix of `layers` whose repetition gives them all."""
        n = len(self.layers)
        for p in range(1, n + 1):
            if all(self.layers[i] == self.layers[i % p] for i in range(n)):
                return self.layers[:p]
        raise AssertionError("a list of layers repeats with its own length")

    @property
    def n_periods(self) -> int:
        """Whole repetitions of the period; the remaining layers are unrolled after them."""
        return len(self.layers) // len(self.period)

    @property
    def rest(self) -> tuple[LayerSpec, ...]:
        """Layers after the last whole period."""
        return self.layers[self.n_periods * len(self.period) :]

    @property
    def delta(self) -> DeltaLayer | None:
        """The sizes of the gated delta-net layers, if the model has any; all are alike."""
        return next((layer for layer in self.layers if isinstance(layer, DeltaLayer)), None)
