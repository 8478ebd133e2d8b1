"""Steps of training by rmas and in PyTorch, and the check that their losses and gradients agree."""

import dataclasses
import functools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from experiments.benchmarks.inference_paths import FORM
from experiments.benchmarks.random_agents import Sizes, make_rows
from rmas import models
from rmas.errors import InputError
from rmas.links import init_links
from rmas.parallel import put_batch, put_whole, replicated, state_shardings, use
from rmas.shapes import Array, Params
from rmas.system.load import System
from rmas.system.preamble import Preamble
from rmas.system.rendered import Renderer
from rmas.system.turn import Prompt
from rmas.tasks.pipeline import batches
from rmas.tasks.rows import Row
from rmas.training import optim as optimizers
from rmas.training.examples import Examples, Text
from rmas.training.hidden_state_cache import (
    HiddenStateCache,
    HiddenStates,
    RowRound,
    cache_hidden_states,
    draw_rounds,
)
from rmas.training.loop import Schedule
from rmas.training.objectives import (
    OBJECTIVES,
    LossAndMetrics,
    Probes,
    TrainingContext,
    batch_axes,
    inner_distance,
    inner_loss,
    make_probes,
    system_loss,
)
from rmas.training.optim import Optim
from rmas.training.step import Loss, TrainState, init_train_state, make_step
from rmas.weights.released_links import to_state_dict

OBJECTIVE = (("teacher_forced", 1.0),)
OPTIM = Optim(steps=1_000_000, warmup_steps=0)
"""With a rate that hardly falls within a measurement."""
TOLERANCE = 1e-4
"""The largest relative difference of a loss, or of a link's gradient."""


class Stepper:
    """A compiled step with its state, as `loop.fit` makes it."""

    def __init__(
        self,
        system: System,
        loss: Loss,
        links: Params,
        frozen: Any,
        axes: Any = 0,
        probes: Probes | None = None,
    ) -> None:
        optimizer = optimizers.make(OPTIM)
        self._mesh, self._frozen, self._axes = system.mesh, frozen, axes
        state = init_train_state(jax.tree.map(jax.numpy.array, links), optimizer)
        shardings = state_shardings(self._mesh, jax.eval_shape(lambda: state))
        self.state: TrainState = put_whole(state, shardings)
        self._step = make_step(
            loss, optimizer, seed=0, shardings=shardings, mesh=self._mesh, axes=axes, probes=probes
        )

    def step(self, batch: Any) -> float:
        """An update from numpy arrays; returns the loss when it is done."""
        with use(self._mesh):
            arrays = put_batch(self._mesh, batch, self._axes)
            self.state, metrics = self._step(self.state, self._frozen, arrays)
        return float(metrics["loss"])

    def moments(self) -> Params:
        """AdamW's first moments: after one step, a tenth of the clipped gradient."""
        return optax.tree_utils.tree_get(self.state.opt_state, "mu")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSetup:
    """A system with links, and what training makes of rows.

    Attributes:
      text: tokens of the longest text.
    """

    system: System
    sizes: Sizes
    rounds: int
    text: int

    @functools.cached_property
    def links(self) -> Params:
        """Where all ways start."""
        spec = self.system.spec(FORM).links
        made = init_links(spec, jax.random.fold_in(jax.random.key(self.sizes.seed), 1000))
        return put_whole(made, replicated(self.system.mesh))

    @functools.cached_property
    def context(self) -> TrainingContext:
        """The facts that losses read."""
        spec = self.system.spec(FORM)
        return TrainingContext(self.system.topology, spec, self.text, 1.0, 0.0)

    @functools.cached_property
    def examples(self) -> Examples:
        """Makes arrays; nothing is cut."""
        most = min(agent.model.max_positions for agent in self.system.agents.values())
        return Examples(
            renderer=Renderer(self.system),
            rounds=self.rounds,
            latent_steps=self.text,
            max_latent_tokens=self.text,
            max_length=most,
            message_tokens=0,
            shift=0,
        )

    def rows(self, number: int) -> list[Row]:
        """A batch."""
        return make_rows(self.sizes, self.system.topology, number, self.text)

    def outer_batch(self, number: int) -> dict[str, Any]:
        """A batch as arrays, by objective."""
        rows = self.rows(number)
        return {name: OBJECTIVES[name].prepare(self.examples, rows) for name, _ in OBJECTIVE}

    def whole_batch(self, number: int) -> dict[str, Text]:
        """The same batch by agent, with each round's prompts whole: preamble, rest and text."""
        ((prompts, masks),) = self.outer_batch(number).values()
        return {
            agent: whole_text(prompts.preambles.get(agent), rest, masks[agent])
            for agent, rest in prompts.rest.items()
        }

    def outer(self) -> Stepper:
        """Training of the outer links with the release's objective."""

        def loss(
            trained: Params, frozen: Any, batches: Mapping[str, Any], key: Array, probes: Probes
        ) -> LossAndMetrics:
            agents, fixed = frozen
            links = fixed | trained
            return system_loss(self.context, OBJECTIVE, agents, links, batches, key, probes)

        return Stepper(
            self.system,
            loss,
            {"outer": self.links["outer"]},
            (self.system.params(), {"inner": self.links["inner"]}),
            batch_axes(OBJECTIVE),
            make_probes(self.context, self.rounds),
        )

    def inner(self, agent: str) -> Stepper:
        """Training of an agent's inner link, on batches or on cached hidden states."""

        def loss(inner: Params, frozen: Params, batch: Any, key: Array) -> LossAndMetrics:
            tree = {"inner": {agent: inner}, "outer": {}}
            if not isinstance(batch, HiddenStates):
                return inner_loss(self.context, agent, frozen, tree, batch), {}
            y_BND = models.embed(self.context.spec.model(agent), frozen, batch.ids_BN)
            found = inner_distance(self.context, agent, tree, batch.h_BND, y_BND, batch.valid_BN)
            return found, {}

        params = self.system.agents[agent].params
        return Stepper(self.system, loss, self.links["inner"][agent], params)


