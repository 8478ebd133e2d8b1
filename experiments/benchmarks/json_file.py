"""The file for a benchmark's numbers, looked at before anything is measured."""

from pathlib import Path

from rmas.errors import InputError
from rmas.places import expanded, has_file


def json_file(flag: str) -> Path | None:
    """The place that `--json` names, or None where it is empty.

    Raises:
      InputError: no file can be written there.
    """
    if not flag:
        return None
    path = expanded(flag)
    if not path.parent.is_dir():
        raise InputError(f"--json={flag}: there is no folder {path.parent}; make it first")
    has_file(path)  # refuses what is no file
    return path
