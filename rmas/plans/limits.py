"""How much of a device's memory programs can use, by the compiler's own word."""

import functools

import jax
import jax.numpy as jnp

from rmas import parallel
from rmas.parallel.chips import CHIPS
from rmas.plans import arguments
from rmas.plans.programs import TooLargeError, lower


@functools.cache
def usable_bytes(device: jax.Device) -> int:
    """The bytes of a described device that programs can use; the compiler keeps the rest.

    It says so where a program is too large, to 10 MiB.
    """
    specified = CHIPS[device.device_kind].hbm_bytes
    mesh = parallel.make_mesh(parallel.MeshSpec(), [device])
    x = arguments.whole(mesh, jax.ShapeDtypeStruct((specified,), jnp.float32))
    try:
        return lower("probe", mesh, jax.jit(jnp.sin).lower, x).memory.peak
    except TooLargeError as error:
        return error.available
