"""Rows as arrays: what stands where, which positions are text, and which states are handed on."""

import functools

import jax
import numpy as np
import pytest

from rmas.system.styles import SEQUENTIAL
from rmas.tasks.rows import Row
from rmas.training import alignment
from rmas.training.examples import Text
from rmas.training.objectives import OBJECTIVES, Lengths, align, rollout, teacher_forced
from support.tiny_training import PAIR, Case, make_examples, make_rows, make_system

ROWS = make_rows(4)
PROMPT = {
    ("planner", 0): ("<u>c kk {question}{close}<a>",),
    ("planner", 1): ("<u>g ", "solver", " {question} m{close}<a>"),
    ("critic", 0): ("<u>c ", "planner", " kk {question}{close}<a>"),
    ("critic", 1): ("<u>g ", "planner", " {question} m{close}<a>"),
    ("solver", 0): ("<u>c ", "critic", " kk {question}{close}<a>"),
    ("solver", 1): ("<u>g ", "critic", " {question} m{close}<a>"),
}


def chat(agent):
    return make_system().agents[agent].chat


def text_ids(agent, text, reader=None):
    own = chat(reader or agent)
    return [*own.data_ids(text), *([] if reader else own.close)]


def message(source, agent, row, k):
    """What `agent` hears from `source` in round k: feedback is of the round before."""
    return row.text(source, k - (source == "solver"))


def prompt_ids(agent, row, k, slot):
    """A prompt from its words; `slot(source)` gives what is in a slot."""
    close = "<e>\n" if agent == "solver" else "<e>"
    out = []
    for n, part in enumerate(PROMPT[agent, min(k, 1)]):
        words = part.format(question=row.question, close=close)
        out += slot(part) if n % 2 else chat(agent).ids(words)
    return out


def lines(prompt, row):
    """The valid ids and slots of one row; they stand at the right end."""
    valid = prompt.valid_BT[row]
    assert valid.tolist() == sorted(valid.tolist())
    assert (prompt.slot_BT[row][~valid] == -1).all()
    return prompt.ids_BT[row][valid].tolist(), prompt.slot_BT[row][valid].tolist()


@pytest.mark.parametrize("agent", SEQUENTIAL.agents)
@pytest.mark.parametrize("message_tokens", [0, 2])
def test_inner_rows(agent, message_tokens):
    examples = make_examples(message_tokens=message_tokens)
    rounds = np.random.default_rng(5)
    batch = examples.inner(agent, ROWS, examples.draw_rounds(np.random.default_rng(5), len(ROWS)))
    seen = set()
    for b, row in enumerate(ROWS):
        k = int(rounds.integers(3))
        seen.add(k)

        def slot(source, row=row, k=k):
            ids = text_ids(source, message(source, agent, row, k), reader=agent)
            return ids[:message_tokens] if message_tokens else ids

        text = text_ids(agent, row.text(agent, k))
        ids, slots = lines(batch.prompt, b)
        assert ids == prompt_ids(agent, row, k, slot) + text
        assert set(slots) == {-1}
        assert batch.text_BT[b].sum() == len(text)
        assert batch.prompt.ids_BT[b][batch.text_BT[b]].tolist() == text
    assert len(seen) > 1
    assert batch.prompt.state_index_BM is None


def test_inner_rows_are_cut_from_the_left():
    rounds = make_examples().draw_rounds(np.random.default_rng(5), len(ROWS))
    whole = make_examples().inner("solver", ROWS, rounds)
    cut = make_examples(max_length=5).inner("solver", ROWS, rounds)
    lengths = whole.text_BT.sum(axis=1)
    assert (lengths > 5).any()
    assert (lengths < 5).any()
    for b in range(len(ROWS)):
        assert lines(cut.prompt, b)[0] == lines(whole.prompt, b)[0][-5:]
        assert cut.text_BT[b].sum() == min(lengths[b], 5)


@pytest.mark.parametrize("limit", [5, 9, 64])
def test_inner_rows_are_cut_from_the_right(limit):
    """As the release cuts them: texts lose their ends, or all of themselves."""
    whole = make_examples().inner("solver", ROWS, [0] * len(ROWS))
    cut = make_examples(max_length=limit, cut="right").inner("solver", ROWS, [0] * len(ROWS))
    for b in range(len(ROWS)):
        ids, n = lines(whole.prompt, b)[0], whole.text_BT[b].sum()
        assert lines(cut.prompt, b)[0] == ids[:limit]
        assert cut.text_BT[b].sum() == max(n - max(len(ids) - limit, 0), 0)
    assert limit != 5 or not cut.text_BT.any(axis=1).all()


def test_rounds_are_drawn_from_all_or_are_the_first():
    draw = functools.partial(np.random.default_rng, 5)
    assert set(make_examples().draw_rounds(draw(), 50)) == {0, 1, 2}
    assert set(make_examples(first_round=True).draw_rounds(draw(), 50)) == {0}


