"""What an evaluation would do, told without loading a weight: methods, batches, lengths, memory."""

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments import stages
from experiments.assembly import Assembly
from experiments.methods import variants
from rmas import parallel
from rmas.console import aligned, printable
from rmas.errors import InputError
from rmas.evaluation.runner import by_length
from rmas.links import Form, parse_form
from rmas.models import ModelSpec
from rmas.system import outline as outlines
from rmas.system import prompts as prompt_sets
from rmas.system.batch import bucket
from rmas.system.load import load_tokenizer, shared_weights
from rmas.system.prompts import Field, Interface
from rmas.system.released import DEFAULT_PROMPTS
from rmas.system.sizes import CACHE_POSITIONS, measure
from rmas.system.topology import single
from rmas.tasks.grader_pool import GraderPool
from rmas.tasks.questions import question_of
from rmas.tasks.rows import Row
from rmas.weights import hub
from rmas.weights.placement import device_memory, planned

_log = logging.getLogger(__name__)
_CHARACTERS = 3.5
"""Characters of a token, where there is no tokenizer to ask."""
_GIB = 1 << 30


def describe(a: Assembly) -> str:
    """The plan as text. Raises `InputError` for what would stop the run at its start."""
    s, e = a.settings, a.settings.evaluate
    topology = s.system.pattern()
    task, rows = stages.questions(a)
    _check(a, task)
    specs, form, shares, tokenizer = outline(a)
    interfaces: dict[str, Interface] = {}

    def length(row: Row) -> int:
        interface = question_of(row).interface
        interfaces.setdefault(interface.kind, interface)
        return _tokens(tokenizer, row)

    lengths = by_length(rows, length).lengths
    _check_interfaces(a, interfaces.values())
    asked = [agent for agent in topology.agents if agent not in shares]
    found = variants(s, asked)
    for agent, spec in specs.items():
        answers = e.own_tokens.get(agent, e.max_new_tokens if agent == topology.output else 0)
        longest = max(lengths) + answers + s.latent_steps * len(topology.incoming(agent))
        if longest > spec.max_positions:
            told = (
                f"{agent} has {spec.max_positions} positions, but the longest question needs "
                f"{longest} and its prompt's words: lower evaluate.max_new_tokens or latent_steps"
            )
            if tokenizer is not None:
                raise InputError(told)
            _log.warning("%s (estimated)", told)
    batches = -(-len(rows) // e.batch_size)
    cells = [["method", "rounds", "latent length", "rollouts", "batches", "answers"]]
    for name, rounds, steps in found:
        counts = (rounds, "-" if steps is None else steps, e.rollouts)
        done = (batches * e.rollouts, len(rows) * e.rollouts)
        cells.append([printable(name), *map(str, (*counts, *done))])
    starts = range(0, len(rows), e.batch_size)
    buckets = Counter(bucket(max(lengths[i : i + e.batch_size])) for i in starts)
    shapes = ", ".join(f"{n} of up to {size} tokens" for size, n in sorted(buckets.items()))
    total = len(rows) * e.rollouts * len(found)
    how = "" if tokenizer else f" (estimated: {_CHARACTERS} characters a token)"
    return "\n".join(
        [
            f"{printable(s.data.name)}, split {e.split}: {len(rows)} questions, graded by {task}",
            f"batches of {e.batch_size}; questions per method: {shapes}{how}",
            "",
            aligned(cells),
            "",
            f"{total:,} answers in all",
            *_memory(a, specs, form, shares, max(lengths)),
        ]
    )


def _check(a: Assembly, task: str) -> None:
    """Prompts, tools, graders and links, as the run will ask for them."""
    s = a.settings
    GraderPool(unsafe=s.tools.unsafe).check(task)
    prompts, family = prompt_sets.load(s.system.prompts), s.system.task_family
    prompts.check(s.system.pattern(), family)
    if "single" in s.evaluate.methods:
        prompts.alone().check(single(s.system.pattern().output), family)
    a.tools(s.system.pattern())
    links = a.workdir / "outer" / stages.LINKS
    if s.system.released:
        if s.system.prompts == DEFAULT_PROMPTS:
            _log.warning(
                "released links were trained with the release's prompts, not with the set %r; see "
                "experiments.import_prompts",
                s.system.prompts,
            )
    elif "latent" in s.evaluate.methods and not links.exists():
        _log.warning("%s is missing: the run needs it, or another folder in --links", links)


def _check_interfaces(a: Assembly, interfaces: Iterable[Interface]) -> None:
    """What code tasks ask for must have its text in the prompt set."""
    s = a.settings.system
    prompts, topology = prompt_sets.load(s.prompts), s.pattern()
    for agent in topology.agents:
        for phase in ("first", "later"):
            if Field("interface") in prompts.template(topology.role(agent), s.task_family, phase):
                for interface in interfaces:
                    prompts.interface_text(interface)


def outline(a: Assembly) -> tuple[dict[str, ModelSpec], Form, dict[str, str], object | None]:
    """Architectures, links' form, shared weights, and the tokenizer of the agent that answers."""
    s = a.settings.system
    output = s.pattern().output
    if s.released and not s.root:
        return *outlines.released(s.released), None
    if s.released:
        root = Path(s.root).expanduser()
        return *outlines.on_disk(s.released, root, s.task_family), load_tokenizer(root / output)
    paths = {agent: hub.resolve(source).path for agent, source in s.agents.items()}
    specs = {agent: ModelSpec.from_config(path) for agent, path in paths.items()}
    form = parse_form(a.settings.links.form)
    return specs, form, shared_weights(paths, specs), load_tokenizer(paths[output])


def _tokens(tokenizer, row: Row) -> int:
    if tokenizer is None:
        return int(len(row.question) / _CHARACTERS) + 1
    return len(tokenizer(row.question, add_special_tokens=False)["input_ids"])


def _memory(
    a: Assembly, specs: dict[str, ModelSpec], form: Form, shares: dict[str, str], longest: int
) -> list[str]:
    """What each device would hold, in words."""
    s, e = a.settings, a.settings.evaluate
    topology, dtype, int8 = s.system.pattern(), jnp.dtype(s.system.dtype), s.quantize == "int8"
    n = jax.device_count()
    owners = [spec for agent, spec in specs.items() if agent not in shares]
    memory = device_memory()
    try:
        sizes = planned(parallel.parse_mesh(s.mesh), owners, dtype, int8, n, n, memory)
        mesh = parallel.abstract_mesh(sizes, n)
    except InputError as error:
        return [f"memory: {error}"]
    size = measure(specs, topology.link_edges, form, mesh, dtype, int8, shares)
    messages = {agent: len(topology.incoming(agent)) for agent in topology.agents}
    steps = max([s.latent_steps, *e.latent_lengths])
    most = 0
    for own in size.agents:
        sent = max(
            steps, e.message_tokens if any(name.startswith("text") for name in e.methods) else 0
        )
        positions = longest + messages[own.name] * sent + max(steps, e.max_new_tokens)
        most = max(most, own.cache * positions * e.batch_size // CACHE_POSITIONS)
    shape = ",".join(f"{axis}={k}" for axis, k in mesh.shape.items())
    lines = [
        f"each device holds {size.resident / _GIB:.2f} GiB of weights and links (mesh {shape})",
        f"caches of the largest batch, over all devices: about {most / _GIB:.2f} GiB at most "
        "(questions and messages; the words of the prompts come on top)",
    ]
    if memory is not None and size.resident + most > memory:
        lines.append(
            f"a device has {memory / _GIB:.2f} GiB: lower evaluate.batch_size, or use more"
        )
    return lines
