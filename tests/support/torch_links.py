"""The links as PyTorch modules, under the names of released state dicts.

Import after `pytest.importorskip("torch")`. Sizes: inner `width`, outer `d_src -> d_dst`; the
MLP of an outer link is `2 * d_dst` wide in the released form, `d_dst` in the others.
"""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

FORMS = ("linear", "linear_res", "mlp", "mlp_res", "ln_res")


class Inner(nn.Module):
    """An inner link of one form."""

    def __init__(self, form: str, width: int):
        super().__init__()
        self.form = form
        self.proj1 = nn.Linear(width, width)
        if form in ("mlp", "mlp_res", "ln_res"):
            self.proj2 = nn.Linear(width, width)
        if form == "ln_res":
            self.pre_ln, self.post_ln = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, h):
        if self.form == "linear":
            return self.proj1(h)
        if self.form == "linear_res":
            return h + self.proj1(h)
        if self.form == "mlp":
            return self.proj2(functional.gelu(self.proj1(h)))
        if self.form == "mlp_res":
            return h + self.proj2(functional.gelu(self.proj1(h)))
        return self.post_ln(h + self.proj2(functional.gelu(self.proj1(self.pre_ln(h)))))


class Outer(nn.Module):
    """An outer link of one form."""

    def __init__(self, form: str, d_src: int, d_dst: int):
        super().__init__()
        self.form = form
        if form in ("linear", "linear_res"):
            self.proj1 = nn.Linear(d_src, d_dst)
        else:
            inner = 2 * d_dst if form == "ln_res" else d_dst
            self.proj1, self.proj2 = nn.Linear(d_src, inner), nn.Linear(inner, d_dst)
        if form in ("linear_res", "mlp_res", "ln_res"):
            self.residual_proj = nn.Linear(d_src, d_dst)
        if form == "ln_res":
            self.ln_source, self.ln_target = nn.LayerNorm(d_src), nn.LayerNorm(d_dst)

    def forward(self, h):
        if self.form == "linear":
            return self.proj1(h)
        if self.form == "linear_res":
            return self.residual_proj(h) + self.proj1(h)
        if self.form == "mlp":
            return self.proj2(functional.gelu(self.proj1(h)))
        if self.form == "mlp_res":
            return self.residual_proj(h) + self.proj2(functional.gelu(self.proj1(h)))
        branch = self.proj2(functional.gelu(self.proj1(self.ln_source(h))))
        return self.ln_target(self.residual_proj(h) + branch)


def make(kind: str, form: str, d_src: int, d_dst: int) -> nn.Module:
    """A link whose every parameter is random and unlike a default."""
    module = Inner(form, d_src) if kind == "inner" else Outer(form, d_src, d_dst)
    random = np.random.default_rng(FORMS.index(form) + 10 * (kind == "outer"))
    for name, parameter in module.named_parameters():
        fan_in = parameter.shape[-1] if parameter.ndim == 2 else 4
        value = random.standard_normal(parameter.shape) * fan_in**-0.5
        if "ln" in name and name.endswith("weight"):
            value += 1.0
        parameter.data = torch.tensor(value, dtype=torch.float32)
    return module.requires_grad_(False)


def state_dict(module: nn.Module) -> dict[str, np.ndarray]:
    """Parameters by released name."""
    return {name: tensor.numpy() for name, tensor in module.state_dict().items()}
