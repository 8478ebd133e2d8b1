"""A run's mesh, from its settings."""

import jax
import pytest

from rmas.errors import InputError
from support.experiments import experiment


def test_a_batch_that_the_mesh_does_not_divide_is_told(tmp_path):
    run = experiment(tmp_path, mesh="data=8", inner__batch_size=12, data__train=64)
    with pytest.raises(InputError, match=r"12 rows .* batch_size must be a multiple of 8"):
        run.train_inner(["planner"])


def test_auto_takes_all_devices(tmp_path):
    mesh = experiment(tmp_path, mesh="auto").system.mesh
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}
