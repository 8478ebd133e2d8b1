"""Programs run where they can do no harm.

    sandbox = Sandbox.detect()
    done = sandbox.run([sandbox.python, "main.py"], stdin="3 4\n", files={"main.py": source})

A program sees an empty folder of its own and the files of the interpreter. It has no network, no
rights, sees no other processes, and is limited in all that it can use up but one: `processes` of
them may keep cores busy until the time is up. Kernel memory that no limit counts (shared memory
segments, message queues), other address families and new namespaces are refused by a filter of
system calls (`inside.py`).
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmas.errors import InputError
from rmas.tools.commands import Kind, environment, launcher, spare_user
from rmas.tools.interpreter import Interpreter, this_interpreter
from rmas.tools.limits import Completed, Limits
from rmas.tools.supervise import Bounds, Outcome, tree, watch

_MACHINERY = 64 << 20
"""Bytes that the processes around a program take, which its own limit does not pay for."""


class SandboxError(RuntimeError):
    """A sandbox could not be built; nothing was run in it."""


@dataclass(frozen=True)
class Sandbox:
    """A way to contain programs that works on this machine; get one from `detect`.

    `run` may be called from several threads at a time.
    """

    kind: Kind
    interpreter: Interpreter = field(default_factory=this_interpreter)

    @classmethod
    def detect(
        cls, unsafe: bool = False, kinds: Sequence[Kind] = ("bubblewrap", "namespaces")
    ) -> "Sandbox":
        """The first of `kinds` that holds what it promises here, found by trying it.

        Args:
          unsafe: if none does, run programs all the same, with limits on some of what they use up,
            but with the network, the files and the rights of this process.
          kinds: what to try.

        Raises InputError, with the reasons, where none works and `unsafe` is False.
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
            f"install bubblewrap 0.7 or later and allow user namespaces or run as root, or ask for "
            f"unsafe runs"
        )

    @property
    def python(self) -> str:
        """The path of the interpreter, for commands."""
        return self.interpreter.path

    def run(
        self,
        program: Sequence[str] | str,
        stdin: str = "",
        limits: Limits | None = None,
        files: Mapping[str, str] | None = None,
    ) -> Completed:
        """Runs a program to its end, or to a limit. Its children end with it.

        Args:
          program: a command, or Python source, of which the value of a last expression is printed.
          stdin: what it can read.
          limits: `Limits()` if None.
          files: relative path -> text, written into its working folder before.

        Raises:
          SandboxError: the sandbox could not be built.
          ValueError: a path of `files` leads out of the folder.
        """
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
        bounds = Bounds(
            limits.wall,
            limits.output,
            limits.memory + _MACHINERY,
            sys.maxsize if self.kind == "none" else limits.files,
        )
        try:
            command = launcher(self.kind, self.interpreter, limits, user)
        except FileNotFoundError as error:
            raise SandboxError(str(error)) from None
        outcome, code = self._start(job, stdin, bounds, command)
        out, err = (b.decode("utf-8", "replace") for b in (outcome.stdout, outcome.stderr))
        if not outcome.started:
            last = err.strip().splitlines()[-1:] or [f"it does not start (status {code})"]
            raise SandboxError(last[0])
        if code > 128:  # how both builders tell of signals
            code = 128 - code
        return Completed(out, err, code, outcome.stopped, outcome.seconds)

    def _start(
        self, job: dict[str, Any], stdin: str, bounds: Bounds, command: list[str]
    ) -> tuple[Outcome, int]:
        with contextlib.ExitStack() as stack:
            inputs = [json.dumps(job).encode(), stdin.encode("utf-8", "surrogatepass")]
            job_fd, stdin_fd = (stack.enter_context(_nameless(data)) for data in inputs)
            folder, home = "/", "/tmp"
            if self.kind == "none":
                folder = home = stack.enter_context(tempfile.TemporaryDirectory(prefix="program-"))
            started, begins = os.pipe()
            stack.callback(os.close, started)
            try:
                process = subprocess.Popen(
                    [*command, str(job_fd), str(begins)],
                    stdin=stdin_fd,
                    stdout=subprocess.PIPE,
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

            def kill() -> None:
                for pid in [] if process.poll() is not None else list(tree(process.pid)):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.SIGKILL)
                if self.kind == "none":  # nothing else reaches children that it has left
                    with contextlib.suppress(OSError):
                        os.killpg(process.pid, signal.SIGKILL)

            for pipe in (process.stdout, process.stderr):
                stack.callback(pipe.close)
                os.fchmod(pipe.fileno(), 0o666)  # /dev/stdout can be opened by another user, too
            try:
                outcome = watch(process, started, bounds, kill)
            finally:
                kill()
                process.wait()
            return outcome, process.returncode

    def _probe(self) -> None:
        """Raises SandboxError unless a program starts and sees neither files nor a network."""
        with tempfile.NamedTemporaryFile() as secret:
            done = self.run(_PROBE.replace("SECRET", repr(secret.name)))
        if done.stdout != "contained\n":
            told = done.stderr.strip().splitlines()[-1:] or [f"the probe ends with {done}"]
            raise SandboxError(f"it does not hold: {told[0]}")


_PROBE = """
import errno, os, socket
assert not os.path.exists(SECRET), "the files of the machine can be seen"
try:
    socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 9))
except OSError as error:
    assert error.errno == errno.ENETUNREACH, error
else:
    assert False, "there is a network"
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
        "CORE": 0,
    }
    # Without namespaces the user's own processes would count.
    return values if kind == "none" else values | {"NPROC": limits.processes}


@contextlib.contextmanager
def _nameless(data: bytes) -> Iterator[int]:
    """A descriptor to read `data` from; no name leads to it, so that nobody can write there."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), 0o444)  # /dev/stdin can be opened
        descriptor = os.open(file.name, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
