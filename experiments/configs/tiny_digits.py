"""The relay with agents whose tokenizers differ: the critic's cuts numbers into digits.

  CONFIG=experiments/configs/tiny_digits.py
  python -m experiments.quickstart --config=$CONFIG --workdir=runs/digits

or its stages one by one, with the same flags: experiments.train_inner, experiments.train_outer,
experiments.evaluate. A token of one agent is then not one of the other: a test bed for objectives
that compare the reader's text instead of tokens (`hop`, `distill`).
"""

from ml_collections import ConfigDict

from rmas.experiment.embedded import digits


def get_config() -> ConfigDict:
    """The settings of this relay."""
    return ConfigDict(digits())
