"""Where latents win: the time of text exchange over that of latents, by the length of messages.

  python -m experiments.benchmarks.message_length --plot=message_length.png   # small agents, CPU
  python -m experiments.benchmarks.message_length --json=lengths.json --repeats=9
  python -m experiments.benchmarks.message_length --nomeasure --chip=v6e --latent_steps=80

Latent recursion has a fixed number of latent steps; text exchange has messages of so many tokens.
Rounds, prompts and the length of the answer are the same in both. What a message of a length is
worth is another question, which times do not answer.

*Measured*, on agents of random weights as in `benchmarks.inference`: all ways take turns in one
process, each repetition with questions of its own; random weights end no text, so that messages
have exactly their tokens. Beside it, the floor on this machine, with the bandwidth of a large copy
and the rate of a large product that were measured here.

*Floors* of the released systems on a TPU chip, by its public figures: bytes that must be read, or
operations, whichever takes longer, of every prefill, latent step and token. A floor is no
measurement: nothing of it has run, and exchanges between devices, small operations and the host
come on top. Lengths are those of the measurement.

The tables are in Markdown; `--page` puts them between the comments `message_length: begin` and
`message_length: end` of a page.
"""

import dataclasses
import math
import tempfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import app
from experiments.benchmarks import message_plot, random_agents
from experiments.benchmarks.inference_paths import FORM, LATENT, Paths, Turns
from experiments.benchmarks.inference_work import Counter
from experiments.benchmarks.message_floors import (
    ExchangeFloors,
    interpolated_crossing,
    interval_above,
)
from experiments.benchmarks.output_file import output_file
from experiments.benchmarks.page_region import PageRegion
from experiments.benchmarks.program_times import Figures, measured_figures, say
from experiments.benchmarks.random_agents import Sizes
from experiments.benchmarks.ratios import (
    alternate,
    markdown,
    named,
    ratio,
    ratio_cells,
    seconds_cells,
)
from experiments.benchmarks.words import check_words, numbers
from rmas import parallel
from rmas.errors import InputError
from rmas.files import atomic_write_json
from rmas.parallel import meters
from rmas.parallel.chips import CHIPS
from rmas.system.styles import STYLES

_CHIPS = {chip.name: chip for chip in CHIPS.values()}
_GIB = 1 << 30
_CONTEXT = "--latent_steps, --lengths, --floor_lengths or --new_tokens"

_MEASURE = flags.DEFINE_boolean("measure", True, "Measure on this machine.")
_SYSTEM = flags.DEFINE_string("system", "small", "What is measured, as of benchmarks.inference.")
_STYLES = flags.DEFINE_list("styles", list(STYLES), "Released systems whose floors are counted.")
_CHIP = flags.DEFINE_enum("chip", "v5e", list(_CHIPS), "Of the floors of released systems.")
_MESH = flags.DEFINE_string("mesh", "tensor=2", "Of these chips, as of a run; single is one.")
_LENGTHS = flags.DEFINE_list("lengths", ["8", "16", "32", "64", "128"], "Measured; in tokens.")
_FLOOR_LENGTHS = flags.DEFINE_list(
    "floor_lengths", [str(1 << n) for n in range(3, 11)], "Of the floors of released systems."
)
_PROMPT = flags.DEFINE_integer("prompt_tokens", 330, "Of the longest prompt, without messages.")
_BATCH = flags.DEFINE_integer("batch", 4, "Questions answered at once.", 1)
_ROUNDS = flags.DEFINE_integer("rounds", 3, "Recursion rounds; one has no feedback.", 1)
_STEPS = flags.DEFINE_integer("latent_steps", 32, "Of a turn.", 2)
_TOKENS = flags.DEFINE_integer("new_tokens", 32, "Of the answer.", 1)
_DTYPE = flags.DEFINE_enum("dtype", "float32", ["float32", "bfloat16"], "Of measured weights.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Timed runs of each way.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, links, prompts and questions.", 0)
_JSON = flags.DEFINE_string("json", "", "A file for the same numbers.")
_PLOT = flags.DEFINE_string("plot", "", "A PNG with all curves.")
_PAGE = flags.DEFINE_string("page", "", "A page whose marked part becomes these tables.")


