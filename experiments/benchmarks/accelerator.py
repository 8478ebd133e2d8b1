"""What the device here makes of a model: each time beside the least that memory and peak allow.

  python -m experiments.benchmarks.accelerator                    # Qwen3-1.7B, on an accelerator
  python -m experiments.benchmarks.accelerator --size=small       # some minutes on a CPU
  python -m experiments.benchmarks.accelerator --model=google/gemma-3-4b-it --parts=latent,decode

Weights are random, which does not change times, and lie on the mesh as those of a run. They are
measured as they are (bfloat16 on accelerators, float32 on CPU) and with int8 matrices:

  latent  a prefill of the prompt; a latent step, from rollouts of two lengths, so that neither
          prefill nor start is in it
  decode  a decoded token: greedy, and drawn with top-p
  outer   a step of outer training: three agents in sequence that share the weights, all rounds

Every program is compiled, runs once unmeasured, and then `--repeats` times. The floor is the larger
of two times: bytes of weights and caches over the bandwidth of the memory, operations over the peak
of products. Both figures are the public ones of the device where they are known, else those
measured here with a large array and a large product; a model that fits the caches of a CPU can
be faster than its memory. `x floor` near 1 is good. `needs` is the memory
of a device by the compiler; a program that does not fit is named and left out. Tables go to stdout
and end in a line of JSON, progress goes to stderr.
"""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh

from experiments import app
from experiments.benchmarks import random_system
from experiments.benchmarks.program_times import (
    HEADER,
    Figures,
    Row,
    Timed,
    measured_figures,
    public_figures,
    say,
    timed,
)
from experiments.benchmarks.words import check_words
from rmas import parallel
from rmas.console import aligned
from rmas.errors import InputError
from rmas.models import ModelSpec
from rmas.parallel import meters, put_whole, replicated, state_shardings
from rmas.plans import programs, training_floors
from rmas.plans.arguments import AbstractSystem
from rmas.plans.floors import Share, Work
from rmas.plans.training_steps import outer_step
from rmas.shapes import Params
from rmas.system import decode
from rmas.system.sampling import Sampling
from rmas.training import optim
from rmas.training.loop import Schedule
from rmas.training.objectives import Lengths, TrainingContext, WeightedObjectives, parse_objective
from rmas.training.step import init_train_state
from rmas.weights.agents import AgentParams
from rmas.weights.placement import choose_mesh, weight_dtype

PARTS = ("latent", "decode", "outer")
DRAWN = Sampling(temperature=0.6, top_p=0.95)

