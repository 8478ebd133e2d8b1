"""The plan of an evaluation on one mesh: latent recursion, and decoding."""

from collections.abc import Sequence
from typing import Any

from rmas.experiment.plan_stage import Stage, StagePlan
from rmas.models import PREFILL
from rmas.plans import estimates, hlo, programs
from rmas.plans.arguments import device_bytes
from rmas.plans.floors import Work
from rmas.plans.plan import Need, Time
from rmas.plans.programs import Program
from rmas.system.batch import bucket
from rmas.system.decode import tail_size
from rmas.system.turn import LATENT_STEPS


def inference(on: Stage) -> StagePlan:
    """Compiles all turns and a chunk of decoding: memory by part, times, exchanges.

    Where texts are exchanged, or agents answer alone, so are their prefills and chunks.

    Raises `TooLargeError` where one does not fit.
    """
    limits, out = on.settings.limits, on.outline.topology.output
    answer = limits.answered_by(out).max_new_tokens
    think = programs.think(
        on.system,
        steps=on.steps,
        rounds=on.rounds,
        rows=on.whole_rows,
        tokens=on.lengths.prompt,
        begun=on.lengths.preamble,
    )
    batch = device_bytes(think.arguments[-1]["prompts"])
    readers = [a for a in on.outline.topology.agents if a not in on.outline.shares]
    found = _prefill_and_chunk(on, out, think, think.outputs[0], readers, batch=batch, size=answer)
    if set(on.given.evaluate.methods) - {"latent", "latent_memory", "untrained"}:
        found += _texts(on)
    needs = tuple(need for _, need in found)
    if not on.chip:
        return StagePlan(needs)
    times = _think_times(on, think)
    for program, _ in found:
        if program.name.startswith("decode chunk"):
            agent = program.name.rpartition(" ")[2]
            if f"token of {agent}" not in [time.what for time in times]:
                times.append(_token_time(on, agent, program))
    exchanges = tuple(on.exchange(program) for program, _ in found)
    return StagePlan(needs, tuple(times), exchanges)


def token_floor(on: Stage, agent: str = "") -> Work:
    """The least work of one token of an agent's text, in the middle of it."""
    agent = agent or on.outline.topology.output
    final = agent == on.outline.topology.output
    written = on.settings.limits.tokens(agent, final)
    return on.share(agent).token(on.positions(agent) + written / 2)


def _prefill_and_chunk(
    on: Stage,
    agent: str,
    prefill: Program,
    waiting: Any,
    readers: Sequence[str] = (),
    *,
    batch: int,
    size: int,
    unread: int = 0,
) -> list[tuple[Program, Need]]:
    """A program that prefills `waiting`, a chunk of decoding from it, and before it preambles.

    Each runs beside the caches of the other: while a batch writes, the next one is prefilled, and
    waits. Chunks keep the tail that they started from.

    Args:
      readers: the agents whose preambles are read.
      batch: bytes of the prompts.
      size: the most tokens of a text.
      unread: bytes of weights and links that the prefill does not read.
    """
    running = programs.widen(on.system, waiting, size=size).outputs
    chunk = programs.decode_chunk(on.system, agent, running, on.given.sampling)
    memory = on.compiled(prefill)
    waits = min(device_bytes((waiting.prefix, waiting.tail)), memory.outputs)
    runs = device_bytes((running.prefix, running.tail, running.tail))
    fixed = {"weights": on.weights, "links": on.links}
    parts = {**fixed, "batch": batch, "caches": waits + runs + on.preambles + on.kept}
    first = prefill, on.need(prefill, parts, beside=unread + runs + on.kept)

    memory = on.compiled(chunk)
    written = min(device_bytes(running.tail), memory.outputs - memory.alias)
    waits += on.preambles + on.kept
    caches = device_bytes((running.prefix, running.tail)) + written + waits
    beside = on.weights - device_bytes(on.params[agent]) + on.links + waits
    found = [first, (chunk, on.need(chunk, {**fixed, "caches": caches}, beside=beside))]
    for reader in readers if on.begun else ():
        tokens = on.lengths.preamble
        program = programs.preamble(on.system, reader, rows=on.whole_rows, tokens=tokens)
        on.compiled(program)
        others = on.weights - device_bytes(on.params[reader]) + on.links
        need = on.need(program, {**fixed, "caches": runs + waits}, beside=others + runs + waits)
        found.append((program, need))
    return found


def _texts(on: Stage) -> list[tuple[Program, Need]]:
    """What text exchange runs: each agent's prefill with messages in its prompt, and its chunk.

    Agents with the same weights and the same lengths run the same programs, which count once.
    """
    topology, limits = on.outline.topology, on.settings.limits
    found, compiled = [], set()
    for agent in topology.agents:
        tokens = limits.tokens(agent, final=agent == topology.output)
        messages = sum(limits.tokens(e.src, final=False) for e in topology.incoming(agent))
        positions = min(on.lengths.prompt + messages, on.outline.context(agent) - tokens)
        positions = max(positions, on.lengths.prompt)
        same = (on.outline.shares.get(agent, agent), bucket(positions), tail_size(tokens))
        if same in compiled:
            continue
        compiled.add(same)
        start = programs.decode_start(
            on.system,
            agent,
            rows=on.whole_rows,
            positions=positions,
            begun=on.lengths.preamble,
        )
        found += _prefill_and_chunk(
            on,
            agent,
            start,
            start.outputs,
            batch=device_bytes(start.arguments[1]),
            size=tokens,
            unread=on.weights - device_bytes(on.params[agent]) + on.links + on.preambles,
        )
    return found


def _think_times(on: Stage, think: Program) -> list[Time]:
    """A prefill and a latent step of each agent, and all of latent thinking."""
    topology = on.outline.topology
    cycles = estimates.by_scope(think.text, topology.agents)
    times = []
    total = Work(0, 0)
    for agent in topology.agents:
        share, turns, positions = on.share(agent), on.turns(agent), on.positions(agent)
        reads = turns + (agent == topology.output)
        prefill = share.prefill(on.rest(agent), on.begun)
        step = share.latent_step(positions + on.steps / 2)
        steps = turns * (on.steps - 1)
        total += prefill.times(reads) + step.times(steps)
        if on.begun:
            total += share.prefill(on.begun)
        for what, part, n, work in (
            (f"prefill of {agent}", PREFILL, reads, prefill),
            (f"latent step of {agent}", LATENT_STEPS, steps, step),
        ):
            if n and (own := cycles.get((agent, part))):
                times.append(Time(what, on.seconds(own / n), on.floor_of(work)))
    whole = f"all latent turns, {on.rounds} round{'s' * (on.rounds > 1)}"
    seconds = on.seconds(hlo.total_cycles(think.text))
    return [*times, Time(whole, seconds, on.floor_of(total))]


def _token_time(on: Stage, agent: str, chunk: Program) -> Time:
    seconds = on.seconds(estimates.per_token(chunk.text))
    return Time(f"token of {agent}", seconds, on.floor_of(token_floor(on, agent)))
