"""One table per checkpoint family: which stored tensor is which parameter.

A table knows names, not sizes: shapes come from `abstract_params`, and a row whose parameter
the architecture lacks (a bias, the head of a tied model) is simply not asked for. The loader
and the writer read the same rows.
"""

import dataclasses
from collections.abc import Collection

from rmas.errors import InputError
from rmas.models import ModelSpec

COPY, TRANSPOSE, CONV = "copy", "transpose", "conv"
"""Stored as our parameter is; `[out, in]` where our kernels are `[in, out]`; `[C, 1, W]` where
our depthwise convolutions are `[W, C]`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor name (under the layer prefix, for tensors of a layer), its path and layout.

    `part` says which part of a tensor that fuses queries, keys and values (along its first axis).
    """

    tensor: str
    path: str
    layout: str
    part: int | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where a checkpoint keeps its text model: prefixes of the body's names and of the head's."""

    body: str
    head: str


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """The tensors of one family.

    `layouts` are tried in order. `ignored` are endings of names, `others` their beginnings, that
    carry no parameter of ours.
    """

    layer: tuple[Row, ...]
    layouts: tuple[Layout, ...] = (Layout("model.", ""),)
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    others: tuple[str, ...] = ()


EMBEDDING, NORM, HEAD = "embed_tokens.weight", "norm.weight", "lm_head.weight"


def _rows(*lines: str) -> tuple[Row, ...]:
    return tuple(Row(*words[:3], *map(int, words[3:])) for words in map(str.split, lines))


_ATTENTION_AND_MLP = _rows(
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
    "mlp.gate_proj.weight mlp/gate_proj/kernel transpose",
    "mlp.up_proj.weight mlp/up_proj/kernel transpose",
    "mlp.down_proj.weight mlp/down_proj/kernel transpose",
    "mlp.gate_proj.bias mlp/gate_proj/bias copy",
    "mlp.up_proj.bias mlp/up_proj/bias copy",
    "mlp.down_proj.bias mlp/down_proj/bias copy",
)
_ONE_NORM_AHEAD = _rows("post_attention_layernorm.weight mlp_norm/weight copy")
_NORMS_BEHIND = _rows(
    "post_attention_layernorm.weight post_mixer_norm/weight copy",
    "pre_feedforward_layernorm.weight mlp_norm/weight copy",
    "post_feedforward_layernorm.weight post_mlp_norm/weight copy",
)
_DELTA = _rows(
    "linear_attn.in_proj_qkv.weight delta/q_proj/kernel transpose 0",
    "linear_attn.in_proj_qkv.weight delta/k_proj/kernel transpose 1",
    "linear_attn.in_proj_qkv.weight delta/v_proj/kernel transpose 2",
    "linear_attn.conv1d.weight delta/q_conv/kernel conv 0",
    "linear_attn.conv1d.weight delta/k_conv/kernel conv 1",
    "linear_attn.conv1d.weight delta/v_conv/kernel conv 2",
    "linear_attn.in_proj_z.weight delta/z_proj/kernel transpose",
    "linear_attn.in_proj_a.weight delta/a_proj/kernel transpose",
    "linear_attn.in_proj_b.weight delta/b_proj/kernel transpose",
    "linear_attn.A_log delta/a_log copy",
    "linear_attn.dt_bias delta/dt_bias copy",
    "linear_attn.norm.weight delta/norm/weight copy",
    "linear_attn.out_proj.weight delta/o_proj/kernel transpose",
)
_FLAT = Layout("model.", "")

DENSE = KeyTable(_ATTENTION_AND_MLP + _ONE_NORM_AHEAD)
TABLES: dict[str, KeyTable] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), DENSE),
    "gemma3": KeyTable(
        _ATTENTION_AND_MLP + _NORMS_BEHIND,
        layouts=(
            _FLAT,
            Layout("language_model.model.", "language_model."),
            Layout("model.language_model.", ""),
        ),
        others=(
            "vision_tower.",
            "multi_modal_projector.",
            "model.vision_tower.",
            "model.multi_modal_projector.",
        ),
    ),
    "qwen3_5": KeyTable(
        _ATTENTION_AND_MLP + _ONE_NORM_AHEAD + _DELTA,
        layouts=(_FLAT, Layout("model.language_model.", "")),
        others=("visual.", "model.visual.", "mtp."),
    ),
}


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one parameter is stored: one tensor, or one per repetition where it is stacked.

    `start` is where it begins on the first axis of a fused tensor, `whole` how long that axis is.
    """

    path: str
    shape: tuple[int, ...]
    tensors: tuple[str, ...]
    stacked: bool
    layout: str
    start: int
    whole: int

    @property
    def tensor_shape(self) -> tuple[int, ...]:
        """The shape of each tensor as the checkpoint stores it, fused parts and all."""
        shape = self.shape[1:] if self.stacked else self.shape
        if self.layout == CONV:
            return (self.whole, 1, shape[0])
        shape = shape[::-1] if self.layout == TRANSPOSE else shape
        return (self.whole, *shape[1:])

    @property
    def part(self) -> range:
        """The rows of the first axis that are this parameter."""
        n = self.shape[self.stacked] if self.layout == COPY else self.shape[-1]
        return range(self.start, self.start + n)


def table_of(spec: ModelSpec) -> KeyTable:
    """The table of an architecture.

    Raises:
      InputError: weights of this family cannot be read.
    """
    if spec.family not in TABLES:
        raise InputError(f"no weights known for {spec.family!r}; known: {', '.join(TABLES)}")
    return TABLES[spec.family]


def layout_of(spec: ModelSpec, names: Collection[str]) -> Layout:
    """The layout of a checkpoint with these tensors, told by its embeddings; else the flat one."""
    table = table_of(spec)
    found = [layout for layout in table.layouts if layout.body + EMBEDDING in names]
    return found[0] if found else table.layouts[0]


def source_of(
    spec: ModelSpec, path: str, shape: tuple[int, ...], layout: Layout | None = None
) -> Source:
    """Finds where the parameter at `path` (as in `layers/period/0/mlp/up_proj/kernel`) is stored.

    Raises:
      KeyError: the table does not know the parameter: the table is wrong, not the input.
    """
    table = table_of(spec)
    layout = layout or table.layouts[0]
    if not path.startswith("layers/"):
        tensor, how = {
            "embed/weight": (layout.body + EMBEDDING, COPY),
            "norm/weight": (layout.body + NORM, COPY),
            "head/kernel": (layout.head + HEAD, TRANSPOSE),
        }[path]
        whole = shape[-1] if how == TRANSPOSE else shape[0]
        return Source(path, shape, (tensor,), False, how, 0, whole)
    _, part, j, inner = path.split("/", 3)
    row = {r.path: r for r in table.layer}[inner]
    period = len(spec.period)
    stacked = part == "period"
    first = int(j) if stacked else spec.n_periods * period + int(j)
    layers = range(first, spec.n_periods * period, period) if stacked else (first,)
    tensors = tuple(f"{layout.body}layers.{i}.{row.tensor}" for i in layers)
    if row.part is None:
        start, whole = 0, shape[stacked] if row.layout == COPY else shape[-1]
    else:
        sizes = spec.delta.sizes
        start, whole = sum(sizes[: row.part]), sum(sizes)
    return Source(path, shape, tensors, stacked, row.layout, start, whole)
