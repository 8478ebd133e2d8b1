"""What objectives share: their facts, their parts, and the code of more than one of them.

Every loss of outer training is a mean over rows of means over a row's positions.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax

from rmas import models
from rmas.links import edge_name, row_copies
from rmas.models import Segment
from rmas.shapes import Array, Params
from rmas.system.batch import bucket
from rmas.system.preamble import Preamble, Prompts
from rmas.system.topology import Topology
from rmas.system.turn import Prompt, SystemSpec, inputs, rollout
from rmas.tasks.rows import Row
from rmas.training.examples import Examples, Text
from rmas.training.step import gradient_probe

Probes = dict[str, dict[str, Array]]
"""Per agent and link that its turns use (`inner/a`, `outer/a->b`), zeros `[R]`, float32: one number
per round for `step.gradient_probe`."""

LossAndMetrics = tuple[Array, dict[str, Array]]
"""A loss, and metrics for the record: scalars, or one number per round `[R]`."""


@dataclasses.dataclass(frozen=True)
class TrainingContext:
    """Static facts that losses need; hashable.

    Attributes:
      latent_steps: M, the length of a message in true rollouts.
      on_policy: in `align`, the share of rows whose slots hold the links' own messages (the others
        hold the teacher's).
      earlier_rounds: in `teacher_forced`, the weight of the mean loss of the rounds before the last
        (0: the last round alone; the release's alternative is 0.1).
      token_mean: in inner training, whether all tokens of a batch count alike, or all rows.
    """

    topology: Topology
    spec: SystemSpec
    latent_steps: int
    on_policy: float
    earlier_rounds: float
    token_mean: bool = False


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Tokens of prompts and texts.

    Attributes:
      prompt: of a prompt with its question but without messages.
      text: of a role's text.
      preamble: of those of a prompt, how many all rounds share (`rmas.system.preamble`).
    """

    prompt: int
    text: int
    preamble: int = 0


@dataclasses.dataclass(frozen=True)
class Objective:
    """How rows become arrays, and arrays a loss: all that training and the planner ask for.

    Attributes:
      prepare: `prepare(examples, rows)` -> a batch: any pytree of numpy arrays.
      abstract_batch: `abstract_batch(context, rounds, rows, lengths)` -> the same pytree as
        `jax.ShapeDtypeStruct`s, for prompts and texts of these `Lengths`.
      loss: `loss(context, params, links, batch, key, probes=None) -> LossAndMetrics`; `params` are
        the weights by agent, `links` the whole tree of links.
      count_tokens: `count_tokens(batch)` -> tokens of prompts and texts in it, padding left out.
      axes: the axis of the rows in the batch's arrays, as `jax.vmap` reads `in_axes`.
      latent: whether turns are latent rollouts; else they read their texts.
      across: whether the loss is that of the output agent's text at the end, with gradients through
        all turns, each checkpointed; else each turn has its own, and gradients stay inside it.
      reads: whether a turn that reads messages also passes over its prompt with its text, forward
        and backward (`own`), and over the same with the senders' texts, forward (`taught`).
    """

    prepare: Callable[[Examples, Sequence[Row]], Any]
    abstract_batch: Callable[[TrainingContext, int, int, Lengths], Any]
    loss: Callable[..., LossAndMetrics]
    count_tokens: Callable[[Any], int]
    axes: Any = 1
    latent: bool = True
    across: bool = True
    reads: tuple[Literal["own", "taught"], ...] = ()


def make_probes(context: TrainingContext, rounds: int) -> Probes:
    """Zeros for every link that an agent's turn uses, in every round."""
    return {
        agent: dict.fromkeys(
            [f"inner/{agent}"]
            + [f"outer/{edge_name(e.src, e.dst)}" for e in context.topology.outgoing(agent)],
            jnp.zeros(rounds, jnp.float32),
        )
        for agent in context.topology.agents
    }


def turn_links(context: TrainingContext, links: Params, agent: str) -> Params:
    """The links of one agent's turn, as copies whose gradients devices sum up by themselves.

    They are reduced over devices once per use of this function, however often the turn applies a
    link; see `links.row_copies`. Each turn of each round has a use of its own, since
    `with_probes` needs the sum over devices of each.
    """
    outgoing = [edge_name(e.src, e.dst) for e in context.topology.outgoing(agent)]
    return {
        "inner": {agent: row_copies(links["inner"][agent])},
        "outer": {name: row_copies(links["outer"][name]) for name in outgoing},
    }


def with_probes(links: Params, probes: dict[str, Array]) -> Params:
    """The links, with a probe on each that one turn uses; `probes` are scalars by link."""
    found = {part: dict(trees) for part, trees in links.items()}
    for name, squares in probes.items():
        part, _, key = name.partition("/")
        found[part][key] = gradient_probe(found[part][key], squares)
    return found


def turn_data(
    context: TrainingContext, probes: Probes | None, own: dict[str, Any] | None = None
) -> dict[str, tuple[Any, dict[str, Array]]]:
    """What each turn gets besides its prompt: an objective's own arrays by agent, and probes."""
    own, probes = own or {}, probes or {}
    return {agent: (own.get(agent), probes.get(agent, {})) for agent in context.topology.agents}


def row_mean(value_BT: Array, mask_BT: Array) -> Array:
    """Mean of each row over its masked positions `[B]`; zero for a row without any."""
    count_B = jnp.sum(mask_BT, axis=-1)
    return jnp.sum(jnp.where(mask_BT, value_BT, 0.0), axis=-1) / jnp.maximum(count_B, 1)


def states(
    context: TrainingContext,
    agent: str,
    params: Params,
    prompt: Prompt,
    incoming: tuple[Array, ...],
    past: tuple[Segment, ...] = (),
) -> Array:
    """An agent's states `[B, T, D]` at every position of a prompt with `incoming` in its slots."""
    model = context.spec.model(agent)
    h_BTD, _ = models.run(
        model,
        params,
        inputs(model, params, prompt, incoming),
        valid_BT=prompt.valid_BT,
        pos_BT=models.positions(prompt.valid_BT, models.length(past)),
        past=past,
        remat=context.spec.remat,
        left_padded=True,
    )
    return h_BTD


def text_loss(
    context: TrainingContext,
    agent: str,
    params: Params,
    batch: Text,
    incoming: tuple[Array, ...],
    past: tuple[Segment, ...] = (),
) -> tuple[Array, Array]:
    """Cross-entropy of an agent's text after its prompt, and whether the agent would write it.

    Both are per row, `[B]`. Greedy decoding writes a text if each of its tokens is the likeliest.

    `incoming` are the messages `[B, M, D]` for the prompt's slots, in the order of
    `Topology.incoming`; `past` is what the prompt continues.
    """
    prompt = batch.prompt
    h_BTD = states(context, agent, params, prompt, incoming, past)
    logits_BTV = models.unembed(context.spec.model(agent), params, h_BTD[:, :-1])
    ids_BT, predicted_BT = prompt.ids_BT[:, 1:], batch.predicted()
    loss_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, ids_BT)
    right_BT = (jnp.argmax(logits_BTV, axis=-1) == ids_BT) | ~predicted_BT
    return row_mean(loss_BT, predicted_BT), jnp.all(right_BT, axis=-1)