class InnerRows:
    """The rows of inner training by step, as arrays and as cached hidden states.

    Attributes:
      caching: seconds that computing and storing a row's states took.
    """

    def __init__(self, setup: TrainingSetup, agent: str, steps: int, folder: Path) -> None:
        self._setup, self._agent, size = setup, agent, setup.sizes.rows
        self._source = [row for number in range(steps) for row in setup.rows(number)]
        self._schedule = Schedule(Optim(steps=steps), size)
        order = batches(range(len(self._source)), seed=setup.sizes.seed, batch_size=size)
        self._order = [list(indices) for _, indices in zip(range(steps), order, strict=False)]
        self._cache(folder / "compiling", 1)
        start = time.perf_counter()
        self._states = self._cache(folder / "states", steps)
        self.caching = (time.perf_counter() - start) / len(self._source)

    def _cache(self, folder: Path, steps: int) -> HiddenStateCache:
        agent, own = self._agent, self._setup.system.agents[self._agent]
        found = cache_hidden_states(
            agent,
            folder=folder,
            model=own.model,
            params=own.params,
            examples=self._setup.examples,
            source=self._source,
            schedule=dataclasses.replace(self._schedule, optim=Optim(steps=steps)),
            seed=self._setup.sizes.seed,
            dtype="float32",
            key={},
        )
        assert found is not None, "float32 states are always stored"
        return found

    def _pairs(self, step: int) -> list[RowRound]:
        examples, seed = self._setup.examples, self._setup.sizes.seed
        rounds = draw_rounds(examples, self._schedule, seed, step)
        return list(zip(self._order[step], rounds, strict=True))

    def arrays(self, step: int) -> Text:
        """Prompts with their texts `[B, T]`."""
        rows, rounds = zip(*self._pairs(step), strict=True)
        return self._setup.examples.inner(self._agent, [self._source[i] for i in rows], rounds)

    def states(self, step: int) -> HiddenStates:
        """The states of the same texts, from the disk."""
        return self._states.read(self._pairs(step))


def compare(ours: Stepper, theirs: Any, losses: tuple[float, float], what: str) -> float:
    """The largest relative difference of a first step's losses and gradients.

    `theirs` has moments by link, as PyTorch names its parameters. Raises `InputError`, naming the
    place, where one is larger than `TOLERANCE`.
    """
    a, b = losses
    found = {"the loss": abs(a - b) / abs(b)}
    own = ours.moments()
    for name, moments in theirs.moments().items():
        tree = own["outer"][name] if "outer" in own else own
        for parameter, value in to_state_dict(tree).items():
            other = moments[parameter]
            place = f"the gradient of {name}, {parameter}"
            found[place] = float(np.linalg.norm(value - other) / np.linalg.norm(other))
    place, largest = max(found.items(), key=lambda item: item[1])
    if not largest <= TOLERANCE:
        raise InputError(
            f"{what} by rmas and in PyTorch do not agree: {place} differs by {largest:.1e} "
            f"(relative; at most {TOLERANCE:g})"
        )
    return largest


def whole_text(preamble: Preamble | None, rest: Prompt, text_RBT: Any) -> Text:
    """Left-padded numpy arrays `[R, B, T]` of preambles `[B, T]` and what follows them."""
    if preamble is None:
        return Text(rest, text_RBT)
    before = preamble.ids_BT.shape[-1]

    def joined(first: Any, own: Any) -> np.ndarray:
        first = np.broadcast_to(first, (*own.shape[:2], before))
        return np.concatenate([first, own], axis=-1)

    valid = joined(preamble.valid_BT, rest.valid_BT)
    order = np.argsort(valid, axis=-1, kind="stable")  # padding comes first
    place = np.argsort(order, axis=-1)

    def moved(x: np.ndarray) -> Any:
        return np.take_along_axis(x, order, axis=-1)

    assert rest.state_index_BM is not None
    index: Any = np.take_along_axis(place, np.asarray(rest.state_index_BM) + before, axis=-1)
    prompt = Prompt(
        ids_BT=moved(joined(preamble.ids_BT, rest.ids_BT)),
        valid_BT=moved(valid),
        slot_BT=moved(joined(np.full((1, 1), -1), rest.slot_BT)),
        state_index_BM=index,
    )
    return Text(prompt, moved(joined(np.zeros((1, 1), bool), text_RBT)))
