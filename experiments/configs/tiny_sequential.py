"""The embedded system: three tiny agents and the relay task, sequential topology.

  CONFIG=experiments/configs/tiny_sequential.py
  python -m experiments.quickstart --config=$CONFIG --workdir=runs/tiny

or its stages one by one, with the same flags: experiments.train_inner, experiments.train_outer,
experiments.evaluate. Two CPU cores take 7 minutes and 3 GB; latents should reach .34, .67 and .99
(the ceiling is .34, .68 and 1) at one, two and three rounds.

What is special to this system is in `rmas/experiment/embedded.py`. For your own agents start from
own.py.
"""

from ml_collections import ConfigDict

from rmas.experiment.embedded import relay


def get_config() -> ConfigDict:
    """The settings of the relay."""
    return ConfigDict(relay())
