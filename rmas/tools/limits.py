"""The limits of a sandboxed program, and its result."""

import math
import signal
from dataclasses import dataclass, fields

from rmas.errors import InputError
from rmas.tools.supervise import Stopped

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """The limits of a program; raises `InputError` for a value that is not a positive number.

    Attributes:
      wall: seconds of elapsed time.
      cpu: seconds of CPU time of each process.
      memory: bytes of each process, and of all processes together.
      processes: number of processes and threads. (Before Linux 5.14 all of an ordinary user's
        processes count.)
      file_size: bytes of one file.
      disk: bytes of all files in /tmp; the same for /dev/shm.
      files: number of files in /tmp; the same for /dev/shm.
      open_files: number of open files of each process.
      output: bytes of stdout and stderr together; a program that writes more is stopped.
    """

    wall: float = 10.0
    cpu: int = 10
    memory: int = 512 * _MIB
    processes: int = 32
    file_size: int = 16 * _MIB
    disk: int = 64 * _MIB
    files: int = 4096
    open_files: int = 64
    output: int = _MIB // 4

    def __post_init__(self):
        for f in fields(self):
            value = getattr(self, f.name)
            if not (value > 0 and math.isfinite(value)):
                raise InputError(f"limit {f.name} is {value}; it must be a positive number")
        if self.memory < 64 * _MIB:
            raise InputError(f"limit memory is {self.memory} bytes; Python needs {64 * _MIB}")


@dataclass(frozen=True)
class Completed:
    """The result of a program.

    Attributes:
      stdout, stderr: what it wrote, up to `Limits.output`; bytes that are not UTF-8 are replaced.
      returncode: its exit status, or the negative number of the signal that ended it.
      stopped: the limit at which it was stopped (time, output, memory, files), or empty.
      seconds: its elapsed time.
    """

    stdout: str
    stderr: str
    returncode: int
    stopped: Stopped
    seconds: float

    @property
    def timed_out(self) -> bool:
        """Whether it reached the limit of elapsed or of CPU time."""
        return self.stopped == "time" or self.returncode == -signal.SIGXCPU
