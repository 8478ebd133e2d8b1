"""Makes the three tiny agents of the relay task from nothing: `rmas/tiny/{planner,critic,solver}`.

  python -m experiments.pretrain_tiny --out=rmas/tiny --seed=0

The shipped agents were made by this command, a role at a time, each on one CPU core: planner in
386 s, critic in 297 s, solver in 472 s. The same seed on the same kind of machine gives the same
weights. Each agent is an ordinary Hugging Face folder with its own tokenizer (same words, another
id order) and chat template. An agent learns only its own operation of the relay task, and to read
and write the messages of its role. Questions come from the relay seeds 1000 to 1002 (training) and
2000 to 2002 (exact match): no experiment on the shipped agents should use those.
"""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from absl import flags, logging

from experiments import app
from rmas import models
from rmas.errors import InputError
from rmas.models import ModelSpec
from rmas.shapes import Array, Params
from rmas.system import prompts
from rmas.system.batch import Line, line, stack
from rmas.system.encode import ChatTokenizer, fill
from rmas.system.prompts import PromptSet
from rmas.system.styles import SEQUENTIAL
from rmas.tasks import relay
from rmas.tasks.rows import Row
from rmas.weights.save import save_params

_OUT = flags.DEFINE_string("out", "rmas/tiny", "Folder that receives one folder per agent.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of weights, data and noise.", lower_bound=0)
_ROLE = flags.DEFINE_enum("role", "all", ["all", *relay.ROLES], "Which agent to make.")

BATCH = 32
FACTS_PER_ROW = 10
FACT_STEPS = 100
MAX_POSITIONS = 256
LENGTH = 84  # the longest example: prompt 34, message 24, text 25
ROUND_ODDS = {1: (4, 1, 1), 2: (1, 4, 1), 3: (1, 2, 8)}  # by the question's stop
NUMBERS = (3, 5, 7)  # places of value, argument and result in a text
SHORTEST_MESSAGE = 8  # words up to and with the result


@dataclasses.dataclass(frozen=True)
class Recipe:
    """One tiny agent: architecture, control tokens (pad, unknown, system, user, assistant, end)."""

    config: dict[str, Any]
    control: tuple[str, str, str, str, str, str]
    steps: tuple[int, int]


def _config(family: str, width: int, d_ff: int, **extra: Any) -> dict[str, Any]:
    return {
        "model_type": family,
        "hidden_size": width,
        "intermediate_size": d_ff,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": width // 4,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "max_position_embeddings": MAX_POSITIONS,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **extra,
    }


RECIPES = {
    "planner": Recipe(
        _config("qwen3", 96, 288, attention_bias=False),
        ("<|endoftext|>", "<|unk|>", "<|system|>", "<|user|>", "<|assistant|>", "<|im_end|>"),
        (800, 300),
    ),
    "critic": Recipe(
        _config("llama", 80, 240, attention_bias=False, mlp_bias=False),
        ("<pad>", "<unk>", "<sys>", "<usr>", "<bot>", "<eot>"),
        (800, 300),
    ),
    "solver": Recipe(
        _config("qwen2", 128, 360),
        ("[PAD]", "[UNK]", "[SYS]", "[USER]", "[BOT]", "[END]"),
        (800, 300),
    ),
}


