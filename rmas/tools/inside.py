"""The first program in a sandbox: drops all privileges, sets limits, then runs the given program.

This is a separate program that uses only the standard library: `python -I -S inside.py JOB
STARTED`. JOB is a file descriptor from which a JSON object is read:

    files      name -> text, written into the working folder
    argv       the command to execute, or
    source     Python to run here; the value of a last expression is printed
    packages   folders appended to `sys.path` for `source`
    user       the user id to change to, or null
    contained  false without namespaces: then limits that this system lacks are ignored
    limits     names of `resource.RLIMIT_*` without the prefix -> number

STARTED is the write end of a pipe, into which one byte is written when the program begins. Errors
before that are errors of the sandbox, and printed to stderr.

If this is process 1, the program runs in a child process: process 1 cannot be inspected, and when
it ends, after the program, all remaining processes end.
"""

import ast
import ctypes
import io
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

# System calls that need no privileges and are of no use to programs here: kernel memory outside of
# all limits, access to other processes, new namespaces, and large parts of the kernel. Columns:
# x86_64, aarch64; numbers from 424 on are the same on all machines.
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
    """Prepares this process and runs the job's program; see the module."""
    with os.fdopen(job_fd, "rb") as file:
        job = json.load(file)
    try:
        if job["contained"]:
            _give_up_rights(job["user"])
            _filter_calls()
            if os.getpid() == 1:
                _end_with_child()
            elif os.getppid() != 1 or job["user"] is None:
                sys.exit("the program could inspect or change process 1")
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
    """Drops all capabilities of this process and changes to another user id if one is given."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write("1000")  # the first to be killed when the machine is out of memory
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(struct.pack("=Ii", _CAPABILITIES_V3, 0), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset fails")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the change of the user id has cleared it
    _prctl(_PR_SET_DUMPABLE, 1)  # else it cannot read its own /proc/self
    with open("/proc/self/status") as file:
        sets = [line.split()[1] for line in file if line.startswith(("CapPrm:", "CapEff:"))]
    if any(int(bits, 16) for bits in sets) or (user is not None and os.getuid() != user):
        sys.exit("privileges could not be dropped")


def _end_with_child() -> None:
    """Continues in a child process. This one reaps processes until it ends, and exits like it."""
    _prctl(_PR_SET_DUMPABLE, 0)  # else the child could change this process, which has no limits
    child = os.fork()
    if child == 0:
        _prctl(_PR_SET_DUMPABLE, 1)
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 ignores signals with this handler
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)


def _filter_calls() -> None:
    """Blocks the system calls of `_DENIED`, new namespaces, and sockets of other families."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        sys.exit(f"machine {machine} is not supported; supported: {', '.join(_MACHINES)}")
    column, audit = _MACHINES[machine]
    load, equal, at_least, bits, stop = 0x20, 0x15, 0x35, 0x45, 0x06
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (stop, 0, 0, _KILL)]
    code += [(load, 0, 0, 0)]
    if machine == "x86_64":  # the x32 numbers are aliases of the same calls
        code += [(at_least, 0, 1, 0x40000000), (stop, 0, 0, _KILL)]
    for numbers in _DENIED.values():
        code += [(equal, 0, 1, numbers[column]), (stop, 0, 0, _ERRNO | _EPERM)]
    # Without clone3 glibc and Python use clone, whose flags a filter can read.
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
    kind: int | None = getattr(resource, f"RLIMIT_{name}", None)
    if kind is None:
        if contained:
            raise OSError(f"this system has no limit {name}")
        return
    try:
        _, hard = resource.getrlimit(kind)
        # At the soft limit of CPU time the process gets a signal; at the hard one it is killed.
        soft, wanted = value, value + 1 if name == "CPU" else value
        if hard != resource.RLIM_INFINITY:
            soft, wanted = min(soft, hard), min(wanted, hard)
        resource.setrlimit(kind, (soft, wanted))
    except (ValueError, OSError):
        if contained:
            raise


def _run(source: str, packages: list[str]) -> None:
    """Runs Python as `__main__`; modules in the working folder can be imported."""
    name = "<python>"
    sys.path[:] = [os.getcwd(), *sys.path, *packages]
    sys.argv = [name]
    if isinstance(sys.stdout, io.TextIOWrapper):
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
    last = tree.body[-1] if tree.body else None
    if not isinstance(last, ast.Expr):
        exec(compile(tree, name, "exec"), scope)
        return
    del tree.body[-1]
    exec(compile(tree, name, "exec"), scope)
    sys.displayhook(eval(compile(ast.Expression(last.value), name, "eval"), scope))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
