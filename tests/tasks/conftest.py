"""What several tests of graders share."""

import textwrap

import pytest

from rmas.errors import InputError
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.rows import Row
from rmas.tools.sandbox import Sandbox


@pytest.fixture(scope="module")
def grade():
    """Grades code by a script, as MBPP+ does: its score and note."""
    try:
        Sandbox.detect()
    except InputError as error:
        pytest.skip(f"no sandbox here: {error}")

    pools: dict[float, GraderPool] = {}

    def one(code: str, script: str, seconds: float = 10, name: str = "f"):
        meta = {"script": script, "imports": ["import re"], "interface": {"name": name}}
        text = f"```python\n{textwrap.dedent(code)}\n```"
        pool = pools.setdefault(seconds, GraderPool(seconds=seconds))
        (made,) = pool.grade("mbpp", [text], [Row("r", "", "", meta=meta)])
        return made.scores["exact"], made.note

    yield one
    for pool in pools.values():
        pool.close()