def main(_: list[str]) -> None:
    """Counts floors, measures, and prints the tables."""
    parallel.start()
    json, plot = output_file("json", _JSON.value), output_file("plot", _PLOT.value, ".png")
    figure = message_plot.new_plot() if plot else None  # before minutes of measuring
    page = PageRegion.of(_PAGE.value, "message_length")
    lengths = numbers("lengths", _LENGTHS.value)
    floor_lengths = numbers("floor_lengths", _FLOOR_LENGTHS.value)
    if _STYLES.value:
        check_words("styles", _STYLES.value, list(STYLES))
    elif not _MEASURE.value:
        raise InputError("--nomeasure without --styles leaves nothing to do")
    sizes = Sizes(_PROMPT.value, _BATCH.value, _SEED.value)
    turns = Turns(_ROUNDS.value, _STEPS.value, _TOKENS.value, lengths[-1])
    floors = {style: released(style, sizes, turns, floor_lengths) for style in _STYLES.value}
    facts = {
        "benchmark": "message_length",
        "system": _SYSTEM.value,
        "sizes": dataclasses.asdict(sizes) | dataclasses.asdict(turns),
        "chip": _CHIP.value,
        "mesh": _MESH.value,
        "floors": floors,
        "measured": measure(sizes, turns, lengths) if _MEASURE.value else None,
    }
    text = tables(facts)
    print(text)
    if json:
        atomic_write_json(json, facts)
    if plot:
        message_plot.draw(figure, facts, plot)
    if page:
        page.replace(text)


def released(style: str, sizes: Sizes, turns: Turns, lengths: list[int]) -> dict[str, Any]:
    """The floors of a released system. Raises `InputError` where a device cannot hold it."""
    topology, specs = random_agents.architectures(style)
    longest = max(turns.steps, lengths[-1], turns.new_tokens)
    random_agents.check_context(specs, topology, sizes, longest, _CONTEXT)
    spec, chip = parallel.parse_mesh(_MESH.value), _CHIPS[_CHIP.value]
    if spec.auto or -1 in spec.sizes:
        raise InputError(f"--mesh={_MESH.value}: name all sizes, as in tensor=4")
    devices = spec.data * spec.fsdp * spec.tensor
    mesh = parallel.abstract_mesh(spec, devices)
    counter = Counter.of(topology, specs, FORM, mesh, jnp.bfloat16, sizes.rows)
    held = {own.base_model: counter.shares[name] for name, own in STYLES[style].agents.items()}
    needed = sum(share.weights for share in held.values())  # copies of one model are held once
    if needed > chip.usable_bytes:
        raise InputError(
            f"--mesh={_MESH.value}: the weights of {style} take {needed / _GIB:.1f} GiB of each "
            f"device, and one of {chip.name} has {chip.usable_bytes / _GIB:.1f}; choose more "
            f"tensor, or leave {style} out of --styles"
        )
    return _floor_facts(counter, chip, sizes, turns, lengths)


def _floor_facts(
    counter: Counter, figures: Any, sizes: Sizes, turns: Turns, lengths: list[int]
) -> dict[str, Any]:
    floors = ExchangeFloors(
        counter,
        Figures(figures.bandwidth, figures.flops),
        prompt=sizes.mean,
        preamble=sizes.preamble,
        rounds=turns.rounds,
        steps=turns.steps,
        new_tokens=turns.new_tokens,
    )
    return {
        "bandwidth": figures.bandwidth,
        "flops": figures.flops,
        "latent": floors.latent,
        "text": {str(n): floors.text(n) for n in lengths},
        "ratios": {str(n): floors.ratio(n) for n in lengths},
        "wins_from": floors.crossing(lengths[-1]),
    }


