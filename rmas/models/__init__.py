"""Decoder models in JAX and Flax: llama, mistral, qwen2, qwen3, gemma3 and qwen3_5 (text)."""

from rmas.models.cache import (
    ByRows,
    Entries,
    Segment,
    append,
    empty_segment,
    join,
    length,
    map_rows,
    open_tail,
    pad_left,
    pick_rows,
    spread,
    widen,
    write,
)
from rmas.models.config import parse_spec, read_spec
from rmas.models.model import (
    PREFILL,
    Model,
    abstract_params,
    embed,
    embedding_rms,
    head_rows,
    init_params,
    positions,
    prefill,
    run,
    unembed,
)
from rmas.models.shift import start_at
from rmas.models.spec import ModelSpec
from rmas.models.unrolled import roll, unroll

__all__ = [
    "PREFILL",
    "ByRows",
    "Entries",
    "Model",
    "ModelSpec",
    "Segment",
    "abstract_params",
    "append",
    "embed",
    "embedding_rms",
    "empty_segment",
    "head_rows",
    "init_params",
    "join",
    "length",
    "map_rows",
    "open_tail",
    "pad_left",
    "parse_spec",
    "pick_rows",
    "positions",
    "prefill",
    "read_spec",
    "roll",
    "run",
    "spread",
    "start_at",
    "unembed",
    "unroll",
    "widen",
    "write",
]
