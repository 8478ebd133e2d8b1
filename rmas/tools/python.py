"""The tool `python`: programs of agents, run in a sandbox."""

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
    """Runs a program and gives back what it prints, and the value of a last expression.

    Every call is a fresh process: nothing is left of earlier ones. Errors of the program are part
    of its output, and so are limits that it runs into.
    """

    sandbox: Sandbox
    limits: Limits = field(default_factory=Limits)
    name: str = "python"

    @property
    def description(self) -> str:
        version = ".".join(map(str, sys.version_info[:2]))
        return (
            f"a Python {version} program; what it prints comes back, and the value of its last "
            f"expression. Each program starts afresh, without network and files, and may take "
            f"{self.limits.wall:g} seconds."
        )

    def __call__(self, body: str) -> str:
        fenced = _FENCE.match(body)
        source = textwrap.dedent(fenced[1] if fenced else body).strip("\n")
        done = self.sandbox.run(source, limits=self.limits)
        parts = [done.stdout.rstrip("\n"), done.stderr.rstrip("\n"), _ending(done, self.limits)]
        return "\n".join(part for part in parts if part)


def _ending(done: Completed, limits: Limits) -> str:
    """What a program's output does not say of its end."""
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
