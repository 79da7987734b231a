"""Layers cut over tensor-parallel ranks, after Megatron-LM (Shoeybi et al. 2019).

A layer is built for one `Shard` and holds only that rank's part of its weights. With the default
shard, of size one, every layer is the ordinary one.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class Shard:
    """One rank among `size`; `group` is the process group they talk through, None for the default one."""

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    def part(self, total: int) -> int:
        """How many of `total` rows, columns or heads one rank holds. ValueError when they do not divide."""
        if total % self.size:
            raise ValueError(f"{total} does not divide over {self.size} ranks")
        return total // self.size

    def span(self, total: int) -> slice:
        """Which of `total` rows, columns or heads this rank holds."""
        part = self.part(total)
        return slice(self.rank * part, (self.rank + 1) * part)

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every rank's `x`, in place."""
        if self.size > 1:
            dist.all_reduce(x, group=self.group)
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Every rank's `x`, stacked in the order of the ranks: [size, *x.shape]."""
        if self.size == 1:
            return x.unsqueeze(0)
        parts = x.new_empty(self.size, *x.shape)
        dist.all_gather_into_tensor(parts, x.contiguous().unsqueeze(0), group=self.group)
        return parts


class ColumnLinear(nn.Module):
    """x Wᵀ + b with W cut by output feature: every rank makes its own columns of the result."""

    partition: ClassVar[dict[str, int | None]] = {"weight": 0, "bias": 0}

    def __init__(self, inputs: int, outputs: int, *, bias: bool, shard: Shard) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shard.part(outputs), inputs))
        self.bias = nn.Parameter(torch.empty(shard.part(outputs))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class RowLinear(nn.Module):
    """x Wᵀ + b with W cut by input feature: every rank holds a summand of the result; one all-reduce."""

    partition: ClassVar[dict[str, int | None]] = {"weight": 1, "bias": None}

    def __init__(self, inputs: int, outputs: int, *, bias: bool, shard: Shard) -> None:
        super().__init__()
        self.shard = shard
        self.weight = nn.Parameter(torch.empty(outputs, shard.part(inputs)))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        total = self.shard.sum(F.linear(x, self.weight.to(x.dtype)))
        # after the all-reduce; inside it, every rank would add the bias once
        return total if self.bias is None else total + self.bias.to(x.dtype)


class VocabularyEmbedding(nn.Module):
    """Rows of a table by id, the table cut by rows; one all-reduce."""

    partition: ClassVar[dict[str, int | None]] = {"weight": 0}

    def __init__(self, rows: int, d_model: int, *, shard: Shard) -> None:
        super().__init__()
        self.shard, self.rows = shard, rows
        self.weight = nn.Parameter(torch.empty(shard.part(rows), d_model))

    def forward(self, ids: Tensor) -> Tensor:
        if self.shard.size == 1:
            return F.embedding(ids, self.weight)
        local = ids - self.shard.span(self.rows).start
        absent = (local < 0) | (local >= self.weight.shape[0])
        rows = F.embedding(local.masked_fill(absent, 0), self.weight)
        return self.shard.sum(rows.masked_fill(absent.unsqueeze(-1), 0))


class VocabularyLogProbs:
    """Log-probabilities over a vocabulary of which this rank holds `logits`, a slice of the columns.

    No rank ever sees the others' logits: log-sum-exp and best candidates are combined from a few
    numbers per rank. All results are the same on every rank, in float32.
    """

    def __init__(self, logits: Tensor, *, vocab_size: int, shard: Shard) -> None:
        """logits: [..., columns of this rank]; columns at or above vocab_size are padding, of probability zero."""
        self.shard, self.vocab_size = shard, vocab_size
        columns = logits.shape[-1]
        self.first = shard.rank * columns
        logits = logits.float()
        padding = self.first + columns - vocab_size
        if padding > 0:
            logits = logits.clone() if logits.requires_grad else logits
            logits[..., max(columns - padding, 0) :] = -torch.inf
        self.logits = logits
        self._normaliser: Tensor | None = None

    @property
    def normaliser(self) -> Tensor:
        """log Σ exp over the whole vocabulary: [..., 1]."""
        if self._normaliser is None:
            local = torch.logsumexp(self.logits, -1, keepdim=True)
            self._normaliser = torch.logsumexp(self.shard.gather(local), 0)
        return self._normaliser

    @property
    def local(self) -> Tensor:
        """Log-probabilities of this rank's columns: [..., columns]."""
        return self.logits - self.normaliser

    def at(self, ids: Tensor) -> Tensor:
        """Log-probability of one id per position: [...] -> [...]."""
        local = ids - self.first
        absent = (local < 0) | (local >= self.logits.shape[-1])
        found = self.logits.gather(-1, local.masked_fill(absent, 0).unsqueeze(-1)).squeeze(-1)
        return self.shard.sum(found.masked_fill(absent, 0)) - self.normaliser.squeeze(-1)

    def rank(self, ids: Tensor) -> Tensor:
        """Rank of one id per position, 1 for the likeliest: [...] -> [...]."""
        own = self.at(ids).unsqueeze(-1) + self.normaliser
        # `own` went through a subtraction and an addition, so the id itself is left out by its column
        column = torch.arange(self.first, self.first + self.logits.shape[-1], device=ids.device)
        likelier = (self.logits > own) & (column != ids.unsqueeze(-1))
        return 1 + self.shard.sum(likelier.sum(-1))

    def top(self, k: int, *, scores: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k best ids and their log-probabilities, best first: two tensors [..., k].

        scores: [..., columns], what "best" means on this rank's columns; the log-probability by default.
        One collective, whatever k is.
        """
        scores = self.logits if scores is None else scores
        width = min(k, scores.shape[-1])
        best, column = scores.topk(width, -1)
        if self.shard.size == 1:
            return column, self.logits.gather(-1, column) - self.normaliser
        local = torch.logsumexp(self.logits, -1, keepdim=True)
        message = torch.cat(
            [local.double(), best.double(), self.logits.gather(-1, column).double(), (column + self.first).double()], -1
        )
        parts = self.shard.gather(message)
        self._normaliser = torch.logsumexp(parts[..., :1], 0).to(self.logits.dtype)
        best, logits, ids = (torch.cat(part.unbind(0), -1) for part in parts[..., 1:].split(width, -1))
        order = best.sort(-1, descending=True, stable=True).indices[..., :k]
        return ids.gather(-1, order).long(), logits.gather(-1, order).to(self.logits.dtype) - self._normaliser
