"""Files that lie: each refused with one line, nothing run, little memory taken."""

import copy
import os
import pickle
import time
import tracemalloc
import zipfile

import numpy as np
import pytest

from rmas.errors import InputError
from rmas.weights import torch_archive
from support.torch_files import HOOKS, claim, floats, opcodes, pack, state, tensor
from support.torch_samples import FOLDER

MIB = 1 << 20


def refused(path, match):
    with pytest.raises(InputError, match=match) as e:
        torch_archive.read(path)
    assert str(path) in str(e.value)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 1000
    return str(e.value)


def peak_of(call):
    """Bytes that a call holds at most."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Payload:
    """Makes a file by a shell command when it is unpickled."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_payload_does_not_run(tmp_path, protocol):
    marker = tmp_path / "run"
    pickled = pickle.dumps({"a": Payload(marker)}, protocol)
    pickle.loads(pickled)
    assert marker.exists()  # the payload is a live one
    marker.unlink()
    told = refused(pack(tmp_path / "x.pt", pickled), "its pickle ")
    assert protocol == 5 or "system" in told or "instruction" in told
    assert not marker.exists()


@pytest.mark.parametrize("name", ["posix system", "builtins eval", "torch load", "numpy ndarray"])
def test_every_other_name_is_refused_by_name(tmp_path, name):
    module, attribute = name.split()
    dotted = name.replace(" ", r"\.")
    called = f"c{module}\n{attribute}\n".encode() + opcodes(("x",)) + b"R"
    refused(pack(tmp_path / "x.pt", state(a=called)), f"asks for '{dotted}', which is never run")
    called = opcodes(module) + opcodes(attribute) + b"\x93" + opcodes(("x",)) + b"R"
    refused(pack(tmp_path / "x.pt", state(a=called)), f"asks for '{dotted}', which is never run")


@pytest.mark.parametrize(
    "called",
    [b"(iposix\nsystem\n", b"\x82\x01", b"(Vls\no", b")\x81", b"}b(l.", b"P0\n", b"2", b"I1\n"],
)
def test_other_instructions_are_refused(tmp_path, called):
    refused(pack(tmp_path / "x.pt", state(a=called)), "instruction|damaged")


def test_a_pickled_module():
    refused(
        FOLDER / "module_whole.pt",
        r"asks for 'torch\.nn\.modules\.container\.Sequential'.*torch\.save\(module\.state_dict",
    )


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (b"ccollections\nOrderedDict\n", opcodes(((1, 2),))),
        (b"ctorch\nFloatStorage\n", opcodes((3,))),
        (b"ctorch._utils\n_rebuild_tensor_v2\n", opcodes((1, 2))),
        (b"ctorch._utils\n_rebuild_parameter\n", opcodes((1, True, 2))),
        (opcodes("os.system"), opcodes(("x",))),
    ],
)
def test_known_names_take_torch_s_arguments_only(tmp_path, function, arguments):
    refused(pack(tmp_path / "x.pt", state(a=function + arguments + b"R")), "damaged")


@pytest.mark.parametrize(
    "view",
    [
        tensor((5,), (1,), numel=4),
        tensor((2, 2), (3, 1), numel=4),
        tensor((4,), (1,), offset=1, numel=4),
        tensor((1,), (1,), offset=4, numel=4),
        tensor((), (), offset=4, numel=4),
        tensor((4,), (1,), offset=-1, numel=4),
        tensor((4,), (-1,), offset=3, numel=4),
        tensor((-4,), (1,), numel=4),
        tensor((4,), (1, 1), numel=4),
        tensor((4,), (2**62,), numel=4),
        tensor((2**80,), (1,), numel=4),
        tensor((2,), (True,), numel=4),
        tensor(("4",), (1,), numel=4),
        tensor((1,) * 9, (1,) * 9, numel=4),
        tensor((1,), (1,), numel=-4),
    ],
)
def test_views_outside_of_their_storage(tmp_path, view):
    refused(pack(tmp_path / "x.pt", state(a=view), floats(4)), "tensor 'a' reaches outside of its")


@pytest.mark.parametrize(
    "view",
    [
        tensor((2**30, 2**30), (0, 0), numel=4),
        tensor((2**20,), (0,), numel=4),
        tensor((0, 2**70), (1, 1), numel=4),
    ],
)
def test_sizes_that_the_file_does_not_back(tmp_path, view):
    path = pack(tmp_path / "x.pt", state(a=view), floats(4))
    assert peak_of(lambda: refused(path, "claim more numbers than the file can hold")) < MIB


def test_many_views_of_one_storage(tmp_path):
    views = {f"t{i}": tensor((40_000,), (1,)) for i in range(900)}
    path = pack(tmp_path / "x.pt", state(**views), floats(40_000))
    assert peak_of(lambda: refused(path, "claim more numbers")) < 8 * MIB
    views = {f"t{i}": tensor((1,), (1,)) for i in range(1001)}
    refused(pack(tmp_path / "x.pt", state(**views), floats(1)), "1001 tensors; at most 1000")


