"""Reads and writes the pickle of a `torch.save` archive, which describes the tensors of a dict.

A pickle is a program for a stack machine. The reader interprets the few instructions that a dict
of tensors needs. It imports nothing and calls no function of the pickle; any other instruction or
name is an error. The writer emits the same instructions. Neither needs torch.

Instructions are those of `pickletools` in the standard library; names and arguments are as
`torch.save` writes them.
"""

import dataclasses
import math
import pickle
import pickletools
import struct
import warnings
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

from rmas.errors import InputError

STORAGES: Mapping[str, np.dtype] = {
    "torch FloatStorage": np.dtype(np.float32),
    "torch DoubleStorage": np.dtype(np.float64),
    "torch HalfStorage": np.dtype(np.float16),
    "torch BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes that can be read, by the name of their storage class."""
ORDERED_DICT = "collections OrderedDict"
REBUILD_TENSOR = "torch._utils _rebuild_tensor_v2"
REBUILD_PARAMETER = "torch._utils _rebuild_parameter"
KNOWN = (ORDERED_DICT, REBUILD_TENSOR, REBUILD_PARAMETER, *STORAGES)
"""All names that a pickle may mention."""
MAX_TENSORS, MAX_DIMS, MAX_NAME = 1000, 8, 256
"""Limits: tensors of a dict, axes of a tensor, characters of a name."""


@dataclasses.dataclass(frozen=True)
class Storage:
    """An array of `size` numbers, stored under `key` in the archive."""

    key: str
    dtype: np.dtype
    size: int


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: a view of a storage; offset and strides count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of a copy; an empty axis counts as one entry."""
        return math.prod(max(n, 1) for n in self.shape) * self.storage.dtype.itemsize

    @property
    def inside(self) -> bool:
        """Whether every number lies in the storage."""
        numbers = (self.storage.size, self.offset, *self.shape, *self.strides)
        if not all(type(n) is int and n >= 0 for n in numbers):
            return False
        if len(self.shape) != len(self.strides) or len(self.shape) > MAX_DIMS:
            return False
        if 0 in self.shape:
            return True
        reach = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return self.offset + reach < self.storage.size


@dataclasses.dataclass(frozen=True)
class _Name:
    """One of `KNOWN`, which the pickle mentions; it is never imported."""

    name: str


def loads(data: bytes, where: str) -> dict[str, View]:
    """Reads a pickled dict (or `OrderedDict`) from names to tensors (or parameters), in its order.

    Raises:
      InputError: the pickle holds anything else, a tensor reaches outside of its storage, or
        there are more than `MAX_TENSORS`. The message starts with `where`.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # pickletools, on odd escapes in names
            state = _run(data, where)
    except InputError:
        raise
    except (ValueError, IndexError, KeyError, TypeError, AttributeError) as e:
        raise InputError(f"{where}: its pickle is damaged or holds more than tensors") from e
    if not isinstance(state, dict):
        raise InputError(f"{where} holds a single value, not a dict of tensors by name")
    if len(state) > MAX_TENSORS:
        raise InputError(f"{where} holds {len(state)} tensors; at most {MAX_TENSORS} are read")
    for name, view in state.items():
        if len(name) > MAX_NAME or not name.isprintable():
            raise InputError(f"{where}: {name[:MAX_NAME]!r} is not a valid name of a tensor")
        if not isinstance(view, View):
            raise InputError(f"{where}: {name!r} is not a tensor")
        if not view.inside:
            raise InputError(
                f"{where}: tensor {name!r} reaches outside of its storage, or its offset, "
                "sizes and strides are not valid numbers"
            )
    return state


def _run(data: bytes, where: str) -> Any:
    """Interprets the pickle and returns the value that is left on the stack."""
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}

    def pop(n: int) -> tuple[Any, ...]:
        if not 0 <= n <= len(stack):
            raise IndexError("stack underflow")
        taken = tuple(stack[len(stack) - n :])
        del stack[len(stack) - n :]
        return taken

    def pop_to_mark() -> tuple[Any, ...]:
        return pop(len(stack) - marks.pop())

    for opcode, argument, _ in pickletools.genops(data):
        arg: Any = argument
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "MARK":
                marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(arg)
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8":
                stack.append(arg)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(pop(int(opcode.name[-1])))
            case "TUPLE":
                stack.append(pop_to_mark())
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[arg])
            case "GLOBAL":
                stack.append(_known(arg, where))
            case "STACK_GLOBAL":
                stack.append(_known(" ".join(pop(2)), where))
            case "BINPERSID":
                (pid,) = pop(1)
                stack.append(_storage(pid, where))
            case "REDUCE":
                function, args = pop(2)
                stack.append(_rebuild(function, args))
            case "BUILD":
                # The version numbers that `Module.state_dict` attaches to its OrderedDict.
                pop(1)
                _dict_on(stack)
            case "SETITEM":
                _set(stack, pop(2), where)
            case "SETITEMS":
                _set(stack, pop_to_mark(), where)
            case other:
                raise InputError(
                    f"{where}: its pickle holds the instruction {other}, which a dict of tensors "
                    "does not need"
                )
    (value,) = stack
    return value


