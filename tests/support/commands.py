"""The commands as a user types them, each in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(module: str, *flags: str, quick: bool = False) -> subprocess.CompletedProcess[str]:
    """`python -m experiments.MODULE FLAGS`, with its output and exit status.

    With `quick` XLA compiles sooner, to slower programs.
    """
    more = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "true"} if quick else {}
    return subprocess.run(
        [sys.executable, "-m", f"experiments.{module}", *flags],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | more,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
