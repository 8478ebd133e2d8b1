"""What a stage would need of each device, computed without loading a weight or running a step.

With a topology (`v5e:2x4`) the compiler for TPUs compiles the stage's programs for its devices, and
says what memory they need and how many cycles they take. Without one XLA's compiler for CPUs does,
in float32 and without the order of recomputation: its numbers are upper bounds.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from rmas import parallel
from rmas.errors import InputError
from rmas.experiment import derive
from rmas.experiment.plan_inference import inference, token_floor
from rmas.experiment.plan_stage import RESIDENT, Stage, StagePlan, too_large
from rmas.experiment.plan_training import step_floor, training
from rmas.experiment.settings import Settings
from rmas.parallel import MeshSpec
from rmas.parallel.slices import SliceSpec, describe_devices, parse_slice
from rmas.plans.plan import MeshChoice, Plan
from rmas.plans.programs import TooLargeError
from rmas.system.answers import Question
from rmas.system.outline import Outline
from rmas.system.preamble import LEAST
from rmas.system.rendered import Renderer
from rmas.training.objectives import Lengths
from rmas.weights.placement import planned

STAGES = ("inner", "outer", "evaluate")
_MOST = 4096  # devices of a plan
_PROMPT, _TEXT = 512, 256  # tokens, where contexts have them
_UPPER_BOUND = """\
By the compiler for CPUs, in float32: an upper bound. Accelerators need less, some less than half.
The compiler for TPUs says what these need, without one: --config.topology=v5e:2x4, after
pip install '.[tpu]'."""
_LEFT_OUT = """\
Memory is what the compiler for TPUs needs. Estimates are its cycles times trip counts: they leave
out exchanges between devices, asynchronous copies and sorts, and nothing was measured. A floor is
bytes over the memory's bandwidth or operations over the peak, whichever is more."""


def make_plan(
    settings: Settings,
    outline: Outline,
    stage: str,
    prompt_tokens: int = 0,
    text_tokens: int = 0,
    topology: str = "",
    compiled: int = 2,
) -> Plan:
    """The plan of `inner` or `outer` training, or of `evaluate` (latent recursion, and decoding).

    Without a topology it is made for CPU devices, as many as the mesh has, which must be set up
    before JAX has made its devices: see `prepare_devices`.

    Args:
      prompt_tokens: of a prompt with its question, without messages; 0: 512, or two thirds of the
        smallest context.
      text_tokens: of a role's text, for training; 0: 256, or what the prompt leaves of it.
      topology: a TPU slice, as in `v5e:2x4`; empty: none.
      compiled: with a topology and `mesh=auto`, how many meshes that fit are compiled.

    Raises:
      InputError: another stage, lengths that exceed an agent's context, a topology that there is
        not or that has no compiler here, a mesh that does not suit the devices, or a batch that
        does not divide over it.
    """
    if stage not in STAGES:
        raise InputError(f"stage {stage!r} is unknown; known: {', '.join(STAGES)}")
    numbers = jnp.dtype("bfloat16" if settings.system.dtype == "auto" else settings.system.dtype)
    lengths = _lengths(outline, stage, prompt_tokens, text_tokens)
    if not topology:
        asked = _sizes(settings.mesh)
        devices: Sequence[jax.Device] = jax.devices()[: math.prod(asked.sizes)]
        mesh = parallel.make_mesh(asked, devices)
        on = Stage(settings, outline, stage, lengths, numbers, mesh, None, None)
        label = f"{mesh.size} CPU device{'s' * (mesh.size > 1)}"
        return _finished(on, _parts(on), label, remark=_UPPER_BOUND)

    found = parse_slice(topology)
    group = devices_of(stage, settings.mesh, found)
    available = found.chip.usable_bytes
    choices = planned(
        group.asked,
        outline.owners,
        dtype=numbers,
        quantize=settings.quantize == "int8",
        n_devices=len(group.devices),
        per_host=group.per_host,
        memory=available,
        rows=derive.rows(settings, stage).on("tpu"),
    )
    stages = [
        Stage(
            settings,
            outline,
            stage,
            lengths,
            numbers,
            parallel.make_mesh(choice, group.devices),
            found.chip,
            available,
        )
        for choice in choices
    ]
    if not group.asked.auto:
        return _finished(stages[0], _parts(stages[0]), group.label, remark=_LEFT_OUT)
    return _best(stages, group.label, compiled)


@dataclasses.dataclass(frozen=True)
class Group:
    """Devices of a slice that run a stage together.

    Attributes:
      asked: the mesh that is asked for on them.
      per_host: how many devices each host of the slice has.
      label: what they are, in words.
    """

    asked: MeshSpec
    devices: Sequence[jax.Device]
    per_host: int
    label: str


