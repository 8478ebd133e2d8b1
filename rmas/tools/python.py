"""The tool `python`: runs programs that agents write, in a sandbox."""

import re
import signal
import sys
import textwrap
from dataclasses import dataclass, field

from rmas.tools.limits import Completed, Limits
from rmas.tools.sandbox import Sandbox

_FENCE = re.compile(r"\A\s*```[\w+-]*[ \t]*\n(.*?)\n?[ \t]*```\s*\Z", re.DOTALL)


@dataclass(frozen=True)
class PythonTool:
    """Runs a program and returns what it prints and the value of its last expression.

    Every call is a new process without state of earlier ones. The output includes the program's
    errors, and a note if it reached a limit.
    """

    sandbox: Sandbox
    limits: Limits = field(default_factory=Limits)
    name: str = "python"

    @property
    def description(self) -> str:
        """As `Tool.description`."""
        version = ".".join(map(str, sys.version_info[:2]))
        return (
            f"a Python {version} program; what it prints comes back, and the value of its last "
            f"expression. Each program starts afresh, without network and files, and may take "
            f"{self.limits.wall:g} seconds."
        )

    def __call__(self, body: str) -> str:
        """Runs `body`, which may be a fenced code block."""
        fenced = _FENCE.match(body)
        source = textwrap.dedent(fenced[1] if fenced else body).strip("\n")
        done = self.sandbox.run(source, limits=self.limits)
        parts = [done.stdout.rstrip("\n"), done.stderr.rstrip("\n"), _ending(done, self.limits)]
        return "\n".join(part for part in parts if part)


def _ending(done: Completed, limits: Limits) -> str:
    """A note on how a program ended, where its output does not show it; else empty."""
    if done.timed_out:
        return f"[stopped: it ran longer than {min(limits.wall, limits.cpu):g} seconds]"
    if done.stopped:
        amounts = {
            "memory": f"{limits.memory >> 20} MiB of memory",
            "output": f"{limits.output:,} bytes of output",
            "files": f"{limits.files:,} files",
        }
        return f"[stopped: it used more than {amounts[done.stopped]}]"
    if done.returncode < 0:
        number = -done.returncode
        known = {s.value: s.name for s in signal.Signals}
        return f"[ended by signal {known.get(number, number)}]"
    if done.returncode and not done.stderr:
        return f"[ended with status {done.returncode}]"
    return ""
