"""Several examples in one row, kept apart by segments, so that hardly any id is padding."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

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
        return Pack(*(tensor.to(device) for tensor in tensors), self.owners.to(device), self.keys)


class Filling:
    """A pack being filled: each example goes into the first row that has room for it."""

    def __init__(self, rows: int, source: int, target: int, start_id: int = 0) -> None:
        self.source = torch.zeros(rows, source, dtype=torch.long)
        self.inputs = torch.full((rows, target), start_id)
        self.labels = torch.full((rows, target), IGNORED)
        self.source_segments = torch.zeros(rows, source, dtype=torch.long)
        self.target_segments = torch.zeros(rows, target, dtype=torch.long)
        self.owners = torch.zeros(rows, target, dtype=torch.long)
        self.used = [(0, 0, 0)] * rows  # source ids, target ids, examples
        self.keys: list[int] = []

    def add(self, example: Example, key: int) -> bool:
        """Put an example in; False when no row has room for it."""
        width, height = len(example.source), len(example.target)
        for row, (a, b, count) in enumerate(self.used):
            if a + width <= self.source.shape[1] and b + height <= self.inputs.shape[1]:
                self.source[row, a : a + width] = torch.tensor(example.source)
                self.source_segments[row, a : a + width] = count + 1
                self.inputs[row, b + 1 : b + height] = torch.tensor(example.target[:-1])
                self.labels[row, b : b + height] = torch.tensor(example.target)
                self.target_segments[row, b : b + height] = count + 1
                self.owners[row, b : b + height] = len(self.keys)
                self.used[row] = (a + width, b + height, count + 1)
                self.keys.append(key)
                return True
        return False

    def pack(self) -> Pack:
        tensors = (self.source, self.source_segments, self.inputs, self.labels, self.target_segments)
        return Pack(*tensors, self.owners, self.keys)


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


def hidden(model: MT5, pack: Pack) -> Tensor:
    """The decoder's states for a pack, [row, target, d_model], each example seeing itself alone."""

    def attend(layer: Attention, x: Tensor, memory: Tensor, keep: Tensor, bias: Tensor | None) -> Tensor:
        return layer(x, *layer.keys_values(memory), keep, bias)

    own = pack.source_segments
    keep = (own[:, :, None] == own[:, None, :])[:, None]
    x = model.embedding(pack.source)
    biases = model.encoder.biases(range(own.shape[1]), own.shape[1])
    for layer, bias in zip(model.encoder.layers, biases, strict=True):
        normed = layer.self_attention_norm(x)
        x = x + attend(layer.self_attention, normed, normed, keep, bias)
        x = x + layer.feed_forward(layer.feed_forward_norm(x))
    memory = model.encoder.final_norm(x)
    theirs, width = pack.target_segments, pack.inputs.shape[1]
    seen = (theirs[:, :, None] == own[:, None, :])[:, None]
    keep = ((theirs[:, :, None] == theirs[:, None, :]).tril())[:, None]
    x = model.embedding(pack.inputs)
    biases = model.decoder.biases(range(width), width)
    for layer, bias in zip(model.decoder.layers, biases, strict=True):
        normed = layer.self_attention_norm(x)
        x = x + attend(layer.self_attention, normed, normed, keep, bias)
        x = x + attend(layer.cross_attention, layer.cross_attention_norm(x), memory, seen, None)
        x = x + layer.feed_forward(layer.feed_forward_norm(x))
    return model.decoder.final_norm(x)
