"""The safetensors format (8 bytes of length, a JSON header, the numbers), read in place or written."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mt5.checkpoint.file import File, read_small
from mt5.checkpoint.weights import FileTensor, Lazy, listed, whole
from mt5.errors import CheckpointError

MAX_HEADER = 4 << 20
MAX_TENSORS = 10_000
MAX_DIMENSIONS = 8
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I8": torch.int8}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


def read(path: Path) -> dict[str, Lazy]:
    """The tensors of a file by name; none is read yet.

    CheckpointError when the header is too long, tensors overlap, leave holes or end outside the file.
    """
    file = File.open(path)
    if file.size < 8:
        raise CheckpointError(f"{path} is cut short: {file.size} bytes. Download it again.")
    length = int.from_bytes(file.read(8, 0), "little")
    if length > MAX_HEADER or 8 + length > file.size:
        raise CheckpointError(
            f"{path} is no safetensors file, or is cut short: it names a header of {length:,} bytes, "
            f"the file has {file.size:,}. Download it again."
        )
    try:
        entries = json.loads(file.read(length, 8), object_pairs_hook=_unique)
        entries.pop("__metadata__", None)
        if len(entries) > MAX_TENSORS:
            raise ValueError(f"{len(entries):,} tensors")
        tensors = {name: _tensor(name, entry, file, 8 + length) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        raise CheckpointError(f"{path}: its header is damaged ({fault}). Download it again.") from fault
    _check_layout(tensors, 8 + length, file)
    return dict(tensors)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise ValueError("a name occurs twice")
    return result


def _tensor(name: str, entry: dict[str, Any], file: File, start: int) -> FileTensor:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{name} is {entry['dtype']}, expected one of {', '.join(DTYPES)}")
    shape, (first, last) = entry["shape"], entry["data_offsets"]
    if len(shape) > MAX_DIMENSIONS or not all(
        type(number) is int and 0 <= number < 2**48 for number in (*shape, first, last)
    ):
        raise ValueError(f"{name} has an impossible shape or position")
    tensor = FileTensor(tuple(shape), DTYPES[entry["dtype"]], file, start + first)
    if tensor.nbytes != last - first:
        raise ValueError(f"{name} of shape {shape} does not take {last - first:,} bytes")
    return tensor


def _check_layout(tensors: Mapping[str, FileTensor], start: int, file: File) -> None:
    """Each tensor must begin where the one before ends, and the last end with the file."""
    position = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].nbytes)):
        if tensor.offset != position:
            raise CheckpointError(
                f"{file.path}: {name} overlaps another tensor or leaves a hole. Download it again."
            )
        position += tensor.nbytes
    if position != file.size:
        what = "cut short" if position > file.size else "longer than its tensors"
        raise CheckpointError(
            f"{file.path} is {what}: {file.size:,} bytes, {position:,} expected. Download it again."
        )


def index_files(index: Path) -> list[str]:
    """The files that an index names. CheckpointError when one is missing or lies elsewhere."""
    try:
        files = sorted(set(json.loads(read_small(index, MAX_HEADER))["weight_map"].values()))
        outside = [name for name in files if Path(name).name != name]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as fault:
        if isinstance(fault, CheckpointError):
            raise
        raise CheckpointError(f"{index} is no index of weights ({fault!r}). Download it again.") from fault
    if outside:
        raise CheckpointError(f"{index} names files outside its folder: {listed(outside)}.")
    if missing := [name for name in files if not (index.parent / name).is_file()]:
        raise CheckpointError(
            f"{index.parent}: {listed(missing)} missing, named in {index.name}. Download them too."
        )
    return files


def write(path: Path, weights: Mapping[str, Lazy], dtype: torch.dtype | None) -> None:
    """Write tensors one by one, in `dtype` or as they are. Only one of them is in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, tensor in weights.items():
        kept = dtype or tensor.dtype
        size = torch.Size(tensor.shape).numel() * kept.itemsize
        header[name] = {
            "dtype": NAMES[kept],
            "shape": list(tensor.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    data = json.dumps(header, separators=(",", ":")).encode()
    data += b" " * (-len(data) % 8)
    with path.open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        for tensor in weights.values():
            _append(file, whole(tensor).to(dtype or tensor.dtype))
        file.flush()
        os.fsync(file.fileno())


def _append(file: BinaryIO, tensor: torch.Tensor) -> None:
    # by way of bytes: numpy knows no bfloat16
    file.write(memoryview(tensor.contiguous().view(-1).view(torch.uint8).numpy()))
