"""RecursiveLinks: the only trainable part of a system.

An inner link maps an agent's last hidden state to that agent's input embedding space; an outer
link maps the result to the embedding space of another agent. Parameter names and numerics are
those of the released systems (`proj1`, `proj2`, `residual_proj`, ...; exact GELU; LayerNorm with
bias, eps 1e-5), so that their files map one to one.

form         inner link                             outer link
`linear`     `W1 h`                                 `W1 h`
`linear_res` `h + W1 h`                             `W3 h + W1 h`
`mlp`        `W2 gelu(W1 h)`                        `W2 gelu(W1 h)`
`mlp_res`    `h + W2 gelu(W1 h)` (paper)            `W3 h + W2 gelu(W1 h)` (paper)
`ln_res`     `LN_post(h + W2 gelu(W1 LN_pre(h)))`   `LN_target(W3 h + W2 gelu(W1 LN_source(h)))`
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Literal, cast, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from rmas.errors import InputError
from rmas.models.ops import PRECISION, at_least_float32
from rmas.parallel import constrain, current_parts
from rmas.shapes import Array, Params

Form = Literal["linear", "linear_res", "mlp", "mlp_res", "ln_res"]
Init = Literal["random", "gated", "aligned", "head"]
FORMS: tuple[Form, ...] = get_args(Form)
LINEAR_FORMS: tuple[Form, ...] = ("linear", "linear_res")
RELEASED_ALIASES: Mapping[str, Form] = {
    "1layer": "linear",
    "1layer_res": "linear_res",
    "2layer": "mlp",
    "2layer_res": "mlp_res",
    "2layer_ln_res": "ln_res",
    "ln_res_adapter": "ln_res",
    "outer_ln_res_adapter": "ln_res",
}
"""The names of forms in released files."""
_EPS = 1e-5


def parse_form(name: str) -> Form:
    """The form with this name, which may also be a name that released files use.

    Raises:
      InputError: the name is unknown; the message lists the known ones.
    """
    known = {form: form for form in FORMS} | dict(RELEASED_ALIASES)
    if name not in known:
        raise InputError(f"unknown link form {name!r}; known: {', '.join(known)}")
    return known[name]


def _uniform_fan_in(key: Array, shape: tuple[int, ...], dtype=jnp.float32) -> Array:
    # torch.nn.Linear's default for weights; biases are drawn in `_dense`.
    bound = shape[0] ** -0.5
    return jax.random.uniform(key, shape, dtype, -bound, bound)


def _dense(features: int, fan_in: int, name: str) -> nn.Dense:
    bound = fan_in**-0.5
    return nn.Dense(
        features,
        precision=PRECISION,
        kernel_init=_uniform_fan_in,
        bias_init=lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound),
        name=name,
    )


def _norm(name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=_EPS, use_fast_variance=False, name=name)


class InnerLink(nn.Module):
    """The inner link of an agent of hidden width `width`."""

    form: Form
    width: int

    @nn.compact
    def __call__(self, h_D: Array) -> Array:
        """Maps hidden states `[..., D]` to `[..., D]`: float32, or float64 if `h_D` is."""
        h_D, d = at_least_float32(h_D), self.width
        x_D = _norm("pre_ln")(h_D) if self.form == "ln_res" else h_D
        y_D = _dense(d, d, "proj1")(x_D)
        if self.form not in ("linear", "linear_res"):
            y_D = _dense(d, d, "proj2")(nn.gelu(y_D, approximate=False))
        if self.form in ("linear_res", "mlp_res", "ln_res"):
            y_D = h_D + y_D
        return _norm("post_ln")(y_D) if self.form == "ln_res" else y_D


class OuterLink(nn.Module):
    """The outer link from an agent of width `d_src` to one of width `d_dst`."""

    form: Form
    d_src: int
    d_dst: int

    @nn.compact
    def __call__(self, h_E: Array) -> Array:
        """Maps `[..., E]` of the sender to `[..., D]` of the receiver; dtype as `InnerLink`."""
        h_E, e, d = at_least_float32(h_E), self.d_src, self.d_dst
        normed = self.form == "ln_res"
        x_E = _norm("ln_source")(h_E) if normed else h_E
        if self.form in ("linear", "linear_res"):
            y_D = _dense(d, e, "proj1")(x_E)
        else:
            f = 2 * d if normed else d
            y_D = _dense(d, f, "proj2")(nn.gelu(_dense(f, e, "proj1")(x_E), approximate=False))
        if self.form in ("linear_res", "mlp_res", "ln_res"):
            y_D = _dense(d, e, "residual_proj")(h_E) + y_D
        return _norm("ln_target")(y_D) if normed else y_D


@struct.dataclass
class Copies:
    """A link's parameters with an axis in front: a copy for each block of rows (`row_copies`)."""

    params: Params


