"""Layers as recorded operations, which run without Python between them: the same numbers in half the time."""

import warnings
from collections import Counter
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mt5.model import MT5, Cache, Layer

Tensors = tuple[Tensor, ...]
WARM = 24
"""Calls after which a layer is recorded; that takes as long as some hundred calls."""


class Recorded(nn.Module):
    """A module that records itself once it has been called often enough.

    Tensors may change their sizes, but which of them are None is part of a record.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.calls: Counter[tuple[bool, ...]] = Counter()
        self.records: dict[tuple[bool, ...], Callable[..., Tensors]] = {}

    def forward(self, *inputs: Tensor | None) -> Tensors:
        absent = tuple(one is None for one in inputs)
        given = tuple(one for one in inputs if one is not None)
        record = self.records.get(absent)
        if record is not None:
            return record(*given)
        self.calls[absent] += 1
        if self.calls[absent] > WARM:
            self.records[absent] = self._record(absent, given)
        return self.module(*inputs)

    def _record(self, absent: tuple[bool, ...], given: Tensors) -> Callable[..., Tensors]:
        with warnings.catch_warnings():
            # PyTorch means to replace this by compilers, which take a minute, and one that is installed
            warnings.simplefilter("ignore")
            present = _Present(self.module, absent).eval()
            record = torch.jit.trace(present, given, check_trace=False)
            return torch.jit.freeze(record, optimize_numerics=False)


class _Present(nn.Module):
    """A module as a function of the tensors that are there."""

    def __init__(self, module: nn.Module, absent: tuple[bool, ...]) -> None:
        super().__init__()
        self.module, self.absent = module, absent

    def forward(self, *given: Tensor) -> Tensors:
        left = iter(given)
        return self.module(*(None if absent else next(left) for absent in self.absent))


class Within(nn.Module):
    """A layer of the encoder."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, bias: Tensor | None, keep: Tensor | None) -> Tensors:
        attention = self.layer.self_attention
        x = x + attention.attend(*attention.project(self.layer.self_attention_norm(x)), keep, bias)
        return (x + self.layer.feed_forward(self.layer.feed_forward_norm(x)),)


class Between(nn.Module):
    """From one layer's self-attention to the next one's: all that lies between two looks at the cache."""

    def __init__(self, layer: Layer, following: Layer | None, norm: nn.Module) -> None:
        """following: None after the last layer, which `norm` ends."""
        super().__init__()
        self.layer, self.following, self.norm = layer, following, norm

    def forward(
        self,
        x: Tensor,
        q: Tensor,
        keys: Tensor,
        values: Tensor,
        memory_keys: Tensor,
        memory_values: Tensor,
        bias: Tensor | None,
        memory_keep: Tensor | None,
    ) -> Tensors:
        """Shapes as in model.py. Returns x and the next queries, keys and values; at the end x alone."""
        layer = self.layer
        x = x + layer.self_attention.attend(q, keys, values, None, bias)
        cross = layer.cross_attention
        q = cross.split(cross.query(layer.cross_attention_norm(x)))
        x = x + cross.attend(q, memory_keys, memory_values, memory_keep, None)
        x = x + layer.feed_forward(layer.feed_forward_norm(x))
        if self.following is None:
            return (self.norm(x),)
        return x, *self.following.self_attention.project(self.following.self_attention_norm(x))


class Traced:
    """Encodes, and decodes one position at a time, as `MT5` does."""

    def __init__(self, model: MT5) -> None:
        self.model, norm = model, model.decoder.final_norm
        self.within = [Recorded(Within(layer)) for layer in model.encoder.layers]
        layers = list(model.decoder.layers)
        self.between = [
            Recorded(Between(layer, following, norm))
            for layer, following in zip(layers, [*layers[1:], None], strict=True)
        ]

    @staticmethod
    def serves(model: MT5) -> bool:
        """Whether a network's layers can be recorded.

        They can on a CPU in one process, with float32 activations and no mask that depends on the target.
        """
        norm = model.decoder.final_norm.weight
        plain = norm.dtype == torch.float32 and norm.device.type == "cpu"
        return plain and model.shard.size == 1 and not model.config.pad_masks_target

    def encode(self, source: Tensor, source_mask: Tensor | None) -> Tensor:
        """See MT5.encode."""
        model, width = self.model, source.shape[1]
        x = model._embed(model.embedding, model.positions, source, 0)
        keep = None if source_mask is None else source_mask[:, None, None, :]
        for layer, bias in zip(self.within, model.encoder.biases(range(width), width), strict=True):
            (x,) = layer(x, bias, keep)
        return model.encoder.final_norm(x)

    def decode(self, target: Tensor, cache: Cache) -> Tensor:
        """target: ids, [batch, 1], that follow one or more in the cache. Returns [batch, 1, d_model]."""
        model = self.model
        keep = None if cache.source_mask is None else cache.source_mask[:, None, None, :]
        biases = model._biases(cache, 1)
        table, positions = model.decoder_embedding or model.embedding, model.decoder_positions
        x = model._embed(table, positions or model.positions, target, cache.length)
        first = model.decoder.layers[0]
        state = x, *first.self_attention.project(first.self_attention_norm(x))
        for number, (layer, bias) in enumerate(zip(self.between, biases, strict=True)):
            x, q, keys, values = state
            keys, values = cache.append(number, keys, values)
            state = layer(x, q, keys, values, *cache.memory_keys_values[number], bias, keep)
        cache.length += 1
        return state[0]
