"""Weights on their way from a file into a network: looked at lazily, joined, unfused, cut, checked."""

import math
import mmap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from mt5.checkpoint.file import File
from mt5.errors import CheckpointError
from mt5.model import MT5
from mt5.quantized import quantize

LARGE = 1 << 22
"""Bytes from which a tensor gets pages of its own."""

COMPARED = 1 << 20
"""So many numbers are compared at a time."""

LISTED = 8
"""So many names of a fault are listed before the rest is counted."""


class Lazy(Protocol):
    """A tensor that is read only where it is needed."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> torch.dtype: ...
    def read_into(self, out: Tensor, dim: int, start: int) -> None:
        """Fill `out`, which has this dtype, with the part of a dimension that begins at `start`."""
        ...


@dataclass(frozen=True)
class FileTensor:
    """Numbers that lie one after the other in a file, from byte `offset`."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    file: File
    offset: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def read_into(self, out: Tensor, dim: int, start: int) -> None:
        if out.shape == self.shape:
            dim = 0  # all of it
        row = self.nbytes // max(self.shape[0], 1)
        if not dim and out.dim() == 2 and not out.is_contiguous() and out.stride(1) == 1:
            places = list(map(memoryview, out.view(torch.uint8).numpy()))
            self.file.read_rows(places, self.offset + start * row)
            return
        if dim or not out.is_contiguous():  # its numbers are scattered: read all of them and keep a part
            rows = slice(start, start + out.shape[0]) if dim == 0 else slice(0, self.shape[0])
            part = empty((rows.stop - rows.start, *self.shape[1:]), self.dtype)
            self.read_into(part, 0, rows.start)
            out.copy_(part.narrow(dim, start, out.shape[dim]) if dim else part)
            return
        # by way of bytes: numpy and the buffer protocol know no bfloat16
        view = memoryview(out.view(-1).view(torch.uint8).numpy())
        self.file.read_into(view, self.offset + start * row)


@dataclass(frozen=True)
class StridedTensor:
    """A tensor whose numbers lie in another order than its own, such as a transposed one."""

    numbers: FileTensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.numbers.dtype

    def read_into(self, out: Tensor, dim: int, start: int) -> None:
        tensor = whole(self.numbers).as_strided(self.shape, self.stride)
        out.copy_(tensor.narrow(dim, start, out.shape[dim]))


@dataclass(frozen=True, eq=False)
class Held:
    """A tensor in memory."""

    tensor: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.tensor.shape)

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    def read_into(self, out: Tensor, dim: int, start: int) -> None:
        out.copy_(self.tensor.narrow(dim, start, out.shape[dim]))


@dataclass(frozen=True)
class Joined:
    """Shards of one tensor, one after the other along `dim`."""

    parts: tuple[Lazy, ...]
    dim: int

    @property
    def shape(self) -> tuple[int, ...]:
        first = self.parts[0].shape
        total = sum(part.shape[self.dim] for part in self.parts)
        return (*first[: self.dim], total, *first[self.dim + 1 :])

    @property
    def dtype(self) -> torch.dtype:
        return self.parts[0].dtype

    def read_into(self, out: Tensor, dim: int, start: int) -> None:
        first, stop = 0, start + out.shape[dim]
        for part in self.parts:
            last = first + part.shape[self.dim]
            if dim != self.dim:
                part.read_into(out.narrow(self.dim, first, last - first), dim, start)
            elif first < stop and start < last:
                a, b = max(first, start), min(last, stop)
                part.read_into(out.narrow(dim, a - start, b - a), dim, a - first)
            first = last


@dataclass(frozen=True)
class Unfused:
    """One of several projections whose rows lie fused by head: each head's queries, its keys, its values.

    number: which of the `count` projections.
    """

    fused: Lazy
    d_kv: int
    number: int
    count: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.fused.shape[0] // self.count, *self.fused.shape[1:])

    @property
    def dtype(self) -> torch.dtype:
        return self.fused.dtype

    def read_into(self, out: Tensor, dim: int, start: int) -> None:
        if dim:
            out.copy_(whole(self).narrow(dim, start, out.shape[dim]))
            return
        for row in range(0, out.shape[0], self.d_kv):
            fused = (start + row) * self.count + self.number * self.d_kv
            self.fused.read_into(out[row : row + self.d_kv], 0, fused)


@dataclass(frozen=True)
class Quantized:
    """A matrix stored as 8-bit whole numbers with a scale for each of its rows; read, it is float32."""

    numbers: Lazy
    scales: Lazy

    @property
    def shape(self) -> tuple[int, ...]:
        return self.numbers.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.numbers.dtype

    def read_into(self, out: Tensor, dim: int, start: int) -> None:
        stop = start + out.shape[dim]
        scales = whole(self.scales) if dim else narrow(self.scales, 0, start, stop)
        torch.mul(narrow(self.numbers, dim, start, stop), scales.unsqueeze(1), out=out)


