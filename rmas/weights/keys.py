"""One table per model family that maps stored tensors to parameters.

Tables hold names, not shapes, which come from `abstract_params`. A row whose parameter a model
does not have (a bias, the head of a tied model) is not used. The loader and the writer use the
same tables.
"""

import dataclasses
from collections.abc import Collection

from rmas.errors import InputError
from rmas.models import ModelSpec

COPY, TRANSPOSE, CONV = "copy", "transpose", "conv"
"""Layouts of stored tensors: as the parameter; `[out, in]` for a kernel `[in, out]`; `[C, 1, W]`
for a depthwise convolution `[W, C]`."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One tensor of a layer.

    Attributes:
      tensor: its name after the layer's prefix.
      path: of the parameter within the layer.
      layout: `COPY`, `TRANSPOSE` or `CONV`.
      part: which part of a tensor that fuses queries (0), keys (1) and values (2) along its first
        axis; None for a tensor that is one parameter.
    """

    tensor: str
    path: str
    layout: str
    part: int | None = None


@dataclasses.dataclass(frozen=True)
class Layout:
    """The prefixes of the names of a checkpoint's text model: of its body and of its head."""

    body: str
    head: str


@dataclasses.dataclass(frozen=True)
class KeyTable:
    """The tensors of one family.

    Attributes:
      layer: the tensors of a layer.
      layouts: possible prefixes, the most common first.
      ignored: endings of the names of tensors that are not parameters.
      others: beginnings of the names of tensors that belong to other models (vision, ...).
    """

    layer: tuple[Row, ...]
    layouts: tuple[Layout, ...] = (Layout("model.", ""),)
    ignored: tuple[str, ...] = ("rotary_emb.inv_freq",)
    others: tuple[str, ...] = ()


EMBEDDING, NORM, HEAD = "embed_tokens.weight", "norm.weight", "lm_head.weight"


def _rows(*lines: str) -> tuple[Row, ...]:
    def row(tensor: str, path: str, layout: str, part: str = "") -> Row:
        return Row(tensor, path, layout, int(part) if part else None)

    return tuple(row(*line.split()) for line in lines)


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
_PRE_NORM = _rows("post_attention_layernorm.weight mlp_norm/weight copy")
_PRE_AND_POST_NORMS = _rows(
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

_DENSE = KeyTable(_ATTENTION_AND_MLP + _PRE_NORM)
TABLES: dict[str, KeyTable] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3"), _DENSE),
    "gemma3": KeyTable(
        _ATTENTION_AND_MLP + _PRE_AND_POST_NORMS,
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
        _ATTENTION_AND_MLP + _PRE_NORM + _DELTA,
        layouts=(_FLAT, Layout("model.language_model.", "")),
        others=("visual.", "model.visual.", "mtp."),
    ),
}
"""The table of each family."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where one parameter is stored.

    Attributes:
      path, shape: of the parameter.
      tensors: one name, or one for each repetition of the period if the parameter is stacked.
      stacked: whether its first axis counts repetitions of the period.
      layout: of the tensors.
      start: where the parameter begins on the first axis of a fused tensor.
      whole: the size of that axis.
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
        """The shape of each stored tensor, with all its fused parts."""
        shape = self.shape[1:] if self.stacked else self.shape
        if self.layout == CONV:
            return (self.whole, 1, shape[0])
        shape = shape[::-1] if self.layout == TRANSPOSE else shape
        return (self.whole, *shape[1:])

    @property
    def part(self) -> range:
        """The indices on the first axis of a stored tensor that hold this parameter."""
        n = self.shape[self.stacked] if self.layout == COPY else self.shape[-1]
        return range(self.start, self.start + n)


def table_of(spec: ModelSpec) -> KeyTable:
    """The table of an architecture.

    Raises:
      InputError: there is no table for its family.
    """
    if spec.family not in TABLES:
        raise InputError(f"weights of {spec.family!r} cannot be read; known: {', '.join(TABLES)}")
    return TABLES[spec.family]


def layout_of(spec: ModelSpec, names: Collection[str]) -> Layout:
    """The layout of a checkpoint, by the name of its embeddings; the first one if none fits."""
    table = table_of(spec)
    found = [layout for layout in table.layouts if layout.body + EMBEDDING in names]
    return found[0] if found else table.layouts[0]


def source_of(
    spec: ModelSpec, path: str, shape: tuple[int, ...], layout: Layout | None = None
) -> Source:
    """Finds where a parameter is stored.

    Args:
      path: as in `layers/period/0/mlp/up_proj/kernel`.
      shape: of the parameter.
      layout: of the checkpoint; None means the family's first.

    Raises:
      KeyError: the family's table lacks the parameter.
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
        return Source(
            path=path,
            shape=shape,
            tensors=(tensor,),
            stacked=False,
            layout=how,
            start=0,
            whole=whole,
        )
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
        if spec.delta is None:
            raise KeyError(f"{path}: the model has no gated delta-net layers")
        sizes = spec.delta.sizes
        start, whole = sum(sizes[: row.part]), sum(sizes)
    return Source(
        path=path,
        shape=shape,
        tensors=tensors,
        stacked=stacked,
        layout=row.layout,
        start=start,
        whole=whole,
    )
