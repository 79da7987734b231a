"""Matrices in 8, 16 or 32 bits, laid out for the processor's multiplication; activations stay float32.

A layer holds one of these in place of its weight. All know the rows of a table as well as the product, since
a tied embedding is read by row and multiplied. The kernels are FBGEMM's and oneDNN's, by way of PyTorch.
"""

import re
import warnings
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALL = 1 << 14
"""Numbers of a matrix up to which a plain one is the quickest."""
LARGEST_FLOAT16 = 65_504.0
LEVELS = 127
TINY = torch.finfo(torch.float32).tiny
STEPS = 127 if torch.cpu._is_vnni_supported() else 63
"""Of activations, to either side of zero; elsewhere the sum of two products would not fit into 16 bits."""

SINGLE = torch.backends.mkldnn.is_available()
"""Whether matrices of 32 bits can be packed."""


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest 8-bit whole numbers and a scale per row: [rows, columns] int8, [rows] float32.

    weight ≈ numbers × scales. A row's largest number becomes 127, so that zero stays zero.
    """
    wide = weight.float()
    scales = wide.abs().amax(1).clamp(min=TINY) / LEVELS
    return (wide / scales.unsqueeze(1)).round_().to(torch.int8), scales


class Int8(nn.Module):
    """8-bit weights with a scale per row; activations are quantised for every product, with a scale per row.

    A scale for all rows, as torch has it, would make a row's result depend on the others in its batch.
    """

    def __init__(self, numbers: Tensor, scales: Tensor, *, table: bool = False) -> None:
        """numbers: [rows, columns] int8. scales: [rows]. table: keep the rows for `rows`."""
        super().__init__()
        self.shape, self._scales = numbers.shape, scales.float()
        self._numbers: Tensor | None = numbers
        if not table:
            self._packed, self._numbers = self._pack(numbers), None

    @classmethod
    def of(cls, weight: Tensor, *, table: bool = False) -> "Int8":
        return cls(*quantize(weight), table=table)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ: [..., columns] -> [..., rows]."""
        largest = x.abs().amax(-1, keepdim=True).clamp_(min=TINY)
        y = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / largest, 1 / STEPS, STEPS + 1, self._packed
        )
        return y.mul_(largest)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows by number, in float32: [...] -> [..., columns]."""
        # `embedding` finds rows in a third of the time that indexing takes
        return F.embedding(ids, self._numbers) * F.embedding(ids, self._scales.unsqueeze(1))

    def pack(self) -> None:
        """Make a table ready for products too."""
        self._packed = self._pack(self._numbers)

    def _pack(self, numbers: Tensor) -> torch.ScriptObject:
        with warnings.catch_warnings():
            # PyTorch means to drop quantised tensors; this one only carries the numbers into the kernel
            warnings.simplefilter("ignore")
            zeros = torch.zeros(len(numbers), dtype=torch.long)
            tensor = torch._make_per_channel_quantized_tensor(numbers, self._scales.double(), zeros, 0)
            return torch.ops.quantized.linear_prepack(tensor, None)


def halved(weight: Tensor) -> Tensor:
    """A matrix of bfloat16 or float32 as float16; as it is where a number is too large, and other tensors.

    float16 holds what bfloat16 does, but for numbers below 6e-8, and its products with a vector are quicker.
    bfloat16 is overwritten: the result takes its memory.
    """
    if weight.dtype not in (torch.bfloat16, torch.float32) or weight.dim() < 2:
        return weight
    lowest, highest = weight.aminmax()  # an absolute value would be a second copy
    if max(-lowest, highest) > LARGEST_FLOAT16:
        return weight
    if weight.dtype == torch.float32:
        return weight.half()
    return weight.view(torch.float16).copy_(weight)  # number by number, each in its own place


class Half(nn.Module):
    """16-bit weights. float16 holds what bfloat16 does, but for numbers below 6e-8, which become zero."""

    def __init__(self, weight: Tensor, *, table: bool = False) -> None:
        """weight: [rows, columns], within ±65,504. table: keep the rows for `rows`."""
        super().__init__()
        self.shape = weight.shape
        self._table = weight if weight.dtype.itemsize == 2 else weight.half()
        if not table:
            self._packed, self._table = self._pack(weight), None

    @classmethod
    def of(cls, weight: Tensor, *, table: bool = False) -> "Half | Tensor":
        """Packed, or as float32 where a number is too large."""
        return cls(weight, table=table) if weight.abs().amax() <= LARGEST_FLOAT16 else weight.float()

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ: [..., columns] -> [..., rows]."""
        return torch.ops.quantized.linear_dynamic_fp16(x, self._packed)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows by number, in float32: [...] -> [..., columns]."""
        return F.embedding(ids, self._table).float()

    def pack(self) -> None:
        """Make a table ready for products too."""
        self._packed = self._pack(self._table)

    def _pack(self, weight: Tensor) -> torch.ScriptObject:
        return torch.ops.quantized.linear_prepack_fp16(weight.float(), None)


class Single(nn.Module):
    """float32 weights, for oneDNN: the same products as a plain matrix's, in half the time."""

    def __init__(self, weight: Tensor, *, table: bool = False) -> None:
        """weight: [rows, columns]. table: keep the rows for `rows`."""
        super().__init__()
        self.shape, self._table = weight.shape, weight
        self.register_buffer("_packed", None, persistent=False)
        if not table:
            self.pack()
            self._table = None

    @classmethod
    def of(cls, weight: Tensor, *, table: bool = False) -> "Single":
        return cls(weight.float(), table=table)

    def forward(self, x: Tensor) -> Tensor:
        """x Wᵀ: [..., columns] -> [..., rows]."""
        return _single().product(x, self._packed)

    def rows(self, ids: Tensor) -> Tensor:
        """Rows by number: [...] -> [..., columns]."""
        return F.embedding(ids, self._table)

    def pack(self) -> None:
        """Make a table ready for products too."""
        self._packed = torch.ops.mkldnn._reorder_linear_weight(self._table)


@cache
def _single() -> torch.jit.CompilationUnit:
    # in TorchScript, because a record cannot hold the operation's empty list
    return torch.jit.CompilationUnit("""
def product(x: Tensor, weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
""")


def packing(name: str, dtype: torch.dtype) -> "type[Int8] | type[Half] | type[Single]":
    """How a matrix of the network is kept on a CPU.

    Of an int8 network, the end of the feed-forward stays in 16 bits, because products of two activations have
    outliers that 8 bits do not hold.
    """
    if dtype == torch.float32:
        return Single
    return Int8 if dtype == torch.int8 and not FINE.search(name) else Half


FINE = re.compile(r"\.down\.")
"""Names of matrices that an int8 network keeps in 16 bits."""
