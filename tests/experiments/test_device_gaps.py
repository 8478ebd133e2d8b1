"""Gaps between programs: of events by hand, and of a real trace by the command."""

import gzip
import json
import time

import jax
import jax.numpy as jnp
import pytest

from experiments.benchmarks.traces import Span, parse_trace
from rmas.evaluation.runner import ANSWER
from rmas.parallel.profile import Profile
from rmas.system.clock import Clock
from support.commands import run


def operation(thread, ms, length, program, number):
    args = {"hlo_module": program, "run_id": str(number)}
    return event(thread, ms, length, "while.1") | {"args": args}


def event(thread, ms, length, name):
    return {"ph": "X", "pid": 1, "tid": thread, "ts": 1e3 * ms, "dur": 1e3 * length, "name": name}


def thread(number, name):
    return {"ph": "M", "pid": 1, "tid": number, "name": "thread_name", "args": {"name": name}}


EVENTS = [
    *(thread(1, "python"), thread(2, "tf_XLAEigen/1"), thread(3, "tf_XLAPjRtCpuClient/2")),
    operation(3, 10, 5, "jit_chunk", 7),  # until 20 on the other thread
    operation(2, 12, 8, "jit_chunk", 7),
    operation(2, 18, 3, "jit_think", 8),  # until 21: no gap before it
    operation(2, 19, 1, "jit_think", 8),
    event(1, 15, 15, "render"),  # nine of the ten milliseconds until 31
    event(1, 9, 25, "answer: latent r=2"),  # until 34
    event(1, 35.5, 3, "answer: text r=2"),  # begins while no program runs
    event(1, 22, 1, "PjitFunction(chunk)"),
    event(2, 25, 1, "ThunkExecutor::Execute"),  # belongs to no program
    operation(3, 31, 4, "jit_chunk", 9),
    operation(2, 37, 1, "jit_chunk", 10),
    {"ph": "i", "pid": 1, "tid": 2, "ts": 0, "name": "instant"},
]


def test_gaps_by_hand():
    trace = parse_trace(EVENTS)
    assert [span.name for span in trace.programs] == ["jit_chunk", "jit_think", *["jit_chunk"] * 2]
    assert trace.programs[0] == Span(0.010, 0.020, "jit_chunk")
    assert trace.seconds == pytest.approx(0.028)
    long, first, between = trace.gaps()
    assert (long.seconds, long.rendering) == (pytest.approx(0.010), pytest.approx(0.009))
    assert (long.after, long.before) == ("jit_think", "jit_chunk")
    assert [gap.seconds for gap in (first, between)] == pytest.approx([0.0015, 0.0005])
    assert [gap.answer for gap in (long, first, between)] == ["latent r=2", "text r=2", ""]
    assert trace.answering("latent r=2") == pytest.approx(0.024)  # from the first program on
    assert trace.answering("text r=2") == pytest.approx(0.0025)  # to the end of the last
    assert len(trace.of("jit_chunk")) == 3
    # The second chunk goes on until 35, and the answer does not.
    assert trace.during("latent r=2", "jit_chunk") == [Span(0.010, 0.020, "jit_chunk")]


def test_a_program_within_another_opens_no_gap():
    more = [operation(2, 11, 1, "jit_short", 1), operation(2, 19, 1, "jit_short", 2)]
    assert [gap.seconds for gap in parse_trace(EVENTS + more).gaps()] == [
        gap.seconds for gap in parse_trace(EVENTS).gaps()
    ]


def test_a_real_trace(tmp_path):
    @jax.jit
    def chunk(x_DD):
        return jax.lax.fori_loop(0, 50, lambda _, y_DD: y_DD @ x_DD, x_DD)

    x_DD, clock = jnp.eye(200), Clock()
    chunk(x_DD).block_until_ready()
    with Profile(tmp_path / "profile", (0, 1), "profile_groups") as profile:
        profile.before(0)
        with jax.profiler.TraceAnnotation(f"{ANSWER}text r=1"):
            chunk(x_DD).block_until_ready()
            with clock.phase("render"):
                time.sleep(0.25)
            chunk(x_DD).block_until_ready()
    plot = tmp_path / "gaps.png"
    done = run("benchmarks.device_gaps", str(tmp_path / "profile"), f"--plot={plot}")
    assert done.returncode == 0, done.stderr
    row = next(line for line in done.stdout.splitlines() if "jit_chunk -> jit_chunk" in line)
    assert row.startswith("| text r=1 | jit_chunk ->")
    length, rendering = (float(cell.split()[0]) for cell in row.split("|")[3:5])
    assert length >= rendering >= 249
    row = next(line for line in done.stdout.splitlines() if line.startswith("| text r=1 |"))
    assert float(row.split("|")[4].split()[0]) == length and row.endswith("| 1 |")
    assert "| jit_chunk | 2 |" in done.stdout
    assert plot.read_bytes().startswith(b"\x89PNG")
    done = run("benchmarks.device_gaps", str(tmp_path / "profile"), "--chunk=jit_gone")
    assert done.returncode == 2
    assert done.stderr == "error: the trace has no jit_gone; it has jit_chunk\n"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "holds no trace; evaluate with profile_groups writes one"),
        (b"no gzip", "is not a trace: Not a gzipped file"),
        (gzip.compress(b"[]", mtime=0), "is not a trace: list indices must be"),
        (gzip.compress(b'{"traceEvents": [3]}', mtime=0), "is not a trace: 'int' object has no"),
        (gzip.compress(json.dumps({"traceEvents": EVENTS[:2]}).encode()), "has no programs of a"),
    ],
)
def test_what_is_no_trace(tmp_path, content, told):
    if content is not None:
        (tmp_path / "vm.trace.json.gz").write_bytes(content)
    done = run("benchmarks.device_gaps", str(tmp_path))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and told in done.stderr
