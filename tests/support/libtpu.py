"""The compiler for TPUs as tests load it."""

import functools
import os

from rmas.parallel import slices


def available() -> bool:
    """Whether it is installed."""
    return slices.available()


@functools.cache
def load() -> None:
    """Loads it once, so that it writes its warnings to the error stream, as the others do.

    It reads the level when it is loaded; commands that tests start do not inherit it.
    """
    os.environ["TPU_STDERR_LOG_LEVEL"] = "1"
    try:
        slices.describe_devices(slices.parse_slice("v5e:1x1"))
    finally:
        del os.environ["TPU_STDERR_LOG_LEVEL"]
