"""Training from given links, recipes, and validation by true rollouts, through the front door."""

import json

import jax
import numpy as np
import pytest

from experiments import config as configs
from rmas.errors import InputError
from rmas.experiment import Experiment, Settings, embedded
from rmas.experiment.recipes import RECIPES
from rmas.weights.links import load_links, save_links
from support import tiny_pair
from support.commands import run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    values = tiny_pair.make(tmp_path_factory.mktemp("pair"))
    for stage in ("inner", "outer"):
        values[stage] = {"optim": {"steps": 2, "warmup_steps": 0}, "batch_size": 2}
    values["links"] = {"aligned_rows": 4}
    return values


def of(base, folder, **outer):
    return Experiment(Settings.from_dict({**base, "outer": {**base["outer"], **outer}}), folder)


@pytest.fixture(scope="module")
def first(base, tmp_path_factory):
    made = of(base, tmp_path_factory.mktemp("first"))
    made.train_inner()
    made.train_outer()
    return made


def leaves(folder, part):
    links = load_links(folder)[0][part]
    return {f"{a}/{b}/{c}": np.asarray(z) for a, x in links.items() for b, y in x.items()
            for c, z in y.items()}  # fmt: skip


def test_outer_training_goes_on_from_links(base, first, tmp_path):
    """With a rate near zero they stay; no inner links of the workdir are needed."""
    given = first.workdir / "outer" / "links"
    still = of(base, tmp_path / "still", optim={"steps": 1, "lr": 1e-12, "warmup_steps": 0})
    still.train_outer(given)
    for part in ("inner", "outer"):
        a, b = leaves(given, part), leaves(still.workdir / "outer" / "links", part)
        assert a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_allclose(b[name], value, atol=1e-9)
    other = jax.tree.map(lambda x: 2 * x, load_links(given)[0])
    save_links(tmp_path / "other", other, first.manifest())
    with pytest.raises(InputError, match="given links"):  # a workdir that began with others
        still.train_outer(tmp_path / "other")


def test_a_folder_may_hold_inner_or_outer_links_alone(base, first, tmp_path):
    given, manifest = first.workdir / "outer" / "links", first.manifest()
    links = load_links(given)[0]
    for part in ("inner", "outer"):
        save_links(tmp_path / part, {part: links[part]}, manifest)
    still = {"steps": 1, "lr": 1e-12, "warmup_steps": 0}
    own = of(base, tmp_path / "a", optim=still)
    own.train_outer(tmp_path / "inner")
    found = leaves(own.workdir / "outer" / "links", "inner")
    for name, value in leaves(given, "inner").items():
        np.testing.assert_allclose(found[name], value, atol=1e-9)
    with pytest.raises(InputError, match="is missing; train inner links"):
        of(base, tmp_path / "b", optim=still).train_outer(tmp_path / "outer")
    with pytest.raises(InputError, match="there are no inner ones; name a folder with them"):
        of(base, tmp_path / "c").train_inner(links=tmp_path / "outer")
    save_links(tmp_path / "none", {"other": links["outer"]}, manifest)
    with pytest.raises(InputError, match="belong to another system: missing"):
        of(base, tmp_path / "d").train_outer(tmp_path / "none")


def test_inner_training_goes_on_from_links(base, first, tmp_path):
    given = first.workdir / "outer" / "links"
    values = {**base, "inner": {"optim": {"steps": 1, "lr": 1e-12, "warmup_steps": 0}}}
    own = Experiment(Settings.from_dict(values), tmp_path)
    own.train_inner("critic", given)
    found = leaves(tmp_path / "inner" / "critic" / "links", "inner")
    wanted = leaves(given, "inner")
    assert found and all(name.startswith("critic/") for name in found)
    for name, value in found.items():
        np.testing.assert_allclose(value, wanted[name], atol=1e-9)


@pytest.mark.parametrize("validate", ["rollout", "objective"])
def test_validation_measures_true_rollouts_or_the_objective(base, tmp_path, validate):
    changes = {"validation_rows": 4, "validate": validate, "save_every": 1}
    own = of({**base, "objective": "teacher_forced"}, tmp_path, **changes)
    own.train_inner()
    own.train_outer()
    lines = (tmp_path / "outer" / "metrics.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])
    names = {name for name in last if name.startswith("validation/")}
    if validate == "rollout":
        assert names == {"validation/rollout", "validation/rollout/exact"}
        assert last["validation"] == last["validation/rollout"]
        assert 0 <= last["validation/rollout/exact"] <= 1
    else:
        assert names == {"validation/teacher_forced"}
    assert last["validation"] > 0


def test_a_recipe_lies_under_what_is_given_beside_it(tmp_path):
    own = embedded("relay").with_recipe("release")
    assert own.objective == "teacher_forced" and own.links.init == "random"
    assert (own.inner.mean, own.inner.rounds, own.inner.cut) == ("tokens", "first", "right")
    assert own.outer.optim.steps == 20_000 and own.outer.train == ("outer",)
    assert own.inner.message_tokens == 0
    assert own.system == embedded("relay").system  # what the recipe does not name stays
    assert own.limits == embedded("relay").limits
    file = tmp_path / "config.py"
    file.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n"
        "    return ConfigDict({'recipe': 'release', 'outer': {'batch_size': 4}})\n"
    )
    read = configs.settings_of(configs.load(str(file)))
    assert (read.outer.batch_size, read.inner.batch_size) == (4, 2)
    assert read.outer.optim.lr == 5e-4
    with pytest.raises(InputError, match="recipe 'paper' is unknown; known: release"):
        embedded("relay").with_recipe("paper")
    file.write_text(file.read_text().replace("'release'", "'paper'"))
    with pytest.raises(InputError, match="recipe 'paper' is unknown; known: release"):
        configs.load(str(file))
    assert set(RECIPES) == {"release"}


def test_a_recipe_by_flag_lies_over_the_config_file_and_under_flags(tmp_path):
    """In any order of the flags; the first missing piece of the run shows that they were read."""
    flags = ("--config.outer.batch_size=6", "--config.recipe=release", "--config.data.name=gone")
    for order in (flags, flags[::-1]):
        done = run("train_inner", f"--workdir={tmp_path}", *order)
        assert done.returncode == 2 and "gone" in done.stderr
    refused = run("train_inner", f"--workdir={tmp_path}", "--config.recipe=paper")
    assert refused.returncode == 2
    assert "recipe 'paper' is unknown; known: release" in refused.stderr
    told = run("train_inner", "--config.recipe=release", "--config.outer.batch_size=6", "--help")
    assert "--config.recipe=NAME" in told.stdout
