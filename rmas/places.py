"""What is in the place where a file should be, and where that is."""

import os
import stat
from pathlib import Path

from rmas.errors import InputError


def expanded(path: str | os.PathLike) -> Path:
    """The path with the home folder in the place of a `~` or `~user` that it starts with.

    Raises:
      InputError: there is no such user, or nobody knows this user's home folder.
    """
    try:
        return Path(path).expanduser()
    except (RuntimeError, ValueError):  # the latter for a name that no user can have
        user = Path(path).parts[0].removeprefix("~") or "this user"
        raise InputError(
            f"{path}: the home folder of {user} is not known; write the path in full"
        ) from None


def has_entry(path: str | os.PathLike) -> bool:
    """Whether anything is there, be it a broken link.

    Raises:
      InputError: the place cannot be looked at, as for a name that is too long.
    """
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"{path} cannot be used: {error.strerror}") from None
    return True


def has_file(path: str | os.PathLike) -> bool:
    """Whether there is a file, or a link to one; False where there is nothing.

    Raises:
      InputError: something else is in its place (a folder, a pipe, a link to nothing), or the
        place cannot be looked at.
    """
    if not has_entry(path):
        return False
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        raise InputError(f"{path} is a link to nothing; a file must be there, or nothing") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise InputError(f"{path} is {_kind(mode)}; a file must be there, or nothing")
    return True


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")
