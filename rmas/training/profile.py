"""A trace of some steps, for TensorBoard or Perfetto."""

from pathlib import Path

import jax

from rmas.errors import InputError
from rmas.parallel import is_first


class Profile:
    """Traces the steps from `steps[0]` to before `steps[1]`, counted from 0.

    The first process writes `plugins/profile/...` (TensorBoard's trace viewer) and, in there,
    `perfetto_trace.json.gz` (https://ui.perfetto.dev). Without steps it does nothing.

    Raises:
      InputError: two steps are not given, or the second is not later.
    """

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        if steps and (len(steps) != 2 or not 0 <= steps[0] < steps[1]):
            raise InputError(
                f"profile_steps is {steps}; name the first step and the one after the last, as "
                "(10, 13)"
            )
        self._folder, self._steps, self._running = folder, steps, False

    def before_step(self, step: int) -> None:
        """Starts or stops the trace where this step is the first to, or not to, be traced."""
        if not (self._steps and is_first()):
            return
        first, stop = self._steps
        if first <= step < stop and not self._running:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        elif step >= stop:
            self._stop()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
