"""The optimizer: AdamW on links, warm-up then cosine to zero, gradients clipped by global norm."""

import dataclasses

import optax

from rmas.errors import InputError


@dataclasses.dataclass(frozen=True)
class Optim:
    """Settings; the defaults are the release's.

    With warm-up the first update has learning rate 0, as in the release.
    """

    steps: int = 20_000
    lr: float = 5e-4
    warmup_steps: int = 10
    b1: float = 0.9
    b2: float = 0.95
    weight_decay: float = 0.0
    clip: float = 1.0

    def __post_init__(self):
        if self.steps < 1:
            raise InputError(f"optim.steps is {self.steps}; it must be at least 1")
        if not self.lr > 0:
            raise InputError(f"optim.lr is {self.lr}; it must be positive")
        if not (self.clip > 0 and 0 <= self.b1 < 1 and 0 <= self.b2 < 1 and self.weight_decay >= 0):
            raise InputError(
                f"optim: clip {self.clip} must be positive, b1 {self.b1} and b2 {self.b2} in "
                f"[0, 1), weight_decay {self.weight_decay} not negative"
            )
        if self.warmup_steps < 0:
            raise InputError(f"optim.warmup_steps is {self.warmup_steps}; it must not be negative")


def learning_rate(optim: Optim) -> optax.Schedule:
    """The learning rate of each step, from 0."""
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if optim.warmup_steps else optim.lr,
        peak_value=optim.lr,
        warmup_steps=optim.warmup_steps,
        decay_steps=max(optim.steps, optim.warmup_steps + 1),
    )


def make(optim: Optim) -> optax.GradientTransformation:
    """The optax chain."""
    rate, decay = learning_rate(optim), optim.weight_decay
    return optax.chain(
        optax.clip_by_global_norm(optim.clip),
        optax.adamw(rate, b1=optim.b1, b2=optim.b2, weight_decay=decay),
    )
