"""Training of links in PyTorch, a row at a time as the release trains them.

A row has no padding; its loss goes backward before the next row begins, and AdamW makes an update
after all rows of a batch. Models are frozen, and logits are computed for the text's positions
alone. The rate is constant. Import with PyTorch installed.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from experiments.benchmarks.pytorch_path import InnerLink, OuterLink, load_model, make_links
from rmas.shapes import Params
from rmas.system.topology import Edge, Topology
from rmas.training.examples import Text
from rmas.training.optim import Optim

Moments = dict[str, np.ndarray]
"""By parameter of a state dict, what AdamW has of its gradient."""


@dataclasses.dataclass(frozen=True, eq=False)
class PytorchTraining:
    """Frozen models by agent, and the links that every way starts from."""

    topology: Topology
    models: Mapping[str, Any]
    links: Params

    @classmethod
    def load(cls, topology: Topology, folder: Path, links: Params) -> "PytorchTraining":
        """The agents that have their folders below `folder`, float32."""
        models = {agent: load_model(folder / agent, "float32") for agent in topology.agents}
        return cls(topology, models, links)

    def outer(self, optim: Optim) -> "OuterTraining":
        """Training of the outer links from their start; the inner ones are fixed."""
        inner, outer = make_links(self.links)
        for link in inner.values():
            link.requires_grad_(False)
        return OuterTraining(self, inner, outer, _optimizer(outer, optim), optim.clip)

    def inner(self, agent: str, optim: Optim) -> "InnerTraining":
        """Training of an agent's inner link from its start."""
        link = make_links({"inner": {agent: self.links["inner"][agent]}, "outer": {}})[0][agent]
        return InnerTraining(self, agent, link, _optimizer({agent: link}, optim), optim.clip)


def _optimizer(links: Mapping[str, torch.nn.Module], optim: Optim) -> torch.optim.AdamW:
    parameters = [p for link in links.values() for p in link.parameters()]
    return torch.optim.AdamW(
        parameters, lr=optim.lr, betas=(optim.b1, optim.b2), weight_decay=optim.weight_decay
    )


@dataclasses.dataclass(frozen=True, eq=False)
class OuterTraining:
    """The release's objective: messages are states of the senders' texts."""

    system: PytorchTraining
    inner: Mapping[str, InnerLink]
    outer: Mapping[str, OuterLink]
    optimizer: torch.optim.AdamW
    clip: float

    def step(self, batch: Mapping[str, Text]) -> float:
        """An update from arrays `[R, B, T]` by agent; returns the mean loss of the rows."""
        rows = batch[self.system.topology.output].prompt.ids_BT.shape[1]

        def loss(row: int) -> torch.Tensor:
            return self._loss(batch, row) / rows

        return _update(self.optimizer, self.clip, rows, loss)

    def moments(self) -> dict[str, Moments]:
        """Those of each link."""
        return {edge: _moments(self.optimizer, link) for edge, link in self.outer.items()}

    def _loss(self, batch: Mapping[str, Text], row: int) -> torch.Tensor:
        topology = self.system.topology
        rounds = len(batch[topology.output].prompt.ids_BT)
        feedback: dict[Edge, torch.Tensor] = {}
        for k in range(rounds):
            sent, next_feedback = dict(feedback), {}
            for agent in topology.agents:
                own, model = _Row(batch[agent], k, row), self.system.models[agent]
                x = model.get_input_embeddings()(own.ids)
                if mail := [sent[e] for e in topology.incoming(agent) if e in sent]:
                    joined = torch.cat(mail, dim=0)[own.slot.clamp(min=0)]
                    x = torch.where(own.slot[:, None] >= 0, joined, x)
                h = model.base_model(inputs_embeds=x[None], use_cache=False).last_hidden_state[0]
                if k == rounds - 1 and agent == topology.output:
                    at = own.text.nonzero()[:, 0]
                    logits = _logits(model, h[at - 1])
                    return functional.cross_entropy(logits, own.ids[at])
                z = self.inner[agent](h[own.states])
                for e in topology.outgoing(agent):
                    message = self.outer[f"{e.src}->{e.dst}"](z)
                    (sent if e.when == "round" else next_feedback)[e] = message
            feedback = next_feedback
        raise AssertionError("the output agent ends the last round")


def _logits(model: Any, h: torch.Tensor) -> torch.Tensor:
    """Logits of states after the final norm, capped where the family caps them."""
    logits = model.get_output_embeddings()(h)
    cap = getattr(model.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@dataclasses.dataclass(frozen=True, eq=False)
class InnerTraining:
    """Cosine distance of `inner(h_{t-1})` to the embedding of token t, over the agent's text."""

    system: PytorchTraining
    agent: str
    link: InnerLink
    optimizer: torch.optim.AdamW
    clip: float

    def step(self, batch: Text) -> float:
        """An update from arrays `[B, T]`; the agent runs. Returns the mean loss of the rows."""
        rows = len(batch.prompt.ids_BT)
        expanded = _with_round(batch)

        def loss(row: int) -> torch.Tensor:
            own, model = _Row(expanded, 0, row), self.system.models[self.agent]
            with torch.no_grad():
                x = model.get_input_embeddings()(own.ids)
                h = model.base_model(inputs_embeds=x[None], use_cache=False).last_hidden_state[0]
            at = own.text.nonzero()[:, 0]
            cosine = functional.cosine_similarity(self.link(h[at - 1]), x[at], dim=-1)
            return (1 - cosine.mean()) / rows

        return _update(self.optimizer, self.clip, rows, loss)

    def moments(self) -> dict[str, Moments]:
        """Those of the link."""
        return {self.agent: _moments(self.optimizer, self.link)}


class _Row:
    """One row of one round without its padding."""

    def __init__(self, batch: Text, k: int, row: int) -> None:
        prompt = batch.prompt
        first = int(np.asarray(prompt.valid_BT[k, row]).argmax())

        def own(x: Any) -> torch.Tensor:
            return torch.from_numpy(np.array(x[k, row][first:]))

        self.ids, self.slot = own(prompt.ids_BT).long(), own(prompt.slot_BT).long()
        self.text = own(batch.text_BT)
        if prompt.state_index_BM is not None:
            states = np.array(prompt.state_index_BM[k, row]) - first
            self.states = torch.from_numpy(states).long()


def _with_round(batch: Text) -> Text:
    """Arrays `[B, T]` as those of one round."""
    prompt = batch.prompt
    return Text(
        dataclasses.replace(
            prompt,
            ids_BT=prompt.ids_BT[None],
            valid_BT=prompt.valid_BT[None],
            slot_BT=prompt.slot_BT[None],
        ),
        batch.text_BT[None],
    )


def _update(optimizer: torch.optim.AdamW, clip: float, rows: int, loss: Any) -> float:
    """Goes backward through each row's loss, clips, and updates; returns the sum of losses."""
    optimizer.zero_grad()
    total = 0.0
    for row in range(rows):
        own = loss(row)
        own.backward()
        total += float(own.detach())
    torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)
    optimizer.step()
    return total


def _moments(optimizer: torch.optim.AdamW, link: torch.nn.Module) -> Moments:
    return {
        name: optimizer.state[parameter]["exp_avg"].numpy()
        for name, parameter in link.named_parameters()
    }
