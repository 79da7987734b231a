"""Weights on their way from a file into a network: looked at lazily, joined, unfused, cut, checked."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from mt5.checkpoint.file import File
from mt5.errors import CheckpointError
from mt5.model import MT5

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
    def narrow(self, dim: int, start: int, stop: int) -> Tensor:
        """The part [start, stop) along a dimension."""
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

    def narrow(self, dim: int, start: int, stop: int) -> Tensor:
        if dim:  # its rows are scattered: read all of it and keep a part
            return self.narrow(0, 0, self.shape[0]).narrow(dim, start, stop - start).contiguous()
        out = torch.empty(stop - start, *self.shape[1:], dtype=self.dtype)
        row = out.nbytes // max(stop - start, 1)
        # by way of bytes: numpy and the buffer protocol know no bfloat16
        view = memoryview(out.view(-1).view(torch.uint8).numpy())
        self.file.read_into(view, self.offset + start * row)
        return out


@dataclass(frozen=True)
class StridedTensor:
    """A tensor whose numbers lie in another order than its own, such as a transposed one."""

    numbers: FileTensor
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.numbers.dtype

    def narrow(self, dim: int, start: int, stop: int) -> Tensor:
        tensor = whole(self.numbers).as_strided(self.shape, self.stride)
        return tensor.narrow(dim, start, stop - start).contiguous()


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

    def narrow(self, dim: int, start: int, stop: int) -> Tensor:
        return self.tensor.narrow(dim, start, stop - start).clone()


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

    def narrow(self, dim: int, start: int, stop: int) -> Tensor:
        if dim != self.dim:
            return torch.cat([part.narrow(dim, start, stop) for part in self.parts], self.dim)
        found, first = [], 0
        for part in self.parts:
            last = first + part.shape[dim]
            if first < stop and start < last:
                found.append(part.narrow(dim, max(start - first, 0), min(stop, last) - first))
            first = last
        return found[0] if len(found) == 1 else torch.cat(found, dim)


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

    def narrow(self, dim: int, start: int, stop: int) -> Tensor:
        if dim:
            return self.narrow(0, 0, self.shape[0]).narrow(dim, start, stop - start).contiguous()
        rows = self.fused.narrow(0, start * self.count, stop * self.count)
        return rows.unflatten(0, (-1, self.count, self.d_kv))[:, self.number].flatten(0, 1).contiguous()


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


def check_unchanged(weights: Iterable[Lazy]) -> None:
    """CheckpointError when a file that weights are read from was written to since it was opened."""
    for file in {file for tensor in weights for file in files(tensor)}:
        file.check_unchanged()


def whole(tensor: Lazy) -> Tensor:
    return tensor.narrow(0, 0, tensor.shape[0])


def padded(tensor: Lazy, rows: slice) -> Tensor:
    """Some rows of a tensor; those beyond its end are zero."""
    stop = min(rows.stop, tensor.shape[0])
    start = min(rows.start, stop)
    part = tensor.narrow(0, start, stop)
    missing = rows.stop - rows.start - len(part)
    return torch.cat([part, part.new_zeros(missing, *tensor.shape[1:])]) if missing else part


def same(one: Lazy, other: Lazy) -> bool:
    """Whether two tensors are equal, number by number; reads no more than it needs to tell."""
    if one == other:  # the same place in the same file
        return True
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    rows = max(1, COMPARED // max(1, math.prod(one.shape[1:])))
    return all(
        torch.equal(one.narrow(0, start, stop), other.narrow(0, start, stop))
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


@torch.no_grad()
def load(weights: Mapping[str, Lazy], model: MT5, *, dtype: torch.dtype, device: torch.device) -> MT5:
    """Fill a network that was built on the meta device with this rank's part of the weights.

    Norms stay in float32 beside float16 weights, because then activations are float32.
    """
    partition, shard = model.partition(), model.shard
    norms = {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if isinstance(module, nn.RMSNorm | nn.LayerNorm)
        for name, _ in module.named_parameters()
    }
    for name, parameter in list(model.named_parameters()):
        tensor, dim = weights[name], partition[name]
        if dim is None:
            cut = whole(tensor)
        elif dim == 0:
            # a vocabulary that does not divide over the ranks gets more rows than are stored
            cut = padded(tensor, shard.span(parameter.shape[0] * shard.size))
        else:
            span = shard.span(tensor.shape[dim])
            cut = tensor.narrow(dim, span.start, span.stop)
        kept = torch.float32 if dtype == torch.float16 and name in norms else dtype
        path, _, leaf = name.rpartition(".")
        module = model.get_submodule(path)
        setattr(module, leaf, nn.Parameter(cut.to(device=device, dtype=kept), requires_grad=False))
    return model
