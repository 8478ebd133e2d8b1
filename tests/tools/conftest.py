"""Sandboxes of each kind."""

import pytest

from support.sandboxes import KINDS, build


@pytest.fixture(scope="module", params=KINDS)
def any_sandbox(request):
    return build(request.param)


@pytest.fixture
def sandbox(any_sandbox):
    """A sandbox that still works after the test."""
    yield any_sandbox
    assert any_sandbox.run("6 * 7").stdout == "42\n"
