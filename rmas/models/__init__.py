"""Flax ports of the frozen decoder families: llama, mistral, qwen2, qwen3."""

from rmas.models.cache import Entries, Segment, empty_tail, write
from rmas.models.model import (
    abstract_params,
    embed,
    init_params,
    positions,
    prefill,
    run,
    unembed,
)
from rmas.models.spec import ModelSpec

__all__ = [
    "Entries",
    "ModelSpec",
    "Segment",
    "abstract_params",
    "embed",
    "empty_tail",
    "init_params",
    "positions",
    "prefill",
    "run",
    "unembed",
    "write",
]
