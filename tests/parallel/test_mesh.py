"""Meshes from text, chosen ones, and what is refused."""

import jax
import pytest
from jax.sharding import AxisType

from rmas import parallel
from rmas.errors import InputError
from rmas.parallel import MeshSpec, automatic, make_mesh, parse_mesh
from support.fake_devices import mesh_of


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("data=2,fsdp=2,tensor=2", MeshSpec(2, 2, 2)),
        (" tensor = 4 , data = 2 ", MeshSpec(2, 1, 4)),
        ("fsdp=8", MeshSpec(1, 8, 1)),
        ("data=-1,tensor=2", MeshSpec(-1, 1, 2)),
        ("auto", MeshSpec(auto=True)),
        ("single", MeshSpec()),
        ("", MeshSpec()),
    ],
)
def test_text_names_sizes(text, spec):
    assert parse_mesh(text) == spec
    assert parse_mesh(str(spec)) == spec


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model=2", "unknown axis 'model'; known: data, fsdp, tensor"),
        ("data=2,,tensor=2", "unknown axis ''"),
        ("autos", "unknown axis 'autos'"),
        ("data=2\nfsdp=2", r"mesh 'data=2\\nfsdp=2': data is '2\\nfsdp=2'"),
        ("data=2,data=4", "data is given twice"),
        ("data=0", "data is '0'; it must be a positive number"),
        ("data=-2", "data is '-2'"),
        ("data=two", "data is 'two'"),
        ("data=1_0", "data is '1_0'"),
        ("data", "data is ''"),
        ("data=" + "9" * 5000, "it must be a positive number"),
        ("data=-1,fsdp=-1", "two axes are -1"),
    ],
)
def test_other_text_is_refused_in_one_line(text, told):
    with pytest.raises(InputError, match=told) as caught:
        parse_mesh(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("data=2,fsdp=2,tensor=2", (2, 2, 2)),
        ("data=-1,tensor=4", (2, 1, 4)),
        ("fsdp=-1", (1, 8, 1)),
        ("data=2,fsdp=4,tensor=-1", (2, 4, 1)),
        ("auto", (8, 1, 1)),
        ("single", (1, 1, 1)),
    ],
)
def test_mesh_has_three_axes_left_to_the_compiler(text, sizes):
    mesh = make_mesh(parse_mesh(text))
    assert mesh.axis_names == ("data", "fsdp", "tensor")
    assert mesh.devices.shape == sizes
    assert mesh.axis_types == (AxisType.Auto,) * 3
    assert set(mesh.devices.flat) <= set(jax.devices())


def test_mesh_of_given_devices():
    mesh = make_mesh(parse_mesh("tensor=-1"), jax.devices()[4:6])
    assert set(mesh.devices.flat) == set(jax.devices()[4:6])


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "data=3,tensor=2",
            r"mesh data=3,fsdp=1,tensor=2 needs 6 devices, but there are 8 \(cpu\)",
        ),
        ("data=16", "needs 16 devices"),
        ("data=4", "needs 4 devices"),
        ("data=-1,tensor=3", "needs a multiple of 3 devices"),
        ("data=-1,tensor=16", "needs a multiple of 16 devices"),
    ],
)
def test_mesh_that_does_not_cover_the_devices_is_refused(text, told):
    with pytest.raises(InputError, match=told) as caught:
        make_mesh(parse_mesh(text))
    assert "whose product is 8" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "spec"),
    [
        ({}, MeshSpec(8, 1, 1)),
        ({"bytes_needed": 10}, MeshSpec(8, 1, 1)),
        ({"bytes_needed": 10, "bytes_per_device": 10}, MeshSpec(8, 1, 1)),
        ({"bytes_needed": 11, "bytes_per_device": 10}, MeshSpec(4, 1, 2)),
        ({"bytes_needed": 21, "bytes_per_device": 10}, MeshSpec(2, 1, 4)),
        # Heads limit tensor (gcd 2); fsdp takes what is still too much.
        ({"heads": (8, 2), "bytes_needed": 21, "bytes_per_device": 10}, MeshSpec(2, 2, 2)),
        ({"heads": (3,), "bytes_needed": 11, "bytes_per_device": 10}, MeshSpec(4, 2, 1)),
        # So do the devices of a host.
        ({"per_host": 2, "bytes_needed": 35, "bytes_per_device": 10}, MeshSpec(2, 2, 2)),
        ({"heads": (4,), "bytes_needed": 900, "bytes_per_device": 10}, MeshSpec(1, 2, 4)),
        ({"n_devices": 6, "heads": (6,), "bytes_needed": 2.5, "bytes_per_device": 1}, (2, 1, 3)),
        ({"n_devices": 64, "bytes_needed": 12, "bytes_per_device": 1}, MeshSpec(4, 2, 8)),
        ({"n_devices": 1, "bytes_needed": 12, "bytes_per_device": 1}, MeshSpec()),
    ],
)
def test_automatic_splits_weights_no_more_than_they_need(arguments, spec):
    spec = spec if isinstance(spec, MeshSpec) else MeshSpec(*spec)
    assert automatic(**{"n_devices": 8} | arguments) == spec


def test_use_sets_the_mesh():
    mesh = mesh_of(data=2, tensor=4)
    with parallel.use(mesh):
        assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh
    assert jax.sharding.get_abstract_mesh().empty
