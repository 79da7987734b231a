"""Several examples in one row, kept apart by segments, so that hardly any id is padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from mt5.model import MT5, Attention
from training.data import Example

IGNORED = -100


@dataclass(frozen=True)
class Pack:
    """Rows of examples, ready for the network.

    source: ids [row, source]. inputs, labels: what the decoder reads and should say, [row, target]; a
    label is IGNORED on padding. source_segments, target_segments: the same shapes, which example of the row
    a position belongs to, from 1; 0 on padding. owners: [row, target], the example's place in `keys`.
    keys: what the examples are known by, one each.
    """

    source: Tensor
    source_segments: Tensor
    inputs: Tensor
    labels: Tensor
    target_segments: Tensor
    owners: Tensor
    keys: list[int]

    def to(self, device: torch.device) -> "Pack":
        tensors = (self.source, self.source_segments, self.inputs, self.labels, self.target_segments)
        moved = [tensor.to(device, non_blocking=True) for tensor in (*tensors, self.owners)]
        return Pack(*moved, self.keys)


class Filling:
    """A pack being filled: each example goes into the first row that has room for it."""

    def __init__(self, rows: int, source: int, target: int, start_id: int = 0) -> None:
        self.source = np.zeros((rows, source), dtype=np.int64)
        self.inputs = np.full((rows, target), start_id)
        self.labels = np.full((rows, target), IGNORED)
        self.source_segments, self.target_segments, self.owners = (
            np.zeros((rows, width), dtype=np.int64) for width in (source, target, target)
        )
        self.used = [(0, 0, 0)] * rows  # source ids, target ids, examples
        self.keys: list[int] = []

    def add(self, example: Example, key: int) -> bool:
        """Put an example in; False when no row has room for it."""
        width, height = len(example.source), len(example.target)
        for row, (a, b, count) in enumerate(self.used):
            if a + width <= self.source.shape[1] and b + height <= self.inputs.shape[1]:
                self.source[row, a : a + width] = example.source
                self.source_segments[row, a : a + width] = count + 1
                self.inputs[row, b + 1 : b + height] = example.target[:-1]
                self.labels[row, b : b + height] = example.target
                self.target_segments[row, b : b + height] = count + 1
                self.owners[row, b : b + height] = len(self.keys)
                self.used[row] = (a + width, b + height, count + 1)
                self.keys.append(key)
                return True
        return False

    def pack(self) -> Pack:
        arrays = (self.source, self.source_segments, self.inputs, self.labels, self.target_segments)
        return Pack(*map(torch.from_numpy, (*arrays, self.owners)), self.keys)


def stacked(parts: Sequence[Pack]) -> Pack:
    """The rows of several packs in one."""
    firsts = accumulate((len(part.keys) for part in parts), initial=0)
    owners = [part.owners + first for part, first in zip(parts, firsts, strict=False)]
    names = ("source", "source_segments", "inputs", "labels", "target_segments")
    tensors = (torch.cat([getattr(part, name) for part in parts]) for name in names)
    return Pack(*tensors, torch.cat(owners), [key for part in parts for key in part.keys])


def packs(examples: Iterator[tuple[int, Example]], *, rows: int, source: int, target: int) -> Iterator[Pack]:
    """Packs of [rows, source] and [rows, target] ids; examples that are longer than a row are dropped.

    examples: with the key that each is known by.
    """
    filling = Filling(rows, source, target)
    for key, example in examples:
        if len(example.source) > source or len(example.target) > target:
            continue
        if not filling.add(example, key):
            yield filling.pack()
            filling = Filling(rows, source, target)
            filling.add(example, key)
    if filling.keys:
        yield filling.pack()


def hidden(model: MT5, pack: Pack, dropout: float = 0.0) -> Tensor:
    """The decoder's states for a pack, [row, target, d_model], each example seeing itself alone.

    dropout: share of what every layer adds, and of the embeddings, that is left out by chance.
    """

    def attend(layer: Attention, x: Tensor, memory: Tensor, keep: Tensor, bias: Tensor | None) -> Tensor:
        return some(layer(x, *layer.keys_values(memory), keep, bias))

    def some(x: Tensor) -> Tensor:
        return F.dropout(x, dropout) if dropout else x

    own = pack.source_segments
    keep = (own[:, :, None] == own[:, None, :])[:, None]
    x = some(model.embedding(pack.source))
    biases = model.encoder.biases(range(own.shape[1]), own.shape[1])
    for layer, bias in zip(model.encoder.layers, biases, strict=True):
        normed = layer.self_attention_norm(x)
        x = x + attend(layer.self_attention, normed, normed, keep, bias)
        x = x + some(layer.feed_forward(layer.feed_forward_norm(x)))
    memory = some(model.encoder.final_norm(x))
    theirs, width = pack.target_segments, pack.inputs.shape[1]
    seen = (theirs[:, :, None] == own[:, None, :])[:, None]
    keep = ((theirs[:, :, None] == theirs[:, None, :]).tril())[:, None]
    x = some(model.embedding(pack.inputs))
    biases = model.decoder.biases(range(width), width)
    for layer, bias in zip(model.decoder.layers, biases, strict=True):
        normed = layer.self_attention_norm(x)
        x = x + attend(layer.self_attention, normed, normed, keep, bias)
        x = x + attend(layer.cross_attention, layer.cross_attention_norm(x), memory, seen, None)
        x = x + some(layer.feed_forward(layer.feed_forward_norm(x)))
    return some(model.decoder.final_norm(x))


def nats(model: MT5, pack: Pack, pieces: Tensor | None, dropout: float = 0.0) -> Tensor:
    """Cross-entropy of every label in nats, [row, target], 0 on padding.

    pieces: the ids among which the model has to choose, in order; None is the whole vocabulary.
    """
    states, labels = hidden(model, pack, dropout), pack.labels
    if pieces is None:
        logits = model.logits(states)
    else:
        logits = F.linear(states * model.config.head_scale, model.embedding.weight[pieces])
        labels = torch.where(labels == IGNORED, IGNORED, torch.searchsorted(pieces, labels))
    each = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none")
    return each.view_as(labels)
