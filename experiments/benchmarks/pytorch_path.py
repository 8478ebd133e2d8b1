"""Latent recursion in PyTorch: what a user would write with transformers and its cache.

Models are transformers' own, of the same configurations and weights; links are those of the release
as modules. A turn prefills its prompt into a `DynamicCache`, batched and left-padded, and each
latent step or token runs one position a row. There are no gradients, logits are computed for the
last position alone, and the padding that rows share is cut off. Import with PyTorch installed.
"""

import dataclasses
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import nn
from torch.nn import functional
from transformers import DynamicCache

from rmas.shapes import Params
from rmas.system.topology import Edge, Topology
from rmas.system.turn import Prompt
from rmas.weights.released_links import to_state_dict


def use_all_cores() -> int:
    """As many threads as XLA uses: one for each core of this process. Returns their number.

    If the environment sets OMP_NUM_THREADS, that counts.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))
    return torch.get_num_threads()


class InnerLink(nn.Module):
    """The inner link of form `ln_res`: `[..., D]` to `[..., D]`, float32."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.pre_ln, self.post_ln = nn.LayerNorm(width), nn.LayerNorm(width)
        self.proj1, self.proj2 = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """Maps hidden states to the agent's own input space."""
        h = h.float()
        return self.post_ln(h + self.proj2(functional.gelu(self.proj1(self.pre_ln(h)))))


class OuterLink(nn.Module):
    """The outer link of form `ln_res`: `[..., E]` to `[..., D]`, float32."""

    def __init__(self, d_src: int, d_dst: int) -> None:
        super().__init__()
        self.ln_source, self.ln_target = nn.LayerNorm(d_src), nn.LayerNorm(d_dst)
        self.proj1, self.proj2 = nn.Linear(d_src, 2 * d_dst), nn.Linear(2 * d_dst, d_dst)
        self.residual_proj = nn.Linear(d_src, d_dst)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Maps what an inner link gave to the receiver's input space."""
        branch = self.proj2(functional.gelu(self.proj1(self.ln_source(z))))
        return self.ln_target(self.residual_proj(z) + branch)


def make_links(links: Params) -> tuple[dict[str, InnerLink], dict[str, OuterLink]]:
    """The modules of a tree of links: inner ones by agent, outer ones by `src->dst`."""
    inner = {a: InnerLink(len(p["proj1"]["bias"])) for a, p in links["inner"].items()}
    outer = {
        edge: OuterLink(p["proj1"]["kernel"].shape[0], len(p["proj2"]["bias"]))
        for edge, p in links["outer"].items()
    }
    for part, modules in (("inner", inner), ("outer", outer)):
        for name, module in modules.items():
            state = to_state_dict(links[part][name])
            module.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in state.items()})
    return inner, outer


def load_model(folder: Path, dtype: str) -> nn.Module:
    """A model folder as transformers loads it, frozen."""
    transformers.utils.logging.disable_progress_bar()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.eval().requires_grad_(False)


