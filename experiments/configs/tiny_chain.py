"""A long chain: five agents that share one base model, each with links of its own.

  CONFIG=experiments/configs/tiny_chain.py
  python -m experiments.quickstart --config=$CONFIG --workdir=runs/chain

or its stages one by one, with the same flags: experiments.train_inner, experiments.train_outer,
experiments.evaluate. One CPU core takes 16 to 17 minutes; latents should reach .52 and .995 (the
ceiling is .53 and 1) at one and two rounds, untrained links and an agent alone about 1/17.
"""

import itertools

from ml_collections import ConfigDict

from experiments.configs.generalist import system_of

AGENTS = ("adder", "multiplier", "mixer", "subtractor", "reverser")


def get_config() -> ConfigDict:
    config = system_of(
        "chain",
        {
            "agents": AGENTS,
            "round": tuple(f"{a}->{b}" for a, b in itertools.pairwise(AGENTS)),
            "feedback": ("reverser->adder",),
            "output": "reverser",
        },
    )
    config.outer.rounds = 2
    config.evaluate.rounds = (1, 2)
    return config
