"""A trace of some steps, to be looked at in TensorBoard or Perfetto."""

from pathlib import Path

import jax

from rmas.errors import InputError
from rmas.parallel import is_first


class Profile:
    """Traces the steps from `steps[0]` up to, but not with, `steps[1]`, counted from 0.

    Process 0 writes `plugins/profile/...` (TensorBoard's trace viewer) and, in there,
    `perfetto_trace.json.gz` (https://ui.perfetto.dev). Without steps it does nothing.

    Raises:
      InputError: two steps are not given, or the second is not later.
    """

    def __init__(self, folder: Path, steps: tuple[int, ...]) -> None:
        if steps and (len(steps) != 2 or not 0 <= steps[0] < steps[1]):
            raise InputError(
                f"profile_steps is {steps}; name the first step and the one behind the last, as "
                "(10, 13)"
            )
        self._folder, self._steps, self._running = folder, steps, False

    def at(self, step: int) -> None:
        """Says that this step comes next."""
        if not (self._steps and is_first()):
            return
        first, behind = self._steps
        if first <= step < behind and not self._running:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._running = True
        elif step >= behind:
            self._stop()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
