"""The files that a benchmark writes, looked at before anything is measured."""

from pathlib import Path

from rmas.errors import InputError
from rmas.places import expanded, has_file


def output_file(flag: str, value: str) -> Path | None:
    """The place that a flag (as `json`) names, or None where it is empty.

    Raises:
      InputError: no file can be written there.
    """
    if not value:
        return None
    path = expanded(value)
    if not path.parent.is_dir():
        raise InputError(f"--{flag}={value}: there is no folder {path.parent}; make it first")
    has_file(path)  # refuses what is no file
    return path
