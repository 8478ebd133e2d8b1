"""torch's files without torch: what it writes is read, what we write it reads."""

import zipfile

import ml_dtypes
import numpy as np
import pytest

from rmas.weights import torch_archive
from support import torch_files, torch_samples
from support.torch_samples import FOLDER


def same(found, expected):
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape), name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def numbers(torch, tensor):
    """A tensor as numpy, of its own type."""
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().contiguous().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


@pytest.mark.parametrize("name", ["views.pt", "views_protocol5.pt"])
def test_every_view_and_type(name):
    found = torch_archive.read(FOLDER / name)
    same(found, torch_samples.views())
    for array in found.values():
        assert array.flags.c_contiguous
        assert array.flags.writeable
    found["whole"][:] = -1
    assert found["row"][0] == 1


def test_a_module_s_state_dict():
    same(torch_archive.read(str(FOLDER / "module_state.pt")), torch_samples.module_state())


def test_committed_archives_are_what_torch_reads(torch):
    for name in ("views.pt", "views_protocol5.pt", "module_state.pt"):
        # Files of our own; the restricted reader of torch warns of protocol 5.
        theirs = torch.load(FOLDER / name, weights_only=False)
        same(torch_archive.read(FOLDER / name), {n: numbers(torch, t) for n, t in theirs.items()})


@pytest.mark.parametrize("seed", range(20))
def test_random_views_of_shared_storages(torch, tmp_path, seed):
    random = np.random.default_rng(seed)
    dtype = (torch.float32, torch.float64, torch.float16, torch.bfloat16)[seed % 4]
    base = torch.tensor(random.standard_normal(60)).to(dtype)
    tensors = {}
    for i in range(8):
        shape = tuple(random.integers(1, 4, random.integers(0, 4)).tolist())
        strides = tuple(random.integers(0, 7, len(shape)).tolist())
        offset = int(random.integers(0, 60 - sum(2 * s for s in strides)))
        tensors[f"t{i}"] = torch.as_strided(base, shape, strides, offset)
    path = tmp_path / "random.pt"
    torch.save(tensors, path, pickle_protocol=2 + seed % 4)
    same(torch_archive.read(path), {n: numbers(torch, t) for n, t in tensors.items()})


ORDERED = {
    "a": np.arange(6, dtype=np.float32).reshape(2, 3),
    "b": np.array([1, -2, 0.5]).astype(ml_dtypes.bfloat16),
}


def in_order(path, order):
    """An archive of `ORDERED` as a machine of either byte order writes it."""
    mark = {"little": "<", "big": ">"}[order]
    return torch_files.pack(
        path,
        torch_files.state(
            a=torch_files.tensor((2, 3), (3, 1)),
            b=torch_files.tensor((3,), (1,), key="1", kind="torch\nBFloat16Storage"),
        ),
        ORDERED["a"].astype(f"{mark}f4").tobytes(),
        ORDERED["b"].view(np.uint16).astype(f"{mark}u2").tobytes(),
        members=(("byteorder", order.encode()), ("version", b"3\n")),
    )


@pytest.mark.parametrize("order", ["little", "big"])
def test_byte_order(tmp_path, order):
    same(torch_archive.read(in_order(tmp_path / "x.pt", order)), ORDERED)


@pytest.mark.parametrize("order", ["little", "big"])
def test_archives_made_by_hand_are_archives_to_torch(torch, tmp_path, order):
    theirs = torch.load(in_order(tmp_path / "x.pt", order), weights_only=True)
    same({n: numbers(torch, t) for n, t in theirs.items()}, ORDERED)


def test_without_a_byteorder_it_is_little(tmp_path):
    path = torch_files.pack(
        tmp_path / "old.pt",
        torch_files.state(a=torch_files.tensor((4,), (1,))),
        torch_files.floats(4),
        members=(("version", b"3\n"),),
    )
    same(torch_archive.read(path), {"a": np.arange(4, dtype=np.float32)})


def test_there_and_back(tmp_path):
    path = tmp_path / "ours.pt"
    torch_archive.write(path, torch_samples.views())
    same(torch_archive.read(path), torch_samples.views())
    torch_archive.write(path, {})
    assert torch_archive.read(path) == {}


def test_torch_reads_what_we_write(torch, tmp_path):
    path, tensors = tmp_path / "ours.pt", torch_samples.views()
    tensors["long"] = np.arange(70_000, dtype=np.float32).reshape(2, -1)
    tensors["Ünïcode"] = np.ones(1, np.float32)
    torch_archive.write(path, tensors)
    for mmap in (False, True):
        theirs = torch.load(path, weights_only=True, mmap=mmap)
        assert type(theirs).__name__ == "OrderedDict"
        assert all(t.is_contiguous() and not t.requires_grad for t in theirs.values())
        same({n: numbers(torch, t) for n, t in theirs.items()}, tensors)
    del theirs


def test_torch_loads_our_state_dict_into_a_module(torch, tmp_path):
    torch_archive.write(tmp_path / "ours.pt", torch_samples.module_state())
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2))
    module.load_state_dict(torch.load(tmp_path / "ours.pt", weights_only=True), strict=True)
    same({n: p.detach().numpy() for n, p in module.named_parameters()},
         torch_samples.module_state())  # fmt: skip


def test_files_are_reproducible_and_uncompressed(tmp_path):
    for name in ("a.pt", "b.pt"):
        torch_archive.write(tmp_path / name, torch_samples.views())
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "b.pt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.pt") as file:
        assert file.testzip() is None
        assert {i.compress_type for i in file.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("dtype", [np.int64, np.int8, np.bool_, np.complex64, ">f4"])
def test_only_float_tensors_are_written(tmp_path, dtype):
    with pytest.raises(ValueError, match=r"step is .*; only float types can be written"):
        torch_archive.write(tmp_path / "x.pt", {"step": np.zeros(1, dtype)})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_file(tmp_path):
    class Broken(np.ndarray):
        def tobytes(self, order="C"):
            raise OSError("disk full")

    path = tmp_path / "ours.pt"
    torch_archive.write(path, torch_samples.module_state())
    before = path.read_bytes()
    broken = np.ones(3, np.float32).view(Broken)
    with pytest.raises(OSError, match="disk full"):
        torch_archive.write(path, {"fine": np.zeros(5, np.float32), "broken": broken})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
