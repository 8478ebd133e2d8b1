"""The files that a benchmark writes, looked at before anything is measured."""

from pathlib import Path

from rmas.errors import InputError
from rmas.places import expanded, has_file


def output_file(flag: str, value: str, suffix: str = "") -> Path | None:
    """The place that a flag (as `json`) names, or None where it is empty.

    Raises:
      InputError: no file can be written there, or its name ends in something else than `suffix`.
    """
    if not value:
        return None
    path = expanded(value)
    if suffix and path.suffix != suffix:
        raise InputError(f"--{flag}={value}: the file's name must end in {suffix}")
    if not path.parent.is_dir():
        raise InputError(f"--{flag}={value}: there is no folder {path.parent}; make it first")
    has_file(path)  # refuses folders and devices
    return path
