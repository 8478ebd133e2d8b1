"""The files of this machine that a sandboxed Python needs."""

import os
import sys
import sysconfig
from dataclasses import dataclass

_SYSTEM = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/nix/store")
"""Folders of shared libraries and their loader."""
_FILES = ("/etc/ld.so.cache", "/usr/share/zoneinfo")


@dataclass(frozen=True)
class Interpreter:
    """A Python and its files.

    Attributes:
      path: the executable, not a symbolic link.
      packages: folders of installed packages, for `sys.path`.
      binds: folders and files that it reads, none within another; they have the same paths in the
        sandbox.
      links: (target, path) of symbolic links that it needs.
    """

    path: str
    packages: tuple[str, ...]
    binds: tuple[str, ...]
    links: tuple[tuple[str, str], ...]


def this_interpreter() -> Interpreter:
    """The running Python with its installed packages.

    Of its prefix, which may be in a private home, only the `lib` folders and the executable are
    included.
    """
    path = os.path.realpath(sys.executable)
    packages = [p for p in sys.path if os.path.basename(p) in ("site-packages", "dist-packages")]
    packages = [os.path.abspath(p) for p in packages if os.path.isdir(p)]
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    libraries = [os.path.join(p, name) for p in prefixes for name in ("lib", "lib64")]
    standard = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib")]
    wanted = [path, *packages, *libraries, *standard, *_SYSTEM, *_FILES]
    # An executable finds its library by the real path.
    wanted += [os.path.realpath(p) for p in (*libraries, *standard)]
    links = {p: os.readlink(p) for p in _SYSTEM if os.path.islink(p)}
    found = {p for p in wanted if os.path.exists(p)} - links.keys()
    binds = sorted(p for p in found if not any(p.startswith(f"{q}/") for q in found))
    return Interpreter(
        path, tuple(packages), tuple(binds), tuple((to, p) for p, to in links.items())
    )
