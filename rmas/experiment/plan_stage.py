"""One stage on one mesh: what its plan is made from, before anything is compiled."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax.sharding import Mesh

from rmas import parallel
from rmas.console import waiting
from rmas.errors import InputError
from rmas.evaluation.plan import MOST_BATCHES
from rmas.experiment import derive
from rmas.experiment.outline import training_context
from rmas.experiment.settings import Settings
from rmas.parallel.chips import Chip
from rmas.plans import estimates
from rmas.plans.arguments import AbstractSystem, device_bytes, weight_bytes
from rmas.plans.floors import Share, Work
from rmas.plans.plan import PARTS, Exchange, Need, Time
from rmas.plans.programs import MemoryNeeds, Program, TooLargeError
from rmas.shapes import Params
from rmas.system import preamble_cache
from rmas.system.batch import bucket
from rmas.system.decode import CHUNK
from rmas.system.outline import Outline
from rmas.training.loop import Schedule
from rmas.training.objectives import Lengths, TrainingContext

_GIB = 1 << 30
RESIDENT = "weights and links alone"
"""The name of what is too large before any program."""


class BatchError(InputError):
    """A batch of training that divides over none of the meshes."""


@dataclasses.dataclass(frozen=True)
class StagePlan:
    """What the compiler says of a stage's programs; `problem` where one is too large."""

    needs: tuple[Need, ...] = ()
    times: tuple[Time, ...] = ()
    exchanges: tuple[Exchange, ...] = ()
    problem: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A stage of an experiment on a mesh.

    Attributes:
      given: the experiment's settings.
      stage: `inner`, `outer` or `evaluate`.
      lengths: of prompts and texts.
      dtype: of the weights in a run.
      chip, available: of the devices, with a topology; else None.
    """

    given: Settings
    outline: Outline
    stage: str
    lengths: Lengths
    dtype: Any
    mesh: Mesh
    chip: Chip | None
    available: int | None

    @functools.cached_property
    def settings(self) -> Settings:
        """With the lengths that follow from contexts."""
        return derive.lengths(self.given, self.outline)[0]

    @property
    def name(self) -> str:
        """The system's."""
        return self.given.system.style or self.outline.topology.name

    @property
    def shape(self) -> str:
        """The mesh in words."""
        sizes = ",".join(f"{axis}={n}" for axis, n in self.mesh.shape.items())
        return "one device" if self.mesh.size == 1 else sizes

    @property
    def int8(self) -> bool:
        """Whether matrices are held in 8 bits."""
        return self.given.quantize == "int8"

    @property
    def schedule(self) -> Schedule:
        """Of training."""
        return self.given.inner if self.stage == "inner" else self.given.outer

    @property
    def rows(self) -> int:
        """Of all devices at a time: of a batch, or of a part with gradient accumulation."""
        return derive.rows(self.given, self.stage).batch

    @property
    def whole_rows(self) -> int:
        """The same, filled up as inference does it."""
        return parallel.whole_batch(self.mesh, self.rows)

    @property
    def divides(self) -> bool:
        """Whether the mesh divides the batch, or need not."""
        return self.stage == "evaluate" or not self.rows % parallel.batch_multiple(self.mesh)

    def check_batch(self) -> None:
        """Raises `BatchError` for a batch that training would refuse."""
        if not self.divides:
            multiple = parallel.batch_multiple(self.mesh) * self.schedule.accumulate
            raise BatchError(
                f"{self.stage}.batch_size is {self.schedule.batch_size}; on this mesh it must be "
                f"a multiple of {multiple}"
            )

    @property
    def rounds(self) -> int:
        """The most rounds."""
        given = self.given
        return max(given.evaluate.rounds) if self.stage == "evaluate" else given.outer.rounds

    @property
    def steps(self) -> int:
        """The most latent steps of a turn."""
        tried = self.given.evaluate.latent_lengths if self.stage == "evaluate" else ()
        return max(self.given.limits.latent_steps, *tried, 1)

    @property
    def context(self) -> TrainingContext:
        """Facts for losses."""
        return training_context(self.given, self.outline)

    @functools.cached_property
    def weights(self) -> int:
        """Bytes of all agents' weights on a device."""
        return weight_bytes(self.outline.abstract_params(self.mesh, self.dtype, self.int8))

    @functools.cached_property
    def params(self) -> dict[str, Params]:
        """Shapes of the weights that programs are compiled for.

        The compiler for CPUs computes bfloat16 in float32, and copies all weights for it.
        """
        dtype = self.dtype if self.chip else jnp.float32
        return self.outline.abstract_params(self.mesh, dtype, self.int8)

    @functools.cached_property
    def system(self) -> AbstractSystem:
        """The agents as abstract arrays."""
        return AbstractSystem(self.outline.topology, self.outline.spec(), self.params, self.mesh)

    @property
    def links(self) -> int:
        """Bytes of all links on a device."""
        return device_bytes(self.system.links)

    @property
    def resident(self) -> int:
        """Bytes of weights and links."""
        return self.weights + self.links

    # What is known from shapes.

    @property
    def begun(self) -> int:
        """Positions of a preamble, as compiled."""
        return bucket(self.lengths.preamble)

    def rest(self, agent: str) -> int:
        """Positions of an agent's prompt after its preamble, as compiled: latent messages too."""
        incoming = self.outline.topology.incoming(agent)
        return bucket(self.lengths.prompt - self.lengths.preamble + self.steps * len(incoming))

    def positions(self, agent: str) -> int:
        """Of an agent's whole prompt, as compiled."""
        return self.begun + self.rest(agent)

    def turns(self, agent: str) -> int:
        """Latent turns of an agent in all rounds."""
        topology = self.outline.topology
        return self.rounds - (agent in topology.after) - (agent == topology.output)

    def share(self, agent: str) -> Share:
        """A device's share of an agent."""
        link = device_bytes(self.system.links["inner"][agent])
        spec = self.outline.specs[agent]
        return Share(spec, self.mesh, self.whole_rows, self.dtype, self.int8, link)

    @property
    def caches(self) -> int:
        """Bytes of keys, values and states on a device: of preambles, and of the largest turn."""
        shares = {a: self.share(a) for a in self.outline.topology.agents}
        turn = max(share.cache(self.rest(a) + self.steps) for a, share in shares.items())
        return int(turn + self.preambles)

    @property
    def preambles(self) -> int:
        """Bytes of all agents' preambles of a batch on a device."""
        agents = self.outline.topology.agents if self.begun else ()
        return int(sum(self.share(agent).cache(self.begun) for agent in agents))

    @property
    def kept(self) -> int:
        """Bytes of the preambles of a group's other batches, for the methods that follow."""
        return min(preamble_cache.BYTES, self.preambles * MOST_BATCHES)

    @property
    def measured(self) -> str:
        """The time by which meshes are compared."""
        if self.stage == "evaluate":
            return f"token of {self.outline.topology.output}"
        return f"{self.stage} step"

    @property
    def words(self) -> str:
        """What else the plan depends on."""
        prompts = f"prompts of {self.lengths.prompt} tokens"
        if self.lengths.preamble:
            prompts += f" ({self.lengths.preamble} of them in all rounds)"
        turns = f"{self.rounds} round{'s' * (self.rounds > 1)}, {self.steps} latent steps"
        if self.stage == "evaluate":
            answers = f"answers of {self.settings.limits.max_new_tokens} tokens"
            return f"batch {self.rows}, {prompts}; {turns}, {answers}"
        what = f"batch {self.schedule.batch_size}"
        if self.schedule.accumulate > 1:
            what += f", gradients accumulated over {self.schedule.accumulate} parts"
        what += f", {prompts}, texts of {self.lengths.text}"
        return what if self.stage == "inner" else f"{what}; {turns}, {self.given.objective}"

    # What the compiler says.

    def compiled(self, program: Program) -> MemoryNeeds:
        """Compiles a program, which may take minutes. Raises `TooLargeError`."""
        with waiting(f"compiling {program.name}", "minutes for a large system"):
            return program.memory

    def need(
        self, program: Program, parts: Mapping[str, int], *, beside: int = 0, caches: int = 0
    ) -> Need:
        """What a compiled program needs of a device.

        Args:
          parts: bytes by name; weights and links as in a run.
          beside: bytes of those parts that the program does not read.
          caches: at most so many of the other bytes are caches.

        Raises `TooLargeError` where it does not fit beside the rest.
        """
        peak = program.memory.peak + beside
        if not self.chip:  # peaks of the compiler for CPUs count weights in float32
            peak = sum(parts.values()) + program.memory.temporaries
        if self.available is not None and peak > self.available:
            raise TooLargeError(program.name, peak, self.available)
        rest = max(peak - sum(parts.values()), 0)
        caches = min(caches, rest)
        own = {**parts, "activations": rest - caches}
        if caches:
            own["caches"] = caches
        return Need(program.name, {name: own[name] for name in PARTS if name in own}, peak)

    def seconds(self, cycles: float) -> float:
        """Of the compiler's cycles."""
        assert self.chip is not None
        return cycles / self.chip.clock_hz

    def floor_of(self, work: Work) -> float:
        """Seconds."""
        assert self.chip is not None
        return work.seconds(self.chip)

    def exchange(self, program: Program) -> Exchange:
        """What devices send each other in a program, a chunk of decoding to its end."""
        found = estimates.exchanges(program.text, unknown=CHUNK)
        return Exchange(program.name, found.calls, found.bytes)


