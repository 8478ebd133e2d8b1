"""The benchmark of the device: what it makes, what it counts, and the command as a user runs it."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.benchmarks import program_times, random_system
from experiments.benchmarks.program_times import HEADER, Row, measured_figures, public_figures
from rmas.errors import InputError
from rmas.models.base import base_models
from rmas.plans import programs
from rmas.plans.programs import TooLargeError
from support.commands import run
from support.fake_devices import mesh_of

TINY = ("--size=tiny", "--repeats=2", "--mesh=single")


def command(*flags):
    done = run("benchmarks.accelerator", *TINY, *flags)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    return done, lines, json.loads(lines[-1])


@pytest.mark.slow
def test_latent_steps_and_tokens_of_both_kinds_of_weights():
    done, lines, told = command("--parts=latent,decode")
    what = ["prefill", "latent step", "greedy token", "top_p=0.95 token"]
    assert [(row["weights"], row["what"]) for row in told["rows"]] == [
        (weights, name) for weights in ("float32", "int8") for name in what
    ]
    assert lines[0].split()[:2] == HEADER[:2]
    assert [line.split()[0] for line in lines[2:10]] == ["float32"] * 4 + ["int8"] * 4
    for row in told["rows"]:
        assert len(row["seconds"]) == 2
        assert row["ratio"] == row["median"] / row["floor"]
        assert row["needs"] > 0 and row["compiling"] > 0
    # int8 reads a quarter of the matrices' bytes.
    floor = {(row["weights"], row["what"]): row["floor"] for row in told["rows"]}
    for name in what[1:]:
        assert 0.2 < floor["int8", name] / floor["float32", name] < 0.6
    assert told["public"] is None and min(told["measured"].values()) > 0
    assert "compiling rollout of 2 steps" in done.stderr


@pytest.mark.extended
@pytest.mark.parametrize("objective", ["rollout", "teacher_forced", "align:1.0,rollout:0.1"])
def test_an_outer_step(objective):
    _, _, told = command("--parts=outer", "--weights=full", f"--objective={objective}")
    (row,) = told["rows"]
    assert row["what"] == "outer step, 2 rounds" and min(row["seconds"]) > 0
    assert row["floor"] > 0


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--parts=latent,prefil", "--parts: 'prefil' is unknown; known: latent, decode, outer"),
        ("--parts=", "--parts: '' is unknown; known: latent, decode, outer"),
        ("--weights=", "--weights: '' is unknown; known: full, int8"),
        ("--weights=int4", "--weights: 'int4' is unknown; known: full, int8"),
        ("--latent_steps=2", "--latent_steps=2; a step is measured from at least 3"),
        ("--objective=sum", "objective 'sum': 'sum' is unknown or repeated"),
        ("--mesh=data=2", "needs 2 devices, but there are 1 (cpu)"),
    ],
)
def test_wrong_flags(flag, line):
    done = run("benchmarks.accelerator", "--size=tiny", flag)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: ") and line in done.stderr


@pytest.mark.parametrize("name", base_models())
def test_small_models_keep_their_kind(name):
    full, small = (random_system.model_spec(name, size) for size in ("full", "small"))
    assert (small.family, small.tied, small.qk_norm) == (full.family, full.tied, full.qk_norm)
    assert small.d_model == random_system.SMALL["hidden_size"]
    assert len(small.layers) == random_system.SMALL["num_hidden_layers"]
    assert [type(x) for x in small.layers] == [type(x) for x in full.layers[: len(small.layers)]]
    assert len(random_system.model_spec(name, "full", 3).layers) == 3


@pytest.mark.parametrize(("name", "size"), [("nobody/nothing", "full"), (".", "small")])
def test_unknown_models(name, size):
    with pytest.raises(InputError, match="is not a base model"):
        random_system.model_spec(name, size)


@pytest.mark.parametrize("int8", [False, True], ids=["full", "int8"])
def test_weights_lie_where_programs_expect_them(int8):
    model = random_system.model_spec("", "tiny")
    system = random_system.sequential_system(model, mesh_of(data=2, tensor=2), jnp.bfloat16, int8)
    like = system.params[system.topology.output]
    assert all(system.params[agent] is like for agent in system.topology.agents)
    params = random_system.random_weights(model, like)

    def same(x, to):
        assert (x.shape, x.dtype) == (to.shape, to.dtype)
        assert x.sharding.is_equivalent_to(to.sharding, x.ndim)
        assert jnp.isfinite(x.astype(jnp.float32)).all()

    jax.tree.map(same, params, like)
    kernels = [x for x in jax.tree.leaves(params) if x.dtype == jnp.int8]
    assert bool(kernels) == int8
    assert all((jnp.abs(x).max(axis=-2) == 127).all() for x in kernels)


def test_prompts_are_full_and_read_their_messages():
    model, mesh = random_system.model_spec("", "tiny"), mesh_of(data=2)
    system = random_system.sequential_system(model, mesh, jnp.float32, False)
    program = programs.prefill(system, "solver", rows=4, positions=20)
    prompt = random_system.filled(program.arguments[-1], 54, slots=3)
    assert prompt.ids_BT.shape[0] == 4 and prompt.valid_BT.all()
    assert prompt.slot_BT[1].tolist() == [0, 1, 2] + [-1] * (prompt.ids_BT.shape[1] - 3)
    assert 0 <= prompt.ids_BT.min() < prompt.ids_BT.max() < 54
    assert prompt.ids_BT.sharding.is_equivalent_to(program.arguments[-1].ids_BT.sharding, 2)


def test_figures_of_devices():
    def device(kind):
        return public_figures(types.SimpleNamespace(device_kind=kind))

    assert (device("NVIDIA H200").bandwidth, device("NVIDIA H200").flops) == (4.8e12, 989e12)
    assert device("TPU v5 lite").bandwidth == 819e9
    assert device("cpu") is None
    found = measured_figures(np.dtype("float32"), 64)
    assert found.bandwidth > 1e6 and found.flops > 1e6


def test_what_does_not_fit_is_named(capsys):
    class Large:
        name = "outer step"

        @property
        def compiled(self):
            raise TooLargeError("outer step", 3 << 30, 1 << 30)

    assert program_times.timed([("outer step", Large(), ())], 1) is None
    assert "outer step needs 3.00 GiB of a device that has 1.00 GiB" in capsys.readouterr().err
    cells = Row("int8", "outer step").cells
    assert len(cells) == len(HEADER) and cells[2] == "does not fit"


def test_states_are_passed_on():
    """As in training, where a step may take the memory of the state it is given."""
    program = types.SimpleNamespace(
        compiled=jax.jit(lambda n, one: (n + one, n), donate_argnums=0),
        memory=types.SimpleNamespace(peak=7),
    )
    (found,) = program_times.timed([("count", program, (jnp.zeros(()), 1.0))], 3, True)
    assert len(found.seconds) == 3 and found.needs == 7
