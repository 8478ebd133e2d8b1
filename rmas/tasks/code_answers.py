"""Code: finds the program in a text, and runs it in the sandbox."""

from collections.abc import Callable

from rmas.errors import InputError
from rmas.tools.limits import Completed, Limits
from rmas.tools.sandbox import Sandbox, SandboxError

MAX_CODE = 200_000
"""Most characters of a program."""
_MIB = 1 << 20


def find_code(text: str) -> str | None:
    """The last fenced block marked `python`, else the last fenced block; None without any.

    A block that is not closed ends with the text.
    """
    blocks: list[tuple[str, str]] = []
    mark: str | None = None
    lines: list[str] = []
    for line in [*text.split("\n"), "```"]:
        bare = line.strip()
        if mark is None and bare.startswith("```"):
            mark, lines = bare.strip("`").strip().lower(), []
        elif mark is not None and bare == "```":
            blocks.append((mark, "\n".join(lines) + "\n"))
            mark = None
        elif mark is not None:
            lines.append(line)
    python = [code for mark, code in blocks if mark in ("python", "py", "python3")]
    found = (python or [code for _, code in blocks])[-1:]
    return found[0] if found and found[0].strip() and len(found[0]) <= MAX_CODE else None


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
    """The score of code: whether all tests passed."""
    return {"exact": float(passed)}
