"""Layers cut over tensor-parallel ranks, after Megatron-LM (Shoeybi et al. 2019).

A layer is built for one `Shard` and holds only that rank's part of its weights. With the default
shard, of size one, every layer is the ordinary one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Protocol

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
        dist.all_gather_single(parts, x.contiguous().unsqueeze(0), group=self.group)
        return parts


BLOCK = 256
"""Rows of a weight that are converted at a time: they stay in a core's cache."""
TALL, SLICE = 8192, 1024
"""From so many rows on, a float32 matrix is multiplied in slices, which is quicker on a CPU."""


class Packed(Protocol):
    """A matrix in another form than a tensor's, see quantized.py."""

    shape: torch.Size

    def __call__(self, x: Tensor) -> Tensor: ...
    def rows(self, ids: Tensor) -> Tensor: ...


def product(x: Tensor, weight: "Tensor | Packed") -> Tensor:
    """x Wᵀ, in the dtype of x: [..., inputs], [outputs, inputs] -> [..., outputs].

    A processor without bfloat16 units multiplies float32 several times as fast, so the weight is converted
    on the way, a block at a time: no whole copy of it is ever made. A single row goes by another kernel,
    which does the same within its registers.
    """
    if not isinstance(weight, Tensor):
        return weight(x)
    if weight.requires_grad:  # in training, where autocast gives activations another dtype
        return F.linear(x, weight.to(x.dtype))
    cpu = x.device.type == "cpu"
    if cpu and (weight.dtype, x.dtype) == (torch.float16, torch.float32) and x.numel() == x.shape[-1]:
        return _scaled_product(x, weight)
    slow = cpu and x.dtype == torch.bfloat16 and not _bfloat16_units()
    if weight.dtype == x.dtype and not (slow and x.numel() > x.shape[-1]):
        tall = weight.shape[0] >= TALL and x.dtype == torch.float32 and cpu
        return _in_slices(x, weight) if tall else F.linear(x, weight)
    wide = x.float() if slow else x
    blocks = [F.linear(wide, block.to(wide.dtype)) for block in weight.split(BLOCK)]
    return torch.cat(blocks, -1).to(x.dtype)


def _scaled_product(x: Tensor, weight: Tensor) -> Tensor:
    """The product of one row, which becomes float16 too, after its largest number has been made 1."""
    scale = x.abs().amax().clamp(min=torch.finfo(torch.float32).tiny)
    return F.linear((x / scale).half(), weight).float() * scale


def _in_slices(x: Tensor, weight: Tensor) -> Tensor:
    count = weight.shape[0] // SLICE
    rows = x.reshape(-1, x.shape[-1])
    slices = torch.matmul(rows, weight[: count * SLICE].view(count, SLICE, -1).mT)  # [slice, row, output]
    rest = F.linear(rows, weight[count * SLICE :])
    return torch.cat([slices.transpose(0, 1).flatten(1), rest], 1).view(*x.shape[:-1], -1)


@cache
def _bfloat16_units() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class ColumnLinear(nn.Module):
    """x Wᵀ + b with W cut by output feature: every rank makes its own columns of the result."""

    partition: ClassVar[dict[str, int | None]] = {"weight": 0, "bias": 0}

    def __init__(self, inputs: int, outputs: int, *, bias: bool, shard: Shard) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(shard.part(outputs), inputs))
        self.bias = nn.Parameter(torch.empty(shard.part(outputs))) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        y = product(x, self.weight)
        return y if self.bias is None else y + self.bias.to(x.dtype)


class RowLinear(nn.Module):
    """x Wᵀ + b with W cut by input feature: every rank holds a summand of the result; one all-reduce."""

    partition: ClassVar[dict[str, int | None]] = {"weight": 1, "bias": None}

    def __init__(self, inputs: int, outputs: int, *, bias: bool, shard: Shard) -> None:
        super().__init__()
        self.shard = shard
        self.weight = nn.Parameter(torch.empty(outputs, shard.part(inputs)))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        total = self.shard.sum(product(x, self.weight))
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
            return self.read(ids)
        local = ids - self.shard.span(self.rows).start
        absent = (local < 0) | (local >= self.weight.shape[0])
        rows = self.read(local.masked_fill(absent, 0))
        return self.shard.sum(rows.masked_fill(absent.unsqueeze(-1), 0))

    def read(self, local: Tensor) -> Tensor:
        """Rows by their number on this rank."""
        return F.embedding(local, self.weight) if isinstance(self.weight, Tensor) else self.weight.rows(local)


