"""Prepared datasets on disk, checked before TFDS reads them.

All files are compared with a list of their checksums that was made when they were written: the
index at the end of an array_record file has none of its own, and damaged it gives other records.
Datasets of earlier versions have no list.
"""

from collections.abc import Sequence
from pathlib import Path

from rmas import checksums
from rmas.errors import InputError

LIST = "files.json"
"""The list of a dataset's files, in its folder."""


def list_prepared(folder: Path) -> None:
    """Writes the list of a dataset that has just been prepared."""
    checksums.list_files(folder, folder / LIST)


def check_prepared(folder: Path) -> None:
    """Raises InputError, naming the folder, where files are not what was written."""
    fault = checksums.find_damage(folder, folder / LIST)
    if fault:
        raise damaged(folder, fault)


def damaged(folder: Path, fault: object) -> InputError:
    """What to raise where a prepared dataset cannot be read."""
    return InputError(
        f"prepared rows in {folder} are damaged; delete this folder, and the same command prepares "
        f"them again ({' '.join(str(fault).split())[:200]})"
    )


class Records(Sequence[dict[str, bytes]]):
    """The records of a split; reading one raises InputError where its file is damaged."""

    def __init__(self, source: Sequence[dict[str, bytes]], folder: Path) -> None:
        self._source, self._folder = source, folder

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index):
        try:
            return self._source[index]
        except Exception as error:  # the library's own, of several types
            raise damaged(self._folder, error) from None
