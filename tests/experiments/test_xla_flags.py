"""The XLA flags that the pages name are flags of the installed JAX."""

import re
import subprocess
import sys

import pytest

from support.pages import ROOT

NAMED = re.compile(r"`(--xla_\w+(?:=[\w,.]*)?)`")


def starts(*flags: str) -> bool:
    """Whether JAX makes its devices with these flags; one that it does not know aborts it."""
    code = "import jax; jax.devices()"
    env = {"PATH": "", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(flags)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 or "Unknown flag" in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.slow
def test_flags_in_the_pages_exist():
    found = {
        flag for page in (ROOT / "docs").glob("*.md") for flag in NAMED.findall(page.read_text())
    }
    assert len(found) >= 5
    assert starts(*sorted(found))
    assert not starts("--xla_gpu_no_such_flag=true")