def latent_turn(
    context: TrainingContext,
    params: dict[str, Params],
    links: Params,
    agent: str,
    prompt: Prompt,
    incoming: tuple[Array, ...],
    past: tuple[Segment, ...] = (),
    checkpoint: bool = True,
) -> Array:
    """One agent's true rollout: its inner-mapped states `[B, M, D]`; steps are checkpointed."""
    x_BTD = inputs(context.spec.model(agent), params[agent], prompt, incoming)
    _, z_BMD = rollout(
        context.spec,
        params[agent],
        links,
        agent,
        x_BTD,
        prompt.valid_BT,
        context.latent_steps,
        checkpoint=checkpoint,
        past=past,
    )
    return z_BMD


def abstract(make: Callable[[], Any]) -> Any:
    """The arrays that `make()` would give, as `jax.ShapeDtypeStruct`s; none is made."""
    return jax.eval_shape(make)


def zero_prompt(*lead: int, positions: int, states: int | None = None) -> Prompt:
    """A prompt of zeros `[*lead, T]`, T the bucket of `positions`, for `abstract`.

    With `states`, it names as many positions whose states are its message (teacher forcing).
    """
    shape = (*lead, bucket(positions))
    return Prompt(
        ids_BT=jnp.zeros(shape, jnp.int32),
        valid_BT=jnp.zeros(shape, bool),
        slot_BT=jnp.zeros(shape, jnp.int32),
        state_index_BM=None if states is None else jnp.zeros((*lead, states), jnp.int32),
    )


def zero_preamble(*lead: int, positions: int) -> Preamble:
    """Preambles of zeros `[*lead, T]`, T the bucket of `positions`, for `abstract`."""
    shape = (*lead, bucket(positions))
    return Preamble(jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool))


def zero_text(*lead: int, positions: int, states: int | None = None) -> Text:
    """`zero_prompt` of a prompt with its text."""
    prompt = zero_prompt(*lead, positions=positions, states=states)
    return Text(prompt, jnp.zeros(prompt.ids_BT.shape, bool))


def prompt_positions(context: TrainingContext, lengths: Lengths, message: int) -> dict[str, int]:
    """Positions of each agent's prompt after its preamble, with `message` vectors in each slot."""
    topology, rest = context.topology, lengths.prompt - lengths.preamble
    return {a: rest + message * len(topology.incoming(a)) for a in topology.agents}


def zero_preambles(context: TrainingContext, rows: int, lengths: Lengths) -> dict[str, Preamble]:
    """Every agent's `zero_preamble` `[B, T]`; none where prompts begin with a slot."""
    if not lengths.preamble:
        return {}
    agents = context.topology.agents
    return {agent: zero_preamble(rows, positions=lengths.preamble) for agent in agents}


def zero_prompts(context: TrainingContext, rounds: int, rows: int, lengths: Lengths) -> Prompts:
    """Every agent's preamble, and its `zero_prompt` of all rounds, as true rollouts read them."""
    positions = prompt_positions(context, lengths, context.latent_steps)
    return Prompts(
        zero_preambles(context, rows, lengths),
        {agent: zero_prompt(rounds, rows, positions=n) for agent, n in positions.items()},
    )
