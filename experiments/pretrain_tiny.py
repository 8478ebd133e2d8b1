"""Makes the tiny agents of the generated tasks from nothing: one folder each in `rmas/tiny`.

  python -m experiments.pretrain_tiny --out=rmas/tiny --seed=0

The shipped agents were made by this command, one at a time, each on one CPU core: planner in
386 s, critic in 297 s, solver in 472 s, generalist in 3,250 s and critic_digits, whose tokenizer
cuts numbers into digits, in 2,209 s on a busy one. The same seed on the same kind of machine gives
the same weights. Each agent is an ordinary Hugging Face folder with its own tokenizer and chat
template. Planner, critic and solver learn one operation of the relay each,
and to read and write the messages of their role; the generalist learns every role of the chain and
the debate, and plays the one that its prompt names. Questions come from the seeds 1000 to 1004
(training) and 2000 to 2004 (exact match): no experiment on the shipped agents should use those.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags, logging

from experiments import app
from experiments.tiny_agents import RECIPES, make_tokenizer, topology_of
from rmas import models
from rmas.errors import InputError
from rmas.files import replacing_folder, write_json
from rmas.models import ModelSpec, parse_spec
from rmas.shapes import Array, Params
from rmas.system import prompts
from rmas.system.batch import Line, line, stack
from rmas.system.encode import ChatTokenizer, fill
from rmas.system.prompts import PromptSet
from rmas.system.topology import Topology
from rmas.tasks.generated import PUZZLES
from rmas.tasks.puzzle import P, Part, Puzzle, apply
from rmas.tasks.rows import Row
from rmas.weights.save import save_params

_OUT = flags.DEFINE_string("out", "rmas/tiny", "Folder that receives one folder per agent.")
_AGENT = flags.DEFINE_enum("agent", "all", ["all", *RECIPES], "Which agent to make.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, data and noise.", lower_bound=0)

BATCH = 32
FACTS_PER_ROW = 10
FACT_STEPS = 100
WORDS = 24  # of a message
# Of the round that is drawn, by the question's lines and stop.
ROUND_ODDS = {
    3: {1: (4, 1, 1), 2: (1, 4, 1), 3: (1, 2, 8)},
    2: {1: (3, 1), 2: (1, 4)},
}
NUMBERS = (3, 5, 7)  # places of value, argument and result in a text
SHORTEST_MESSAGE = 8  # words up to and with the result


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Examples for some roles of a puzzle: prompts with messages of any length, and bare facts."""

    roles: tuple[str, ...]
    chat: ChatTokenizer
    puzzle: Puzzle
    topology: Topology
    prompt_set: PromptSet

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the roles do."""
        return tuple(part for part in self.puzzle.parts if part.role in self.roles)

    @functools.cached_property
    def length(self) -> int:
        """Positions of the longest of some examples, rounded up to a multiple of four."""
        rows = self.puzzle.make_rows(64, seed=0)
        turns = [(role, k) for role in self.roles for k in range(self.puzzle.lines)]
        longest = max(len(self.role_line(r, row, k, WORDS)) for row in rows for r, k in turns)
        return -(-longest // 4) * 4

    def role_line(self, role: str, row: Row, k: int, keep: int) -> Line:
        """Prompt and text of round k, each incoming message cut to `keep` words."""
        sources = {
            e.src: row.texts[e.src][max(k - (e.when == "feedback"), 0)]
            for e in self.topology.incoming(role)
        }
        parts = self.prompt_set.template(role, self.puzzle.name, "first" if k == 0 else "later")
        system = self.prompt_set.system_text(self.topology)
        encoded = self.chat.encode(system, parts, {"question": row.question})
        ids = fill(encoded, lambda src: self.chat.ids(" ".join(sources[src].split()[:keep])))
        return line([ids], (), 0, text=self.chat.text_ids(row.texts[role][k]))

    def batch(self, rows: list[Row], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Seven eighths role prompts, one eighth rows of facts."""
        lines, weights = [], []
        n_roles = len(rows) * 7 // 8
        for n, row in enumerate(rows[:n_roles]):
            keep = WORDS if rng.random() < 0.5 else int(rng.integers(SHORTEST_MESSAGE, WORDS + 1))
            # Few questions have a third line to answer: where one has, it is usually drawn.
            odds = np.array(ROUND_ODDS[self.puzzle.lines][row.meta["stop"]])
            k = int(rng.choice(len(odds), p=odds / odds.sum()))
            role = self.roles[n % len(self.roles)]
            lines.append(self.role_line(role, row, k, keep).cut_left(self.length))
            text = [1.0] * lines[-1].text_length
            for place in self.numbers(row.texts[role][k]):
                text[place] = 5.0
            weights.append([0.0] * (len(lines[-1]) - len(text)) + text)
        facts = self.facts
        for _ in rows[n_roles:]:
            chosen = [facts[i] for i in rng.integers(len(facts), size=FACTS_PER_ROW)]
            ids = [i for fact, _ in chosen for i in fact]
            lines.append(Line(tuple(ids), (-1,) * len(ids)))
            weights.append([w for _, own in chosen for w in own])
        return _arrays(lines, weights, self.length)

    def numbers(self, text: str) -> list[int]:
        """The tokens of a text that are its value, its argument or its result."""
        counts = [len(self.chat.ids(word)) for word in text.split()]
        starts = np.cumsum([0, *counts])
        return [i for place in NUMBERS for i in range(starts[place], starts[place + 1])]

    @functools.cached_property
    def facts(self) -> list[tuple[tuple[int, ...], list[float]]]:
        """The whole tables of the roles' operations: ids of `a op b = c .`, and weights of c."""
        found = []
        for part in self.parts:
            for a in range(P):
                for b in range(part.smallest, P):
                    result = str(apply(part.operation, a, b))
                    begin, c, end = f"{a} {part.operation} {b} =", f"{result}", "."
                    parts = [self.chat.ids(text) for text in (begin, c, end)]
                    weights = [
                        w for w, ids in zip((0.0, 1.0, 0.0), parts, strict=True) for _ in ids
                    ]
                    found.append((tuple(self.chat.ids(f"{begin} {c} {end}")), weights))
        return found

    def fact_table(self) -> dict[str, np.ndarray]:
        """Every fact as one row."""
        lines = [Line(ids, (-1,) * len(ids)) for ids, _ in self.facts]
        return _arrays(lines, [w for _, w in self.facts], length=max(map(len, lines)))