@dataclass(frozen=True)
class Rounded:
    """What `Quantized` is stored as: of any matrix the 8-bit numbers, or with `scales` their rows' scales."""

    matrix: Lazy
    scales: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return self.matrix.shape[:1] if self.scales else self.matrix.shape

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32 if self.scales else torch.int8

    def read_into(self, out: Tensor, dim: int, start: int) -> None:
        numbers, scales = quantize(whole(self.matrix))
        out.copy_((scales if self.scales else numbers).narrow(dim, start, out.shape[dim]))


@dataclass(frozen=True)
class Cast:
    """A tensor in another dtype."""

    tensor: Lazy
    dtype: torch.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape

    def read_into(self, out: Tensor, dim: int, start: int) -> None:
        out.copy_(narrow(self.tensor, dim, start, start + out.shape[dim]))


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor without numbers; a large one on large pages where Linux has them, which are filled faster."""
    size = math.prod(shape) * dtype.itemsize
    if size < LARGE:
        return torch.empty(shape, dtype=dtype)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError, AttributeError):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)


def _read_dtype(tensor: Lazy) -> torch.dtype:
    return torch.float32 if isinstance(tensor, Quantized) else tensor.dtype


def narrow(tensor: Lazy, dim: int, start: int, stop: int) -> Tensor:
    """The part [start, stop) along a dimension."""
    out = empty((*tensor.shape[:dim], stop - start, *tensor.shape[dim + 1 :]), _read_dtype(tensor))
    tensor.read_into(out, dim, start)
    return out


def files(tensor: Lazy) -> Iterator[File]:
    """The files that a tensor is read from."""
    match tensor:
        case FileTensor(file=file):
            yield file
        case StridedTensor(numbers=numbers):
            yield numbers.file
        case Joined(parts=parts):
            for part in parts:
                yield from files(part)
        case Unfused(fused=fused):
            yield from files(fused)
        case Quantized(numbers=numbers, scales=scales):
            yield from files(numbers)
            yield from files(scales)


def check_unchanged(weights: Iterable[Lazy]) -> None:
    """CheckpointError when a file that weights are read from was written to since it was opened."""
    for file in {file for tensor in weights for file in files(tensor)}:
        file.check_unchanged()


def whole(tensor: Lazy) -> Tensor:
    return narrow(tensor, 0, 0, tensor.shape[0])


def padded(tensor: Lazy, rows: slice) -> Tensor:
    """Some rows of a tensor; those beyond its end are zero."""
    stop = min(rows.stop, tensor.shape[0])
    start = min(rows.start, stop)
    out = empty((rows.stop - rows.start, *tensor.shape[1:]), _read_dtype(tensor))
    tensor.read_into(out[: stop - start], 0, start)
    out[stop - start :] = 0
    return out


def same(one: Lazy, other: Lazy) -> bool:
    """Whether two tensors are equal, number by number; reads no more than it needs to tell."""
    if one == other:  # the same place in the same file
        return True
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    rows = max(1, COMPARED // max(1, math.prod(one.shape[1:])))
    return all(
        torch.equal(narrow(one, 0, start, stop), narrow(other, 0, start, stop))
        for start in range(0, one.shape[0], rows)
        for stop in [min(start + rows, one.shape[0])]
    )


def check(weights: Mapping[str, Lazy], model: MT5, label: str) -> None:
    """Raise one CheckpointError for all weights that are missing, unexpected or of the wrong shape."""
    partition, size = model.partition(), model.shard.size
    expected = {}
    for name, parameter in model.named_parameters():
        shape, dim = list(parameter.shape), partition[name]
        if dim is not None:
            shape[dim] *= size
        expected[name] = tuple(shape)
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    wrong = [
        f"{name} is {list(weights[name].shape)}, expected {list(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    faults = [
        f"{len(names)} weights {what} ({listed(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", wrong))
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{label}: {'; '.join(faults)}. Do the weights belong to this configuration, and are they whole?"
        )


def listed(names: Sequence[str]) -> str:
    rest = len(names) - LISTED
    return ", ".join(names[:LISTED]) + (f" and {rest} more" if rest > 0 else "")


def mapped(tensor: Lazy, dim: int, start: int, stop: int) -> Tensor | None:
    """The part [start, stop) along a dimension as a view of its file's pages, which are not copied.

    None where the part does not lie there in one piece. Whoever shortens the file kills who looks at it.
    """
    match tensor:
        case FileTensor() if (dim, start, stop) == (dim, 0, tensor.shape[dim]) or dim == 0:
            first, rows = (start, stop - start) if dim == 0 else (0, tensor.shape[0])
            row = tensor.nbytes // max(tensor.shape[0], 1)
            return tensor.file.mapped(tensor.offset + first * row, (rows, *tensor.shape[1:]), tensor.dtype)
        case Joined() if dim == tensor.dim:
            first = 0
            for part in tensor.parts:
                if first <= start and stop <= first + part.shape[dim]:
                    return mapped(part, dim, start - first, stop - first)
                first += part.shape[dim]
    return None
