"""Meshes from text, chosen ones, and what is refused."""

import dataclasses

import jax
import pytest
from jax.sharding import AxisType

from rmas import parallel
from rmas.errors import InputError
from rmas.parallel import MeshSpec, Rows, make_mesh, parse_mesh, ranked
from rmas.parallel.slices import describe_devices, parse_slice
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
        ({"weights": (10,)}, MeshSpec(8, 1, 1)),
        ({"weights": (10,), "bytes_per_device": 10}, MeshSpec(8, 1, 1)),
        ({"weights": (11,), "bytes_per_device": 10}, MeshSpec(4, 1, 2)),
        ({"weights": (21,), "bytes_per_device": 10}, MeshSpec(2, 1, 4)),
        # Heads limit tensor (gcd 2); fsdp takes what is still too much.
        ({"heads": (8, 2), "weights": (21,), "bytes_per_device": 10}, MeshSpec(2, 2, 2)),
        ({"heads": (3,), "weights": (11,), "bytes_per_device": 10}, MeshSpec(4, 2, 1)),
        # So do the devices of a host.
        ({"per_host": 2, "weights": (35,), "bytes_per_device": 10}, MeshSpec(2, 2, 2)),
        ({"heads": (4,), "weights": (900,), "bytes_per_device": 10}, MeshSpec(1, 2, 4)),
        ({"n_devices": 6, "heads": (6,), "weights": (2.5,), "bytes_per_device": 1}, (2, 1, 3)),
        ({"n_devices": 64, "weights": (12,), "bytes_per_device": 1}, MeshSpec(4, 2, 8)),
        ({"n_devices": 1, "weights": (12,), "bytes_per_device": 1}, MeshSpec()),
        # With fsdp an agent is whole in its turn: with fsdp=2 that is 10 for all parts, and 2.5.
        ({"heads": (1,), "weights": (5, 5, 5, 5), "bytes_per_device": 12.5}, MeshSpec(4, 2, 1)),
        ({"heads": (1,), "weights": (5, 5, 5, 5), "bytes_per_device": 10}, MeshSpec(2, 4, 1)),
        ({"heads": (1,), "weights": (5, 5, 5, 5), "bytes_per_device": 7}, MeshSpec(1, 8, 1)),
        ({"heads": (2,), "weights": (5, 5, 5, 5), "bytes_per_device": 5}, MeshSpec(1, 4, 2)),
        # No split is enough beside a whole agent: that which comes nearest.
        ({"heads": (1,), "weights": (5, 5, 5, 5), "bytes_per_device": 5}, MeshSpec(1, 8, 1)),
    ],
)
def test_automatic_splits_weights_no_more_than_they_need(arguments, spec):
    spec = spec if isinstance(spec, MeshSpec) else MeshSpec(*spec)
    assert ranked(**{"n_devices": 8} | arguments)[0] == spec


@pytest.mark.parametrize(
    ("rows", "arguments", "spec"),
    [
        # Rows enough for all: as without them.
        (Rows(16, least=2), {}, MeshSpec(8, 1, 1)),
        (Rows(64, exact=True, least=2), {}, MeshSpec(8, 1, 1)),
        # Several rows before more data parallelism, as far as heads and hosts allow it.
        (Rows(8, least=2), {}, MeshSpec(4, 1, 2)),
        (Rows(4, least=2), {}, MeshSpec(2, 1, 4)),
        (Rows(1, least=2), {}, MeshSpec(1, 1, 8)),
        (Rows(1, least=2), {"heads": (8, 2)}, MeshSpec(4, 1, 2)),
        (Rows(1, least=2), {"heads": (3,)}, MeshSpec(8, 1, 1)),
        (Rows(8, least=2), {"n_devices": 32, "per_host": 4}, MeshSpec(8, 1, 4)),
        # Where one row is enough, only devices without a row count.
        (Rows(8), {}, MeshSpec(8, 1, 1)),
        (Rows(4), {}, MeshSpec(4, 1, 2)),
        # Weights first.
        (Rows(16, least=2), {"weights": (35,), "bytes_per_device": 10}, MeshSpec(2, 1, 4)),
        (Rows(2), {"heads": (2,), "weights": (35,), "bytes_per_device": 10}, MeshSpec(2, 2, 2)),
        # Training refuses a batch that does not divide, inference fills it up.
        (Rows(12, least=1), {}, MeshSpec(8, 1, 1)),
        (Rows(12, exact=True), {}, MeshSpec(4, 1, 2)),
        (Rows(7, exact=True), {}, MeshSpec(1, 1, 8)),
        (Rows(30, least=2), {}, MeshSpec(8, 1, 1)),
        (Rows(8, least=2), {"n_devices": 1}, MeshSpec()),
    ],
)
def test_automatic_gives_each_device_rows(rows, arguments, spec):
    assert ranked(**{"n_devices": 8, "rows": rows} | arguments)[0] == spec


