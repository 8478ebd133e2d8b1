"""What an evaluation would do: derived values, methods, groups, lengths, memory; no weights."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from rmas import parallel
from rmas.console import aligned, printable
from rmas.errors import InputError
from rmas.evaluation.plan import by_length, group_bounds
from rmas.experiment import derive
from rmas.experiment.data import Data
from rmas.experiment.derive import Derived
from rmas.experiment.evaluating import grader_pool
from rmas.experiment.methods import WITH_LINKS, check_methods, grader_of, variants
from rmas.experiment.settings import Settings
from rmas.experiment.toolboxes import toolboxes
from rmas.places import expanded, has_entry
from rmas.system.batch import bucket
from rmas.system.outline import Outline
from rmas.system.prompts import Field, Interface
from rmas.system.sizes import CACHE_POSITIONS, copied_bytes, prefill_bytes, unrolled_bytes
from rmas.system.topology import single
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row
from rmas.weights.placement import device_memory

_log = logging.getLogger(__name__)
_CHARACTERS = 3.5
"""Characters of a token, where there is no tokenizer to ask."""
_GIB = 1 << 30


def describe(
    settings: Settings,
    derived: Sequence[Derived],
    outline: Outline,
    data: Data,
    longest: int | None,
    missing_links: str,
) -> str:
    """The plan of an evaluation as text.

    Args:
      derived: what was settled before, for the list of derived values.
      longest: positions of the longest prompt of the agent that answers, if it is known.
      missing_links: what to do about trained links that were not found; empty if they were.

    Raises:
      InputError: what would stop the run at its start.
    """
    grader = grader_of(settings)
    asked = data.asked
    s, more = derive.lengths(settings, outline, longest)
    e, topology = s.evaluate, outline.topology
    grader_pool(s, data)
    _check(s, outline, missing_links)
    chat = outline.chats.get(topology.output)
    interfaces: dict[str, Interface] = {}

    def length(row: Row) -> int:
        interface = question_of(row).interface
        interfaces.setdefault(interface.kind, interface)
        if chat is None:
            return int(len(row.question) / _CHARACTERS) + 1
        return len(chat.data_ids(row.question))

    lengths = by_length(asked, length).lengths
    _check_interfaces(outline, interfaces.values())
    _check_contexts(s, outline, max(lengths))
    batches = -(-len(asked) // e.batch_size)
    cells = [["method", "rounds", "latent length", "rollouts", "batches", "answers"]]
    found = variants(s, [agent for agent in topology.agents if agent not in outline.shares])
    for name, rounds, steps in found:
        counts = (rounds, "-" if steps is None else steps, e.rollouts)
        done = (batches * e.rollouts, len(asked) * e.rollouts)
        cells.append([printable(name), *map(str, (*counts, *done))])
    groups = group_bounds(lengths, e.batch_size, e.group_batches)
    most = max(-(-(end - start) // e.batch_size) for start, end, _ in groups)
    starts = range(0, len(asked), e.batch_size)
    buckets = Counter(bucket(max(lengths[i : i + e.batch_size])) for i in starts)
    shapes = ", ".join(
        f"{n} with questions of up to {size} tokens" for size, n in sorted(buckets.items())
    )
    split = f", split {e.split}" if e.split else ""
    how = "" if chat else f" (estimated: {_CHARACTERS} characters a token)"
    rest = [derive.dtype(s)]
    if s.data.name:
        rest += [derive.row_length(s, outline, stage) for stage in ("inner", "outer")]
    rest = [value for value in rest if value.why != "as set"]
    settled = [printable(f"  {value}") for value in (*derived, *more, *rest)]
    return "\n".join(
        [
            f"{printable(data.name)}{split}: {len(asked)} questions, graded by {grader}",
            f"{e.batch_size} questions a batch; batches per method: {shapes}{how}",
            f"groups, which the methods answer in turn: {len(groups)} of up to {most} batches",
            *(["", "derived from agents, data and devices:", *settled] if settled else []),
            "",
            aligned(cells),
            "",
            f"{len(asked) * e.rollouts * len(found):,} answers in all",
            *_memory(s, outline, max(lengths)),
        ]
    )


def missing_links(own: Path, named: str | Path | None) -> str:
    """What to do about links that are not there: those `named`, else the workdir's own."""
    if named is None:
        return "" if has_entry(own) else "train them with this workdir, or name their folder"
    return "" if has_entry(expanded(named)) else f"{named} does not exist"


def _check(s: Settings, outline: Outline, missing_links: str) -> None:
    """Prompts, tools and links, as the run will ask for them."""
    if "single" in s.evaluate.methods:
        alone = single(outline.topology.output)
        outline.prompts.alone(s.system.task_family).check(alone, s.system.task_family)
    toolboxes(s.tools, outline.topology)
    check_methods(s, outline)
    if outline.style is not None:
        if s.system.prompts == "default":
            _log.warning(
                "released links were trained with the release's prompts, not with the set %r; see "
                "experiments.import_prompts",
                s.system.prompts,
            )
    elif missing_links:
        for name in sorted(WITH_LINKS.intersection(s.evaluate.methods)):
            _log.warning("the method %s needs links: %s", name, missing_links)