def measure(sizes: Sizes, turns: Turns, lengths: list[int]) -> dict[str, Any]:
    """Times of all ways on agents of random weights, and the floor on this machine."""
    topology, specs = random_agents.architectures(_SYSTEM.value)
    longest = max(turns.steps, lengths[-1], turns.new_tokens)
    random_agents.check_context(specs, topology, sizes, longest, _CONTEXT)
    dtype = np.dtype(_DTYPE.value)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        what, less = f"--system={_SYSTEM.value}", "--system=small, or --nomeasure"
        random_agents.check_memory(specs, 1, dtype.itemsize, folder, what, less)
        say("making random weights")
        random_agents.write_folders(specs, folder, _DTYPE.value, sizes.seed)
        paths = Paths.load(topology, folder, sizes, turns, _DTYPE.value, pytorch=False)
    ways = {LATENT: paths.latent} | {str(n): paths.with_messages(n).text for n in lengths}
    for name, way in ways.items():
        say(f"compiling: {name if name == LATENT else f'messages of {name} tokens'}")
        way(0)
    say(f"{_REPEATS.value} runs of each way")
    before = meters.seconds_compiling()
    runs = alternate(
        {name: lambda n, way=way: way(n + 1) for name, way in ways.items()}, _REPEATS.value
    )
    late = meters.seconds_compiling() - before
    for n in lengths:
        for answers in runs[str(n)].results:
            paths.with_messages(n).check_lengths(answers)
    estimates = {n: ratio(runs[str(n)].seconds, runs[LATENT].seconds) for n in lengths}
    say("measuring a copy and a product")
    figures = measured_figures(dtype, 1024 if jax.default_backend() == "cpu" else 8192)
    return {
        "agents": random_agents.describe(specs),
        "machine": meters.machine(paths.latent_runner.system.mesh),
        "dtype": _DTYPE.value,
        "repeats": _REPEATS.value,
        "seconds": {name: list(own.seconds) for name, own in runs.items()},
        "compiling while timed": late,
        "ratios": {str(n): named(own) for n, own in estimates.items()},
        "wins_from": interpolated_crossing({n: own[0] for n, own in estimates.items()}),
        "surely_from": interval_above({n: own[1] for n, own in estimates.items()}),
        "floor": _floor_facts(paths.counter(dtype), figures, sizes, turns, lengths),
    }


def tables(facts: dict[str, Any]) -> str:
    """The tables in Markdown."""
    n, blocks = facts["sizes"], []
    blocks.append(
        f"{n['rows']} rows, prompts of {n['prompt']} tokens, {n['rounds']} rounds, {n['steps']} "
        f"latent steps, answers of {n['new_tokens']} tokens."
    )
    if measured := facts["measured"]:
        here = measured["floor"]
        median, ends = seconds_cells(measured["seconds"][LATENT])
        blocks.append(
            f"Measured. {facts['system']}: {measured['agents']}; {measured['dtype']}. "
            f"{measured['machine']}; {measured['repeats']} repetitions. Latent recursion: {median} "
            f"({ends}). The floor is this machine's, with {here['bandwidth'] / 1e9:,.1f} GB/s of a "
            f"copy and {here['flops'] / 1e9:,.1f} Gop/s of a product."
        )
        rows = [
            [
                length,
                *seconds_cells(measured["seconds"][length]),
                *ratio_cells(own),
                f"{here['ratios'][length]:.2f}",
            ]
            for length, own in measured["ratios"].items()
        ]
        head = ["tokens of a message", "text exchange, median", "from - to", "text / latent"]
        blocks.append(markdown([*head, "95 % interval", "floor"], rows))
        if late := measured["compiling while timed"]:
            blocks.append(f"Of the times, {late:.1f} s were compilation: raise --repeats.")
        blocks.append(
            f"Latents win {_wins(measured['wins_from'], measured['ratios'])} by measurement, "
            f"on straight lines in logarithms between lengths (the interval is above 1 "
            f"{_wins(measured['surely_from'], measured['ratios'])}), and "
            f"{_wins(here['wins_from'], here['ratios'])} by the floor."
        )
    if floors := facts["floors"]:
        blocks.append(
            f"Floors, no measurement: time of text over time of latents on {facts['chip']}, mesh "
            f"{facts['mesh']}, bfloat16, by bytes and operations alone."
        )
        rows = [
            [
                style,
                f"{own['latent']:.3f} s",
                *(f"{value:.2f}" for value in own["ratios"].values()),
                _wins(own["wins_from"], own["ratios"]),
            ]
            for style, own in floors.items()
        ]
        lengths = list(next(iter(floors.values()))["ratios"])
        blocks.append(markdown(["system", "latent", *lengths, "latents win"], rows))
    return "\n\n".join(blocks)


def _wins(length: float | None, ratios: dict[str, Any]) -> str:
    """From where on, in words."""
    if length is None:
        return f"nowhere up to {list(ratios)[-1]} tokens"
    if length == int(next(iter(ratios))):
        return f"at all lengths, from {length:.0f} tokens on"
    return f"from {math.ceil(length)} tokens"


if __name__ == "__main__":
    app.run(main)
