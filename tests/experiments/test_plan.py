"""Plans as commands and in Python, and flags about processes."""

import json
import re
from pathlib import Path

import pytest

from rmas import Experiment, Settings, embedded, parallel
from rmas.errors import InputError
from rmas.experiment import derive
from rmas.parallel import slices
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


def test_an_evaluation_has_a_plan(tmp_path):
    done = run(
        "evaluate",
        "--config.plan",
        "--config.limits.latent_steps=2",
        "--config.evaluate.rounds=(1,)",
        "--config.evaluate.methods=('latent', 'text')",
        "--config.evaluate.batch_size=2",
        "--config.plan_lengths=(16, 999)",
        f"--config.plan_json={tmp_path / 'new' / 'plan.json'}",
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(
        "evaluation of sequential, mesh one device, float32, 1 CPU device\n"
    )
    assert "an upper bound" in done.stdout
    plan = json.loads((tmp_path / "new" / "plan.json").read_text())
    # Text exchange also reads prompts and decodes as each agent.
    names = ["think", "decode chunk of solver"]
    for agent in ("planner", "critic", "solver"):
        names += [f"decode start of {agent}", f"decode chunk of {agent}"]
    assert [need["program"] for need in plan["needs"]] == names
    for need in plan["needs"]:
        assert need["peak"] == sum(need["parts"].values())
        assert min(need["parts"].values()) > 0
    assert plan["fits"] is None
    assert plan["times"] == []


def test_agents_that_share_weights_have_programs_of_their_own_lengths(tmp_path):
    """The judge writes an answer, and one of two peers reads the other's longer messages."""
    changed = embedded("debate").to_dict()
    changed["limits"] |= {"latent_steps": 2, "max_new_tokens": 40, "message_tokens": 8}
    changed["limits"] |= {"own_tokens": {"con": 24}}
    changed["evaluate"] |= {"batch_size": 2, "rounds": (1,), "methods": ("text",)}
    plan = Experiment(Settings.from_dict(changed), tmp_path).plan("evaluate", 16)
    assert [need.program for need in plan.needs] == [
        *("think", "decode chunk of judge"),
        *("decode start of pro", "decode chunk of pro"),
        *("decode start of con", "decode chunk of con"),
        *("decode start of judge", "decode chunk of judge"),
    ]
    starts = {need.program.split()[-1]: need.parts["caches"] for need in plan.needs[2::2]}
    assert starts["con"] < starts["pro"] < starts["judge"]


def test_preambles_have_programs_and_caches(tmp_path):
    """With prompts that put the question before messages; one batch's, and what a group keeps."""
    changed = embedded().to_dict()
    changed["system"] |= {"prompts": "default", "task_family": "math"}
    changed["limits"] |= {"latent_steps": 2, "max_new_tokens": 8}
    changed["evaluate"] |= {"batch_size": 2, "rounds": (2,), "methods": ("latent",)}
    changed["evaluate"] |= {"grader": "math"}
    plan = Experiment(Settings.from_dict(changed), tmp_path).plan("evaluate", 200)
    assert "prompts of 200 tokens (" in plan.settings
    names = [need.program for need in plan.needs]
    agents = ("planner", "critic", "solver")
    assert names == ["think", "decode chunk of solver", *(f"preamble of {a}" for a in agents)]
    for need in plan.needs:
        assert need.peak == sum(need.parts.values())
        assert min(need.parts.values()) > 0


def test_lengths_follow_from_contexts(tmp_path):
    """Those of the packaged agents have 256 positions."""
    changed = embedded().to_dict()
    changed["outer"] |= {"batch_size": 2, "rounds": 1}
    changed["limits"] |= {"latent_steps": 2}
    plan = Experiment(Settings.from_dict(changed), tmp_path).plan("inner")
    assert "prompts of 170 tokens, texts of 86" in plan.settings


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config.topology=v5e:2x4"], "--config.topology belongs to --config.plan; a run uses"),
        (["--config.plan_json=x.json"], "--config.plan_json belongs to --config.plan"),
        (["--config.plan_lengths=(8, 8)"], "--config.plan_lengths belongs to --config.plan"),
        (["--config.plan", f"--config.plan_json={Path.home()}"], "is a folder; name a file"),
        (
            ["--config.plan", f"--config.plan_json={__file__}/x.json"],
            "x.json: a file is where its folder should be",
        ),
        (
            ["--config.plan", "--config.plan_json=~nosuchuser/x.json"],
            "~nosuchuser/x.json: the home folder of nosuchuser is not known; write the path",
        ),
        (
            ["--config.plan", "--config.plan_lengths=(999999999999,256)"],
            "plan_lengths (999999999999, 256) need 1000000000255 positions, and agent planner has "
            "256; lower plan_lengths",
        ),
        (["--config.plan", "--config.plan_lengths=(8,-1)"], "give two whole numbers, as (512, 25"),
        (["--config.plan", "--config.topology=v5e-8"], "write its shape: v5e:2x4"),
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


def settings(**changes) -> Settings:
    return Settings.from_dict({"system": {"style": "mixture"}, **changes})


def test_a_topology_needs_its_compiler(tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "available", lambda: False)
    with pytest.raises(InputError, match=r"pip install '\.\[tpu\]'"):
        Experiment(settings(), tmp_path).plan("outer", topology="v4:2x2x1")


def test_a_stage_that_there_is_not(tmp_path):
    with pytest.raises(InputError, match="known: inner, outer, evaluate"):
        Experiment(settings(), tmp_path).plan("think")


@pytest.mark.tpu
def test_weights_that_fit_no_device_are_one_line_at_once(tmp_path):
    plan = Experiment(settings(mesh="single"), tmp_path).plan("evaluate", topology="v5e:1x1")
    assert plan.fits is False
    assert plan.text == (
        "does not fit: weights and links alone of mixture, mesh one device: 26.88 GiB of each "
        "device are needed, 15.75 GiB are there; use more tensor, as tensor=2, on a larger slice "
        "if need be or quantize=int8"
    )


@pytest.mark.tpu
def test_a_tpu_says_what_a_step_needs_and_which_mesh_is_best(tmp_path):
    """Of `auto`, the first mesh gives every device two rows; it is compiled, and is the plan."""
    changed = embedded().to_dict() | {"mesh": "auto"}
    changed["system"] |= {"dtype": "bfloat16"}
    changed["inner"] |= {"batch_size": 4}
    run = Experiment(Settings.from_dict(changed), tmp_path)
    plan = run.plan("inner", 16, 16, topology="v5e:2x2")
    assert [choice.mesh for choice in plan.meshes] == [
        "data=2,fsdp=1,tensor=2",
        "data=4,fsdp=1,tensor=1",
    ]
    assert plan.mesh == plan.meshes[0].mesh
    assert plan.meshes[0].fits
    (need,) = plan.needs
    assert plan.fits
    assert need.peak == sum(need.parts.values()) == plan.peak < plan.available
    (time,) = plan.times
    assert time.estimate > time.floor > 0
    # The mesh that auto takes in a run, on TPUs.
    rows = derive.rows(run.settings, "inner").on("tpu")
    assert parallel.ranked(4, (2, 2, 2), rows=rows)[0] == parallel.MeshSpec(2, 1, 2)


@pytest.mark.tpu
def test_an_evaluation_on_several_hosts_is_that_of_one(tmp_path):
    """All of its programs have collectives, of this host's devices only."""
    changed = embedded("debate").to_dict() | {"mesh": "data=4,tensor=4"}
    changed["system"] |= {"dtype": "bfloat16"}
    changed["evaluate"] |= {"batch_size": 2, "rounds": (1,), "methods": ("latent", "text")}
    changed["limits"] |= {"latent_steps": 2, "max_new_tokens": 16, "message_tokens": 16}
    plan = Experiment(Settings.from_dict(changed), tmp_path).plan(
        "evaluate", 16, topology="v5e:4x4"
    )
    assert plan.devices == "v5e:4x4 (each of 4 hosts by itself)"
    assert plan.mesh == "data=1,fsdp=1,tensor=4"
    assert [own.program for own in plan.exchanges] == [
        *("think", "decode chunk of judge", "decode start of pro", "decode chunk of pro"),
    ]
    assert all(own.calls > 0 for own in plan.exchanges)


@pytest.mark.tpu
@pytest.mark.parametrize(
    ("rounds", "turns"),
    [(1, {"planner": 1, "critic": 1, "solver": 0}), (2, {"planner": 2, "critic": 2, "solver": 1})],
)
def test_a_tpu_says_how_long_thinking_and_writing_take(tmp_path, rounds, turns):
    """An agent's turns in the first round and in the loop are calls of one function."""
    changed = embedded().to_dict() | {"mesh": "single"}
    changed["system"] |= {"dtype": "bfloat16"}
    changed["evaluate"] |= {"batch_size": 2, "rounds": (rounds,), "methods": ("latent",)}
    changed["limits"] |= {"latent_steps": 3, "max_new_tokens": 32}
    run = Experiment(Settings.from_dict(changed), tmp_path)
    plan = run.plan("evaluate", 16, topology="v5e:1x1")
    assert [need.program for need in plan.needs] == ["think", "decode chunk of solver"]
    for need in plan.needs:
        assert need.peak == sum(need.parts.values())
        assert min(need.parts.values()) >= 0
    times = {time.what: time for time in plan.times}
    parts = [(f"{what} of {a}", a) for a in turns for what in ("prefill", "latent step")]
    whole = "all latent turns, 1 round" if rounds == 1 else "all latent turns, 2 rounds"
    wanted = [part for part, a in parts if turns[a] or part.startswith("prefill")]
    assert list(times) == [*wanted, whole, "token of solver"]
    assert all(time.estimate > time.floor > 0 for time in plan.times)
    found = sum(rounds * times[f"prefill of {a}"].estimate for a in turns)
    found += sum(2 * n * times[f"latent step of {a}"].estimate for a, n in turns.items() if n)
    assert 0.5 < found / times[whole].estimate <= 1
    assert not any(own.calls for own in plan.exchanges)
