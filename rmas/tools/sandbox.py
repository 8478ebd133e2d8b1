"""Runs untrusted programs in a sandbox.

    sandbox = Sandbox.detect()
    done = sandbox.run([sandbox.python, "main.py"], stdin="3 4\n", files={"main.py": source})

A program sees an empty working folder and the files of the interpreter. It has no network and no
privileges, sees no other processes, and has limits on all resources (`Limits`), except that each of
its processes may keep a core busy until the time limit. A filter of system calls (`inside.py`)
blocks kernel memory outside of all limits (asynchronous I/O, shared memory segments, message
queues), all sockets but local ones, and new namespaces.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.tools.commands import Kind, environment, launcher, spare_user
from rmas.tools.interpreter import Interpreter, this_interpreter
from rmas.tools.limits import Completed, Limits
from rmas.tools.memory_groups import memory_group
from rmas.tools.metering import Meter, tree
from rmas.tools.supervise import Bounds, Outcome, watch

_MACHINERY = 16 << 20
"""Bytes of the processes around a program, which a control group counts with it."""
_SIGNALS = 128
"""Signals that may wait for a program's processes, and timers that send them."""


class SandboxError(RuntimeError):
    """A sandbox could not be started; the program was not run."""


@dataclass(frozen=True)
class Sandbox:
    """A kind of sandbox that works on this machine; `detect` makes it.

    `run` may be called from several threads at the same time.
    """

    kind: Kind
    interpreter: Interpreter = field(default_factory=this_interpreter)

    @classmethod
    def detect(
        cls, unsafe: bool = False, kinds: Sequence[Kind] = ("bubblewrap", "namespaces")
    ) -> "Sandbox":
        """The first of `kinds` that works on this machine, found by running a probe in it.

        Args:
          unsafe: if none works, return one that only sets some limits: programs then have the
            network, the files and the privileges of this process.
          kinds: the kinds to try.

        Raises:
          InputError: none works and `unsafe` is false; the message has the reasons.
        """
        reasons = []
        for kind in kinds:
            try:
                sandbox = cls(kind)
                sandbox._probe()
                return sandbox
            except SandboxError as error:
                reasons.append(f"{kind}: {error}")
        if unsafe:
            return cls("none")
        raise InputError(
            f"programs cannot be contained on this machine ({'; '.join(reasons)}); "
            f"install bubblewrap 0.7 or later and allow user namespaces or run as root, or allow "
            f"unsafe runs"
        )

    @property
    def python(self) -> str:
        """The path of the Python interpreter in the sandbox, for commands."""
        return self.interpreter.path

    def run(
        self,
        program: Sequence[str] | str,
        stdin: str | int = "",
        limits: Limits | None = None,
        files: Mapping[str, str] | None = None,
        stdout: int | None = None,
        cancelled: Callable[[], bool] = bool,
    ) -> Completed:
        """Runs a program until it ends or reaches a limit; its child processes end with it.

        Args:
          program: a command, or Python source, whose last expression is printed.
          stdin: the program's input, or a descriptor to read it from, which is closed.
          limits: None means `Limits()`.
          files: relative path -> text; they are written into the working folder first.
          stdout: a descriptor to write to, which is closed; then `Completed.stdout` is empty.
          cancelled: asked often; the program is ended once it is true.

        Raises:
          SandboxError: the sandbox could not be started.
          ValueError: a path of `files` leads out of the working folder.
        """
        with contextlib.ExitStack() as given:
            for stream in (stdin, stdout):
                if isinstance(stream, int):
                    given.callback(os.close, stream)
            limits = limits or Limits()
            for name in files or {}:
                if not name or os.path.isabs(name) or ".." in Path(name).parts or "\0" in name:
                    raise ValueError(f"file {name!r} is not inside the program's folder")
            user = None if self.kind == "none" else spare_user()
            source = program if isinstance(program, str) else None
            job = {
                "files": dict(files or {}),
                "argv": None if source is not None else list(program),
                "source": source,
                "packages": self.interpreter.packages,
                "user": user,
                "contained": self.kind != "none",
                "limits": _rlimits(limits, self.kind),
            }
            try:
                command = launcher(self.kind, self.interpreter, limits, user)
            except FileNotFoundError as error:
                raise SandboxError(str(error)) from None
            streams = _Streams(stdin, stdout, given)
            outcome, code = self._start(job, streams, limits, command, cancelled)
        texts = [output.decode("utf-8", "replace") for output in outcome.outputs]
        out, err = texts if stdout is None else ("", *texts)
        if not outcome.started and not cancelled():
            last = err.strip().splitlines()[-1:] or [f"it does not start (status {code})"]
            raise SandboxError(last[0])
        if self.kind != "none":
            code = -signal.SIGKILL if outcome.status is None else outcome.status
        return Completed(
            stdout=out,
            stderr=err,
            returncode=code,
            stopped=outcome.stopped,
            seconds=outcome.seconds,
        )

    def _start(
        self,
        job: dict[str, Any],
        streams: "_Streams",
        limits: Limits,
        command: list[str],
        cancelled: Callable[[], bool],
    ) -> tuple[Outcome, int]:
        stdin, stdout = streams.stdin, streams.stdout
        with contextlib.ExitStack() as stack:
            job_fd = stack.enter_context(_nameless(json.dumps(job).encode()))
            if isinstance(stdin, str):
                data = stdin.encode("utf-8", "surrogatepass")
                stdin = stack.enter_context(_nameless(data))
            group = None
            folder, home = "/", "/tmp"
            if self.kind == "none":
                folder = home = stack.enter_context(tempfile.TemporaryDirectory(prefix="program-"))
            elif group := memory_group(limits.memory + _MACHINERY):
                stack.callback(group.close)
                command = group.command(command)
            started, begins = os.pipe()
            stack.callback(os.close, started)
            try:
                process = subprocess.Popen(
                    [*command, str(job_fd), str(begins)],
                    stdin=stdin,
                    stdout=subprocess.PIPE if stdout is None else stdout,
                    stderr=subprocess.PIPE,
                    pass_fds=(job_fd, begins),
                    cwd=folder,
                    env=environment(self.kind, self.interpreter, home),
                    start_new_session=True,
                )
            except OSError as error:
                raise SandboxError(f"{command[0]}: {error.strerror}") from None
            finally:
                os.close(begins)
                streams.given.close()  # so that the other side of a pipe sees the end

            def kill() -> None:
                for pid in [] if process.poll() is not None else list(tree(process.pid)):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                if self.kind == "none":  # children that are no longer below it in the tree
                    with contextlib.suppress(OSError):
                        os.killpg(process.pid, signal.SIGKILL)

            outputs = [pipe for pipe in (process.stdout, process.stderr) if pipe is not None]
            for pipe in outputs:
                stack.callback(pipe.close)
                os.fchmod(pipe.fileno(), 0o666)  # so that another user can open /dev/stdout
            files = sys.maxsize if self.kind == "none" else limits.files
            meter = Meter(process.pid, limits.memory, files, group)
            stack.callback(meter.close)
            bounds = Bounds(limits.wall, limits.output)
            try:
                outcome = watch(process, outputs, started, bounds, meter, kill, cancelled)
            finally:
                kill()
                process.wait()
            return outcome, process.returncode

    def _probe(self) -> None:
        """Raises `SandboxError` unless a program starts and has no access to files and network."""
        with tempfile.NamedTemporaryFile() as secret:
            done = self.run(_PROBE.replace("SECRET", repr(secret.name)))
        if done.stdout != "contained\n":
            reason = done.stderr.strip().splitlines()[-1:] or [f"the probe ends with {done}"]
            raise SandboxError(f"it does not contain programs: {reason[0]}")