@pytest.mark.parametrize("stride", [2**62, 2**1000])
def test_the_stride_of_a_single_entry_means_nothing(tmp_path, stride):
    view = tensor((1, 4), (stride, 1))
    found = torch_archive.read(pack(tmp_path / "x.pt", state(a=view), floats(4)))
    np.testing.assert_array_equal(found["a"], [[0, 1, 2, 3]])


@pytest.mark.parametrize(
    ("pickled", "told"),
    [
        (opcodes(3), "a single value, not a dict"),
        (tensor((4,), (1,)), "a single value, not a dict"),
        (b"}" + opcodes(3) + tensor((4,), (1,)) + b"s", "a key of its dict is not a string"),
        (b"}" + opcodes((1, 2)) + tensor((4,), (1,)) + b"s", "a key of its dict is not a string"),
        (b"}" + opcodes("a\nb") + tensor((4,), (1,)) + b"s", r"'a\\nb' is not a valid name"),
        (b"}" + opcodes("a" * 300) + tensor((4,), (1,)) + b"s", "is not a valid name"),
        (b"}" + opcodes("epoch") + opcodes(3) + b"s", "'epoch' is not a tensor"),
        (b"}" + opcodes("state_dict") + b"}s", "'state_dict' is not a tensor"),
        (b"}q\0" + opcodes("a") + b"h\0s", "'a' is not a tensor"),
        (b"", "damaged"),
        (b"}}", "damaged"),
        (b"(1", "instruction POP_MARK"),
        (b"}(" + opcodes("a") + b"u", "damaged"),
        (b"h\7", "damaged"),
        (b"t", "damaged"),
        (opcodes("x") + b"}b", "damaged"),
        (b"c\xff\nx\n", "damaged|asks for"),
        (opcodes("x") + b"Q", "not a storage of numbers"),
        (b"}" + opcodes("a") + tensor((4,), (1,), kind="torch\nLongStorage") + b"s",
         r"asks for 'torch\.LongStorage'.*float tensors"),
        (b"}" + opcodes("a") + tensor((4,), (1,), kind="collections\nOrderedDict") + b"s",
         "not a storage of numbers"),
        (b"}" + opcodes("a") + tensor((4,), (1,), tail=HOOKS) + b"s", "damaged"),
    ],
)  # fmt: skip
def test_anything_but_tensors_by_name(tmp_path, pickled, told):
    path = pack(tmp_path / "x.pt", b"\x80\x02" + pickled + b".", floats(4))
    refused(path, told)
    refused(pack(path, b"\x80\x02" + pickled, floats(4)), f"{told}|damaged")


def test_storages_that_are_missing_or_of_another_size(tmp_path):
    path = tmp_path / "x.pt"
    refused(pack(path, state(a=tensor((4,), (1,)))), "holds no 'data/0'")
    for n in (3, 5):
        refused(pack(path, state(a=tensor((4,), (1,))), floats(n)), f"{4 * n} bytes, not 4 numbers")
    away = tensor((4,), (1,), key="../../../../../../etc/passwd")
    refused(pack(path, state(a=away), floats(4)), "holds no 'data/../")


def test_names_of_members_lead_nowhere(tmp_path):
    """A member is only ever looked up by its exact name; no name becomes a path."""
    members = (("../../evil", b"x"), ("data/../../evil", floats(4)))
    away = tensor((4,), (1,), key="../../evil")
    path = pack(tmp_path / "x.pt", state(a=away), floats(4), members=members)
    np.testing.assert_array_equal(torch_archive.read(path)["a"], [0, 1, 2, 3])
    assert [p.name for p in tmp_path.rglob("*")] == ["x.pt"]


def test_odd_archives(tmp_path):
    path, good = tmp_path / "x.pt", state(a=tensor((4,), (1,)))
    with pytest.warns(UserWarning, match="Duplicate name"):
        pack(path, good, floats(4), members=(("data/0", floats(4)),))
    refused(path, "holds a member twice")
    refused(pack(path, good, floats(4), members=(("byteorder", b"middle"),)), "byteorder must be")
    refused(pack(path, good, floats(4), members=(("byteorder", b"big" * 9),)), "at most 16")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")
    refused(path, "not an archive of torch.save: it holds no data.pkl")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", good)
        file.writestr("y/data.pkl", good)
    refused(path, "not an archive of torch.save")
    pack(path, good, floats(4))
    data = bytearray(path.read_bytes())
    for at in (data.index(b"PK\1\2") + 8, data.index(b"PK\3\4") + 6):
        data[at] |= 1
    path.write_bytes(data)
    refused(path, "encrypted")


def test_files_that_are_no_archives(tmp_path):
    refused(tmp_path / "nowhere.pt", "cannot read .*: no such file")
    refused(tmp_path, "no such file")
    refused(tmp_path / ("x" * 300), "cannot read")
    refused(FOLDER / "legacy.pt", "is not a zip archive.*must be saved again with torch.save")
    path = tmp_path / "x.pt"
    for content in (b"", b"PK", pickle.dumps({}), b"\x93NUMPY", os.urandom(500)):
        path.write_bytes(content)
        refused(path, "is not a zip archive")


