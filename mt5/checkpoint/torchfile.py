"""Files that torch.save wrote, looked at in place: a zip of a pickle and of the numbers, or, before torch
1.6, one stream of pickles with the numbers after them. See pickled.py for how the pickle is read.
"""

import io
import math
from collections.abc import Mapping
from pathlib import Path

from mt5.checkpoint import pickled
from mt5.checkpoint.file import File, Window
from mt5.checkpoint.pickled import Described
from mt5.checkpoint.weights import FileTensor, Lazy, StridedTensor
from mt5.checkpoint.zipped import directory
from mt5.errors import CheckpointError

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
"""The first two pickles of the older format."""
Places = Mapping[str, tuple[int, int]]
"""Storages by their key: first byte in the file, size in bytes."""


def read(path: Path) -> dict[str, Lazy]:
    """The tensors of a file such as pytorch_model.bin. CheckpointError when it holds anything else."""
    file = File.open(path)
    if file.read(min(2, file.size), 0) == b"PK":
        return tensors(Window(file, 0, file.size), str(path))
    return _streamed(file, str(path))


def tensors(window: Window, label: str) -> dict[str, Lazy]:
    """The tensors of a zip that lies in a part of another file, by name.

    CheckpointError when it holds anything else, is compressed, or a tensor does not fit its storage.
    """
    records = directory(window, label)
    lists = [name for name in records if name.endswith("/data.pkl")]
    if len(lists) != 1:
        raise CheckpointError(f"{label} is no torch file: it has no list of tensors. Download it again.")
    root = lists[0].removesuffix("data.pkl")
    if records.get(f"{root}byteorder", (0, 0))[1] == len(b"big"):
        raise CheckpointError(f"{label} was written on a big-endian machine; save it again on another.")
    start, size = records[lists[0]]
    if size > pickled.MAX_BYTES:
        raise CheckpointError(
            f"{label}: its list of tensors has {size:,} bytes, more than {pickled.MAX_BYTES:,}."
        )
    try:
        described = pickled.tensors(pickled.follow(window.file.read(size, start)))
    except ValueError as fault:
        raise _foreign(label, fault) from fault
    folder = f"{root}data/"
    places = {name.removeprefix(folder): place for name, place in records.items() if name.startswith(folder)}
    return {
        name: _located(value, places, window.file, f"{label}: {name}") for name, value in described.items()
    }


def _streamed(file: File, label: str) -> dict[str, Lazy]:
    """The tensors of the format before torch 1.6: five pickles, then each storage after its length."""
    head = io.BytesIO(file.read(min(file.size, pickled.MAX_BYTES), 0))
    try:
        if (pickled.follow(head), pickled.follow(head)) != (MAGIC, PROTOCOL):
            raise ValueError("no torch file")
        if pickled.follow(head).get("little_endian") is not True:
            raise ValueError("from a big-endian machine")
        described, keys = pickled.tensors(pickled.follow(head)), pickled.follow(head)
        storages = {value.storage.key: value.storage for value in described.values()}
        if type(keys) is not list or set(keys) != set(storages) or len(keys) != len(storages):
            raise ValueError("its list of storages is another")
    except (ValueError, AttributeError, TypeError) as fault:
        raise _foreign(label, fault) from fault
    places, at = {}, head.tell()
    for key in keys:
        length, itemsize = storages[key].length, storages[key].dtype.itemsize
        found = file.read(8, at) if at + 8 <= file.size else b""
        if at + 8 + length * itemsize > file.size or int.from_bytes(found, "little") != length:
            raise CheckpointError(f"{label}: storage {key} is damaged or cut short. Download it again.")
        places[key] = (at + 8, length * itemsize)
        at += 8 + length * itemsize
    return {name: _located(value, places, file, f"{label}: {name}") for name, value in described.items()}


def _foreign(label: str, fault: Exception) -> CheckpointError:
    what = str(fault) if isinstance(fault, ValueError) else type(fault).__name__
    return CheckpointError(
        f"{label} holds more than tensors, or is damaged ({what[:200]}). Only plain weights are read: "
        "download it again, or save its tensors alone."
    )


def _located(tensor: Described, places: Places, file: File, label: str) -> Lazy:
    """The tensor where it lies. CheckpointError unless every number of it is in the storage, once."""
    dtype, count = tensor.storage.dtype, math.prod(tensor.shape)
    extent = (
        1 + sum((n - 1) * step for n, step in zip(tensor.shape, tensor.stride, strict=True)) if count else 0
    )
    start, size = places.get(tensor.storage.key, (0, -1))
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
