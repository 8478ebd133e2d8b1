"""What the compiler for TPUs makes of a model's programs, as the command says it."""

import json

import pytest

from support.commands import run

SIZES = ("--size=tiny", "--rows=2", "--prompt_tokens=16", "--latent_steps=8")


@pytest.mark.tpu
def test_a_latent_step_beside_its_floor():
    done = run("benchmarks.compiled", *SIZES, "--parts=latent", "--weights=bfloat16")
    assert done.returncode == 0, done.stderr
    head, _, line, *_, told = done.stdout.splitlines()
    assert head.split()[:4] == ["weights", "rows", "what", "estimate"]
    assert line.split()[:4] == ["bfloat16", "2", "latent", "step"]
    told = json.loads(told)
    assert (told["model"], told["size"]) == ("a packaged agent", "tiny")
    assert (told["slice"], told["mesh"]) == ("v5e:1x1", {"data": 1, "fsdp": 1, "tensor": 1})
    (row,) = told["rows"]
    assert row["estimate"] > row["floor"] > 0
    assert 0 < row["temporaries"] < row["peak"]
    assert 0 < row["layer"] < row["estimate"] * 1.5e9  # cycles of one layer and of all
    assert (row["calls"], row["exchanged"]) == (0, 0)


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        ("--parts=latent,train", "--parts: 'train' is unknown; known: latent, prefill, decode,"),
        ("--parts=", "--parts: '' is unknown; known: latent"),
        ("--weights=", "--weights: '' is unknown; known: bfloat16, int8"),
        ("--weights=int4", "--weights: 'int4' is unknown; known: bfloat16, int8"),
        ("--rows=8,0", "--rows=8,0; wanted numbers above 0, as in 8,32"),
        ("--rows=", "--rows=; wanted numbers above 0, as in 8,32"),
        ("--objective=sum", "objective 'sum': 'sum' is unknown or repeated"),
        ("--topology=v5e-8", "write its shape: v5e:2x4"),
    ],
)
def test_wrong_flags(flag, line):
    done = run("benchmarks.compiled", "--size=tiny", flag)
    assert done.returncode == 2
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.tpu
def test_rows_that_the_mesh_does_not_divide():
    flags = ("--topology=v5e:2x2", "--mesh=data=4", "--rows=6")
    done = run("benchmarks.compiled", "--size=tiny", *flags)
    assert done.returncode == 2
    assert "--rows=6; on this mesh it must be a multiple of 4" in done.stderr