def _arrays(lines: list[Line], weights: list[list[float]], length: int) -> dict[str, np.ndarray]:
    prompt = jax.tree.map(lambda x: x[0], stack([lines], length=length))
    weight_BT = np.zeros(prompt.ids_BT.shape, np.float32)
    for b, w in enumerate(weights):
        weight_BT[b, length - len(w) :] = w
    return {"ids_BT": prompt.ids_BT, "valid_BT": prompt.valid_BT, "weight_BT": weight_BT}


def loss_fn(spec: ModelSpec, params: Params, batch: dict[str, Array], key: Array) -> Array:
    """Cross-entropy on weighted tokens, with noise of up to a fifth of the embeddings' size."""
    x_BTD = models.embed(spec, params, batch["ids_BT"])
    k_scale, k_noise = jax.random.split(key)
    scale_B11 = 0.2 * jax.random.uniform(k_scale, (len(x_BTD), 1, 1))
    rms = jax.lax.stop_gradient(jnp.sqrt(jnp.mean(params["embed"]["weight"] ** 2)))
    x_BTD = x_BTD + scale_B11 * rms * jax.random.normal(k_noise, x_BTD.shape)
    valid_BT = batch["valid_BT"]
    h_BTD, _ = models.run(spec, params, x_BTD, valid_BT, models.positions(valid_BT))
    logits_BTV = models.unembed(spec, params, h_BTD[:, :-1])
    loss_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, batch["ids_BT"][:, 1:])
    weight_BT = batch["weight_BT"][:, 1:]
    return jnp.sum(loss_BT * weight_BT) / jnp.sum(weight_BT)


def exact_match(spec: ModelSpec, params: Params, batch: dict[str, np.ndarray]) -> float:
    """Share of rows whose weighted tokens are all the likeliest (greedy decoding writes them)."""

    @jax.jit
    def hits(params, ids_BT, valid_BT, weight_BT):
        x_BTD = models.embed(spec, params, ids_BT)
        h_BTD, _ = models.run(spec, params, x_BTD, valid_BT, models.positions(valid_BT))
        best_BT = jnp.argmax(models.unembed(spec, params, h_BTD[:, :-1]), axis=-1)
        return jnp.all((best_BT == ids_BT[:, 1:]) | (weight_BT[:, 1:] == 0), axis=1)

    return float(np.mean(hits(params, batch["ids_BT"], batch["valid_BT"], batch["weight_BT"])))


