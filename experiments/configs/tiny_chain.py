"""A long chain: five agents that share one base model, each with links of its own.

  CONFIG=experiments/configs/tiny_chain.py
  python -m experiments.quickstart --config=$CONFIG --workdir=runs/chain

or its stages one by one, with the same flags: experiments.train_inner, experiments.train_outer,
experiments.evaluate. One CPU core takes 16 to 17 minutes; latents should reach .52 and .995 (the
ceiling is .53 and 1) at one and two rounds, untrained links and an agent alone about 1/17.
"""

from ml_collections import ConfigDict

from rmas.experiment.embedded import chain


def get_config() -> ConfigDict:
    """The settings of the chain."""
    return ConfigDict(chain())