def make_tokenizer(recipe: Recipe, seed: int):
    """A word-level tokenizer whose id order is its own, as `PreTrainedTokenizerFast`."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pad, unknown, system, user, assistant, end = recipe.control
    words = [*recipe.control, "relay", *relay.VOCABULARY]
    order = np.random.default_rng(seed).permutation(len(words))
    vocabulary = {words[i]: n for n, i in enumerate(order)}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.add_special_tokens([AddedToken(c, special=True) for c in recipe.control])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=pad,
        unk_token=unknown,
        eos_token=end,
        clean_up_tokenization_spaces=False,
        model_max_length=MAX_POSITIONS,
    )
    tokenizer.chat_template = (
        "{% for message in messages %}"
        f"{{% if message['role'] == 'system' %}}{system} {{{{ message['content'] }}}} "
        f"{{% elif message['role'] == 'user' %}}{user} {{{{ message['content'] }}}} "
        f"{{% else %}}{assistant} {{{{ message['content'] }}}} {end} {{% endif %}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{assistant} {{% endif %}}"
    )
    return tokenizer


@dataclasses.dataclass(frozen=True)
class Curriculum:
    """Examples for one role: prompts with messages of any length, and bare facts."""

    role: str
    chat: ChatTokenizer
    prompt_set: PromptSet

    def encoded(self, row: Row, phase: str):
        parts = self.prompt_set.template(self.role, "relay", phase)
        system = self.prompt_set.system_text(SEQUENTIAL)
        return self.chat.encode(system, parts, {"question": row.question})

    def role_line(self, row: Row, k: int, keep: int) -> Line:
        """Prompt and text of round k, each incoming message cut to `keep` words."""
        sources = {
            e.src: row.texts[e.src][k - (e.when == "feedback")]
            for e in SEQUENTIAL.incoming(self.role)
        }
        encoded = self.encoded(row, "first" if k == 0 else "later")
        ids = fill(encoded, lambda src: self.chat.ids(" ".join(sources[src].split()[:keep])))
        return line([ids], (), 0, text=self.chat.text_ids(row.texts[self.role][k]))

    def batch(self, rows: list[Row], rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Seven eighths role prompts, one eighth rows of facts."""
        lines, weights = [], []
        n_roles = len(rows) * 7 // 8
        for row in rows[:n_roles]:
            keep = 24 if rng.random() < 0.5 else int(rng.integers(SHORTEST_MESSAGE, 25))
            # Few questions have a third line to answer: where one has, it is usually drawn.
            odds = np.array(ROUND_ODDS[row.meta["stop"]])
            k = int(rng.choice(3, p=odds / odds.sum()))
            lines.append(self.role_line(row, k, keep))
            text = [1.0] * lines[-1].text
            for place in NUMBERS:
                text[place] = 5.0
            weights.append([0.0] * (len(lines[-1]) - len(text)) + text)
        facts = self.facts()
        for _ in rows[n_roles:]:
            chosen = [facts[i] for i in rng.integers(len(facts), size=FACTS_PER_ROW)]
            ids = [i for fact in chosen for i in fact]
            lines.append(Line(tuple(ids), (-1,) * len(ids)))
            weights.append([w for fact in chosen for w in self._fact_weights(fact)])
        return _arrays(lines, weights, length=LENGTH)

    def facts(self) -> list[tuple[int, ...]]:
        """The whole table of the role's operation, as ids of `a op b = c .`"""
        op, first = {"planner": ("add", 0), "critic": ("mul", 1), "solver": ("mix", 0)}[self.role]
        return [
            tuple(self.chat.ids(f"{a} {op} {b} = {relay.apply(op, a, b)} ."))
            for a in range(relay.P)
            for b in range(first, relay.P)
        ]

    def fact_table(self) -> dict[str, np.ndarray]:
        """Every fact as one row."""
        facts = self.facts()
        lines = [Line(f, (-1,) * len(f)) for f in facts]
        return _arrays(lines, [self._fact_weights(f) for f in facts], length=len(facts[0]))

    @staticmethod
    def _fact_weights(fact: tuple[int, ...]) -> list[float]:
        return [float(i == len(fact) - 2) for i in range(len(fact))]


def _arrays(lines: list[Line], weights: list[list[float]], length: int) -> dict[str, np.ndarray]:
    prompt = jax.tree.map(lambda x: x[0], stack([lines], length=length))
    weight_BT = np.zeros(prompt.ids_BT.shape, np.float32)
    for b, w in enumerate(weights):
        weight_BT[b, length - len(w) :] = w
    return {"ids_BT": prompt.ids_BT, "valid_BT": prompt.valid_BT, "weight_BT": weight_BT}


