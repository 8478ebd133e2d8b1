"""A debate: two peers, who read each other and the judge in the next round, and a judge.

  CONFIG=experiments/configs/tiny_debate.py
  python -m experiments.quickstart --config=$CONFIG --workdir=runs/debate

or its stages one by one, with the same flags: experiments.train_inner, experiments.train_outer,
experiments.evaluate. One CPU core takes 16 to 17 minutes; latents should reach .37, .67 and 1.00
(the ceiling) at one, two and three rounds, untrained links and an agent alone about 1/17.
"""

from ml_collections import ConfigDict

from rmas.experiment.embedded import debate


def get_config() -> ConfigDict:
    """The settings of the debate."""
    return ConfigDict(debate())
