"""Code: runs programs in the sandbox, and says what stopped them."""

import functools
import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from rmas.errors import InputError
from rmas.tools.limits import Completed, Limits
from rmas.tools.sandbox import Sandbox, SandboxError

_MIB = 1 << 20
_Result = TypeVar("_Result")


def run_code(
    sandbox: Sandbox,
    files: dict[str, str],
    command: Sequence[str],
    seconds: float,
    stdin: str = "",
    output: int = _MIB,
) -> tuple[Completed | None, str]:
    """Runs a Python file of `files`, with arguments, in limited time (seconds), memory and output.

    Returns how it ended, or None where it cannot be run, and the limit that stopped it, or why it
    cannot be run; empty for nothing.

    Raises InputError where the sandbox fails twice, which is not the fault of an answer.
    """
    limits = code_limits(files, seconds, 1024 * _MIB, output)
    run = functools.partial(sandbox.run, [sandbox.python, *command], stdin, limits, files)
    try:
        done = retry_once(run)
    except ValueError as error:
        return None, f"not run: {str(error)[:200]}"
    return done, "timeout" if done.timed_out else done.stopped


def code_limits(files: dict[str, str], seconds: float, memory: int, output: int = _MIB) -> Limits:
    """The limits of a program with its files; bytes of memory and output."""
    size = sum(map(len, files.values()))
    return Limits(
        wall=seconds,
        cpu=math.ceil(seconds) + 1,  # the clock decides
        memory=memory,
        output=output,
        file_size=64 * _MIB + size,
        disk=64 * _MIB + 2 * size,
    )


def retry_once(run: Callable[[], _Result]) -> _Result:
    """The result of `run`, a second time where the sandbox fails.

    Raises InputError where it fails again.
    """
    for last in (False, True):
        try:
            return run()
        except SandboxError as error:  # a machine may lack a resource for a moment
            if last:
                raise InputError(
                    f"the sandbox no longer runs programs ({str(error)[:200]}); repair it, and "
                    "give the same command again"
                ) from None
    raise AssertionError


def code_scores(passed: bool) -> dict[str, float]:
    """The score of code: whether all tests passed."""
    return {"exact": float(passed)}
