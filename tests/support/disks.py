"""Disks that are full, as far as writing to a file can tell."""

import contextlib
import resource


@contextlib.contextmanager
def files_of_at_most(size):
    """Writing to a file behind its first `size` bytes fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
