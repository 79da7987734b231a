"""mT5: an encoder and a decoder of pre-norm transformer layers (Vaswani et al. 2017; Raffel et al. 2020;
Xue et al. 2021), with the switches by which NeMo Megatron's variant differs."""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mt5.cache import Cache
from mt5.config import ModelConfig, StackConfig
from mt5.parallel import (
    ColumnLinear,
    RowLinear,
    Shard,
    VocabularyEmbedding,
    VocabularyLogProbs,
    product,
)
from mt5.relative import RelativeBias


class RMSNorm(nn.RMSNorm):
    """x / √(mean x² + ε) · weight (Zhang and Sennrich 2019), in half the time of PyTorch's on a CPU."""

    def forward(self, x: Tensor) -> Tensor:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.addcmul(self.epsilon, length, length, value=1 / self.normalized_shape[0]).rsqrt()
        y = x * scale * self.weight
        return y if y.dtype == x.dtype else y.to(x.dtype)

    @cached_property
    def epsilon(self) -> Tensor:
        return torch.tensor(self.eps, device=self.weight.device)


def gelu_tanh(x: Tensor) -> Tensor:
    """x/2 · (1 + tanh(√(2/π) (x + 0.044715 x³))) (Hendrycks and Gimpel 2016).

    Written as x · σ(2 √(2/π) (x + 0.044715 x³)), the same function in half the time on a CPU.
    """
    if x.dtype != torch.float32 or x.device.type != "cpu" or x.requires_grad:
        return F.gelu(x, approximate="tanh")
    slope = torch.addcmul(GELU_SLOPE, x, x, value=GELU_CUBE)
    return slope.mul_(x).sigmoid_().mul_(x)


GELU_SLOPE = torch.tensor(math.sqrt(8 / math.pi))
GELU_CUBE = 0.044715 * math.sqrt(8 / math.pi)

NORMS = {"rms": RMSNorm, "layer": nn.LayerNorm}
ACTIVATIONS = {
    "gelu_tanh": gelu_tanh,
    "gelu": F.gelu,
    "relu": F.relu,
    "silu": F.silu,
}


