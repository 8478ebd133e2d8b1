"""A run's mesh, from its settings."""

import jax
import pytest

from rmas import parallel
from rmas.errors import InputError
from support.experiments import experiment


def test_a_batch_that_the_mesh_does_not_divide_is_told(tmp_path):
    run = experiment(tmp_path, mesh="data=8", inner__batch_size=12, data__train=64)
    with pytest.raises(InputError, match=r"12 rows .* batch_size must be a multiple of 8"):
        run.train_inner(["planner"])


def test_auto_takes_all_devices(tmp_path):
    mesh = experiment(tmp_path, mesh="auto").system.mesh
    assert dict(mesh.shape) == {"data": jax.device_count(), "fsdp": 1, "tensor": 1}


def test_a_stage_gets_the_mesh_that_suits_its_batch(tmp_path, monkeypatch):
    """As on a TPU: two rows a device, and a batch of training is divided."""
    monkeypatch.setitem(parallel.LEAST_ROWS, "cpu", 2)
    sizes = {"inner__batch_size": 16, "outer__batch_size": 8, "evaluate__batch_size": 8}
    run = experiment(tmp_path, mesh="auto", **sizes)
    inner = run._placed.for_stage("inner")
    assert tuple(inner.mesh.shape.values()) == (8, 1, 1)
    assert run.system is inner
    assert run._placed.for_stage("inner") is inner
    outer = run._placed.for_stage("outer")
    assert tuple(outer.mesh.shape.values()) == (4, 1, 2)
    assert run.system is run._placed.for_stage("evaluate") is outer
