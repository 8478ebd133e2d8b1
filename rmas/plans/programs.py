"""The programs of the product, lowered for abstract arrays on a mesh of any devices.

The devices may be described ones (`rmas.parallel.slices`): then the compiler for TPUs says what a
program needs and what it costs. Nothing is loaded and nothing runs.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rmas import models
from rmas.models import Segment
from rmas.parallel import use
from rmas.parallel.slices import no_compile_cache
from rmas.plans import arguments
from rmas.plans.arguments import AbstractSystem, placed
from rmas.shapes import Array, Params
from rmas.system import decode
from rmas.system import preamble as preambles
from rmas.system import run as engine
from rmas.system import turn as turns
from rmas.system.batch import bucket
from rmas.system.decode import DecodeState
from rmas.system.preamble import Pasts
from rmas.system.sampling import Sampling
from rmas.system.turn import Prompt

_EXHAUSTED = re.compile(
    r"RESOURCE_EXHAUSTED.*?\((\d+(?:\.\d+)?)([KMGT]?)B?\).*?\((\d+(?:\.\d+)?)([KMGT]?)B?\)", re.S
)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


class TooLargeError(Exception):
    """A program does not fit the memory of a device.

    Attributes:
      program: its name.
      needed, available: bytes, as the compiler rounds them in its message.
    """

    def __init__(self, program: str, needed: int, available: int) -> None:
        super().__init__(
            f"{program} needs {needed / (1 << 30):.2f} GiB of a device that has "
            f"{available / (1 << 30):.2f} GiB"
        )
        self.program, self.needed, self.available = program, needed, available


@dataclasses.dataclass(frozen=True)
class MemoryNeeds:
    """What a compiled program needs of each device, in bytes.

    Attributes:
      arguments: inputs, weights among them.
      outputs: results; `alias` of them lie in the memory of arguments.
      temporaries: everything between.
      peak: the most at one time, arguments included.
    """

    arguments: int
    outputs: int
    alias: int
    temporaries: int
    peak: int


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """A lowered program; it is compiled when its memory, text or outputs are asked for.

    Attributes:
      name: for people.
      lowered: what `jax.jit(...).lower` gave.
      mesh: the devices that it is for.
      arguments: its abstract arguments; those by name are in a dict at the end.

    Reading `compiled`, and what follows from it, raises `TooLargeError` where the program does not
    fit a device; all other errors of the compiler are raised as they are.
    """

    name: str
    lowered: jax.stages.Lowered
    mesh: Mesh
    arguments: tuple[Any, ...] = ()

    @functools.cached_property
    def compiled(self) -> jax.stages.Compiled:
        """The compiled program."""
        described = next(iter(self.mesh.devices.flat)) not in jax.devices()
        try:
            with no_compile_cache() if described else contextlib.nullcontext():
                return self.lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if found := _EXHAUSTED.search(str(error)):
                needed, available = (int(float(found[i]) * _UNITS[found[i + 1]]) for i in (1, 3))
                raise TooLargeError(self.name, needed, available) from None
            raise

    @functools.cached_property
    def memory(self) -> MemoryNeeds:
        """What it needs of each device."""
        found = self.compiled.memory_analysis()
        assert found is not None, "the compilers of CPUs, GPUs and TPUs report what they need"
        return MemoryNeeds(
            arguments=found.argument_size_in_bytes,
            outputs=found.output_size_in_bytes,
            alias=found.alias_size_in_bytes,
            temporaries=found.temp_size_in_bytes,
            peak=found.peak_memory_in_bytes,
        )

    @functools.cached_property
    def text(self) -> str:
        """The compiled program as text, for `rmas.plans.hlo`."""
        return self.compiled.as_text() or ""

    @functools.cached_property
    def outputs(self) -> Any:
        """Its results as abstract arrays, placed as the program leaves them."""
        shapes = self.lowered.out_info
        if self.mesh.size == 1:
            return arguments.whole(self.mesh, shapes)
        return jax.tree.map(placed, shapes, self.compiled.output_shardings)


def lower(
    name: str, mesh: Mesh, function: Callable[..., jax.stages.Lowered], *args: Any, **more: Any
) -> Program:
    """A program from the `lower` of a jitted function, on a mesh."""
    with use(mesh):
        lowered = function(*args, **more)
    return Program(name, lowered, mesh, (*args, more) if more else args)


def think(
    system: AbstractSystem, *, steps: int, rounds: int, rows: int, tokens: int, begun: int = 0
) -> Program:
    """All latent turns and the prefill of the output agent's last one.

    Args:
      steps: M, the latent steps of a turn.
      rows: questions of a batch.
      tokens: of a prompt with its question, without messages.
      begun: of those, how many are its preamble, which `preamble` has read.

    Its outputs are the state that decoding starts from, and no thoughts.
    """
    return lower(
        "think",
        system.mesh,
        engine.think.lower,
        topology=system.topology,
        spec=system.spec,
        steps=steps,
        record=False,
        on_turn=None,
        params=system.params,
        links=system.links,
        prompts=arguments.prompts(system, rounds, rows, tokens - begun, steps),
        pasts=pasts(system, rows, begun),
    )


def preamble(system: AbstractSystem, agent: str, *, rows: int, tokens: int) -> Program:
    """One agent reads its preambles; its outputs are what its turns continue."""
    return lower(
        f"preamble of {agent}",
        system.mesh,
        jax.jit(preambles.read, static_argnums=0).lower,
        system.spec.model(agent),
        system.params[agent],
        arguments.preamble(system.mesh, rows, tokens),
    )


def pasts(system: AbstractSystem, rows: int, begun: int) -> Pasts:
    """What every agent's turns continue, after preambles of so many tokens; nothing without."""
    agents = system.topology.agents if begun else ()
    return {agent: (preamble(system, agent, rows=rows, tokens=begun).outputs,) for agent in agents}


