"""What a sandboxed program may use up, and how it ended."""

import math
import signal
from dataclasses import dataclass, fields

from rmas.errors import InputError
from rmas.tools.supervise import Stopped

_MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What a program may use up; InputError for what is no positive number.

    Attributes:
      wall: seconds.
      cpu: seconds of computing, of each process.
      memory: bytes, of each process and of all together.
      processes: how many, threads included. (Before Linux 5.14 all of an ordinary user's count.)
      file_size: bytes of one file.
      disk: bytes of all files in /tmp, and again in /dev/shm.
      files: how many files there, each.
      open_files: how many at a time, of each process.
      output: bytes of both outputs together; the program is stopped at more.
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
    """How a program ended.

    Attributes:
      stdout, stderr: what it wrote, up to `Limits.output`; other bytes than UTF-8 are replaced.
      returncode: its exit status, negative for a signal as in `subprocess`.
      stopped: the limit at which it was stopped (time, output, memory, files), or empty.
      seconds: how long it ran.
    """

    stdout: str
    stderr: str
    returncode: int
    stopped: Stopped
    seconds: float

    @property
    def timed_out(self) -> bool:
        """Whether time was up, on the clock or computing."""
        return self.stopped == "time" or self.returncode == -signal.SIGXCPU

    @property
    def truncated(self) -> bool:
        """Whether it wrote more than is kept."""
        return self.stopped == "output"
