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

STARTED is the write end of a pipe, into which a dot is written when the program begins, and, where
it is contained, its exit status in decimal digits when it ends; the negative number of a signal
that ended it. Errors before the dot are errors of the sandbox, and printed to stderr.

A contained program runs in a child of this process, which must be process 1: it cannot be
inspected, stopped or ended, and when it ends, after the program, all remaining processes end.
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
_PR_SET_THP_DISABLE = 41
_CAPABILITIES_V3 = 0x20080522
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_NEW_NAMESPACES = 0x7E020000  # the CLONE_NEW* flags
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}

# System calls that need no privileges and are of no use to programs here: kernel memory outside of
# all limits, access to other processes, new namespaces, and large parts of the kernel. Columns:
# x86_64, aarch64; numbers from 424 on are the same on all machines; None for no such call.
_DENIED = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "kcmp": (312, 272),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "unshare": (272, 97),
    "setns": (308, 268),
    "syslog": (103, 116),
    "modify_ldt": (154, None),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "landlock_create_ruleset": (444, 444),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "shmget": (29, 194),
    "msgget": (68, 186),
    "semget": (64, 190),
    "mq_open": (240, 180),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "io_setup": (206, 0),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "inotify_init": (253, None),
    "inotify_init1": (294, 26),
    "fanotify_init": (300, 262),
    "vmsplice": (278, 75),
    "pidfd_getfd": (438, 438),
}
# Calls that programs do without where a machine has none: clone3, since a filter cannot read its
# flags, and epoll, whose memory no limit of a process counts.
_ABSENT = {"clone3": (435, 435), "epoll_create": (213, None), "epoll_create1": (291, 20)}
_CLONE, _MMAP = (56, 220), (9, 222)
_SHARED_ANONYMOUS = 0x21  # MAP_SHARED and MAP_ANONYMOUS: memory that no process need show
# Values of an argument that are refused: (numbers, place of the argument, values).
_REFUSED = {
    # Locks that no process is said to hold (F_OFD_SETLK, F_OFD_SETLKW), and F_SETLEASE, F_NOTIFY,
    # F_SETPIPE_SZ.
    "fcntl": ((72, 25), 1, (37, 38, 1024, 1026, 1031)),
    "setsockopt": ((54, 208), 2, (7, 8, 32, 33)),  # SO_SNDBUF, SO_RCVBUF, and the same forced
}
_SOCKETS = ((41, 198), (53, 199))  # socket and socketpair: AF_UNIX (1) alone


def main(job_fd: int, started_fd: int) -> None:
    """Prepares this process and runs the job's program; see the module."""
    with os.fdopen(job_fd, "rb") as file:
        job = json.load(file)
    try:
        if job["contained"]:
            if os.getpid() != 1:
                sys.exit("the program would not be apart from process 1")
            _fork(job["user"], started_fd)
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


def _fork(user: int | None, started_fd: int) -> None:
    """Continues in a child process without rights.

    This process gives up its rights too, reaps processes until the child ends, and tells its
    status. It keeps its user id, so that who has started it may end it.
    """
    _expose(900)
    if user is None:
        _give_up_rights(None)
    _prctl(_PR_SET_DUMPABLE, 0)  # else the child could change this process, which has no limits
    child = os.fork()
    if child == 0:
        if user is not None:
            _give_up_rights(user)
        _prctl(_PR_SET_DUMPABLE, 1)  # else it cannot write to its own /proc/self
        _expose(1000)
        return
    if user is not None:
        _give_up_rights(None)
    _prctl(_PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # process 1 ignores signals with this handler
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            os.write(started_fd, b"%d" % code)
            os._exit(int(code != 0))


def _expose(score: int) -> None:
    """When memory is short, processes with higher scores, at most 1000, are ended first."""
    with open("/proc/self/oom_score_adj", "w") as file:
        file.write(str(score))


def _give_up_rights(user: int | None) -> None:
    """Drops all capabilities, changes to another user id if one is given, and filters calls."""
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(struct.pack("=Ii", _CAPABILITIES_V3, 0), bytes(24)) != 0:
        raise OSError(ctypes.get_errno(), "capset fails")
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_THP_DISABLE, 1)  # so that no page is larger than those that are counted
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # the change of the user id has cleared it
    with open("/proc/self/status") as file:
        sets = [line.split()[1] for line in file if line.startswith(("CapPrm:", "CapEff:"))]
    if any(int(bits, 16) for bits in sets) or (user is not None and os.getuid() != user):
        sys.exit("privileges could not be dropped")
    _filter_calls()


def _filter_calls() -> None:
    """Blocks the system calls above; new namespaces and other sockets fail."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        sys.exit(f"machine {machine} is not supported; supported: {', '.join(_MACHINES)}")
    column, audit = _MACHINES[machine]
    load, equal, at_least, any_bit, mask, stop = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
    denied = (stop, 0, 0, _ERRNO | _EPERM)
    code = [(load, 0, 0, 4), (equal, 1, 0, audit), (stop, 0, 0, _KILL)]
    code += [(load, 0, 0, 0)]
    if machine == "x86_64":  # the x32 numbers are aliases of the same calls
        code += [(at_least, 0, 1, 0x40000000), (stop, 0, 0, _KILL)]
    for calls, answer in ((_DENIED, denied), (_ABSENT, (stop, 0, 0, _ERRNO | _ENOSYS))):
        for numbers in calls.values():
            number = numbers[column]
            if number is not None:
                code += [(equal, 0, 1, number), answer]

    def check(numbers: tuple, place: int, tests: list) -> None:
        """Of one call: tests of an argument's low word, which skip the last of two results."""
        rest = [(load, 0, 0, 16 + 8 * place), *tests, (stop, 0, 0, _ALLOW)]
        code.extend([(equal, 0, len(rest), numbers[column]), *rest])

    check(_CLONE, 0, [(any_bit, 0, 1, _NEW_NAMESPACES), denied])
    both = _SHARED_ANONYMOUS
    check(_MMAP, 3, [(mask, 0, 0, both), (equal, 0, 1, both), denied])
    for numbers, place, values in _REFUSED.values():
        check(numbers, place, [test for v in values for test in ((equal, 0, 1, v), denied)])
    for numbers in _SOCKETS:
        check(numbers, 0, [(equal, 1, 0, 1), (stop, 0, 0, _ERRNO | _EAFNOSUPPORT)])
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