AT_ONCE = 1 << 24
"""Logits that are normalised at a time: 64 MB."""
GROUP, MANY = 128, 1 << 16
"""Columns of which only the best is looked at first, where there are many scores."""


def largest(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of [..., columns] and their columns, largest first: `topk`, several times as fast.

    The k largest lie in the k groups of columns with the largest maxima.
    """
    columns = scores.shape[-1]
    if k == 1 and scores.numel() < MANY:
        return scores.max(-1, keepdim=True)
    count = columns // GROUP
    if count <= 4 * k or scores.numel() < MANY:
        return scores.topk(k, -1)
    groups = scores[..., : count * GROUP].unflatten(-1, (count, GROUP))
    best = groups.amax(-1).topk(k, -1).indices.sort(-1).values  # [..., k]; equal scores stay in order
    within = (best.unsqueeze(-1) * GROUP + torch.arange(GROUP, device=best.device)).flatten(-2)
    rest = torch.arange(count * GROUP, columns, device=best.device).expand(*best.shape[:-1], -1)
    candidates = torch.cat([within, rest], -1)
    values, place = scores.gather(-1, candidates).topk(k, -1)
    return values, candidates.gather(-1, place)


def log_sum_exp(logits: Tensor) -> Tensor:
    """log Σ exp of [..., columns]: [..., 1], in half the time of `logsumexp`; NaN where all are -inf."""
    # the largest value of log_softmax is -log Σ exp(logit - highest)
    return logits.amax(-1, keepdim=True) - logits.log_softmax(-1).amax(-1, keepdim=True)


class VocabularyLogProbs:
    """Log-probabilities over a vocabulary of which this rank holds `logits`, a slice of the columns.

    No rank ever sees the others' logits: log-sum-exp and best candidates are combined from a few
    numbers per rank. All results are the same on every rank, in float32.
    """

    def __init__(
        self, logits: Tensor, *, vocab_size: int, shard: Shard, local_normaliser: Tensor | None = None
    ) -> None:
        """logits: [..., columns of this rank]; ids from vocab_size on are padding, of probability zero.

        local_normaliser: log Σ exp of these logits without the padding, [..., 1], where it is known.
        """
        self.shard, self.vocab_size, self.columns = shard, vocab_size, logits.shape[-1]
        self.first = shard.rank * self.columns
        self.logits = logits.float()
        padding = min(max(self.first + self.columns - vocab_size, 0), self.columns)
        if padding:
            self.logits = F.pad(self.logits[..., : self.columns - padding], (0, padding), value=-torch.inf)
        self._local_normaliser = local_normaliser
        self._normaliser: Tensor | None = None

    @property
    def local_normaliser(self) -> Tensor:
        """log Σ exp over this rank's columns: [..., 1]."""
        if self._local_normaliser is None:
            # some rows at a time, so that no second tensor of the size of very many logits is made
            parts = self.logits.flatten(0, -2).split(max(1, AT_ONCE // self.columns))
            found = torch.cat([log_sum_exp(part) for part in parts]).view(*self.logits.shape[:-1], 1)
            if self.shard.size > 1:  # a rank's columns may all be padding
                found = found.masked_fill(self.logits.amax(-1, keepdim=True) == -torch.inf, -torch.inf)
            self._local_normaliser = found
        return self._local_normaliser

    @property
    def normaliser(self) -> Tensor:
        """log Σ exp over the whole vocabulary: [..., 1]."""
        if self._normaliser is None:
            own = self.local_normaliser
            self._normaliser = own if self.shard.size == 1 else torch.logsumexp(self.shard.gather(own), 0)
        return self._normaliser

    def at(self, ids: Tensor) -> Tensor:
        """Log-probability of one id per position: [...] -> [...]."""
        ids = ids.to(self.logits.device)
        local = ids - self.first
        absent = (local < 0) | (local >= self.columns)
        logits = self.logits.gather(-1, local.masked_fill(absent, 0).unsqueeze(-1)).squeeze(-1)
        return self.shard.sum(logits.masked_fill(absent, 0)) - self.normaliser.squeeze(-1)

    def rank(self, ids: Tensor) -> Tensor:
        """Rank of one id per position, 1 for the likeliest: [...] -> [...]."""
        own = self.at(ids).unsqueeze(-1) + self.normaliser
        # `own` went through a subtraction and an addition, so the id's own column must not count
        column = torch.arange(self.first, self.first + self.columns, device=ids.device)
        likelier = (self.logits > own) & (column != ids.unsqueeze(-1))
        return 1 + self.shard.sum(likelier.sum(-1))

    def forbid(self, ids: Tensor, rows: Tensor | None = None) -> None:
        """Hide `ids` from `top` and `sample` in these rows of [rows, columns], in all by default.

        The probabilities of the others stay what they were: nothing is normalised again.
        """
        self._local_normaliser = self.local_normaliser  # before they are hidden
        local = ids.to(self.logits.device)
        if self.shard.size > 1:
            local = local[(local >= self.first) & (local < self.first + self.columns)] - self.first
        if rows is None:
            self.logits.index_fill_(1, local, -torch.inf)
        else:
            self.logits[rows.unsqueeze(1), local] = -torch.inf

    def top(self, k: int, *, scores: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The k best ids and their log-probabilities, best first: two tensors [..., k].

        scores: [..., columns], what "best" means on this rank's columns; the log-probability by default.
        One collective, whatever k is.
        """
        scores = self.logits if scores is None else scores
        width = min(k, self.columns)
        best, column = largest(scores, width)
        logits = best if scores is self.logits else self.logits.gather(-1, column)
        if self.shard.size == 1:
            return column, logits - self.normaliser
        # float64 carries an id of any vocabulary exactly
        message = torch.cat(
            [part.double() for part in (self.local_normaliser, best, logits, column + self.first)], -1
        )
        parts = self.shard.gather(message)
        self._normaliser = torch.logsumexp(parts[..., :1], 0).to(self.logits.dtype)
        best, logits, ids = (torch.cat(part.unbind(0), -1) for part in parts[..., 1:].split(width, -1))
        order = best.sort(dim=-1, descending=True, stable=True).indices[..., :k]
        return ids.gather(-1, order).long(), logits.gather(-1, order).float() - self._normaliser

    def sample(
        self, *, temperature: float, top_k: int, top_p: float, generators: Sequence[torch.Generator | None]
    ) -> tuple[Tensor, Tensor]:
        """Draw one id per row of [rows, columns]; returns the ids and their log-probabilities, [rows] each.

        The draw is from softmax(log p / temperature), cut to the top_k likeliest ids (0 keeps all) and then
        to the smallest set that holds the probability top_p (Holtzman et al. 2020); the log-probability
        is that before temperature and cuts. Gumbel noise makes the draw a maximum, which ranks can share.
        generators: one per row, None for a row that needs no draw.
        """
        tempered = VocabularyLogProbs(self.logits / temperature, vocab_size=self.vocab_size, shard=self.shard)
        if top_k:
            kept = tempered.top(top_k)[1][..., -1:] + tempered.normaliser
            tempered = tempered._at_least(kept - 1e-6)
        if top_p < 1:
            tempered = tempered._at_least(tempered._nucleus(top_p))
        uniform = torch.full((len(generators), self.shard.size * self.columns), 0.5)
        for row, generator in zip(uniform, generators, strict=True):
            if generator is not None:
                torch.rand(row.shape, generator=generator, out=row)
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        scores = tempered.logits + noise[:, self.first : self.first + self.columns].to(self.logits.device)
        ids, log_probs = self.top(1, scores=scores)
        return ids.squeeze(-1), log_probs.squeeze(-1)

    def _at_least(self, logit: Tensor) -> "VocabularyLogProbs":
        logits = self.logits.masked_fill(self.logits < logit, -torch.inf)
        return VocabularyLogProbs(logits, vocab_size=self.vocab_size, shard=self.shard)

    def _nucleus(self, top_p: float) -> Tensor:
        """The logit of the unlikeliest id of the smallest likeliest set of probability top_p: [rows, 1].

        Found by bisection, since no rank can sort the whole vocabulary.
        """
        probabilities = (self.logits - self.normaliser).exp()
        high = self.top(1)[1] + self.normaliser
        low = high - 100.0
        for _ in range(40):
            middle = (low + high) / 2
            mass = self.shard.sum((probabilities * (self.logits >= middle)).sum(-1, keepdim=True))
            enough = mass >= top_p
            low, high = torch.where(enough, middle, low), torch.where(enough, high, middle)
        return low