def train(name: str, spec: ModelSpec, curricula: tuple[Curriculum, ...], seed: int) -> Params:
    """Facts first, then two cycles of the mixture, the second a restart that decays to zero.

    The last cycle starts with a fresh optimizer.
    """
    first, second, last = RECIPES[name].steps
    rates = optax.join_schedules(
        [
            optax.warmup_constant_schedule(0.0, 1.5e-3, 50),
            optax.cosine_decay_schedule(1.2e-3, second),
        ],
        [FACT_STEPS + first],
    )
    turns = -(-(first + second + last // 2) // len(curricula))
    rows = [c.puzzle.make_rows(turns * BATCH, seed=seed + 1000) for c in curricula]
    rng = np.random.default_rng(seed)
    tables = [curriculum.fact_table() for curriculum in curricula]

    def mixture(n: int) -> dict[str, np.ndarray]:
        turn, which = divmod(n, len(curricula))
        drawn = rows[which][turn * BATCH : (turn + 1) * BATCH]
        return curricula[which].batch(drawn, rng)

    def early(n: int) -> dict[str, np.ndarray]:
        return tables[n % len(tables)] if n < FACT_STEPS else mixture(n - FACT_STEPS)

    def late(n: int) -> dict[str, np.ndarray]:
        return mixture(first + second + n // 2) if n % 2 else tables[0]

    params = models.init_params(spec, jax.random.key(seed))
    params = cycle(name, spec, params, rates, FACT_STEPS + first + second, early, seed)
    if last:
        rates = optax.warmup_cosine_decay_schedule(0.0, 8e-4, 20, last)
        params = cycle(f"{name}, facts again:", spec, params, rates, last, late, seed)
    return params


def cycle(
    label: str,
    spec: ModelSpec,
    params: Params,
    rates: optax.Schedule,
    steps: int,
    batch_of: Callable[[int], dict[str, np.ndarray]],
    seed: int,
) -> Params:
    """So many steps with a fresh optimizer."""
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(rates, b1=0.9, b2=0.95, weight_decay=0.01)
    )

    @jax.jit
    def step(params, opt_state, batch, key):
        loss, grads = jax.value_and_grad(lambda p: loss_fn(spec, p, batch, key))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    opt_state = optimizer.init(params)
    began = time.perf_counter()
    for n in range(steps):
        key = jax.random.fold_in(jax.random.key(seed), n)
        params, opt_state, loss = step(params, opt_state, batch_of(n), key)
        if (n + 1) % 100 == 0:
            seconds = time.perf_counter() - began
            logging.info("%s step %d/%d loss %.4f (%.0f s)", label, n + 1, steps, loss, seconds)
    return params


def make_agent(name: str, out: Path, seed: int) -> None:
    """Trains one agent and writes its folder."""
    recipe = RECIPES[name]
    seed = seed * 10 + list(RECIPES).index(name)
    tokenizer = make_tokenizer(recipe, seed)
    config = recipe.config | {"vocab_size": len(tokenizer)}
    spec = parse_spec(config, where=name)
    chat = ChatTokenizer(tokenizer, date="", where=name)
    curricula = tuple(
        Curriculum(
            tuple(role for own, role in recipe.plays if own == puzzle),
            chat,
            PUZZLES[puzzle],
            topology_of(puzzle),
            prompts.load(puzzle),
        )
        for puzzle in dict.fromkeys(own for own, _ in recipe.plays)
    )
    params = train(name, spec, curricula, seed)
    n = sum(x.size for x in jax.tree.leaves(params))
    logging.info("%s: %d parameters", name, n)
    for curriculum in curricula:
        rows = curriculum.puzzle.make_rows(1024, seed=seed + 2000)
        for role in curriculum.roles:
            alone = dataclasses.replace(curriculum, roles=(role,))
            held_out = alone.batch(rows, np.random.default_rng(1))
            score = exact_match(spec, params, held_out)
            logging.info("%s: exact match %.4f on 1024 fresh rows of %s", name, score, role)
    folder = out / name
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    with replacing_folder(folder, last=("config.json",)) as made:
        save_params(spec, params, made, extra=ids)
        tokenizer.save_pretrained(made)
        write_json(made / "generation_config.json", ids)


def main(_: list[str]) -> None:
    """Trains the tiny agents and writes their folders."""
    logging.set_verbosity(logging.INFO)
    out = Path(_OUT.value)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".probe").touch()
        (out / ".probe").unlink()
    except OSError as error:
        raise InputError(f"--out={out} cannot be written: {error.strerror}") from None
    for name in RECIPES if _AGENT.value == "all" else [_AGENT.value]:
        make_agent(name, out, _SEED.value)


if __name__ == "__main__":
    app.run(main)