@dataclass(frozen=True)
class _Streams:
    """A program's streams as `run` gets them; `given` closes those that are descriptors."""

    stdin: str | int
    stdout: int | None
    given: contextlib.ExitStack


_PROBE = """
import errno, os, socket
assert not os.path.exists(SECRET), "the files of the machine can be seen"
try:
    socket.socket(socket.AF_INET)
except OSError as error:
    assert error.errno == errno.EAFNOSUPPORT, error
else:
    assert False, "there are sockets"
names = [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line]
assert names == ["lo"], "there is a network"
try:
    open(os.path.join(os.path.dirname(os.__file__), "written"), "w")
except OSError:
    pass
else:
    assert False, "the files of the machine can be written"
print("contained")
"""


def _rlimits(limits: Limits, kind: Kind) -> dict[str, int]:
    values = {
        "CPU": limits.cpu,
        "AS": limits.memory,
        "FSIZE": limits.file_size,
        "NOFILE": limits.open_files,
        "CORE": 1,  # no file, and, unlike for 0, no program of the machine that would get it
        "MEMLOCK": 0,
        "MSGQUEUE": 0,
    }
    # Without namespaces the user's own processes would count.
    counted = {"NPROC": limits.processes, "SIGPENDING": _SIGNALS}
    return values if kind == "none" else values | counted


@contextlib.contextmanager
def _nameless(data: bytes) -> Iterator[int]:
    """A descriptor to read `data` from; its file has no name, so that nobody can write to it."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o444)  # so that another user can open /dev/stdin
        descriptor = os.open(file.name, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
