"""Hidden states of an agent, which inner training may compute once and keep on disk."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmas.experiment.settings import Settings
from rmas.system.load import Agent
from rmas.tasks.rows import Row
from rmas.training.examples import Examples
from rmas.training.hidden_state_cache import HiddenStateCache, cache_dtype, cache_hidden_states


def cached_states(
    settings: Settings,
    identity: Mapping[str, Any],
    agent: str,
    own: Agent,
    *,
    examples: Examples,
    source: Sequence[Row],
    folder: Path,
) -> HiddenStateCache | None:
    """The cached states of `agent` over the rows that inner training reads; made if need be.

    None where the settings (or, with `auto`, too few readings) are against it. `identity` is what
    rows and weights depend on (`identity_of`).
    """
    s = settings
    dtype = cache_dtype(
        s.inner.cache_states,
        examples=examples,
        schedule=s.inner,
        seed=s.seed,
        count=len(source),
        params=own.params,
    )
    if dtype is None:
        return None
    lengths = {"message_tokens": s.inner.message_tokens, "max_length": examples.max_length}
    return cache_hidden_states(
        agent,
        folder=folder,
        model=own.model,
        params=own.params,
        examples=examples,
        source=source,
        schedule=s.inner,
        seed=s.seed,
        dtype=dtype,
        key={**identity, **lengths, "rounds": s.outer.rounds, "print": own.fingerprint},
    )
