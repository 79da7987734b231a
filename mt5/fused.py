"""Projections that read the same input, as one matrix: fewer and larger products, the same numbers."""

from collections.abc import Sequence

from torch import Tensor, nn

from mt5.model import MT5, Attention, FeedForward
from mt5.parallel import ColumnLinear, Shard


def fuse(model: MT5) -> dict[str, tuple[str, ...]]:
    """Make one matrix of those that read the same input; for a network that has no weights yet.

    Returns the names of the new weights, each with those of which it is made, one after the other.
    """
    names = {}
    for path, module in list(model.named_modules()):
        owner, _, leaf = path.rpartition(".")
        if leaf not in FUSED or (isinstance(module, FeedForward) and module.gate is None):
            continue
        kind, whole, parts = FUSED[leaf]
        joint = _joined([getattr(module, part) for part in parts], model.shard)
        setattr(model.get_submodule(owner), leaf, kind(module, joint))
        for name, _ in joint.named_parameters():
            names[f"{path}.{whole}.{name}"] = tuple(f"{path}.{part}.{name}" for part in parts)
    return names


def _joined(layers: Sequence[ColumnLinear], shard: Shard) -> ColumnLinear:
    """A layer that does the work of several; each rank's part of it is the layers' parts for that rank."""
    columns = sum(layer.weight.shape[0] for layer in layers) * shard.size
    inputs, bias = layers[0].weight.shape[1], layers[0].bias is not None
    return ColumnLinear(inputs, columns, bias=bias, shard=shard)


class _FusedAttention(Attention):
    def __init__(self, attention: Attention) -> None:
        nn.Module.__init__(self)
        self.heads, self.score_scale = attention.heads, attention.score_scale
        self.masked_score, self.output = attention.masked_score, attention.output

    def apart(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        """Results of a joint layer, one for each layer in it: [batch, head, position, d_kv] each."""
        return x.unflatten(-1, (count, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class SelfAttention(_FusedAttention):
    """Self-attention with one matrix for queries, keys and values."""

    def __init__(self, attention: Attention, joint: ColumnLinear) -> None:
        super().__init__(attention)
        self.query_key_value = joint
        if (bias := getattr(attention, "relative_bias", None)) is not None:
            self.relative_bias = bias

    def project(self, x: Tensor) -> tuple[Tensor, ...]:
        return self.apart(self.query_key_value(x), 3)


class CrossAttention(_FusedAttention):
    """Cross-attention with one matrix for keys and values."""

    def __init__(self, attention: Attention, joint: ColumnLinear) -> None:
        super().__init__(attention)
        self.query, self.key_value = attention.query, joint

    def keys_values(self, memory: Tensor) -> tuple[Tensor, ...]:
        return self.apart(self.key_value(memory), 2)


class GatedFeedForward(FeedForward):
    """A gated feed-forward with one matrix for both halves."""

    def __init__(self, feed_forward: FeedForward, joint: ColumnLinear) -> None:
        nn.Module.__init__(self)
        self.activation, self.down = feed_forward.activation, feed_forward.down
        self.gate_up = joint

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up(x).chunk(2, -1)
        return self.down(self.activation(gate) * up)


FUSED = {
    "self_attention": (SelfAttention, "query_key_value", ("query", "key", "value")),
    "cross_attention": (CrossAttention, "key_value", ("key", "value")),
    "feed_forward": (GatedFeedForward, "gate_up", ("gate", "up")),
}
"""By the name of a module: what it becomes, the name of its joint matrix, and of what that is made."""
