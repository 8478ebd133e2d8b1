"""Texts of given lengths, written as one queue or in batches that wait for their slowest row."""

import dataclasses
import functools
import time
from collections.abc import Iterator

import jax
import numpy as np

from rmas import models
from rmas.models import ModelSpec
from rmas.shapes import Params
from rmas.system import decode
from rmas.system.batching import Prefilled, RunningBatch
from rmas.system.decode import DecodeState
from rmas.system.sampling import Sampling


@dataclasses.dataclass(frozen=True)
class Texts:
    """What is written.

    Attributes:
      lengths: the tokens of each text.
      prompt: the tokens of each prompt.
      batch: rows of a batch.
    """

    lengths: np.ndarray
    prompt: int
    batch: int


@dataclasses.dataclass(frozen=True)
class Run:
    """One way to write all texts.

    Attributes:
      seconds: prefills included.
      chunks: of decoding.
      busy: the share of the rows' steps in which a token was written.
    """

    seconds: float
    chunks: int
    busy: float


def drawn_lengths(count: int, limit: int, seed: int) -> np.ndarray:
    """Lengths like those of answers: half are below a quarter of the limit, a tenth reach it.

    They are of a log-normal distribution, cut at 1 and at the limit.
    """
    upper = 1.2815515655446004  # a tenth of a normal distribution is above it
    sigma = np.log(4) / upper
    drawn = np.random.default_rng(seed).lognormal(np.log(limit / 4), sigma, count)
    return np.clip(np.round(drawn), 1, limit).astype(np.int32)


def run(model: ModelSpec, params: Params, texts: Texts, refills: bool) -> Run:
    """Writes all texts once: as one queue, or each batch on its own as it is without `refills`."""
    began = time.perf_counter()
    queues: list[list[int]] = [list(range(0, len(texts.lengths), texts.batch))]
    if not refills:
        queues = [[start] for start in queues[0]]
    chunks = steps = written = 0
    for starts in queues:
        batches = _prefilled(model, params, texts, starts)
        running = RunningBatch(model, params, Sampling(), batches, eos=())
        written += sum(map(len, running.run()))
        chunks, steps = chunks + running.chunks, steps + running.steps
    seconds = time.perf_counter() - began
    if written != texts.lengths.sum():
        raise AssertionError(f"{written} tokens were written, not {texts.lengths.sum()}")
    return Run(seconds, chunks, written / (steps * texts.batch))


def _prefilled(
    model: ModelSpec, params: Params, texts: Texts, starts: list[int]
) -> Iterator[Prefilled]:
    rows = texts.batch
    for start in starts:
        own = texts.lengths[start : start + rows]
        limits = np.ones(rows, np.int32)
        limits[: len(own)] = own
        ids = np.random.default_rng(start).integers(0, model.vocab_size, (rows, texts.prompt))
        valid = np.broadcast_to(np.arange(rows)[:, None] < len(own), ids.shape)
        keys = decode.row_keys(0, [str(start + b) for b in range(rows)])
        yield Prefilled(_start(model, params, ids.astype(np.int32), valid), keys, limits, len(own))


@functools.partial(jax.jit, static_argnums=0)
def _start(model: ModelSpec, params: Params, ids_BT: jax.Array, valid_BT: jax.Array) -> DecodeState:
    return decode.start(model, params, models.embed(model, params, ids_BT), valid_BT)
