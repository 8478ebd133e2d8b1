"""Outer training of the release: 25 steps of an independent loop in PyTorch, losses and links."""

import json

import jax
import numpy as np
import pytest

from experiments.benchmarks import random_agents
from experiments.benchmarks.random_agents import Sizes
from experiments.benchmarks.training_paths import TrainingSetup, whole_text
from rmas.tasks.pipeline import batches
from rmas.training.loop import Schedule
from rmas.training.objectives import OBJECTIVES
from rmas.training.optim import Optim
from rmas.training.outer import train_outer
from rmas.weights.released_links import to_state_dict

pytestmark = [pytest.mark.torch, pytest.mark.slow]
SIZES, STEPS, SEED = Sizes(prompt=24, rows=2), 25, 3
OPTIM = Optim(steps=STEPS, lr=2e-3)


def rate(step):
    return step / 10 if step < 10 else 0.5 * (1 + np.cos(np.pi * (step - 10) / (STEPS - 10)))


def test_losses_and_links_are_those_of_the_release(tmp_path):
    torch = pytest.importorskip("torch")
    from experiments.benchmarks.pytorch_training import PytorchTraining

    topology, specs = random_agents.architectures("tiny")
    random_agents.write_folders(specs, tmp_path / "agents", "float32", 0)
    system = random_agents.load_system(topology, tmp_path / "agents", SIZES, "float32")
    setup = TrainingSetup(system, SIZES, rounds=2, text=4)
    rows = [row for number in range(4) for row in setup.rows(number)]
    trained = train_outer(
        (("teacher_forced", 1.0),),
        folder=tmp_path / "outer",
        context=setup.context,
        params=system.params(),
        fixed={"inner": setup.links["inner"]},
        links=lambda: {"outer": setup.links["outer"]},
        examples=setup.examples,
        source=rows,
        schedule=Schedule(OPTIM, batch_size=2),
        seed=SEED,
    )
    lines = (tmp_path / "outer" / "metrics.jsonl").read_text().splitlines()
    losses = [json.loads(line)["loss"] for line in lines]

    other = PytorchTraining.load(topology, tmp_path / "agents", setup.links).outer(OPTIM)
    scheduler = torch.optim.lr_scheduler.LambdaLR(other.optimizer, rate)
    stream, wanted = iter(batches(rows, seed=SEED, batch_size=2)), []
    for _ in range(STEPS):
        prompts, masks = OBJECTIVES["teacher_forced"].prepare(setup.examples, next(stream))
        wanted.append(
            other.step(
                {
                    agent: whole_text(prompts.preambles.get(agent), rest, masks[agent])
                    for agent, rest in prompts.rest.items()
                }
            )
        )
        scheduler.step()
    np.testing.assert_allclose(losses, wanted, rtol=0, atol=1e-4)
    assert abs(wanted[-1] - wanted[0]) > 1e-2
    start = jax.tree.map(np.asarray, setup.links["outer"])
    for edge, link in other.outer.items():
        own = to_state_dict(trained["outer"][edge])
        for name, value in link.state_dict().items():
            np.testing.assert_allclose(own[name], value.numpy(), rtol=0, atol=1e-4, err_msg=name)
        moved = to_state_dict(start[edge])["proj1.weight"] - own["proj1.weight"]
        assert np.abs(moved).max() > 1e-3
