"""A run's mesh, from its config."""

from pathlib import Path

import jax
import pytest

from experiments import stages
from experiments.assembly import Assembly
from experiments.configs.tiny_sequential import get_config
from experiments.freeze import freeze
from experiments.settings import Settings
from rmas.errors import InputError

SMALL = {
    "data.train": 64,
    "data.validation": 8,
    "data.test": 6,
    "latent_steps": 3,
    "objective": "align",
    "links.aligned_rows": 8,
    "inner.optim.steps": 2,
    "inner.batch_size": 4,
    "outer.optim.steps": 2,
    "outer.batch_size": 4,
    "outer.rounds": 2,
    "evaluate.methods": ("latent",),
    "evaluate.rounds": (2,),
    "evaluate.batch_size": 6,
    "evaluate.max_new_tokens": 6,
    "evaluate.message_tokens": 6,
}


def assembly(workdir: Path, mesh: str, **changes) -> Assembly:
    config = get_config()
    config.update_from_flattened_dict(SMALL | {"mesh": mesh} | changes)
    return Assembly(freeze(config, Settings), workdir)


def test_a_batch_that_the_mesh_does_not_divide_is_told(tmp_path):
    a = assembly(tmp_path, "data=8", **{"inner.batch_size": 12})
    with pytest.raises(InputError, match=r"12 rows .* batch_size must be a multiple of 8"):
        stages.inner_stage(a, ["planner"])


def test_auto_takes_all_devices(tmp_path):
    mesh = assembly(tmp_path, "auto").system.mesh
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}