def loss_fn(spec: ModelSpec, params: Params, batch: dict[str, Array], key: Array) -> Array:
    """Cross-entropy on weighted tokens, with noise of up to a fifth of the embeddings' size."""
    x_BTD = models.embed(params, batch["ids_BT"])
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
        x_BTD = models.embed(params, ids_BT)
        h_BTD, _ = models.run(spec, params, x_BTD, valid_BT, models.positions(valid_BT))
        best_BT = jnp.argmax(models.unembed(spec, params, h_BTD[:, :-1]), axis=-1)
        return jnp.all((best_BT == ids_BT[:, 1:]) | (weight_BT[:, 1:] == 0), axis=1)

    return float(np.mean(hits(params, batch["ids_BT"], batch["valid_BT"], batch["weight_BT"])))


def train(role: str, spec: ModelSpec, curriculum: Curriculum, seed: int) -> Params:
    """Facts first, then two cycles of the mixture, the second a restart that decays to zero."""
    first, second = RECIPES[role].steps
    total = FACT_STEPS + first + second
    schedule = optax.join_schedules(
        [
            optax.warmup_constant_schedule(0.0, 1.5e-3, 50),
            optax.cosine_decay_schedule(1.2e-3, second),
        ],
        [FACT_STEPS + first],
    )
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b1=0.9, b2=0.95, weight_decay=0.01)
    )

    @jax.jit
    def step(params, opt_state, batch, key):
        loss, grads = jax.value_and_grad(lambda p: loss_fn(spec, p, batch, key))(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    params = models.init_params(spec, jax.random.key(seed))
    opt_state = optimizer.init(params)
    rows = relay.make_rows((first + second) * BATCH, seed=seed + 1000)
    rng = np.random.default_rng(seed)
    table = curriculum.fact_table()
    began = time.perf_counter()
    for n in range(total):
        if n < FACT_STEPS:
            batch = table
        else:
            k = (n - FACT_STEPS) * BATCH
            batch = curriculum.batch(rows[k : k + BATCH], rng)
        key = jax.random.fold_in(jax.random.key(seed), n)
        params, opt_state, loss = step(params, opt_state, batch, key)
        if (n + 1) % 100 == 0:
            seconds = time.perf_counter() - began
            logging.info("%s step %d/%d loss %.4f (%.0f s)", role, n + 1, total, loss, seconds)
    return params


def make_agent(role: str, out: Path, seed: int) -> None:
    """Trains one agent and writes its folder."""
    recipe = RECIPES[role]
    seed = seed * 10 + relay.ROLES.index(role)
    tokenizer = make_tokenizer(recipe, seed)
    config = recipe.config | {"vocab_size": len(tokenizer)}
    spec = ModelSpec.from_dict(config, where=role)
    chat = ChatTokenizer(tokenizer, date="", where=role)
    curriculum = Curriculum(role, chat, prompts.load("relay"))
    params = train(role, spec, curriculum, seed)
    held_out = curriculum.batch(relay.make_rows(1024, seed=seed + 2000), np.random.default_rng(1))
    score = exact_match(spec, params, held_out)
    n = sum(x.size for x in jax.tree.leaves(params))
    logging.info("%s: %d parameters, exact match %.4f on 1024 fresh rows", role, n, score)
    folder = out / role
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    save_params(spec, params, folder, extra=ids)
    tokenizer.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")


def main(_: list[str]) -> None:
    logging.set_verbosity(logging.INFO)
    out = Path(_OUT.value)
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / ".probe").touch()
        (out / ".probe").unlink()
    except OSError as error:
        raise InputError(f"--out={out} cannot be written: {error.strerror}") from None
    for role in relay.ROLES if _ROLE.value == "all" else [_ROLE.value]:
        make_agent(role, out, _SEED.value)


if __name__ == "__main__":
    app.run(main)
