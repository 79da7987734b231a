"""Files that torch.save wrote (a zip of a pickle and of the numbers), looked at in place.

The pickle is not executed: a dozen of its instructions are followed here, enough for a dictionary of
tensors, so that it can call nothing, and so that no numbers are read before they are asked for.
"""

import math
import pickletools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mt5.checkpoint.file import File, Window
from mt5.checkpoint.weights import FileTensor, Held, Lazy, StridedTensor
from mt5.errors import CheckpointError

MAX_TENSORS = 10_000
MAX_PICKLE = 4 << 20
MAX_DIRECTORY = 4 << 20
STORED = 0
DTYPES = {
    "torch BFloat16Storage": torch.bfloat16,
    "torch HalfStorage": torch.float16,
    "torch FloatStorage": torch.float32,
}


def read(path: Path) -> dict[str, Lazy]:
    """The tensors of a file such as pytorch_model.bin. CheckpointError when it holds anything else."""
    file = File.open(path)
    if file.read(min(2, file.size), 0) == b"PK":
        return tensors(Window(file, 0, file.size), str(path))
    # the format before torch 1.6 keeps numbers and pickle in one stream, so all of it is read
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as fault:  # whatever a hostile file provokes; torch's own advice is to drop the safety
        raise _foreign(str(path), type(fault).__name__) from fault
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise _foreign(str(path), "no dictionary of tensors")
    return {str(name): Held(tensor) for name, tensor in state.items()}


def tensors(window: Window, label: str) -> dict[str, Lazy]:
    """The tensors of a file that lies in a part of another, by name.

    CheckpointError when it holds anything else, is compressed, or a tensor does not fit its storage.
    """
    records = _directory(window, label)
    lists = [name for name in records if name.endswith("/data.pkl")]
    if len(lists) != 1:
        raise CheckpointError(f"{label} is no torch file: it has no list of tensors. Download it again.")
    root = lists[0].removesuffix("data.pkl")
    if records.get(f"{root}byteorder", (0, 0))[1] == len(b"big"):
        raise CheckpointError(f"{label} was written on a big-endian machine; save it again on another.")
    start, size = records[lists[0]]
    if size > MAX_PICKLE:
        raise CheckpointError(f"{label}: its list of tensors has {size:,} bytes, more than {MAX_PICKLE:,}.")
    try:
        state = _follow(window.file.read(size, start))
    except (ValueError, IndexError, KeyError, TypeError) as fault:
        raise _foreign(label, str(fault) or type(fault).__name__) from fault
    if not isinstance(state, dict) or not all(isinstance(value, _Tensor) for value in state.values()):
        raise _foreign(label, "no dictionary of tensors")
    if len(state) > MAX_TENSORS:
        raise CheckpointError(f"{label}: {len(state):,} tensors, more than {MAX_TENSORS:,}.")
    return {
        str(name): _located(value, records, root, window.file, f"{label}: {name}")
        for name, value in state.items()
    }


def _foreign(label: str, what: str) -> CheckpointError:
    return CheckpointError(
        f"{label} holds more than tensors, or is damaged ({what}). Only plain weights are read: "
        "download it again, or save its tensors alone."
    )


def _directory(window: Window, label: str) -> dict[str, tuple[int, int]]:
    """Where the zip's records lie in the file: name -> first byte, size (APPNOTE 6.3.9, §4.3)."""
    file, start, size = window.file, window.start, window.size
    tail = file.read(min(size, 22 + 65_535), start + max(0, size - 22 - 65_535))
    end = tail.rfind(b"PK\5\6")
    if end < 0 or len(tail) - end < 22:
        raise CheckpointError(f"{label} is no torch file, or is cut short. Download it again.")
    number = int.from_bytes
    count, length, first = (
        number(tail[end + a : end + b], "little") for a, b in ((10, 12), (12, 16), (16, 20))
    )
    locator = tail[end - 20 : end] if end >= 20 else b""
    if locator.startswith(b"PK\6\7"):
        place = number(locator[8:16], "little")
        if place + 56 > size:
            raise CheckpointError(f"{label}: the zip's directory is damaged. Download it again.")
        large = file.read(56, start + place)
        count, length, first = (number(large[a : a + 8], "little") for a in (32, 40, 48))
    if length > MAX_DIRECTORY or count > 2 * MAX_TENSORS or first + length > size:
        raise CheckpointError(
            f"{label}: the zip's directory names {count:,} records; it is damaged, or no weights."
        )
    directory, at, records = file.read(length, start + first), 0, {}
    for _ in range(count):
        entry = directory[at : at + 46]
        if len(entry) < 46 or not entry.startswith(b"PK\1\2"):
            raise CheckpointError(f"{label}: the zip's directory is damaged. Download it again.")
        method, packed, full = (number(entry[a:b], "little") for a, b in ((10, 12), (20, 24), (24, 28)))
        widths = [number(entry[a : a + 2], "little") for a in (28, 30, 32)]
        offset = number(entry[42:46], "little")
        name = directory[at + 46 : at + 46 + widths[0]].decode("utf-8", "replace")
        extra = directory[at + 46 + widths[0] : at + 46 + widths[0] + widths[1]]
        full, packed, offset = _wide(extra, full, packed, offset)
        if method != STORED or packed != full:
            raise CheckpointError(
                f"{label}: {name} is compressed; torch never writes that. Save it again with torch."
            )
        if offset + 30 > size:
            raise CheckpointError(f"{label}: {name} lies outside the file. Download it again.")
        local = file.read(30, start + offset)
        data = offset + 30 + number(local[26:28], "little") + number(local[28:30], "little")
        if not local.startswith(b"PK\3\4") or data + full > size or name in records:
            raise CheckpointError(f"{label}: {name} is damaged or cut short. Download it again.")
        records[name] = (start + data, full)
        at += 46 + sum(widths)
    return records


