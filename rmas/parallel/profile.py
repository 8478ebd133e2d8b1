"""A trace of a part of a run, for TensorBoard or Perfetto."""

from pathlib import Path

import jax

from rmas.errors import InputError
from rmas.parallel.processes import is_first


class Profile:
    """Traces from `span[0]` to before `span[1]`, as of steps or groups, counted from 0.

    The first process writes `plugins/profile/...` (TensorBoard's trace viewer) and, in there,
    `perfetto_trace.json.gz` (https://ui.perfetto.dev). With an empty span it does nothing.

    Raises:
      InputError: `span` has not two numbers, or the second is not later; `name` is its setting.
    """

    def __init__(self, folder: Path, span: tuple[int, ...], name: str) -> None:
        if span and (len(span) != 2 or not 0 <= span[0] < span[1]):
            raise InputError(
                f"{name} is {span}; name the first and the one after the last, as (10, 13)"
            )
        self._folder, self._span, self._running = folder, span, False

    def before(self, n: int) -> None:
        """Starts or stops the trace where this one is the first to, or not to, be traced."""
        if not (self._span and is_first()):
            return
        first, stop = self._span
        if first <= n < stop and not self._running:
            options = jax.profiler.ProfileOptions()
            options.python_tracer_level = 0  # of every call of Python, which would slow the host
            jax.profiler.start_trace(
                self._folder, create_perfetto_trace=True, profiler_options=options
            )
            self._running = True
        elif n >= stop:
            self._stop()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