@dataclasses.dataclass(frozen=True)
class Thoughts:
    """An agent's turns as numpy arrays, float32.

    `hidden_RBMD` are its states after the final norm; `messages` maps each of its outgoing edges
    (`src->dst`) to `[R, B, M, d_dst]`.
    """

    hidden_RBMD: np.ndarray
    messages: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class PytorchSystem:
    """Agents with links, in PyTorch.

    Attributes:
      cached: whether latent steps read a cache. Without it each step runs the whole sequence again
        through all layers, prompt and earlier steps, as the published code does; decoding has a
        cache in both cases.
    """

    topology: Topology
    models: Mapping[str, Any]
    inner: Mapping[str, InnerLink]
    outer: Mapping[str, OuterLink]
    cached: bool = True

    @classmethod
    def load(cls, topology: Topology, folder: Path, links: Params, dtype: str) -> "PytorchSystem":
        """The system whose agents have their folders below `folder`."""
        models = {agent: load_model(folder / agent, dtype) for agent in topology.agents}
        return cls(topology, models, *make_links(links))

    @torch.inference_mode()
    def answer(
        self, prompts: Mapping[str, Prompt], steps: int, new_tokens: int
    ) -> tuple[list[list[int]], dict[str, Thoughts]]:
        """All turns of all rounds, and the ids of the output agent's text, greedy, by row.

        Args:
          prompts: numpy arrays `[R, B, T]` by agent, whole, as `batch.stack` makes them.
        """
        rounds = len(prompts[self.topology.output].ids_BT)
        feedback: dict[Edge, torch.Tensor] = {}
        hidden: dict[str, list[torch.Tensor]] = {}
        messages: dict[str, dict[str, list[torch.Tensor]]] = {}
        for k in range(rounds):
            sent, next_feedback = dict(feedback), {}
            for agent in self.topology.agents:
                mail = [sent[e] for e in self.topology.incoming(agent) if e in sent]
                x, mask = self._inputs(agent, prompts[agent], k, mail)
                if k == rounds - 1 and agent == self.topology.output:
                    ids = self._write(agent, x, mask, new_tokens)
                    return ids, _thoughts(hidden, messages)
                think = self._think if self.cached else self._think_again
                h, z = think(agent, x, mask, steps)
                hidden.setdefault(agent, []).append(h)
                for e in self.topology.outgoing(agent):
                    name = f"{e.src}->{e.dst}"
                    message = self.outer[name](z)
                    messages.setdefault(agent, {}).setdefault(name, []).append(message)
                    (sent if e.when == "round" else next_feedback)[e] = message
            feedback = next_feedback
        raise AssertionError("the output agent writes in the last round")

    def _inputs(
        self, agent: str, prompt: Prompt, k: int, mail: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Input vectors `[B, T, D]` and their mask; messages stand in the slots."""
        valid = np.asarray(prompt.valid_BT[k])
        first = int(valid.any(axis=0).argmax())  # what all rows only pad with is left out
        ids, mask, slot = (
            torch.from_numpy(np.asarray(x)[:, first:]).long()
            for x in (prompt.ids_BT[k], valid, prompt.slot_BT[k])
        )
        x = self.models[agent].get_input_embeddings()(ids)
        if mail:
            joined = torch.cat(mail, dim=1).to(x.dtype)
            index = slot.clamp(min=0)[..., None].expand(-1, -1, x.shape[-1])
            x = torch.where(slot[..., None] >= 0, joined.gather(1, index), x)
        return x, mask

    def _think(
        self, agent: str, x: torch.Tensor, mask: torch.Tensor, steps: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A rollout: states after the final norm and what the inner link makes of them."""
        reader = _Reader(self.models[agent].base_model, mask, steps)
        h = [reader.read(x).last_hidden_state[:, -1]]
        z = [self.inner[agent](h[0])]
        while len(h) < steps:
            h.append(reader.read(z[-1][:, None].to(x.dtype)).last_hidden_state[:, -1])
            z.append(self.inner[agent](h[-1]))
        return torch.stack(h, dim=1), torch.stack(z, dim=1)

    def _think_again(
        self, agent: str, x: torch.Tensor, mask: torch.Tensor, steps: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`_think` without a cache: each step runs the prompt and all earlier steps again."""
        base, h, z = self.models[agent].base_model, [], []
        while len(h) < steps:
            out = base(
                inputs_embeds=x,
                attention_mask=mask,
                position_ids=_positions(mask),
                use_cache=False,
            )
            h.append(out.last_hidden_state[:, -1])
            z.append(self.inner[agent](h[-1]))
            x = torch.cat([x, z[-1][:, None].to(x.dtype)], dim=1)
            mask = functional.pad(mask, (0, 1), value=1)
        return torch.stack(h, dim=1), torch.stack(z, dim=1)

    def _write(
        self, agent: str, x: torch.Tensor, mask: torch.Tensor, new_tokens: int
    ) -> list[list[int]]:
        """Greedy ids, `new_tokens` a row: without the extras of `generate`, which take time."""
        reader = _Reader(self.models[agent], mask, new_tokens, logits_to_keep=1)
        embed = self.models[agent].get_input_embeddings()
        ids = [reader.read(x).logits[:, -1].argmax(dim=-1)]
        while len(ids) < new_tokens:
            ids.append(reader.read(embed(ids[-1][:, None])).logits[:, -1].argmax(dim=-1))
        return torch.stack(ids, dim=1).tolist()


class _Reader:
    """A prompt and what follows it, position by position, through one cache."""

    def __init__(self, model: Any, mask: torch.Tensor, more: int, **options: Any) -> None:
        named = "cache" in inspect.signature(model.forward).parameters
        self._cache = {"cache" if named else "past_key_values": DynamicCache(config=model.config)}
        self._model, self._options, self._read = model, options, 0
        self._mask = functional.pad(mask, (0, more), value=1)
        self._positions = _positions(self._mask)

    def read(self, x: torch.Tensor) -> Any:
        """The model's outputs for the next positions `[B, T, D]`."""
        start, self._read = self._read, self._read + x.shape[1]
        return self._model(
            inputs_embeds=x,
            attention_mask=self._mask[:, : self._read],
            position_ids=self._positions[:, start : self._read],
            use_cache=True,
            **self._cache,
            **self._options,
        )


def _positions(mask: torch.Tensor) -> torch.Tensor:
    """Positions `[B, T]` that count what is no padding."""
    return (mask.cumsum(dim=1) - 1).clamp(min=0)


def _thoughts(
    hidden: Mapping[str, list[torch.Tensor]],
    messages: Mapping[str, Mapping[str, list[torch.Tensor]]],
) -> dict[str, Thoughts]:
    def joined(turns: list[torch.Tensor]) -> np.ndarray:
        return torch.stack(turns).float().numpy()

    return {
        agent: Thoughts(joined(h), {e: joined(m) for e, m in messages.get(agent, {}).items()})
        for agent, h in hidden.items()
    }