def row_copies(params: Params) -> Params | Copies:
    """One copy of a link for each block of a batch's rows that lies on devices of its own.

    `LinkSpec` applies each to its block. So the gradient of a copy needs no other device: it is
    summed up over all uses of the copies, in loops too, and over devices once, for `params`.
    Without a mesh, or where rows are not split, `params` itself.
    """
    blocks = current_parts("batch")
    if blocks == 1:
        return params

    def copies(x: Array) -> Array:
        x = jnp.broadcast_to(x, (blocks, *x.shape))
        return constrain(x, "batch", *[None] * (x.ndim - 1))

    return Copies(jax.tree.map(copies, params))


def _apply(module: nn.Module, params: Params | Copies, h_BE: Array) -> Array:
    """Applies a link to `[B, ..., E]`; copies `[G, ...]` each to their block of B / G rows."""

    def apply(params: Params, h_BE: Array) -> Array:
        return cast(Array, module.apply({"params": params}, h_BE))

    if not isinstance(params, Copies):
        return apply(params, h_BE)
    blocks = len(jax.tree.leaves(params)[0])
    h_GBE = h_BE.reshape(blocks, -1, *h_BE.shape[1:])
    h_GBE = constrain(h_GBE, "batch", *[None] * h_BE.ndim)
    z_GBD = jax.vmap(apply)(params.params, h_GBE)
    z_BD = z_GBD.reshape(-1, *z_GBD.shape[2:])
    return constrain(z_BD, "batch", *[None] * (z_BD.ndim - 1))


@dataclasses.dataclass(frozen=True)
class LinkSpec:
    """The static facts of a system's links.

    Attributes:
      form: of all links.
      widths: (agent, hidden width).
      edges: (sender, receiver), one outer link each.
    """

    form: Form
    widths: tuple[tuple[str, int], ...]
    edges: tuple[tuple[str, str], ...]

    def inner_module(self, agent: str) -> InnerLink:
        """The inner link of an agent as a Flax module."""
        return InnerLink(self.form, dict(self.widths)[agent])

    def outer_module(self, src: str, dst: str) -> OuterLink:
        """The outer link of an edge as a Flax module."""
        widths = dict(self.widths)
        return OuterLink(self.form, widths[src], widths[dst])

    def inner(self, links: Params, agent: str, h_D: Array) -> Array:
        """Applies an agent's inner link to its hidden states `[..., D]`."""
        return _apply(self.inner_module(agent), links["inner"][agent], h_D)

    def outer(self, links: Params, src: str, dst: str, h_E: Array) -> Array:
        """Applies the outer link of an edge to what its sender's inner link gave, `[..., E]`."""
        return _apply(self.outer_module(src, dst), links["outer"][edge_name(src, dst)], h_E)


def edge_name(src: str, dst: str) -> str:
    """The key of an edge in the links tree."""
    return f"{src}->{dst}"