def _check_interfaces(outline: Outline, interfaces: Iterable[Interface]) -> None:
    """What code tasks ask for must have its text in the prompt set."""
    prompts, topology = outline.prompts, outline.topology
    for agent in topology.agents:
        for phase in ("first", "later"):
            template = prompts.template(topology.role(agent), outline.task_family, phase)
            if Field("interface") in template:
                for interface in interfaces:
                    prompts.interface_text(interface)


def _check_contexts(s: Settings, outline: Outline, longest: int) -> None:
    """Whether questions, latents and answers fit into the agents' contexts."""
    topology, limits = outline.topology, s.limits
    for agent in topology.agents:
        answers = agent == topology.output or "single" in s.evaluate.methods
        written = limits.own_tokens.get(agent, limits.max_new_tokens if answers else 0)
        needs = longest + written + limits.latent_steps * len(topology.incoming(agent))
        if needs > outline.context(agent):
            problem = (
                f"{agent} has {outline.context(agent)} positions, but the longest question needs "
                f"{needs} and its prompt's words: lower limits.max_new_tokens or "
                "limits.latent_steps"
            )
            if outline.chats:
                raise InputError(problem)
            _log.warning("%s (estimated)", problem)
        elif any(name.startswith("text") for name in s.evaluate.methods):
            written = limits.tokens(agent, final=agent == topology.output)
            needs = longest + written + limits.message_tokens * len(topology.incoming(agent))
            if needs > outline.context(agent):
                _log.warning(
                    "%s has %d positions, but text exchange may need %d: lower "
                    "limits.message_tokens or limits.max_new_tokens",
                    agent,
                    outline.context(agent),
                    needs,
                )


def _memory(s: Settings, outline: Outline, longest: int) -> list[str]:
    """What each device would hold, in words."""
    e, limits, topology = s.evaluate, s.limits, outline.topology
    dtype, int8 = jnp.dtype(derive.dtype(s).value), s.quantize == "int8"
    n, memory = jax.device_count(), device_memory()
    rows = derive.rows(s, "evaluate").on(jax.default_backend())
    try:
        asked = parallel.parse_mesh(s.mesh)
        mesh = outline.abstract_mesh(asked, n, dtype=dtype, quantize=int8, memory=memory, rows=rows)
    except InputError as error:
        return [f"memory: {error}"]
    size = outline.size(mesh, dtype, int8)
    messages = {agent: len(topology.incoming(agent)) for agent in topology.agents}
    steps = max([limits.latent_steps, *e.latent_lengths])
    texts = limits.message_tokens if any(name.startswith("text") for name in e.methods) else 0
    caches = prefill = copied = 0
    for own in size.agents:
        spec = outline.specs[own.name]
        prompt = bucket(longest + messages[own.name] * max(steps, texts))
        positions = prompt + max(steps, limits.max_new_tokens)
        cache = own.cache * positions * e.batch_size // CACHE_POSITIONS
        caches = max(caches, cache)
        needs = prefill_bytes(spec, e.batch_size, prompt, mesh=mesh, dtype=dtype)
        if jax.default_backend() == "cpu":
            needs += copied_bytes(spec, mesh=mesh, dtype=dtype, quantize=int8)
            copied += unrolled_bytes(spec, cache, mesh=mesh, dtype=dtype)
        prefill = max(prefill, needs)
    shape = ",".join(f"{axis}={k}" for axis, k in mesh.shape.items())
    # After its prefill, an agent's weights are whole but for tensor.
    gathered = (mesh.shape["fsdp"] - 1) * max(own.weights for own in size.agents)
    most = size.resident + caches // parallel.batch_multiple(mesh) + max(prefill, gathered, copied)
    lines = [
        f"each device holds {size.resident / _GIB:.2f} GiB of weights and links (mesh {shape})",
        f"caches of the largest batch, over all devices: about {caches / _GIB:.2f} GiB at most "
        "(questions and messages; the words of the prompts come on top)",
        f"its prefill needs about {prefill / _GIB:.2f} GiB more on each device while it runs",
    ]
    if copied:
        lines.append(
            f"on one CPU device, latent steps hold layers and caches twice: about "
            f"{copied / _GIB:.2f} GiB more"
        )
    if gathered:
        lines.append(f"a turn gathers about {gathered / _GIB:.2f} GiB of weights on each device")
    if memory is not None and most > memory:
        lines.append(
            f"a device has {memory / _GIB:.2f} GiB: lower evaluate.batch_size, or use more devices"
        )
    return lines
