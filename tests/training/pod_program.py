"""One process of a run: trains and evaluates a tiny random system, and may be told to stop.

`python pod_program.py FOLDER MESH [--stop_at=STEP]` with the flags of a pod, and `tests/` in
PYTHONPATH. With `--stop_at` the last process gets a SIGTERM (or `--signal`), as a preempted machine
would, when it prepares that step of outer training.
"""

import argparse
import dataclasses
import os
import signal
import sys
from pathlib import Path

import jax
import numpy as np

from rmas.errors import Stopped
from rmas.evaluation.plan import Method, Plan, by_length
from rmas.evaluation.runner import run
from rmas.parallel import Cluster, param_shardings, put_whole, start, to_host
from rmas.system.answers import Limits
from rmas.system.load import System
from rmas.system.rendered import Renderer
from rmas.system.run import Runner
from rmas.system.sampling import Sampling
from rmas.tasks.grader_pool import GraderPool
from rmas.training import outer as outer_module
from rmas.training.examples import Examples
from rmas.training.hidden_state_cache import cache_hidden_states
from rmas.training.initial import align_outer_links
from rmas.training.inner import train_inner
from rmas.training.loop import Schedule
from rmas.training.objectives import TrainingContext
from rmas.training.optim import Optim
from rmas.training.outer import train_outer
from rmas.weights.links import save_links
from rmas.weights.placement import choose_mesh, heads_of

STEPS, BATCH = 24, 8


def placed(system: System, mesh) -> System:
    """The same agents with their weights on the mesh."""
    agents = {}
    for name, agent in system.agents.items():
        at = param_shardings(mesh, agent.params, heads_of(agent.model))
        params = put_whole(agent.params, at)
        agents[name] = dataclasses.replace(agent, params=params, mesh=mesh)
    return dataclasses.replace(system, agents=agents)


def stopping(prepare, at: int, number: int):
    """`prepare` that asks this process to end when it is called for the `at`-th time."""
    calls = 0

    def prepared(*args):
        nonlocal calls
        calls += 1
        if calls == at:
            os.kill(os.getpid(), number)
        return prepare(*args)

    return prepared


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("mesh")
    parser.add_argument("--stop_at", type=int, default=0)
    parser.add_argument("--signal", type=int, default=signal.SIGTERM)
    parser.add_argument("--coordinator")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--process", type=int, default=0)
    asked = parser.parse_args()
    cluster = Cluster(asked.coordinator, asked.processes, asked.process)
    start(asked.folder / "cache", cluster)
    # Their modules make arrays, which must not be before the processes have met.
    from support.tiny_training import PAIR, make_examples, make_rows, random_links

    folder, rows = asked.folder, make_rows(20)

    whole = make_examples(PAIR, np.float32, rounds=2)
    mesh = choose_mesh(asked.mesh, [])
    system = placed(whole.renderer.system, mesh)
    examples: Examples = dataclasses.replace(whole, renderer=Renderer(system))
    spec = system.spec("ln_res")
    context = TrainingContext(PAIR, spec, examples.latent_steps, 0.5, 0.0)
    links = random_links(spec.links, np.float32)

    # Inner training with gradient accumulation and validation; one agent's states are cached.
    schedule = Schedule(
        Optim(steps=3, lr=1e-2, warmup_steps=0),
        batch_size=BATCH,
        save_every=3,
        accumulate=2,
        validation_rows=BATCH,
    )
    inner = dict(links["inner"])
    for agent in PAIR.agents:
        states = None
        if agent == "critic":
            states = cache_hidden_states(
                agent,
                folder=folder / "hidden_states",
                model=spec.model(agent),
                params=system.agents[agent].params,
                examples=examples,
                source=rows,
                schedule=schedule,
                seed=1,
                dtype="float32",
                key={},
            )
        inner[agent] = train_inner(
            agent,
            folder=folder / "inner" / agent,
            context=context,
            params=system.agents[agent].params,
            links=links,
            examples=examples,
            source=rows,
            schedule=schedule,
            seed=1,
            validation=rows,
            cached=states,
        )
    inner = to_host(inner)

    # Outer training, from aligned links; stopped in its course where that is asked for.
    def first():
        aligned = {"inner": inner, "outer": links["outer"]}
        return align_outer_links(
            spec, system.params(), aligned, examples=examples, rows=rows, seed=1, ridge=1e-3
        )

    if asked.stop_at and asked.process == asked.processes - 1:
        objective = outer_module.OBJECTIVES["align"]
        prepare = stopping(objective.prepare, asked.stop_at, asked.signal)
        outer_module.OBJECTIVES["align"] = dataclasses.replace(objective, prepare=prepare)
    schedule = Schedule(Optim(steps=STEPS, lr=1e-2), BATCH, save_every=10)
    try:
        links = train_outer(
            (("align", 1.0),),
            folder=folder / "outer",
            context=context,
            params=system.params(),
            fixed={},
            links=first,
            examples=examples,
            source=rows,
            schedule=schedule,
            seed=1,
        )
    except Stopped:
        sys.exit(143)
    assert all(not x.is_fully_replicated for x in jax.tree.leaves(links) if _split(x, mesh))
    links = to_host(links)
    if jax.process_index() == 0:
        save_links(folder / "links", links, {})

    # Evaluation: each process answers its share, on its own devices.
    own = placed(whole.renderer.system, choose_mesh(asked.mesh, [], local=True))
    runner = Runner(own, Limits(3, 4, 4), Sampling(temperature=1.0), seed=3)

    def latent(questions, batch, rollout):
        return runner.latent(links, "ln_res", questions, 2, batch, rollout)

    method = Method("latent", 2, latent, latent_length=3)
    plan = Plan("toy", "relay", (method,), by_length(rows, lambda row: 1), 4, 3, rollouts=2)
    (folder / "evaluate").mkdir(exist_ok=True)
    records = run(plan, GraderPool(), folder / "evaluate")
    assert len(records) == 40


def _split(x: jax.Array, mesh) -> bool:
    pieces = mesh.shape["fsdp"]
    return pieces > 1 and x.ndim > 1 and any(n % pieces == 0 for n in x.shape)


if __name__ == "__main__":
    main()
