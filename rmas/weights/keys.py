"""One table per checkpoint layout: which stored tensor is which parameter.

A table knows names, not sizes: shapes come from `abstract_params`, and a row whose parameter
the architecture lacks (a bias, the head of a tied model) is simply not asked for. The loader
and the writer read the same rows.
"""

import dataclasses
import math

from rmas.errors import InputError
from rmas.models import ModelSpec

COPY, TRANSPOSE = "copy", "transpose"
"""Stored as our parameter is; stored `[out, in]` where our kernels are `[in, out]`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor name (under the layer prefix, for tensors of a layer), its path and layout."""

    tensor: str
    path: str
    layout: str


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """The tensors of one layout.

    `ignored` are endings of names that carry no parameter. `repeats` maps a tensor to the one
    that it must equal where its own parameter does not exist (the stored head of a tied model).
    """

    model: tuple[Row, ...]
    layer_prefix: str
    layer: tuple[Row, ...]
    ignored: tuple[str, ...]
    repeats: dict[str, str]


def _rows(*lines: str) -> tuple[Row, ...]:
    return tuple(Row(*line.split()) for line in lines)


DENSE = KeyTable(
    model=_rows(
        "model.embed_tokens.weight embed/weight copy",
        "model.norm.weight norm/weight copy",
        "lm_head.weight head/kernel transpose",
    ),
    layer_prefix="model.layers.{}.",
    layer=_rows(
        "input_layernorm.weight input_norm/weight copy",
        "self_attn.q_proj.weight attention/q_proj/kernel transpose",
        "self_attn.k_proj.weight attention/k_proj/kernel transpose",
        "self_attn.v_proj.weight attention/v_proj/kernel transpose",
        "self_attn.o_proj.weight attention/o_proj/kernel transpose",
        "self_attn.q_proj.bias attention/q_proj/bias copy",
        "self_attn.k_proj.bias attention/k_proj/bias copy",
        "self_attn.v_proj.bias attention/v_proj/bias copy",
        "self_attn.o_proj.bias attention/o_proj/bias copy",
        "self_attn.q_norm.weight attention/q_norm/weight copy",
        "self_attn.k_norm.weight attention/k_norm/weight copy",
        "post_attention_layernorm.weight mlp_norm/weight copy",
        "mlp.gate_proj.weight mlp/gate_proj/kernel transpose",
        "mlp.up_proj.weight mlp/up_proj/kernel transpose",
        "mlp.down_proj.weight mlp/down_proj/kernel transpose",
        "mlp.gate_proj.bias mlp/gate_proj/bias copy",
        "mlp.up_proj.bias mlp/up_proj/bias copy",
        "mlp.down_proj.bias mlp/down_proj/bias copy",
    ),
    ignored=("rotary_emb.inv_freq",),
    repeats={"lm_head.weight": "model.embed_tokens.weight"},
)

TABLES: dict[str, KeyTable] = dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), DENSE)


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one parameter is stored: one tensor, or one per repetition where it is stacked."""

    path: str
    shape: tuple[int, ...]
    tensors: tuple[str, ...]
    stacked: bool
    layout: str

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of each tensor as the checkpoint stores it."""
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.layout == TRANSPOSE else shape

    @property
    def size(self) -> int:
        """How many numbers the parameter holds."""
        return math.prod(self.shape)


def table_of(spec: ModelSpec) -> KeyTable:
    """The table of an architecture.

    Raises:
      InputError: weights of this family cannot be read.
    """
    if spec.family not in TABLES:
        raise InputError(f"no weights known for {spec.family!r}; known: {', '.join(TABLES)}")
    return TABLES[spec.family]


def source_of(spec: ModelSpec, path: str, shape: tuple[int, ...]) -> Source:
    """Finds where the parameter at `path` (as in `layers/period/0/mlp/up_proj/kernel`) is stored.

    Raises:
      KeyError: the table does not know the parameter: the table is wrong, not the input.
    """
    table = table_of(spec)
    if not path.startswith("layers/"):
        row = {r.path: r for r in table.model}[path]
        return Source(path, shape, (row.tensor,), False, row.layout)
    _, part, j, inner = path.split("/", 3)
    row = {r.path: r for r in table.layer}[inner]
    period = len(spec.period)
    stacked = part == "period"
    first = int(j) if stacked else spec.n_periods * period + int(j)
    layers = range(first, spec.n_periods * period, period) if stacked else (first,)
    tensors = tuple(table.layer_prefix.format(i) + row.tensor for i in layers)
    return Source(path, shape, tensors, stacked, row.layout)
