"""The first program in a sandbox: gives up all rights, sets the limits, then runs what it is told.

A program of its own, standard library only: `python -I -S inside.py JOB STARTED`. JOB is a file
descriptor with a JSON object:

    files      name -> text, written into the working folder
    argv       the command to become, or
    source     Python to run here; the value of a last expression is printed
    packages   folders appended to `sys.path` for `source`
    user       the user id to become, or null
    contained  false without namespaces: then limits that this system lacks are passed over
    limits     names of `resource.RLIMIT_*` without the prefix -> number

STARTED is the write end of a pipe: one byte in it says that the program begins. Before that, what
goes wrong is a fault of the sandbox, told on stderr.

If this is process 1, the program becomes a child of it: nobody can look into process 1, and when
the program ends it ends, and with it all that is left.
"""

import ast
import ctypes
import json
import linecache
import os
import resource
import signal
import struct
import sys
import traceback
import types

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_CAPABILITIES_V3 = 0x20080522
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW* flags
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6: those that a network namespace contains

# What needs no rights but a program has no use for: kernel memory that no limit counts, ways into
# other processes, new namespaces, and large parts of the kernel. Numbers from 424 on are the same
# everywhere. Columns: x86_64, aarch64.
_DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "kcmp": (312, 272),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "pidfd_getfd": (438, 438),
    "memfd_secret": (447, 447),
}
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR = (56, 220), (435, 435), (41, 198), (53, 199)
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


def main(job_fd: int, started_fd: int) -> None:
    with os.fdopen(job_fd, "rb") as file:
        job = json.load(file)
    try:
        if job["contained"]:
            _give_up_rights(job["user"])
            _filter_calls()
            if os.getpid() == 1:
                _end_with_child()
            elif os.getppid() != 1 or job["user"] is None:
                sys.exit("process 1 is none that the program cannot reach")
        for name, value in job["limits"].items():
            _limit(name, value, job["contained"])
        for name, text in job["files"].items():
            os.makedirs(os.path.dirname(name) or ".", exist_ok=True)
            with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:
                file.write(text)
        os.write(started_fd, b".")
        os.close(started_fd)
    except OSError as error:
        sys.exit(str(error))
    if job["argv"]:
        try:
            os.execvp(job["argv"][0], job["argv"])
        except OSError as error:
            print(f"{job['argv'][0]}: {error.strerror}", file=sys.stderr)
            sys.exit(127)
    _run(job["source"], job["packages"])


def _give_up_rights(user: int | None) -> None:
    """Leaves this process without capabilities, under another user id if one is given."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # if memory ends, it ends here
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(struct.pack("=Ii", _CAPABILITIES_V3, 0), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset fails")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # lost with the user id
    _prctl(_PR_SET_DUMPABLE, 1)  # or its own /proc/self would be closed to it
    with open("/proc/self/status") as file:
        sets = [line.split()[1] for line in file if line.startswith(("CapPrm:", "CapEff:"))]
    if any(int(bits, 16) for bits in sets) or (user is not None and os.getuid() != user):
        sys.exit("rights are left over")


def _end_with_child() -> None:
    """Goes on in a child. This process reaps until the child ends, and exits as it did."""
    _prctl(_PR_SET_DUMPABLE, 0)  # the child could change what runs here, where no limit holds
    child = os.fork()
    if child == 0:
        _prctl(_PR_SET_DUMPABLE, 1)
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # which process 1 does not hear
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _filter_calls() -> None:
    """Refuses the system calls of `_DENIED`, new namespaces, and sockets of other families."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        sys.exit(f"system calls of {machine} are not known; known are {', '.join(_MACHINES)}")
    column, audit = _MACHINES[machine]
    load, equal, at_least, bits, stop = 0x20, 0x15, 0x35, 0x45, 0x06
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (stop, 0, 0, _KILL)]
    code += [(load, 0, 0, 0)]
    if machine == "x86_64":  # the x32 numbers are other names of the same calls
        code += [(at_least, 0, 1, 0x40000000), (stop, 0, 0, _KILL)]
    for numbers in _DENIED.values():
        code += [(equal, 0, 1, numbers[column]), (stop, 0, 0, _ERRNO | _EPERM)]
    # glibc and Python turn to clone, whose flags can be seen.
    code += [(equal, 0, 1, _CLONE3[column]), (stop, 0, 0, _ERRNO | _ENOSYS)]
    code += [(equal, 0, 4, _CLONE[column]), (load, 0, 0, 16)]
    code += [(bits, 0, 1, _NEW_NAMESPACES), (stop, 0, 0, _ERRNO | _EPERM), (stop, 0, 0, _ALLOW)]
    for numbers in (_SOCKET, _SOCKETPAIR):
        code += [(equal, 0, len(_FAMILIES) + 3, numbers[column]), (load, 0, 0, 16)]
        code += [(equal, len(_FAMILIES) - n, 0, f) for n, f in enumerate(_FAMILIES)]
        code += [(stop, 0, 0, _ERRNO | _EAFNOSUPPORT), (stop, 0, 0, _ALLOW)]
    code += [(stop, 0, 0, _ALLOW)]
    packed = b"".join(struct.pack("=HBBI", *instruction) for instruction in code)
    rules = ctypes.create_string_buffer(packed)
    program = struct.pack("@HP", len(code), ctypes.addressof(rules))
    held = ctypes.create_string_buffer(program)
    _prctl(_PR_SET_SECCOMP, 2, ctypes.addressof(held))


def _prctl(option: int, *values: int) -> None:
    arguments = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    if ctypes.CDLL(None, use_errno=True).prctl(option, *arguments) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option} fails")


def _limit(name: str, value: int, contained: bool) -> None:
    kind = getattr(resource, f"RLIMIT_{name}", None)
    try:
        _, hard = resource.getrlimit(kind)
        # At the soft limit of CPU time a signal says which limit it was; the hard one kills.
        soft, wanted = value, value + 1 if name == "CPU" else value
        if hard != resource.RLIM_INFINITY:
            soft, wanted = min(soft, hard), min(wanted, hard)
        resource.setrlimit(kind, (soft, wanted))
    except (TypeError, ValueError, OSError):
        if contained:
            raise


def _run(source: str, packages: list[str]) -> None:
    """Runs Python as `__main__`, its working folder importable."""
    name = "<python>"
    sys.path[:] = [os.getcwd(), *sys.path, *packages]
    sys.argv = [name]
    sys.stdout.reconfigure(errors="backslashreplace")
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    try:
        _execute(source, name, module.__dict__)
    except SystemExit:
        raise
    except BaseException as error:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename != name:
            trace = trace.tb_next
        traceback.print_exception(type(error), error, trace)
        sys.exit(1)


def _execute(source: str, name: str, scope: dict) -> None:
    tree = ast.parse(source, name)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, name, "exec"), scope)
    if last is not None:
        sys.displayhook(eval(compile(ast.Expression(last.value), name, "eval"), scope))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
