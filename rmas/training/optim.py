"""The optimizer: AdamW on links, warm-up then cosine to zero, gradients clipped by global norm."""

import dataclasses

import jax
import optax

from rmas.options import Options, option
from rmas.shapes import Array, Params


@dataclasses.dataclass(frozen=True)
class Optim(Options):
    """AdamW with warm-up, then cosine decay to zero, and clipping by the global norm.

    The defaults but `steps` and `lr` are the release's. With warm-up the first update has learning
    rate 0, as in the release.
    """

    steps: int = option(2000, "updates in all; 0: the initial links, untrained", least=0)
    lr: float = option(5e-4, "peak learning rate", above=0)
    warmup_steps: int = option(10, "updates until the peak", least=0)
    b1: float = option(0.9, "decay of the first moment", least=0, below=1)
    b2: float = option(0.95, "decay of the second moment", least=0, below=1)
    weight_decay: float = option(0.0, "decoupled weight decay, of matrices alone", least=0)
    clip: float = option(1.0, "largest global norm of the gradients", above=0)


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
    # Without decay there is no mask, which would be a part of the state.
    mask = _matrices if decay else None
    return optax.chain(
        optax.clip_by_global_norm(optim.clip),
        optax.adamw(rate, b1=optim.b1, b2=optim.b2, weight_decay=decay, mask=mask),
    )


def _matrices(params: Params) -> Params:
    """Which parameters decay: neither biases nor scales of norms, as in the release.

    By name, too: those of a model's layers are stacked.
    """

    def decays(path: tuple, x: Array) -> bool:
        keys = [str(getattr(key, "key", key)) for key in path]
        is_vector = any(key in ("bias", "scale") or "norm" in key for key in keys)
        return x.ndim > 1 and not is_vector

    return jax.tree_util.tree_map_with_path(decays, params)
