"""Inner training of the release: an independent loop in PyTorch, steps and links."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from rmas.models import run
from rmas.tasks.pipeline import batches
from rmas.training.inner import train_inner
from rmas.training.loop import Schedule
from rmas.training.optim import Optim
from support.tiny_training import PAIR, Case, make_examples, make_rows

pytestmark = pytest.mark.torch
ROWS, AGENT, SEED, STEPS, LIMIT = make_rows(12), "solver", 1, 25, 32
OPTIM = Optim(steps=STEPS, lr=5e-3, weight_decay=0.1)


def token_ids(case, row):
    """A row as the release has it: the first round's prompt and the text, the first ids of it."""
    chat, prompt = case.system.agents[AGENT].chat, []
    for part in case.examples.renderer.encoded(AGENT, row.question, "first"):
        is_slot = not isinstance(part, tuple)
        prompt += chat.data_ids(row.text(part.source, 0)) if is_slot else part
    text = [*chat.data_ids(row.text(AGENT, 0)), *chat.close]
    return [*prompt, *text][:LIMIT], len(prompt)


def states_and_targets(case, row):
    """States before each token of a row's text, and the embeddings of these tokens."""
    ids, start = token_ids(case, row)
    ids_1T = np.array([ids])
    params, table_VD = case.params[AGENT], np.asarray(case.params[AGENT]["embed"]["weight"])
    valid_1T, pos_1T = np.ones(ids_1T.shape, bool), np.arange(len(ids))[None]
    h_1TD, _ = run(case.spec.model(AGENT), params, table_VD[ids_1T], valid_1T, pos_1T)
    return np.asarray(h_1TD)[0, start - 1 : -1], table_VD[ids][start:]


def reference(case, weight_decay):
    """Losses and links: AdamW with the learning rates and the clipping of the release's trainer."""
    torch = pytest.importorskip("torch")
    from support.torch_links import Inner

    link = Inner("ln_res", case.spec.model(AGENT).d_model)
    own = case.links["inner"][AGENT]
    for name, parameter in link.named_parameters():
        module, kind = name.split(".")
        key = {"weight": "scale" if module.endswith("ln") else "kernel", "bias": "bias"}[kind]
        value = np.asarray(own[module][key])
        parameter.data = torch.tensor(value.T.copy() if value.ndim == 2 else value)
    decayed = [p for p in link.parameters() if p.ndim > 1]
    others = [p for p in link.parameters() if p.ndim == 1]
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=OPTIM.lr, betas=(0.9, 0.95))

    def rate(step):
        if step < 10:
            return step / 10
        return 0.5 * (1 + np.cos(np.pi * (step - 10) / (STEPS - 10)))

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    stream, losses = iter(batches(ROWS, seed=SEED, batch_size=4)), []
    for _ in range(STEPS):
        pairs = [states_and_targets(case, row) for row in next(stream)]
        h, y = (torch.tensor(np.concatenate(part)) for part in zip(*pairs, strict=True))
        loss = (1 - torch.nn.functional.cosine_similarity(link(h), y, dim=-1)).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(link.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(float(loss.detach()))
    return losses, {name: p.detach().numpy() for name, p in link.named_parameters()}


@pytest.mark.parametrize("accumulate", [1, 2])
def test_losses_and_links_are_those_of_the_release(tmp_path, accumulate):
    pytest.importorskip("torch")
    case = Case(make_examples(PAIR, np.float32, first_round=True, cut="right", max_length=LIMIT))
    counts = [len(states_and_targets(case, row)[0]) for row in ROWS]
    assert len(set(counts)) > 2  # a mean over rows would be another one
    assert any(len(token_ids(case, row)[0]) == LIMIT for row in ROWS)
    losses, wanted = reference(case, OPTIM.weight_decay)
    link = train_inner(
        AGENT,
        folder=tmp_path,
        context=dataclasses.replace(case.context, token_mean=True),
        params=case.params[AGENT],
        links=case.links,
        examples=case.examples,
        source=ROWS,
        schedule=Schedule(OPTIM, batch_size=4, accumulate=accumulate),
        seed=SEED,
    )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()

    np.testing.assert_allclose(
        [json.loads(line)["loss"] for line in lines], losses, rtol=0, atol=1e-5
    )
    assert losses[-1] < losses[0]
    link = jax.tree.map(np.asarray, link)
    for name, value in wanted.items():
        module, kind = name.split(".")
        key = {"weight": "scale" if module.endswith("ln") else "kernel", "bias": "bias"}[kind]
        own = link[module][key]
        np.testing.assert_allclose(own.T if own.ndim == 2 else own, value, rtol=0, atol=1e-4)
