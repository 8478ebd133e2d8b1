"""Runs a command in new namespaces, like bubblewrap, on machines that do not have it.

This is a separate program that uses only the standard library: `python -I -S namespaces.py SPEC
COMMAND...`. SPEC is a JSON object: `parent` (the process id of the caller), `binds` (paths that are
visible read-only under the same names), `links` ([target, path] of symbolic links), `programs`
([path, path in the sandbox], read-only), and `size` (bytes) and `inodes` of each of /tmp and
/dev/shm.

The command sees only these files, an empty /tmp, a minimal /dev, a /proc of its own processes, and
a loopback network. It runs as process 1 of its namespace; if this program is root, it keeps root's
capabilities and must drop them itself. It ends when this program ends. The exit status is that of
the command, or 128 + n if signal n ended it.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import sys

_PR_SET_PDEATHSIG = 1
_NEW_NS, _NEW_CGROUP, _NEW_UTS, _NEW_IPC = 0x00020000, 0x02000000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PID, _NEW_NET = 0x10000000, 0x20000000, 0x40000000
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_READ_ONLY, _REMOUNT, _BIND, _RECURSIVE, _PRIVATE = 1, 32, 4096, 16384, 1 << 18
_DETACH = 2
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _THE_WHOLE_TREE = 442, 0x8000
_IFF_UP, _SIOCSIFFLAGS = 1, 0x8914
_DEVICES = ("null", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def main(spec: dict, command: list[str]) -> None:
    """Runs the command; see the module."""
    os.umask(0o022)
    _end_with_parent()
    if os.getppid() != spec["parent"]:  # it ended before the call above
        sys.exit("the caller has ended")
    _unshare()
    watch, held = os.pipe()  # the write end closes when this process ends
    init = os.fork()
    if init:
        _, status = os.waitpid(init, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(code if code >= 0 else 128 - code)
    _end_with_parent()
    os.close(held)
    os.set_blocking(watch, False)
    try:
        os.read(watch, 1)
        sys.exit("the caller has ended")
    except BlockingIOError:
        os.close(watch)
    os.setsid()
    _libc.sethostname(b"sandbox", 7)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))
    _build(spec)
    os.execv(command[0], command)


def _end_with_parent() -> None:
    _call("prctl", _PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL), *[ctypes.c_ulong(0)] * 3)


def _unshare() -> None:
    user, group = os.geteuid(), os.getegid()
    kinds = _NEW_NS | _NEW_CGROUP | _NEW_UTS | _NEW_IPC | _NEW_PID | _NEW_NET
    if user == 0:
        _call("unshare", kinds)
        return
    _call("unshare", kinds | _NEW_USER)
    maps = {"setgroups": "deny", "uid_map": f"{user} {user} 1", "gid_map": f"{group} {group} 1"}
    for name, text in maps.items():
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def _build(spec: dict) -> None:
    """Makes the file tree of the command, makes it the root, and unmounts the machine's."""
    sources = {place: os.path.realpath(place) for place in spec["binds"]}
    sources |= {place: os.path.realpath(path) for path, place in spec["programs"]}
    sources |= {f"/dev/{name}": f"/dev/{name}" for name in _DEVICES}
    sources["/dev/zero"] = "/dev/full"  # reads the same, but gives no memory that processes share
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    # Sources may be below any folder, so the machine's tree is first moved to another place.
    _mount("tmpfs", "/tmp", "tmpfs", _NOSUID | _NODEV, "size=1m,mode=0755")
    os.mkdir("/tmp/old")
    os.mkdir("/tmp/new")
    _pivot("/tmp", "/tmp/old")
    os.chdir("/")
    _mount("tmpfs", "/new", "tmpfs", _NOSUID | _NODEV, "size=4m,mode=0755")
    # Before the binds: the interpreter may be below /tmp.
    for place in ("/tmp", "/dev/shm"):
        os.makedirs(f"/new{place}", exist_ok=True)
        data = f"size={spec['size']},nr_inodes={spec['inodes']},mode=1777"
        _mount("tmpfs", f"/new{place}", "tmpfs", _NOSUID | _NODEV, data)
    for place, source in sources.items():
        _bind(f"/old{source}", f"/new{place}", read_only=not place.startswith("/dev/"))
    for target, place in spec["links"]:
        os.makedirs(os.path.dirname(f"/new{place}"), exist_ok=True)
        os.symlink(target, f"/new{place}")
    for name, target in (("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")):
        os.symlink(f"/proc/self/fd{target}", f"/new/dev/{name}")
    os.mkdir("/new/proc")
    _mount("proc", "/new/proc", "proc", _NOSUID | _NODEV | _NOEXEC)
    _mount(None, "/new", None, _REMOUNT | _BIND | _READ_ONLY | _NOSUID | _NODEV)
    os.chdir("/new")
    _pivot(".", ".")
    _call("umount2", b".", _DETACH)
    os.chdir("/tmp")


def _bind(source: str, place: str, read_only: bool) -> None:
    if os.path.isdir(source):
        os.makedirs(place, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(place), exist_ok=True)
        os.close(os.open(place, os.O_CREAT | os.O_WRONLY, 0o444))
    _mount(source, place, None, _BIND | _RECURSIVE)
    if read_only:
        attributes = struct.pack("=4Q", _READ_ONLY | _NOSUID | _NODEV, 0, 0, 0)
        path = place.encode()
        _call("syscall", _MOUNT_SETATTR, -100, path, _THE_WHOLE_TREE, attributes, len(attributes))


def _mount(source: str | None, place: str, kind: str | None, flags: int, data: str = "") -> None:
    names = [None if name is None else os.fsencode(name) for name in (source, place, kind)]
    _call("mount", *names, ctypes.c_ulong(flags), data.encode(), what=f"mount {place}")


def _pivot(new: str, old: str) -> None:
    _call("syscall", _PIVOT_ROOT[os.uname().machine], new.encode(), old.encode(), what="pivot_root")


def _call(name: str, *arguments: object, what: str = "") -> None:
    if getattr(_libc, name)(*arguments) != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what or name}: {os.strerror(code)}")


if __name__ == "__main__":
    try:
        main(json.loads(sys.argv[1]), sys.argv[2:])
    except OSError as error:
        sys.exit(error.strerror)