# One program: every operation of its own would be compiled and loaded at each start.
@functools.partial(jax.jit, static_argnames=("spec", "init"))
def init_links(spec: LinkSpec, key: Array, init: Init = "random") -> Params:
    """Makes the links tree `{"inner": {agent: ...}, "outer": {"src->dst": ...}}`, float32.

    `random` is PyTorch's default initialisation, as in the released systems; `gated` also zeroes
    the last layer of every MLP branch, so that a residual link starts as its residual path.
    `aligned` and `head` give the same links as `gated` here, and are completed by what needs
    weights and data: `aligned_inner` and `aligned_outer`, `linear_inner` and `linear_outer`.
    """

    def make(module: nn.Module, width: int, key: Array) -> Params:
        params = module.init(key, jnp.zeros((1, width)))["params"]
        if init != "random" and spec.form in ("mlp_res", "ln_res"):
            params["proj2"] = jax.tree.map(jnp.zeros_like, params["proj2"])
        return params

    widths = dict(spec.widths)
    keys = iter(jax.random.split(key, len(spec.widths) + len(spec.edges)))
    return {
        "inner": {a: make(spec.inner_module(a), w, next(keys)) for a, w in spec.widths},
        "outer": {
            edge_name(s, d): make(spec.outer_module(s, d), widths[s], next(keys))
            for s, d in spec.edges
        },
    }


def aligned_inner(params: Params, rms: float) -> Params:
    """An inner link whose outputs start at the scale of the agent's embeddings.

    Sets the scale of the final norm to `rms`, the root mean square of the embeddings: inner
    training compares directions only, so it would leave the scale as initialised. Links of a
    form without a final norm are returned unchanged.
    """
    if "post_ln" not in params:
        return params
    scale = jnp.full_like(params["post_ln"]["scale"], rms)
    return params | {"post_ln": params["post_ln"] | {"scale": scale}}


def linear_inner(form: Form, w_DD: np.ndarray) -> Params:
    """The inner link that maps h to `h @ w_DD`, float32.

    Raises:
      InputError: a link of this form is not linear.
    """
    if form == "linear_res":
        w_DD = w_DD - np.eye(len(w_DD))
    return {"proj1": _linear(form, w_DD)}


def linear_outer(form: Form, w_ED: np.ndarray) -> Params:
    """The outer link that maps h to `h @ w_ED`, float32; of `linear_res` by its residual path.

    Raises:
      InputError: a link of this form is not linear.
    """
    whole = _linear(form, w_ED)
    if form == "linear":
        return {"proj1": whole}
    return {"proj1": jax.tree.map(jnp.zeros_like, whole), "residual_proj": whole}


def _linear(form: Form, w_ED: np.ndarray) -> Params:
    if form not in LINEAR_FORMS:
        raise InputError(f"a link of form {form} is not linear; use form linear or linear_res")
    return {"kernel": jnp.float32(w_ED), "bias": jnp.zeros(w_ED.shape[1], jnp.float32)}


def aligned_outer(params: Params, z_NE: np.ndarray, y_ND: np.ndarray, ridge: float) -> Params:
    """An outer link whose residual path is the ridge regression of `y_ND` on `z_NE`.

    The last layer of its MLP branch is zero. The final norm of `ln_res` gets the root mean square
    of `y_ND` as its scale, so that messages start at the scale of token embeddings.

    Args:
      params: a link of form `mlp_res` or `ln_res`.
      z_NE: outputs of the sender's inner link at N positions.
      y_ND: the receiver's embeddings of the same text at these positions.
      ridge: penalty relative to the mean squared feature.

    Raises:
      InputError: a link of another form.
    """
    if "residual_proj" not in params or "proj2" not in params:
        raise InputError("aligned initialisation needs a link of form mlp_res or ln_res")
    z, y = np.asarray(z_NE, np.float64), np.asarray(y_ND, np.float64)
    z_mean, y_mean = z.mean(0), y.mean(0)
    zc, yc = z - z_mean, y - y_mean
    gram = zc.T @ zc
    gram += ridge * np.trace(gram) / len(gram) * np.eye(len(gram))
    kernel = np.linalg.solve(gram, zc.T @ yc)
    bias = y_mean - z_mean @ kernel
    out = dict(params)
    out["proj2"] = jax.tree.map(jnp.zeros_like, params["proj2"])
    out["residual_proj"] = {"kernel": jnp.float32(kernel), "bias": jnp.float32(bias)}
    if "ln_target" in params:
        rms = np.sqrt(np.mean(y**2))
        out["ln_target"] = {
            "scale": jnp.full(y.shape[1], rms, jnp.float32),
            "bias": jnp.zeros(y.shape[1], jnp.float32),
        }
    return out