def too_large(on: Stage, error: TooLargeError) -> str:
    """One line: what is needed, what there is, and what to change."""
    advice, tensor = [], on.mesh.shape["tensor"]
    static = error.program == RESIDENT  # neither batches nor activations count
    if tensor < 8 and all(spec.n_kv_heads % (2 * tensor) == 0 for spec in on.outline.owners):
        advice.append(f"more tensor, as tensor={2 * tensor}, on a larger slice if need be")
    else:
        advice.append("more fsdp, or a chip with more memory")
    if not static and on.stage != "evaluate":
        if on.stage == "outer" and on.given.outer.remat == "turns":
            advice.append("outer.remat=layers")
        if on.rows > parallel.batch_multiple(on.mesh):
            advice.append(f"more {on.stage}.accumulate")
    if not static and on.rows > 1:
        advice.append(f"a smaller {on.stage}.batch_size")
    if not on.int8:
        advice.append("quantize=int8")
    last = f" or {advice.pop()}" if len(advice) > 1 else ""
    return (
        f"does not fit: {error.program} of {on.name}, mesh {on.shape}: "
        f"{error.needed / _GIB:.2f} GiB of each device are needed, {error.available / _GIB:.2f} "
        f"GiB are there; use {', '.join(advice)}{last}"
    )