def _wide(extra: bytes, *numbers: int) -> list[int]:
    """Numbers of a directory's entry, those of all ones taken from the zip64 field."""
    field, at = b"", 0
    while at + 4 <= len(extra):
        kind, width = (int.from_bytes(extra[at + a : at + a + 2], "little") for a in (0, 2))
        if kind == 1:
            field = extra[at + 4 : at + 4 + width]
        at += 4 + width
    result = []
    for number in numbers:
        if number == 0xFFFFFFFF and len(field) >= 8:
            number, field = int.from_bytes(field[:8], "little"), field[8:]
        result.append(number)
    return result


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype
    length: int


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


MARK = object()


def _follow(data: bytes) -> Any:
    """What a pickle of tensors describes. ValueError names the first thing that is none."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}

    def marked() -> list[Any]:
        at = len(stack) - 1
        while stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("a mark is missing")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    argument: Any
    for opcode, argument, _ in pickletools.genops(data):
        match opcode.name:
            case "PROTO" | "FRAME":
                pass
            case "GLOBAL":
                stack.append(_Global(argument))
            case "STACK_GLOBAL":
                name, module = stack.pop(), stack.pop()
                stack.append(_Global(f"{module} {name}"))
            case "MARK":
                stack.append(MARK)
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST" | "EMPTY_TUPLE":
                stack.append(())
            case "BINUNICODE" | "SHORT_BINUNICODE" | "BININT" | "BININT1" | "BININT2" | "LONG1":
                stack.append(argument)
            case "NEWTRUE" | "NEWFALSE" | "NONE":
                stack.append({"NEWTRUE": True, "NEWFALSE": False, "NONE": None}[opcode.name])
            case "TUPLE":
                stack.append(tuple(marked()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "BINPERSID":
                stack.append(_storage(stack.pop()))
            case "REDUCE":
                arguments = stack.pop()
                stack.append(_called(stack.pop(), arguments))
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                stack[-1][key] = value
            case "SETITEMS":
                items = marked()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "BUILD":
                stack.pop()  # the attributes of a dictionary, such as torch's `_metadata`
            case "STOP":
                return stack.pop()
            case other:
                raise ValueError(f"instruction {other}")
    raise ValueError("the end is missing")


def _storage(described: Any) -> _Storage:
    kind, dtype, key, _, length = described
    if kind != "storage" or not isinstance(dtype, _Global) or dtype.name not in DTYPES:
        raise ValueError(f"storage of {getattr(dtype, 'name', dtype)}")
    if type(length) is not int or not isinstance(key, str):
        raise ValueError("a storage without a length")
    return _Storage(key, DTYPES[dtype.name], length)


def _called(function: Any, arguments: Any) -> Any:
    name = function.name if isinstance(function, _Global) else repr(function)
    if name == "collections OrderedDict" and arguments == ():
        return {}
    if name == "torch._utils _rebuild_parameter" and isinstance(arguments[0], _Tensor):
        return arguments[0]
    if name != "torch._utils _rebuild_tensor_v2":
        raise ValueError(f"a call of {name.replace(' ', '.')}")
    storage, offset, shape, stride = arguments[:4]
    numbers = (offset, *shape, *stride)
    if not isinstance(storage, _Storage) or len(shape) != len(stride):
        raise ValueError("a tensor without a storage")
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise ValueError("a tensor of an impossible shape")
    return _Tensor(storage, offset, shape, stride)


def _located(tensor: _Tensor, records: dict[str, tuple[int, int]], root: str, file: File, label: str) -> Lazy:
    """The tensor where it lies. CheckpointError unless every number of it is in the storage, once."""
    dtype, count = tensor.storage.dtype, math.prod(tensor.shape)
    extent = (
        1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True)) if count else 0
    )
    start, size = records.get(f"{root}data/{tensor.storage.key}", (0, -1))
    if (tensor.offset + extent) * dtype.itemsize > size or tensor.storage.length * dtype.itemsize > size:
        raise CheckpointError(
            f"{label}: its storage is shorter than its shape {list(tensor.shape)}. Download it again."
        )
    if count > extent:
        raise CheckpointError(
            f"{label}: its shape {list(tensor.shape)} uses numbers twice. Save the weights again."
        )
    place = start + tensor.offset * dtype.itemsize
    if tensor.stride == _dense(tensor.shape) or count <= 1:
        return FileTensor(tensor.shape, dtype, file, place)
    return StridedTensor(FileTensor((extent,), dtype, file, place), tensor.shape, tensor.stride)


def _dense(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[place + 1 :]) for place in range(len(shape)))