def _known(name: str, where: str) -> _Name:
    if name not in KNOWN:
        dotted = ".".join(name.split(" ", 1))[:MAX_NAME]
        raise InputError(
            f"{where}: its pickle asks for {dotted!r}, which is never run; only a dict of "
            "float tensors can be read, as torch.save(module.state_dict(), path) writes it"
        )
    return _Name(name)


def _storage(pid: Any, where: str) -> Storage:
    match pid:
        case ("storage", _Name(name=kind), str(key), str(), int(size)) if kind in STORAGES:
            return Storage(key, STORAGES[kind], size)
    raise InputError(f"{where}: its pickle refers to something that is not a storage of numbers")


def _rebuild(function: _Name, args: tuple[Any, ...]) -> Any:
    match function.name, args:
        case str(name), () if name == ORDERED_DICT:
            return {}
        case (
            str(name),
            (Storage() as storage, int(offset), tuple(shape), tuple(strides), bool(), dict()),
        ) if name == REBUILD_TENSOR:
            return View(storage, offset, shape, strides)
        case str(name), (View() as view, bool(), dict()) if name == REBUILD_PARAMETER:
            return view
    raise ValueError("a function is called with other arguments than torch.save gives")


def _dict_on(stack: list[Any]) -> dict[str, Any]:
    if not isinstance(stack[-1], dict):
        raise TypeError("the pickle changes something that is not a dict")
    return stack[-1]


def _set(stack: list[Any], flat: tuple[Any, ...], where: str) -> None:
    if not all(isinstance(key, str) for key in flat[::2]):
        raise InputError(f"{where}: a key of its dict is not a string; tensors need names")
    _dict_on(stack).update(zip(flat[::2], flat[1::2], strict=True))


def dumps(tensors: Mapping[str, np.ndarray]) -> bytes:
    """The pickle of an `OrderedDict` of contiguous tensors; tensor i is in the storage `str(i)`.

    Raises:
      ValueError: the dtype of a tensor is not in `STORAGES`.
    """
    kinds = {dtype: name for name, dtype in STORAGES.items()}
    items = b""
    for i, (name, array) in enumerate(tensors.items()):
        if array.dtype not in kinds:
            raise ValueError(f"{name} is {array.dtype}; only float types can be written")
        strides = [math.prod(array.shape[axis + 1 :]) for axis in range(array.ndim)]
        kind = _global(kinds[array.dtype])
        storage = _tuple(_str("storage"), kind, _str(str(i)), _str("cpu"), _int(array.size)) + b"Q"
        sizes = _tuple(*map(_int, array.shape)), _tuple(*map(_int, strides))
        hooks = _global(ORDERED_DICT) + b")R"
        args = _tuple(storage, _int(0), *sizes, b"\x89", hooks)
        items += _str(name) + _global(REBUILD_TENSOR) + args + b"R"
    return b"\x80\x02" + _global(ORDERED_DICT) + b")R(" + items + b"u."


def _global(name: str) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n"


def _tuple(*items: bytes) -> bytes:
    return b"(" + b"".join(items) + b"t"


def _str(text: str) -> bytes:
    data = text.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def _int(number: int) -> bytes:
    data = pickle.encode_long(number)
    return b"\x8a" + bytes([len(data)]) + data