def test_what_follows_the_best_mesh():
    found = ranked(8, (4,), rows=Rows(8, least=2))
    assert found == [MeshSpec(4, 1, 2), MeshSpec(2, 1, 4), MeshSpec(8, 1, 1)]
    needed = {"weights": (60,), "bytes_per_device": 10}
    assert ranked(8, (2,), **needed) == [
        MeshSpec(1, 4, 2), MeshSpec(2, 2, 2), MeshSpec(4, 1, 2), MeshSpec(8, 1, 1)
    ]  # fmt: skip


def test_rows_count_on_accelerators_alone():
    rows = Rows(8, exact=True)
    assert rows.on("cpu") is None
    assert rows.on("tpu") == Rows(8, exact=True, least=2)
    assert rows.on("gpu") == rows


@dataclasses.dataclass(frozen=True)
class FakeDevice:
    """One device of a pod, as far as a mesh looks at it."""

    id: int
    process_index: int
    platform: str = "tpu"


@pytest.mark.parametrize("tensor", [1, 2, 4])
def test_groups_of_tensor_stay_inside_a_host(tensor):
    # Ids run over the whole slice, as on a TPU: hosts 0 and 1 share its first rows of chips.
    hosts = {0: (0, 1, 4, 5), 1: (2, 3, 6, 7), 2: (8, 9, 12, 13), 3: (10, 11, 14, 15)}
    devices = [FakeDevice(i, host) for host, ids in hosts.items() for i in ids]
    devices.sort(key=lambda d: d.id)
    mesh = make_mesh(MeshSpec(16 // tensor, 1, tensor), devices)
    for group in mesh.devices.reshape(-1, tensor):
        assert len({d.process_index for d in group}) == 1
    rows = [d.process_index for d in mesh.devices[:, 0, 0]]
    assert rows == sorted(rows)  # so each host loads one block of a batch
    neighbours = make_mesh(MeshSpec(8, 1, 2), devices).devices.reshape(8, 2)
    assert {abs(a.id - b.id) for a, b in neighbours} == {1}


@pytest.mark.tpu
@pytest.mark.parametrize("slice", ["v5e:2x4", "v5e:4x8", "v6e:4x4", "v4:2x2x4", "v4:4x4x4"])
def test_groups_of_tensor_stay_inside_the_hosts_of_slices(slice):
    """In `jax.make_mesh` groups of 4 cross hosts on v5e:4x8; it makes none of 2 on v6e:4x4."""
    devices = describe_devices(parse_slice(slice))
    for tensor in (2, 4):
        groups = make_mesh(MeshSpec(len(devices) // tensor, 1, tensor), devices).devices
        for group in groups.reshape(-1, tensor):
            assert len({d.process_index for d in group}) == 1
            corners = [tuple(d.coords) for d in group]
            spans = [max(axis) - min(axis) for axis in zip(*corners, strict=True)]
            assert max(spans) == 1  # a pair or a square of neighbours


def test_use_sets_the_mesh():
    mesh = mesh_of(data=2, tensor=4)
    with parallel.use(mesh):
        assert jax.sharding.get_abstract_mesh() == mesh.abstract_mesh
    assert jax.sharding.get_abstract_mesh().empty
