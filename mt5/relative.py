"""What attention adds to its scores for how far apart query and key stand (Raffel et al. 2020, §2.1)."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mt5.config import StackConfig
from mt5.parallel import Shard


def bucket(distance: Tensor, *, bidirectional: bool, num_buckets: int, max_distance: int) -> Tensor:
    """Map key-minus-query distance to a bias row (Raffel et al. 2020, §2.1).

    distance: [query, key], in tokens. Returns the same shape, in [0, num_buckets): one row per small
    distance, then logarithmically wider ones up to max_distance. A bidirectional map gives half its
    rows to keys after the query; otherwise those keys share row 0.
    """
    first = torch.zeros_like(distance)
    if bidirectional:
        num_buckets //= 2
        first = (distance > 0) * num_buckets
        distance = distance.abs()
    else:
        distance = -distance.clamp(max=0)
    exact = num_buckets // 2
    growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    wide = (exact + growth * (num_buckets - exact)).long().clamp(max=num_buckets - 1)
    return first + torch.where(distance < exact, distance, wide)


class RelativeBias(nn.Module):
    """What every head adds to its scores for the distance between query and key; heads are cut over ranks."""

    partition: ClassVar[dict[str, int | None]] = {"weight": 1}

    def __init__(self, stack: StackConfig, *, bidirectional: bool, shard: Shard) -> None:
        super().__init__()
        self.bidirectional, self.num_buckets, self.max_distance = (
            bidirectional,
            stack.num_buckets,
            stack.max_distance,
        )
        self.weight = nn.Parameter(torch.empty(stack.num_buckets, shard.part(stack.num_heads)))

    def forward(self, queries: range, keys: int) -> Tensor:
        """queries: their positions. keys: how many, from position 0. Returns [1, head, query, key]."""
        device = self.weight.device
        distance = torch.arange(keys, device=device) - torch.arange(
            queries.start, queries.stop, device=device
        ).unsqueeze(1)
        rows = bucket(
            distance,
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        return F.embedding(rows, self.weight).permute(2, 0, 1).unsqueeze(0)
