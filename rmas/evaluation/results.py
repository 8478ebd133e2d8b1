"""The rows of a report: their fields, their names and their order.

A row says what one method reached at one number of rounds (and one latent length) on one
benchmark, and at what cost. It is a dict that goes into JSON as it is.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

METHODS = ("latent", "latent_memory", "text", "text_terse", "single:", "untrained")
"""The order of a report's rows; `single:` stands for every `single:<agent>`."""


class IntervalEstimate(TypedDict):
    """A value with its 95 % interval; an end is None where nothing bounds it."""

    value: float
    low: float | None
    high: float | None


class PassAtK(TypedDict):
    """pass@k, and its k."""

    k: int
    value: float


class TextComparison(TypedDict):
    """A method against text exchange at the same rounds, on the questions that both answered.

    Ratios are text exchange over the method: above 1, text exchange needs more. They are None
    where the method needs nothing, or nothing was measured.

    Attributes:
      n: questions that both answered in all their rollouts, in one run.
      groups: pairs of groups of the same questions that both answered in one session.
      unpaired: how many were timed of at least one of both, but cannot be paired.
      token_ratio: of decoded tokens, over questions.
      position_ratio: of positions, over questions.
      time_ratio: of seconds: the geometric mean over pairs of groups.
      difference: accuracy less that of text exchange.
      p: two-sided p-value of equal accuracies.
    """

    n: int
    groups: int
    unpaired: int
    token_ratio: IntervalEstimate | None
    position_ratio: IntervalEstimate | None
    time_ratio: IntervalEstimate | None
    difference: IntervalEstimate | None
    p: float | None


class ResultRow(TypedDict):
    """One row. Counts and seconds are means over questions, summed over agents.

    A question with several rollouts counts once, by the mean of its rollouts.

    Attributes:
      benchmark: the benchmark or generated task.
      name: the method, with its latent length where it was run with several (`names_of`).
      method: `latent`, `text`, `single:<agent>`, ...
      rounds: number of rounds.
      latent_length: states of a latent turn; None for methods without latents.
      n: questions.
      records: records of these questions.
      rollouts: the least and the most rollouts of a question.
      accuracy: mean of the score `exact`.
      accuracy_low: lower end of its 95 % interval (Wilson's).
      accuracy_high: upper end.
      ceiling: the best accuracy that any system can reach on these questions in so many rounds;
        None where it is not known.
      pass_k: None without several rollouts of every question, or with scores other than 0 and 1.
      release_compatible: mean of the public release's score; None where not all records have it.
      ours_only: records that `exact` scores higher than the release's score.
      release_only: records that the release's score scores higher.
      f1: mean F1; None where not all records have it.
      unanswered: records without an answer.
      retried: records whose answer was asked for a second time.
      notes: what grading noted -> number of records.
      positions_estimated: records without `positions`, which are estimated.
      decoded_tokens: tokens written, stop tokens included.
      latent_steps: states of latent turns.
      prompt_tokens: positions of prompts.
      positions: positions that models were run on.
      reused_positions: positions of preambles whose keys and values were there already.
      seconds: of a question and rollout, without compilation; None where nothing was timed.
      cpu_seconds: CPU time, likewise; None where it is not known, or an accelerator computed.
      timed: records that were timed.
      groups: groups that were timed.
      compile: seconds of compilation in total; None where it is not known.
      phases: phase -> seconds of a question and rollout.
      peak_bytes: peak memory; None where it is not known.
      against_text: the comparison with text exchange; None where there is none at these rounds,
        and for text exchange itself.
    """

    benchmark: str
    name: str
    method: str
    rounds: int
    latent_length: int | None
    n: int
    records: int
    rollouts: list[int]
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    ceiling: float | None
    pass_k: PassAtK | None
    release_compatible: float | None
    ours_only: int
    release_only: int
    f1: float | None
    unanswered: int
    retried: int
    notes: dict[str, int]
    positions_estimated: int
    decoded_tokens: float
    latent_steps: float
    prompt_tokens: float
    positions: float
    reused_positions: float
    seconds: float | None
    cpu_seconds: float | None
    timed: int
    groups: int
    compile: float | None
    phases: dict[str, float]
    peak_bytes: int | None
    against_text: TextComparison | None


RowsByBenchmark = Mapping[str, Sequence[ResultRow]]
"""The rows of every benchmark, in their order."""


def names_of(
    methods: Iterable[tuple[str, int | None]],
) -> dict[tuple[str, int | None], str]:
    """Names of (method, latent length) pairs: the method, with the length where it has several."""
    pairs = dict.fromkeys(methods)
    lengths: dict[str, int] = {}
    for method, _ in pairs:
        lengths[method] = lengths.get(method, 0) + 1
    return {(m, n): f"{m} m={n}" if lengths[m] > 1 else m for m, n in pairs}


def order_of(row: ResultRow) -> tuple[int, str, int, int]:
    """A sort key: by `METHODS`, name of the method, latent length, rounds."""
    method = row["method"]
    kind = "single:" if method.startswith("single:") else method
    rank = METHODS.index(kind) if kind in METHODS else len(METHODS)
    return rank, method, row["latent_length"] or 0, row["rounds"]