def rollout(
    system: AbstractSystem, agent: str, *, steps: int, rows: int, positions: int
) -> Program:
    """One agent's turn: its prefill of so many positions, and `steps` latent steps."""

    def turn(params: Params, links: Params, prompt: Prompt) -> tuple[Array, Array]:
        x_BTD = turns.inputs(system.spec.model(agent), params, prompt, ())
        return turns.rollout(system.spec, params, links, agent, x_BTD, prompt.valid_BT, steps)

    prompt = arguments.prompt(system.mesh, rows, positions)
    return lower(
        f"rollout of {agent}",
        system.mesh,
        jax.jit(turn).lower,
        system.params[agent],
        system.links,
        prompt,
    )


def prefill(system: AbstractSystem, agent: str, *, rows: int, positions: int) -> Program:
    """One agent's prefill alone: the state after the last position, and the cache."""
    model = system.spec.model(agent)

    def read(params: Params, prompt: Prompt) -> Any:
        x_BTD = turns.inputs(model, params, prompt, ())
        return models.prefill(model, params, x_BTD, prompt.valid_BT)

    prompt = arguments.prompt(system.mesh, rows, positions)
    return lower(
        f"prefill of {agent}", system.mesh, jax.jit(read).lower, system.params[agent], prompt
    )


def decode_start(
    system: AbstractSystem, agent: str, *, rows: int, positions: int, begun: int = 0
) -> Program:
    """The prefill that decoding starts with; its outputs are a `DecodeState` (`widen`).

    `begun` of the `positions` are a preamble that was read before.
    """
    model = system.spec.model(agent)

    def start(params: Params, prompt: Prompt, past: tuple[Segment, ...]) -> DecodeState:
        x_BTD = turns.inputs(model, params, prompt, ())
        return decode.start(model, params, x_BTD, prompt.valid_BT, past)

    return lower(
        f"decode start of {agent}",
        system.mesh,
        jax.jit(start).lower,
        system.params[agent],
        arguments.prompt(system.mesh, rows, positions - begun),
        (preamble(system, agent, rows=rows, tokens=begun).outputs,) if begun else (),
    )


def widen(system: AbstractSystem, state: DecodeState, *, size: int) -> Program:
    """Space for `size` tokens behind the prompts of a state: outputs of `decode_start` or `think`.

    Its outputs are the running batch.
    """
    positions = state.prefix.valid_BS.shape[1]
    slots = decode.tail_size(size)
    return lower("widen", system.mesh, decode.widen.lower, positions, slots, state)


def admit(system: AbstractSystem, running: DecodeState, waiting: DecodeState) -> Program:
    """Waiting texts take the rows of those that have ended."""
    from_B = jax.ShapeDtypeStruct(running.count_B.shape, jnp.int32)
    from_B = arguments.whole(system.mesh, from_B)
    return lower("admit", system.mesh, decode.admit.lower, running, waiting, from_B)


def rotate(system: AbstractSystem, waiting: DecodeState) -> Program:
    """Waiting texts go on to devices whose rows are free."""
    return lower("rotate", system.mesh, decode.rotate.lower, waiting)


def decode_chunk(
    system: AbstractSystem, agent: str, state: DecodeState, sampling: Sampling
) -> Program:
    """`decode.CHUNK` tokens from a state: outputs of `widen` or `extend`.

    Its loop ends early where all rows are done, so that the text does not say how often it runs:
    `decode.CHUNK` times at most.
    """
    (rows,) = state.count_B.shape
    key_B = jax.ShapeDtypeStruct((rows, 2), jnp.uint32)
    eos_E, limit_B = (jax.ShapeDtypeStruct((n,), jnp.int32) for n in (2, rows))
    return lower(
        f"decode chunk of {agent}",
        system.mesh,
        decode.chunk.lower,
        system.spec.model(agent),
        sampling,
        system.params[agent],
        state,
        *arguments.whole(system.mesh, (key_B, eos_E, limit_B)),
    )


def park(system: AbstractSystem, state: DecodeState) -> Program:
    """Rows of a chunk are undone, for a tool call."""
    rows_B = jax.ShapeDtypeStruct(state.done_B.shape, bool)
    rows_B = arguments.whole(system.mesh, rows_B)
    return lower("park", system.mesh, decode.park.lower, state, state, rows_B)


def extend(
    system: AbstractSystem, agent: str, state: DecodeState, *, tokens: int, size: int
) -> Program:
    """Rows read on: a tool's result, or the opening of an answer (a retry), of `tokens` tokens.

    `size` are the tokens that the cache has space for after the prompt.
    """
    shape = (*state.count_B.shape, bucket(tokens))
    ids_BT, valid_BT = jax.ShapeDtypeStruct(shape, jnp.int32), jax.ShapeDtypeStruct(shape, bool)
    wrote_B = jax.ShapeDtypeStruct(state.count_B.shape, jnp.int32)
    slots = max(state.tail.valid_BS.shape[1], decode.tail_size(bucket(size)))
    return lower(
        f"read on of {agent}",
        system.mesh,
        decode.extend.lower,
        system.spec.model(agent),
        slots,
        system.params[agent],
        state,
        *arguments.whole(system.mesh, (ids_BT, valid_BT, wrote_B)),
    )