class Attention(nn.Module):
    """Multi-head attention of `x` over keys and values made from `memory`."""

    def __init__(self, config: ModelConfig, stack: StackConfig, shard: Shard) -> None:
        super().__init__()
        self.heads = shard.part(stack.num_heads)
        self.score_scale, self.masked_score = stack.score_scale, config.masked_score
        width, bias = stack.num_heads * stack.d_kv, stack.linear_bias
        self.query = ColumnLinear(config.d_model, width, bias=bias, shard=shard)
        self.key = ColumnLinear(config.d_model, width, bias=bias, shard=shard)
        self.value = ColumnLinear(config.d_model, width, bias=bias, shard=shard)
        self.output = RowLinear(width, config.d_model, bias=bias, shard=shard)

    def split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [batch, head, position, d_kv]

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of x: [batch, head, position, d_kv] each."""
        return self.split(self.query(x)), *self.keys_values(x)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        return self.split(self.key(memory)), self.split(self.value(memory))

    def forward(
        self, x: Tensor, keys: Tensor, values: Tensor, keep: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """x: [batch, query, d_model]. keys, values: [batch, head, key, d_kv].

        keep: [batch or 1, 1, query or 1, key], False where a key is masked; None keeps all.
        bias: [1, head, query, key] or None. Returns [batch, query, d_model].
        """
        return self.attend(self.split(self.query(x)), keys, values, keep, bias)

    def attend(
        self, q: Tensor, keys: Tensor, values: Tensor, keep: Tensor | None, bias: Tensor | None
    ) -> Tensor:
        """The same of queries, [batch, head, query, d_kv]."""
        weights = self.weights(q, keys, keep, bias)
        mixed = (weights if weights.dtype == values.dtype else weights.to(values.dtype)) @ values
        return self.output(mixed.transpose(1, 2).flatten(2))

    def weights(self, q: Tensor, keys: Tensor, keep: Tensor | None, bias: Tensor | None) -> Tensor:
        """Softmax of the scores, in float32: [batch, head, query, key]."""
        # in float32, because the products of half-precision numbers need not fit
        scores = (q @ keys.transpose(-1, -2)).float()
        if self.score_scale != 1:
            scores = scores * self.score_scale
        if bias is not None:
            scores = scores + bias
        if keep is not None:
            # replaced, not added to: a query that may see nothing attends to everything alike
            scores = torch.where(keep, scores, self.masked_score)
        return scores.softmax(-1)


class FeedForward(nn.Module):
    """down(act(gate(x)) * up(x)), or down(act(up(x))) when not gated."""

    def __init__(self, config: ModelConfig, stack: StackConfig, shard: Shard) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[stack.activation]
        bias = stack.linear_bias
        self.gate = ColumnLinear(config.d_model, stack.d_ff, bias=bias, shard=shard) if stack.gated else None
        self.up = ColumnLinear(config.d_model, stack.d_ff, bias=bias, shard=shard)
        self.down = RowLinear(stack.d_ff, config.d_model, bias=bias, shard=shard)

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is None:
            return self.down(self.activation(self.up(x)))
        return self.down(self.activation(self.gate(x)) * self.up(x))


class Layer(nn.Module):
    """Self-attention, in the decoder cross-attention, feed-forward; each x + f(norm(x))."""

    def __init__(
        self, config: ModelConfig, stack: StackConfig, number: int, shard: Shard, *, decoder: bool
    ) -> None:
        super().__init__()
        norm = NORMS[stack.norm]
        self.bias_factor = number if stack.relative_bias_times_layer else 1
        self.self_attention_norm = norm(config.d_model, eps=stack.norm_eps)
        self.self_attention = Attention(config, stack, shard)
        if stack.positions == "relative" and stack.relative_bias_per_layer:
            self.self_attention.relative_bias = RelativeBias(stack, bidirectional=not decoder, shard=shard)
        if decoder:
            self.cross_attention_norm = norm(config.d_model, eps=stack.norm_eps)
            self.cross_attention = Attention(config, stack, shard)
        self.feed_forward_norm = norm(config.d_model, eps=stack.norm_eps)
        self.feed_forward = FeedForward(config, stack, shard)


class Stack(nn.Module):
    """The layers of encoder or decoder, with what they share."""

    def __init__(self, config: ModelConfig, stack: StackConfig, shard: Shard, *, decoder: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Layer(config, stack, number, shard, decoder=decoder) for number in range(1, stack.num_layers + 1)
        )
        self.final_norm = NORMS[stack.norm](config.d_model, eps=stack.norm_eps)
        shared_bias = stack.positions == "relative" and not stack.relative_bias_per_layer
        self.relative_bias = (
            RelativeBias(stack, bidirectional=not decoder, shard=shard) if shared_bias else None
        )

    def biases(self, queries: range, keys: int) -> list[Tensor | None]:
        """What each layer adds to its self-attention scores: [1, head, query, key] each."""
        if self.relative_bias is not None:
            bias = self.relative_bias(queries, keys)
            return [bias * layer.bias_factor if layer.bias_factor != 1 else bias for layer in self.layers]
        tables = [getattr(layer.self_attention, "relative_bias", None) for layer in self.layers]
        return [
            None if table is None else table(queries, keys) * layer.bias_factor
            for table, layer in zip(tables, self.layers, strict=True)
        ]


class MT5(nn.Module):
    """The whole network, or one rank's part of it.

    Its weights are left uninitialised: load a checkpoint or call `reset_parameters`.
    """

    def __init__(self, config: ModelConfig, shard: Shard = Shard()) -> None:
        super().__init__()
        self.config, self.shard = config, shard
        self.embedding = VocabularyEmbedding(config.padded_vocab_size, config.d_model, shard=shard)
        self.decoder_embedding = (
            None
            if config.shared_embeddings
            else VocabularyEmbedding(config.padded_vocab_size, config.d_model, shard=shard)
        )
        self.positions = _position_table(config)
        self.decoder_positions = None if config.shared_embeddings else _position_table(config)
        self.encoder = Stack(config, config.encoder, shard, decoder=False)
        self.decoder = Stack(config, config.decoder, shard, decoder=True)
        self.head = Head(config, shard)

    def encode(self, source: Tensor, source_mask: Tensor | None = None) -> Tensor:
        """source: ids [batch, source]. source_mask: bool, same shape, False on padding; None keeps all.

        Returns the memory, [batch, source, d_model].
        """
        keep = None
        if source_mask is not None:
            keep = source_mask[:, None, None, :]  # [batch, 1, 1, key]
            if self.config.pad_masks_target:
                keep = keep & source_mask[:, None, :, None]
        return self.encoded(source, keep, self.encoder.biases(range(source.shape[1]), source.shape[1]))

    def encoded(self, source: Tensor, keep: Tensor | None, biases: Sequence[Tensor | None]) -> Tensor:
        """The same, given what each layer's attention takes."""
        x = self._embed(self.embedding, self.positions, source, slice(0, source.shape[1]))
        for layer, bias in zip(self.encoder.layers, biases, strict=True):
            attention = layer.self_attention
            x = x + attention.attend(*attention.project(layer.self_attention_norm(x)), keep, bias)
            x = x + layer.feed_forward(layer.feed_forward_norm(x))
        return self.encoder.final_norm(x)

    def start(self, memory: Tensor, source_mask: Tensor | None = None) -> Cache:
        """A cache for decoding over `memory`, [batch, source, d_model]: its keys and values, made once."""
        pairs = [layer.cross_attention.keys_values(memory) for layer in self.decoder.layers]
        return Cache([(k.contiguous(), v.contiguous()) for k, v in pairs], source_mask)

    def decode(self, target: Tensor, cache: Cache, attended: list[Tensor] | None = None) -> Tensor:
        """Run the decoder over new target ids, [batch, new], that follow those already in the cache.

        attended: a list to which the cross-attention weights of every layer are added, the mean of this
        rank's heads, [batch, new, source]. Returns the hidden states of the new positions,
        [batch, new, d_model].
        """
        places = slice(cache.length, cache.length + target.shape[1])
        keep, memory_keep = self._keep(target, cache)
        biases = cache.biases(self.decoder.biases, places.stop)
        pairs = cache.memory_keys_values
        hidden = self.decoded(target, places, cache.append, pairs, keep, memory_keep, biases, attended)
        cache.length = places.stop
        return hidden

    def decoded(
        self,
        target: Tensor,
        places: slice | Tensor,
        append: Callable[[int, Tensor, Tensor], tuple[Tensor, ...]],
        memory_keys_values: Iterable[tuple[Tensor, ...]],
        keep: Tensor | None,
        memory_keep: Tensor | None,
        biases: Sequence[Tensor | None],
        attended: list[Tensor] | None = None,
    ) -> Tensor:
        """The same, given what each layer's attention takes. places: positions of the new ids.

        append: takes a layer's number and the new positions' keys and values; returns those of all positions.
        """
        table, positions = self.decoder_embedding or self.embedding, self.decoder_positions or self.positions
        x = self._embed(table, positions, target, places)
        layers = zip(self.decoder.layers, memory_keys_values, biases, strict=True)
        for number, (layer, (memory_keys, memory_values), bias) in enumerate(layers):
            q, keys, values = layer.self_attention.project(layer.self_attention_norm(x))
            x = x + layer.self_attention.attend(q, *append(number, keys, values), keep, bias)
            attention = layer.cross_attention
            q = attention.split(attention.query(layer.cross_attention_norm(x)))
            if attended is not None:
                attended.append(attention.weights(q, memory_keys, memory_keep, None).mean(1))
            x = x + attention.attend(q, memory_keys, memory_values, memory_keep, None)
            x = x + layer.feed_forward(layer.feed_forward_norm(x))
        return self.decoder.final_norm(x)

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden: [..., d_model]. Returns [..., this rank's columns of the padded vocabulary]."""
        # a tied head is the encoder's embedding, also in a network that gives the decoder one of its own
        return self.head(hidden * self.config.head_scale, self.embedding.weight)

    def log_probs(self, hidden: Tensor) -> VocabularyLogProbs:
        """The distribution of the token after each hidden state, [..., d_model]."""
        return VocabularyLogProbs(self.logits(hidden), vocab_size=self.config.vocab_size, shard=self.shard)

    def partition(self) -> dict[str, int | None]:
        """For every weight, the dimension along which ranks cut it; None where each holds it whole."""
        return {
            f"{path}.{name}": getattr(module, "partition", {}).get(name)
            for path, module in self.named_modules()
            for name, _ in module.named_parameters(recurse=False)
        }

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights as T5 does: normal, of a width that keeps activations near one."""
        config = self.config
        for path, module in self.named_modules():
            for name, weight in module.named_parameters(recurse=False):
                if name == "bias":
                    nn.init.zeros_(weight)
                elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
                    nn.init.ones_(weight)
                else:
                    nn.init.normal_(weight, std=_initial_std(path, module, config), generator=generator)

    def _embed(
        self, table: VocabularyEmbedding, positions: nn.Embedding | None, ids: Tensor, places: slice | Tensor
    ) -> Tensor:
        x = table(ids)
        # float16 is a way to store weights; its range is too small for T5's activations
        x = x.float() if x.dtype == torch.float16 else x
        return x if positions is None else x + positions.weight[places]

    def _keep(self, target: Tensor, cache: Cache) -> tuple[Tensor | None, Tensor | None]:
        """Which keys the new positions see: in the target, [batch or 1, 1, new, target], and the source."""
        new, length = target.shape[1], cache.length + target.shape[1]
        keep = None
        if new > 1:
            keep = torch.ones(new, length, dtype=torch.bool, device=target.device).tril(cache.length)[
                None, None
            ]
        memory_keep = None if cache.source_mask is None else cache.source_mask[:, None, None, :]
        if self.config.pad_masks_target:
            real = target != self.config.pad_id
            cache.target_mask = real if cache.target_mask is None else torch.cat([cache.target_mask, real], 1)
            if not bool(cache.target_mask.all()):
                seen = cache.target_mask[:, None, None, :] & real[:, None, :, None]
                keep = seen if keep is None else keep & seen
                query = real[:, None, :, None]
                keys = cache.memory_keys_values[0][0].shape[2]
                memory_keep = query.expand(-1, -1, -1, keys) if memory_keep is None else query & memory_keep
        return keep, memory_keep


def _position_table(config: ModelConfig) -> nn.Embedding | None:
    """A row per absolute position, None with relative ones."""
    if config.max_positions is None:
        return None
    # from a table rather than from sizes, because drawing numbers that a checkpoint replaces takes seconds
    return nn.Embedding.from_pretrained(torch.empty(config.max_positions, config.d_model), freeze=False)


class Head(nn.Module):
    """Logits of the vocabulary, cut by rows; the matrix is its own or the embedding's."""

    partition: ClassVar[dict[str, int | None]] = {"weight": 0, "bias": 0}

    def __init__(self, config: ModelConfig, shard: Shard) -> None:
        super().__init__()
        rows = shard.part(config.padded_vocab_size)
        self.weight = None if config.tied_head else nn.Parameter(torch.empty(rows, config.d_model))
        self.bias = nn.Parameter(torch.empty(rows)) if config.head_bias else None

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        weight = embedding if self.weight is None else self.weight
        logits = product(hidden, weight)
        return logits if self.bias is None else logits + self.bias.to(hidden.dtype)


def _initial_std(path: str, module: nn.Module, config: ModelConfig) -> float:
    """The width of a weight's first distribution (as T5 draws it: 1/√fan-in, queries smaller)."""
    stack = config.decoder if path.startswith("decoder.") else config.encoder
    kind = path.rsplit(".", 1)[-1]
    if isinstance(module, VocabularyEmbedding | Head | nn.Embedding):
        return 1.0 if kind != "head" else config.d_model**-0.5
    widths = {
        "query": (config.d_model * stack.d_kv) ** -0.5,
        "output": (stack.num_heads * stack.d_kv) ** -0.5,
        "down": stack.d_ff**-0.5,
    }
    return widths.get(kind, config.d_model**-0.5)
