"""Memory plans as commands, and flags about processes."""

import re

import pytest

from support.commands import run


def test_a_plan_loads_nothing_and_names_its_parts(tmp_path):
    flags = [
        "--config.limits.latent_steps=2",
        "--config.outer.rounds=1",
        "--config.mesh=data=2,fsdp=2",
    ]
    done = run(
        "train_outer",
        *flags,
        "--config.plan",
        "--config.outer.batch_size=4",
        "--config.plan_lengths=(32, 16)",
        f"--workdir={tmp_path / 'none'}",
    )
    assert done.returncode == 0, done.stderr
    assert "mesh data=2,fsdp=2,tensor=1, float32" in done.stdout
    sizes = dict(re.findall(r"^(\w+) +[\d.]+ GiB +([\d,]+)$", done.stdout, re.MULTILINE))
    parts = {name: int(size.replace(",", "")) for name, size in sizes.items()}
    names = ["weights", "links", "optimizer", "update", "batch", "caches", "activations", "total"]
    assert list(parts) == names
    assert parts["total"] == sum(parts[name] for name in names[:-1])
    assert all(parts.values())
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.plan", "--config.mesh=data=-1"], "leaves a size open; a plan needs them all"),
        (
            ["--config.plan", "--config.mesh=data=5"],
            "inner.batch_size is 16; on this mesh it must be",
        ),
        (["--processes=2"], "--processes=2 needs --coordinator=HOST:PORT and --process=I"),
        (["--coordinator=nowhere", "--processes=2"], "'nowhere' must be HOST:PORT of process 0"),
        (["--config.inner.accumulate=0"], "inner.accumulate is 0; it must be at least 1"),
        (["--config.inner.cache_states=float16"], "config.inner.cache_states is 'float16'; it"),
    ],
)
def test_what_cannot_be_is_one_line(tmp_path, flags, message):
    done = run("train_inner", *flags, f"--workdir={tmp_path}")
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
