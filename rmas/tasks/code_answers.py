"""Code: runs programs in the sandbox, and says what stopped them."""

from collections.abc import Callable

from rmas.errors import InputError
from rmas.tools.limits import Completed, Limits
from rmas.tools.sandbox import Sandbox, SandboxError

_MIB = 1 << 20


def run_code(
    sandbox: Sandbox,
    files: dict[str, str],
    main: str,
    seconds: float,
    stdin: str = "",
    output: int = _MIB,
) -> tuple[Completed | None, str]:
    """Runs the file `main` of `files` with limits of time (seconds), memory and output (bytes).

    Returns how it ended, or None where it cannot be run, and the limit that stopped it, or why it
    cannot be run; empty for nothing.

    Raises InputError where the sandbox fails twice, which is not the fault of an answer.
    """
    size = sum(map(len, files.values()))
    limits = Limits(
        wall=seconds,
        cpu=max(1, round(seconds)),
        memory=1024 * _MIB,
        output=output,
        file_size=64 * _MIB + size,
        disk=64 * _MIB + 2 * size,
    )
    try:
        done = _retry_once(lambda: sandbox.run([sandbox.python, main], stdin, limits, files))
    except ValueError as error:
        return None, f"not run: {str(error)[:200]}"
    except SandboxError as error:
        raise InputError(
            f"the sandbox no longer runs programs ({str(error)[:200]}); repair it, and give the "
            "same command again"
        ) from None
    return done, "timeout" if done.timed_out else done.stopped


def _retry_once(run: Callable[[], Completed]) -> Completed:
    try:
        return run()
    except SandboxError:  # a machine may lack a resource for a moment
        return run()


def code_scores(passed: bool) -> dict[str, float]:
    """Both scores, which are the same for code."""
    return {"exact": float(passed), "release_compatible": float(passed)}