def devices_of(stage: str, mesh: str, found: SliceSpec) -> Group:
    """The devices of a slice for a stage, without compiling anything.

    Raises:
      InputError: there is no compiler for the slice here, or the mesh does not suit its devices.
    """
    devices = describe_devices(found)
    per_host = sum(d.process_index == devices[0].process_index for d in devices)
    hosts = len(devices) // per_host
    asked, label = parallel.parse_mesh(mesh), str(found)
    if stage == "evaluate" and hosts > 1:
        # Each process answers its share of the questions on its own devices. The compiler refuses
        # collectives of some of a slice's devices, so these are a slice of their own.
        asked, devices = asked.share(hosts), describe_devices(found.host)
        label += f" (each of {hosts} hosts by itself)"
    if not asked.auto:
        parallel.make_mesh(asked, devices)
    return Group(asked, devices, per_host, label)


def prepare_devices(mesh: str, topology: str = "") -> None:
    """Gives this process the CPU devices of a plan; JAX must not have made its devices yet.

    Raises `InputError` for a mesh without sizes, where there is no topology.
    """
    n = 1 if topology else math.prod(_sizes(mesh).sizes)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", n)


def _lengths(outline: Outline, stage: str, prompt: int, text: int) -> Lengths:
    """What is planned for; raises `InputError` for more than the smallest context."""
    agent = min(outline.topology.agents, key=outline.context)
    context = outline.context(agent)
    prompt = prompt or min(_PROMPT, max(context - text, 1) if text else 2 * context // 3)
    text = text or min(_TEXT, max(context - prompt, 1))
    needed = prompt if stage == "evaluate" else prompt + text
    if needed > context:
        raise InputError(
            f"plan_lengths ({prompt}, {text}) need {needed} positions, and agent {agent} has "
            f"{context}; lower plan_lengths"
        )
    return Lengths(prompt, text, preamble_of(outline, prompt))


def preamble_of(outline: Outline, prompt: int) -> int:
    """How many tokens of a prompt all rounds share, of the agent with the fewest.

    Where the agents' folders are not known, none: each round then reads whole prompts.
    """
    if not outline.located:
        return 0
    renderer = Renderer(outline.unloaded())
    short, long = (Question("", text) for text in ("A", "A" + " word" * 100))

    def one(agent: str) -> int:
        begun = [renderer.preamble(agent, question) for question in (short, long)]
        if begun[0] == begun[1]:  # it ends before the question
            return begun[0]
        whole = renderer.latent_line(agent, short, k=1, steps=0)
        return max(prompt - (len(whole) - begun[0]), 0)

    found = min(min(map(one, outline.topology.agents)), prompt - 1)
    return found if found >= LEAST else 0


def _sizes(text: str) -> MeshSpec:
    asked = parallel.parse_mesh(text)
    if asked.auto:
        return MeshSpec()
    if -1 in asked.sizes:
        raise InputError(
            f"mesh {text!r} leaves a size open; a plan needs them all, as in data=2,tensor=2"
        )
    n = math.prod(asked.sizes)
    if n > _MOST:
        raise InputError(f"mesh {text!r} has {n} devices; a plan is for {_MOST} at most")
    return asked


def _parts(on: Stage) -> StagePlan:
    """Compiles the programs of a stage."""
    on.check_batch()
    if on.available is not None and on.resident > on.available:
        # No program needs to be compiled to know it.
        error = TooLargeError(RESIDENT, on.resident, on.available)
        return StagePlan(problem=too_large(on, error))
    try:
        return inference(on) if on.stage == "evaluate" else training(on)
    except TooLargeError as error:
        return StagePlan(problem=too_large(on, error))


def _best(stages: Sequence[Stage], label: str, compiled: int) -> Plan:
    """The plan on the first mesh that fits, with a table of all; the first are compiled."""
    found: list[tuple[Stage, StagePlan]] = []
    rows: list[MeshChoice] = []
    for on in stages:
        choice = MeshChoice(
            mesh=on.shape,
            rows=on.rows / parallel.batch_multiple(on.mesh),
            resident=on.resident + on.caches,
            divides=on.divides,
            floor=on.floor_of(token_floor(on) if on.stage == "evaluate" else step_floor(on)),
        )
        fitting = sum(not own.problem for _, own in found)
        if on.divides and fitting < compiled:
            own = _parts(on)
            found.append((on, own))
            main = next((t for t in own.times if t.what == on.measured), None)
            choice = dataclasses.replace(
                choice,
                peak=max((need.peak for need in own.needs), default=None),
                fits=not own.problem,
                estimate=main.estimate if main else None,
            )
        rows.append(choice)
    if not found:
        stages[0].check_batch()
    on, own = next((pair for pair in found if not pair[1].problem), found[0])
    remark = _LEFT_OUT
    if on is not stages[0] and not own.problem:
        remark = (
            f"Name the mesh, as --config.mesh={on.shape}: auto would take the first of the table.\n"
            + remark
        )
    plan = _finished(on, own, label, remark=remark)
    return dataclasses.replace(plan, meshes=tuple(rows), measured=stages[0].measured)


def _finished(on: Stage, own: StagePlan, devices: str, remark: str) -> Plan:
    return Plan(
        stage=on.stage,
        system=on.name,
        devices=devices,
        mesh=on.shape,
        numbers=np.dtype(on.dtype).name + (", int8 matrices" if on.int8 else ""),
        settings=on.words,
        needs=own.needs,
        available=on.available,
        times=own.times,
        exchanges=own.exchanges,
        problem=own.problem,
        remark=remark,
    )
