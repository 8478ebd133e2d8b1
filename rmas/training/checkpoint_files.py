"""The files of checkpoints: what lies in their folder, what is damaged, and what is put aside.

With several processes only the first one renames and writes here.
"""

import logging
import math
import os
from pathlib import Path

from rmas import checksums
from rmas.files import parse_json, read_bytes, read_json
from rmas.places import has_file

SCORE = "score"
"""The entry of a step's metrics that Orbax ranks steps by."""
_log = logging.getLogger(__name__)
_METADATA = "_CHECKPOINT_METADATA"  # which Orbax reads at its start, too
_DAMAGED, _LIST = "damaged-", "files-"


class StepFiles:
    """A folder of checkpoints: one folder per step, and a list of its files, `files-STEP.json`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def steps(self) -> set[int]:
        """The steps that lie in the folder, whole or damaged."""
        return {int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()}

    def find_damage(self, step: int) -> str:
        """What is wrong with a step's files; empty if nothing is, or nothing was recorded."""
        return checksums.find_damage(self._folder / str(step), self._list(step))

    def record(self, saved: set[int]) -> None:
        """Writes the lists of the finished steps in `saved`, and deletes those of steps gone."""
        steps = self.steps()
        for step in (steps & saved) - self._listed():
            checksums.list_files(self._folder / str(step), self._list(step))
        self.delete_lists(steps)

    def delete_lists(self, steps: set[int]) -> None:
        """Deletes lists of other steps than these."""
        for step in self._listed() - steps:
            self._list(step).unlink(missing_ok=True)

    def rename_unlisted(self) -> bool:
        """Renames steps that Orbax could not list: it reads the score of each at its start.

        A step without the mark of a finished one, which Orbax would delete, is among them if there
        is a list of its files. False, and nothing is renamed, where no step is left.
        """
        steps, listed = self.steps(), self._listed()
        wrong = {step: self._unlisted(step) for step in sorted(steps, reverse=True)}
        good = {step for step in steps if not wrong[step]}
        if steps and not good:
            return False
        for step in sorted(listed - steps):
            if step > max(steps, default=0):
                _log.warning("checkpoint step %d is gone from %s", step, self._folder)
        for step, fault in wrong.items():
            if fault:
                name = self.put_aside(step)
                _log.warning(
                    "checkpoint step %d cannot be read (%s) and is now %s", step, fault, name
                )
        if steps and max(good) < max(steps):
            _log.warning("checkpoint step %d is used", max(good))
        self.delete_lists(good)
        return True

    def read_score(self, step: int) -> float:
        """The score of a step, from the file that Orbax reads; OSError or ValueError for damage."""
        found = parse_json(read_bytes(self._folder / str(step) / "metrics" / "metrics"))
        score = found.get(SCORE) if isinstance(found, dict) else None
        if not isinstance(score, int | float) or not math.isfinite(score):
            raise ValueError("its metrics are damaged")
        return score

    def put_aside(self, step: int) -> str:
        """Renames a step so that it is none any more; returns its new name."""
        target, count = self._folder / f"{_DAMAGED}{step}", 1
        while os.path.lexists(target):
            count += 1
            target = self._folder / f"{_DAMAGED}{step}-{count}"
        (self._folder / str(step)).rename(target)
        return target.name

    def _unlisted(self, step: int) -> str:
        """Why a step cannot be listed; empty if it can."""
        folder = self._folder / str(step)
        if folder.is_symlink() or not folder.is_dir():
            return "it is not a folder"
        try:
            self.read_score(step)
            if has_file(folder / _METADATA) and not isinstance(read_json(folder / _METADATA), dict):
                return f"{_METADATA} is not a JSON object"
        except (OSError, ValueError) as error:
            return one_line(error)
        return checksums.find_damage(
            folder, self._list(step), lambda name: not name.startswith(("state", "info"))
        )

    def _list(self, step: int) -> Path:
        return self._folder / f"{_LIST}{step}.json"

    def _listed(self) -> set[int]:
        """The steps that there are lists of files of."""
        names = [path.stem.removeprefix(_LIST) for path in self._folder.glob(f"{_LIST}*.json")]
        return {int(name) for name in names if name.isdecimal()}


def one_line(error: Exception) -> str:
    """An error's type and the start of its text."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:200]}"
