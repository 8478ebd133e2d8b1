"""Code: the program in a text, and how it is run in the sandbox."""

from collections.abc import Callable

from rmas.errors import InputError
from rmas.tools.limits import Completed, Limits
from rmas.tools.sandbox import Sandbox, SandboxError

MAX_CODE = 200_000
"""Characters of a program."""
_MIB = 1 << 20


def find_code(text: str) -> str | None:
    """The last fenced block marked `python`, else the last fenced block; None without any.

    A block that the text leaves open counts up to its end.
    """
    blocks: list[tuple[str, str]] = []
    mark, lines = None, []
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
    """Runs `main` among `files`, and says at which limit it was stopped; None if it cannot be run.

    Raises InputError where the sandbox fails twice: that is no answer's fault, and no grade.
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
        done = _again_once(lambda: sandbox.run([sandbox.python, main], stdin, limits, files))
    except ValueError as error:
        return None, f"not run: {str(error)[:200]}"
    except SandboxError as error:
        raise InputError(
            f"the sandbox does not run programs any more ({str(error)[:200]}); see to it, and give "
            "the command again"
        ) from None
    return done, "timeout" if done.timed_out else done.stopped


def _again_once(run: Callable[[], Completed]) -> Completed:
    try:
        return run()
    except SandboxError:  # a machine may be short of something for a moment
        return run()


def code_scores(passed: bool) -> dict[str, float]:
    """Ours and the release's, which do not differ."""
    return {"exact": float(passed), "release_compatible": float(passed)}