def test_an_archive_cut_anywhere(tmp_path):
    whole = (FOLDER / "module_state.pt").read_bytes()
    path = tmp_path / "x.pt"
    for end in [*range(4, len(whole) - 1, 61), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refused(path, "is damaged or not an archive of torch.save")


def test_bytes_that_flip_are_noticed_or_harmless(tmp_path):
    """Nothing but `InputError` ever comes out, and numbers never change unnoticed."""
    whole = (FOLDER / "module_state.pt").read_bytes()
    expected = torch_archive.read(FOLDER / "module_state.pt")
    path, noticed = tmp_path / "x.pt", 0
    random = np.random.default_rng(0)
    for at in random.integers(4, len(whole), 500):
        data = bytearray(whole)
        data[at] ^= 1 << random.integers(8)
        path.write_bytes(data)
        try:
            found = torch_archive.read(path)
        except InputError as e:
            noticed += 1
            assert str(path) in str(e)
            assert "\n" not in str(e)
        else:
            for name, array in expected.items():
                np.testing.assert_array_equal(found[name], array)
    assert noticed > 100


def test_pickles_that_flip_give_tensors_or_one_line(tmp_path):
    """With a fresh checksum, so that the machine itself meets the noise."""
    view = tensor((2, 2), (2, 1))
    whole = state(
        a=view, b=b"ctorch._utils\n_rebuild_parameter\n(" + view + b"\x88" + HOOKS + b"tR"
    )
    random = np.random.default_rng(1)
    path, read = tmp_path / "x.pt", 0
    for _ in range(500):
        data = bytearray(whole)
        data[random.integers(len(whole))] = random.integers(256)
        pack(path, bytes(data), floats(4))
        try:
            read += bool(torch_archive.read(path))
        except InputError as e:
            assert "\n" not in str(e)
    assert 10 < read < 400


def test_a_zip_bomb(tmp_path):
    path, chunk = tmp_path / "bomb.pt", bytes(MIB)
    for name in ("x/data.pkl", "x/data/0"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
            if name != "x/data.pkl":
                file.writestr("x/data.pkl", state(a=tensor((64 * MIB,), (1,))))
            with file.open(name, "w") as member:
                for _ in range(256):
                    member.write(chunk)
        assert path.stat().st_size < 2 * MIB
        assert peak_of(lambda: refused(path, "is compressed, which torch.save never does")) < MIB


def test_directories_that_lie_about_sizes(tmp_path):
    path, pickled = tmp_path / "x.pt", state(a=tensor((4,), (1,)))
    for size in (2**30, 2**32 - 2):
        claim(pack(path, pickled, floats(4)), "x/data/0", size)
        assert peak_of(lambda: refused(path, "claim more bytes than the file has")) < MIB
    for size in (17, 40):
        claim(pack(path, pickled, floats(4)), "x/data/0", size)
        refused(path, "is damaged|bytes, not 4 numbers")
    claim(pack(path, pickled, floats(4)), "x/data/0", 8)
    refused(path, "bytes, not 4 numbers|is damaged")


def test_members_that_overlap(tmp_path):
    """Many names for the same bytes: small on disk, large when read."""
    path = tmp_path / "x.pt"
    views = {f"t{i}": tensor((MIB // 4,), (1,), key=str(i)) for i in range(50)}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", state(**views))
        file.writestr("x/data/0", bytes(MIB))
        for i in range(1, 50):
            again = copy.copy(file.getinfo("x/data/0"))
            again.filename = f"x/data/{i}"
            file.filelist.append(again)
    assert peak_of(lambda: refused(path, "claim more bytes than the file has")) < MIB


def test_a_directory_without_end(tmp_path):
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x/data.pkl", state())
        for i in range(12_000):
            again = copy.copy(file.filelist[0])
            again.filename = f"x/{i}"
            file.filelist.append(again)
    assert path.stat().st_size > MIB // 2
    assert peak_of(lambda: refused(path, "damaged")) < 8 * MIB


def test_pickles_that_are_too_long_or_grow(tmp_path):
    path = tmp_path / "x.pt"
    refused(pack(path, b"\x80\x02" + b"}0" * MIB + b"}."), "at most 1048576 are read")
    # An index of two billion into the memo, for which pickle itself would make room.
    pack(path, b"\x80\x02}r\xff\xff\xff\x7f.")
    assert peak_of(lambda: torch_archive.read(path)) < MIB
    # A tuple of tuples, doubled a hundred times: hashing or printing it would never end.
    pack(path, b"\x80\x02})" + b"q\0h\0\x86" * 100 + opcodes(3) + b"s.")
    started = time.monotonic()
    refused(path, "a key of its dict is not a string")
    pack(path, b"\x80\x02)" + b"q\0h\0\x86" * 100 + b"Q.")
    refused(path, "not a storage of numbers")
    assert time.monotonic() - started < 5
