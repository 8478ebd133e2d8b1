"""The settings that a run leaves in its workdir, for the commands and `rmas.load`."""

from pathlib import Path
from typing import Any

from rmas.checksums import read_checked
from rmas.errors import InputError
from rmas.places import has_file

SETTINGS = "settings.json"
"""The name of the file."""
_TRAINED = tuple(
    f"{stage}/{made}" for stage in ("inner/*", "outer") for made in ("links", "checkpoints")
)
_ANEW = "give the command of the training again with its --config=FILE, which writes it anew"


def find_settings(workdir: Path) -> Path | None:
    """The settings in a workdir, or None where nothing was trained in it.

    Raises:
      InputError: they are gone from a workdir with trained links or checkpoints, which would be
        used with other settings; or something else is in their place.
    """
    path = workdir / SETTINGS
    if has_file(path):
        return path
    found = next((at for pattern in _TRAINED for at in workdir.glob(pattern)), None)
    if found is None:
        return None
    raise InputError(
        f"{path} is missing, the settings of what was trained in this workdir "
        f"({found.relative_to(workdir)}); restore it, or {_ANEW}"
    )


def read_settings(path: Path) -> Any:
    """The values in such a file, without its checksum.

    Raises:
      InputError: it is damaged; the message says what to do.
    """
    try:
        return read_checked(path)
    except InputError as error:
        raise InputError(f"{error}; delete it, and {_ANEW}") from None