def test_the_same_rows_give_the_same_arrays():
    def arrays():
        ex = make_examples()
        rounds = ex.draw_rounds(np.random.default_rng([3, 1]), len(ROWS))
        return jax.tree.leaves(
            (
                [ex.inner(a, ROWS, rounds) for a in SEQUENTIAL.agents],
                teacher_forced.prepare(ex, ROWS),
                rollout.prepare(ex, ROWS),
                align.targets(ex, ROWS),
            )
        )

    for a, b in zip(arrays(), arrays(), strict=True):
        assert (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


@pytest.mark.parametrize("shift", [0, 1])
def test_teacher_forced(shift):
    take = 4
    batch = texts(teacher_forced.prepare(make_examples(shift=shift), ROWS))
    assert set(batch) == set(SEQUENTIAL.agents)
    counts = set()
    for agent, whole in batch.items():
        for k in range(3):
            prompt, text_BT = jax.tree.map(lambda x, k=k: x[k], (whole.prompt, whole.text_BT))
            T = text_BT.shape[1]
            for b, row in enumerate(ROWS):

                def slot(source, agent=agent, row=row, k=k):
                    n = len(text_ids(source, message(source, agent, row, k)))
                    counts.add(min(n, take))
                    return [-7] * min(n, take)

                ids, slots = lines(prompt, b)
                text = text_ids(agent, row.text(agent, k))
                wanted = prompt_ids(agent, row, k, slot) + text
                filled = [i for i, w in enumerate(wanted) if w == -7]
                assert [s for s in slots if s >= 0] == list(range(len(filled)))
                assert [i for i, s in enumerate(slots) if s >= 0] == filled
                assert ids == [0 if w == -7 else w for w in wanted]
                assert text_BT[b].tolist() == [t >= T - len(text) for t in range(T)]
                # The states of the first tokens; where there are fewer, no slot asks for them.
                n = min(len(text), take)
                first = T - len(text) - shift
                assert prompt.state_index_BM[b][:n].tolist() == list(range(first, first + n))
                assert ((prompt.state_index_BM[b] >= 0) & (prompt.state_index_BM[b] < T)).all()
    assert {2, take} <= counts  # texts shorter than a message, and longer ones


def test_messages_have_each_their_place():
    """Two messages into each agent: round edges first, in the prompt the other way round."""
    batch = texts(teacher_forced.prepare(make_examples(PAIR), ROWS))
    for b, row in enumerate(ROWS):
        _, slots = lines(jax.tree.map(lambda x: x[2], batch["solver"].prompt), b)
        critic = min(len(text_ids("critic", row.text("critic", 2))), 4)
        solver = min(len(text_ids("solver", row.text("solver", 1))), 4)
        assert [s for s in slots if s >= 0] == [4 + i for i in range(solver)] + list(range(critic))
        _, slots = lines(jax.tree.map(lambda x: x[0], batch["solver"].prompt), b)
        critic = min(len(text_ids("critic", row.text("critic", 0))), 4)
        assert [s for s in slots if s >= 0] == list(range(critic))


def test_teacher_forced_rows_are_cut_from_the_left():
    limit = 12
    whole = texts(teacher_forced.prepare(make_examples(), ROWS))
    cut = texts(teacher_forced.prepare(make_examples(max_length=limit), ROWS))
    through_a_slot = 0
    for agent in SEQUENTIAL.agents:
        for k in range(3):
            long, short = (jax.tree.map(lambda x, k=k: x[k], t[agent]) for t in (whole, cut))
            for b in range(len(ROWS)):
                ids, slots = lines(long.prompt, b)
                assert lines(short.prompt, b) == (ids[-limit:], slots[-limit:])
                through_a_slot += len(slots) > limit and slots[-limit] > 0
                assert short.text_BT[b].sum() == min(long.text_BT[b].sum(), limit)
    assert through_a_slot > 0


def test_a_text_longer_than_a_row_hands_on_what_is_left_of_it():
    """The sender's row holds 16 positions of its text: so many states there are, not 18."""
    long = {"planner": ("c",), "critic": (" ".join(["hi"] * 18),), "solver": ("c",)}
    examples = make_examples(max_length=16, max_latent_tokens=20)
    batch = texts(teacher_forced.prepare(examples, [Row("long", "c", "c", long)]))
    _, slots = lines(jax.tree.map(lambda x: x[0], batch["solver"].prompt), 0)
    assert len(slots) == 16
    assert max(slots) == 15
    sender = jax.tree.map(lambda x: x[0], batch["critic"])
    assert sender.text_BT.sum() == 16
    index = sender.prompt.state_index_BM[0, :16].tolist()
    assert index == np.flatnonzero(sender.text_BT[0]).tolist()


def texts(batch) -> dict[str, Text]:
    """Prompts with texts by agent, of rows without preambles."""
    prompts, masks = batch
    assert not prompts.preambles
    return {agent: Text(prompts.rest[agent], mask) for agent, mask in masks.items()}


def test_rollout():
    found, last = rollout.prepare(make_examples(), ROWS)
    assert not found.preambles
    prompts = found.rest
    for agent in SEQUENTIAL.agents:
        for k in range(3):
            prompt = jax.tree.map(lambda x, k=k: x[k], prompts[agent])
            for b, row in enumerate(ROWS):
                ids, slots = lines(prompt, b)
                wanted = prompt_ids(agent, row, k, lambda _: [-7] * 3)
                assert ids == [max(i, 0) for i in wanted]
                assert [i for i, s in enumerate(slots) if s >= 0] == [
                    i for i, w in enumerate(wanted) if w == -7
                ]
    for b, row in enumerate(ROWS):
        ids, slots = lines(last.prompt, b)
        prompt = jax.tree.map(lambda x: x[2], prompts["solver"])
        text = text_ids("solver", row.text("solver", 2))
        assert ids == lines(prompt, b)[0] + text
        assert slots == lines(prompt, b)[1] + [-1] * len(text)
        assert last.prompt.ids_BT[b][last.text_BT[b]].tolist() == text


def test_the_scored_row_of_rollouts_is_cut_from_the_left():
    _, whole = rollout.prepare(make_examples(), ROWS)
    _, cut = rollout.prepare(make_examples(max_length=12), ROWS)
    for b in range(len(ROWS)):
        ids, slots = lines(whole.prompt, b)
        assert lines(cut.prompt, b) == (ids[-12:], slots[-12:])
        assert cut.text_BT[b].sum() == min(whole.text_BT[b].sum(), 12)


@pytest.mark.parametrize("steps", [3, 7])
def test_targets(steps):
    targets = align.targets(make_examples(latent_steps=steps), ROWS)
    lengths = set()
    for agent, reader in (("planner", "critic"), ("critic", "solver"), ("solver", "planner")):
        target = targets[agent]
        assert set(target.edges) == {f"{agent}->{reader}"}
        edge = target.edges[f"{agent}->{reader}"]
        for k in range(3):
            for b, row in enumerate(ROWS):
                ids = text_ids(agent, row.text(agent, k))[:steps]
                lengths.add(len(ids))
                assert target.ids_BM[k, b][target.valid_BM[k, b]].tolist() == ids
                assert target.valid_BM[k, b].tolist() == [t < len(ids) for t in range(steps)]
                wanted, weights_MN = alignment.align(
                    chat(agent), chat(reader), row.text(agent, k), steps
                )
                n = len(wanted)
                assert edge.ids_BN[k, b, :n].tolist() == list(wanted)
                np.testing.assert_array_equal(edge.weights_BMN[k, b, :, :n], weights_MN)
                assert not edge.weights_BMN[k, b, :, n:].any()
    assert len(lengths) > 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_planner_gets_the_batch_that_training_reads(name):
    """The same tree, dtypes and axes; only padded lengths depend on the rows."""
    case = Case(make_examples(PAIR, np.float32, max_latent_tokens=4))
    objective = OBJECTIVES[name]
    batch = objective.prepare(case.examples, ROWS)
    lengths = Lengths(prompt=10, text=4)
    planned = objective.abstract_batch(case.context, case.examples.rounds, len(ROWS), lengths)
    assert jax.tree.structure(planned) == jax.tree.structure(batch)
    for x, y in zip(*map(jax.tree.leaves, (planned, batch)), strict=True):
        assert isinstance(x, jax.ShapeDtypeStruct)
        assert (x.dtype, x.shape[:-1]) == (y.dtype, y.shape[:-1])
    rows = jax.tree.map(
        lambda axis, part: jax.tree.map(lambda x: x.shape[axis], part), objective.axes, planned
    )
    assert set(jax.tree.leaves(rows)) == {len(ROWS)}

    def loss(links, params, batch, key):
        return objective.loss(case.context, params, links, batch, key)[0]

    found = jax.eval_shape(loss, case.links, case.params, planned, jax.random.key(0))
    assert found.shape == ()


def test_tokens_of_batches_are_counted():
    """All of prompts and texts, whatever the padding; messages in slots, too."""
    examples = make_examples()
    prompts, last = rollout.prepare(examples, ROWS)
    slots = [
        prompt_ids(a, r, k, lambda _: [0] * 3) for a in prompts.rest for r in ROWS for k in range(3)
    ]
    answers = [text_ids("solver", row.text("solver", 2)) for row in ROWS]
    last_prompts = [prompt_ids("solver", row, 2, lambda _: [0] * 3) for row in ROWS]
    total = sum(map(len, slots))
    assert align.count_tokens((prompts, {})) == total
    assert rollout.count_tokens((prompts, last)) == total + sum(map(len, answers + last_prompts))
    batch = teacher_forced.prepare(examples, ROWS)
    valid = sum(int(text.prompt.valid_BT.sum()) for text in texts(batch).values())
    assert teacher_forced.count_tokens(batch) == valid > 0