_MODEL = flags.DEFINE_string(
    "model", "Qwen/Qwen3-1.7B", "Base model of a released system, or a folder with a config.json."
)
_SIZE = flags.DEFINE_enum(
    "size",
    "full",
    ["full", "small", "tiny"],
    "full: the model as it is; small: 4 narrow layers of its kind; tiny: a packaged agent.",
)
_LAYERS = flags.DEFINE_integer("layers", 0, "Layers of the model that are kept; 0: all.", 0)
_MESH = flags.DEFINE_string("mesh", "auto", "As of a run: data=2,tensor=4, auto, or single.")
_DTYPE = flags.DEFINE_enum(
    "dtype", "auto", ["auto", "bfloat16", "float32"], "Type of weights and activations."
)
_WEIGHTS = flags.DEFINE_list("weights", "full,int8", "full, int8, or both.")
_PARTS = flags.DEFINE_list("parts", ",".join(PARTS), "What is measured.")
_ROWS = flags.DEFINE_integer("rows", 0, "Rows of a batch; 0: 8, small 4, tiny 2.", 0)
_PROMPT = flags.DEFINE_integer("prompt_tokens", 0, "Of a prompt; 0: 512, small 128, tiny 32.", 0)
_STEPS = flags.DEFINE_integer("latent_steps", 0, "Of the rollout; 0: 48, small 16, tiny 8.", 0)
_TEXT = flags.DEFINE_integer("text_tokens", 0, "Of an answer; 0: 256, small 32, tiny 16.", 0)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Recursion rounds of the outer step.", 1)
_OBJECTIVE = flags.DEFINE_string("objective", "rollout", "Of the outer step, as of a run.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Measurements of each program.", 1)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Rows of a batch, tokens of a prompt, latent steps of a rollout, tokens of an answer."""

    rows: int
    prompt: int
    steps: int
    text: int


_SIZES = {
    "full": Sizes(8, 512, 48, 256),
    "small": Sizes(4, 128, 16, 32),
    "tiny": Sizes(2, 32, 8, 16),
}


def main(_: list[str]) -> None:
    """Measures the programs of a model on the devices here."""
    parallel.start()
    check_words("parts", _PARTS.value, PARTS)
    check_words("weights", _WEIGHTS.value, ("full", "int8"))
    sizes = _sizes()
    objective = parse_objective(_OBJECTIVE.value)
    model = random_system.model_spec(_MODEL.value, _SIZE.value, _LAYERS.value)
    dtype = weight_dtype(None if _DTYPE.value == "auto" else _DTYPE.value)
    mesh = choose_mesh(_MESH.value, [model], dtype)
    multiple = parallel.batch_multiple(mesh)
    if sizes.rows % multiple:
        raise InputError(f"--rows={sizes.rows}; on this mesh it must be a multiple of {multiple}")
    say("measuring a copy and a product")
    measured = measured_figures(dtype, 1024 if jax.default_backend() == "cpu" else 8192)
    public = public_figures(mesh.devices.flat[0])
    rows: list[Row] = []
    for weights in _WEIGHTS.value:
        say(f"making weights: {weights}")
        bench = make_bench(model, mesh, dtype, weights == "int8", sizes, public or measured)
        if "latent" in _PARTS.value:
            rows += bench.latent()
        if "decode" in _PARTS.value:
            rows += bench.decode()
        if "outer" in _PARTS.value:
            rows += bench.outer(objective, _ROUNDS.value)
    peak = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    print(aligned([HEADER, *(row.cells for row in rows)]))
    print(f"\n{meters.machine(mesh)}; {sizes.rows} rows, {sizes.prompt} tokens of a prompt")
    for name, figures in (("public", public), ("measured", measured)):
        if figures:
            used = "; the floors use these" if figures is (public or measured) else ""
            print(
                f"{name}: {figures.bandwidth / 1e9:,.0f} GB/s, "
                f"{figures.flops / 1e12:,.2f} Top/s{used}"
            )
    if peak is not None:
        print(f"most memory in use on the first device: {peak / (1 << 30):.3f} GiB")
    facts = {
        "benchmark": "accelerator",
        "device": mesh.devices.flat[0].device_kind,
        "mesh": dict(mesh.shape),
        "model": "tiny" if _SIZE.value == "tiny" else _MODEL.value,
        "size": _SIZE.value,
        "layers": len(model.layers),
        "dtype": dtype.name,
        "sizes": dataclasses.asdict(sizes),
        "rounds": _ROUNDS.value,
        "objective": _OBJECTIVE.value,
        "public": dataclasses.asdict(public) if public else None,
        "measured": dataclasses.asdict(measured),
        "peak_bytes": peak,
        "rows": [row.facts for row in rows],
    }
    print(json.dumps(facts))


def _sizes() -> Sizes:
    own = {"rows": _ROWS, "prompt": _PROMPT, "steps": _STEPS, "text": _TEXT}
    asked = {name: flag.value for name, flag in own.items() if flag.value}
    sizes = dataclasses.replace(_SIZES[_SIZE.value], **asked)
    if sizes.steps < 3:
        raise InputError(f"--latent_steps={sizes.steps}; a step is measured from at least 3")
    return sizes


def make_bench(
    model: ModelSpec, mesh: Mesh, dtype: Any, int8: bool, sizes: Sizes, figures: Figures
) -> "Bench":
    """The system, on its devices."""
    system = random_system.sequential_system(model, mesh, dtype, int8)
    agent = system.topology.output
    links = random_system.random_links(system)
    link = sum(x.nbytes for x in jax.tree.leaves(links["inner"][agent]))
    return Bench(
        weights="int8" if int8 else dtype.name,
        system=system,
        params=random_system.random_weights(model, system.params[agent]),
        links=links,
        sizes=sizes,
        share=Share(model, mesh, sizes.rows, dtype, int8, link),
        figures=figures,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Bench:
    """A system with one kind of weights, and what is measured of it."""

    weights: str
    system: AbstractSystem
    params: Params
    links: Params
    sizes: Sizes
    share: Share
    figures: Figures

    def latent(self) -> list[Row]:
        """A prefill, and a latent step: the difference of two rollouts over that of their steps."""
        n, agent = self.sizes, self.system.topology.output
        sizes = {"rows": n.rows, "positions": n.prompt}
        lengths = (max(n.steps // 4, 2), n.steps)
        prefill = programs.prefill(self.system, agent, **sizes)
        rollouts = [programs.rollout(self.system, agent, steps=m, **sizes) for m in lengths]
        prompt = self._filled(prefill.arguments[-1])
        positions, own = prompt.ids_BT.shape[1], (self.params, self.links, prompt)
        runs = [("prefill", prefill, (self.params, prompt))]
        runs += [
            (f"rollout of {m} steps", program, own)
            for m, program in zip(lengths, rollouts, strict=True)
        ]
        found = timed(runs, _REPEATS.value)
        if not found:
            return [Row(self.weights, "prefill"), Row(self.weights, "latent step")]
        once, short, long = found
        steps = lengths[1] - lengths[0]
        pairs = zip(short.seconds, long.seconds, strict=True)
        step = dataclasses.replace(long, seconds=tuple((b - a) / steps for a, b in pairs))
        return [
            self._row("prefill", once, self.share.prefill(positions)),
            self._row("latent step", step, self.share.latent_step(positions + sum(lengths) / 2)),
        ]

    def decode(self) -> list[Row]:
        """A decoded token, of a whole chunk that no row ends."""
        n, agent, mesh = self.sizes, self.system.topology.output, self.system.mesh
        ways = {"greedy token": Sampling(), f"top_p={DRAWN.top_p:g} token": DRAWN}
        start = programs.decode_start(self.system, agent, rows=n.rows, positions=n.prompt)
        widen = programs.widen(self.system, start.outputs, size=decode.CHUNK)
        prompt = self._filled(start.arguments[1])
        say("compiling the prompt of a text")
        state = widen.compiled(start.compiled(self.params, prompt, ()))
        keys = decode.row_keys(0, [str(row) for row in range(n.rows)])
        more = (keys, np.full(2, -1, np.int32), np.full(n.rows, decode.CHUNK, np.int32))
        args = (self.params, state, *put_whole(more, replicated(mesh)))
        runs = [
            (what, programs.decode_chunk(self.system, agent, widen.outputs, way), args)
            for what, way in ways.items()
        ]
        found = timed(runs, _REPEATS.value)
        if not found:
            return [Row(self.weights, what) for what in ways]
        work = self.share.token(prompt.ids_BT.shape[1] + decode.CHUNK / 2)
        tokens = [
            dataclasses.replace(one, seconds=tuple(s / decode.CHUNK for s in one.seconds))
            for one in found
        ]
        return [self._row(what, one, work) for what, one in zip(ways, tokens, strict=True)]

    def outer(self, objective: WeightedObjectives, rounds: int) -> list[Row]:
        """A step of outer training."""
        n, topology, mesh = self.sizes, self.system.topology, self.system.mesh
        schedule = Schedule(batch_size=n.rows)
        context = TrainingContext(topology, self.system.spec, n.steps, 1.0, 0.0)
        sizes: dict[str, Any] = {
            "trained": ("inner", "outer"),
            "rounds": rounds,
            "lengths": Lengths(n.prompt, n.text),
        }
        program = outer_step(
            context, objective, params=self.system.params, schedule=schedule, mesh=mesh, **sizes
        )
        links = random_system.random_links(self.system)  # the step may take their memory
        state = init_train_state(links, optim.make(schedule.optim))
        state = put_whole(state, state_shardings(mesh, state))
        frozen = (AgentParams.fromkeys(topology.agents, self.params), {})
        slots = n.text if "teacher_forced" in dict(objective) else n.steps
        batches = self._filled(program.arguments[-1], slots)
        what = f"outer step, {rounds} rounds"
        found = timed([(what, program, (state, frozen, batches))], _REPEATS.value, True)
        if not found:
            return [Row(self.weights, what)]
        shares = dict.fromkeys(topology.agents, self.share)
        work = training_floors.outer_step(context, objective, shares, **sizes)
        return [self._row(what, found[0], work)]

    def _filled(self, tree: Any, slots: int = 0) -> Any:
        model = self.system.spec.model(self.system.topology.output)
        return random_system.filled(tree, model.vocab_size, slots)

    def _row(self, what: str, found: Timed, work: Work) -> Row:
        floor = work.seconds(self.figures)
        return Row(self.weights, what, found.seconds, floor, found.compiling, found.needs)


if __name__ == "__main__":
    app.run(main)
