"""Keys and values of decodings, kept from step to step."""

from collections.abc import Callable

import torch
from torch import Tensor

CAPACITY = 32
"""Positions that a decoding has room for from its second step on."""


class Cache:
    """Keys and values of a batch of decodings: cross-attention's once, self-attention's as they grow."""

    def __init__(self, memory_keys_values: list[tuple[Tensor, Tensor]], source_mask: Tensor | None) -> None:
        """memory_keys_values: per layer, [batch, head, source, d_kv] twice.

        source_mask: [batch, source], None keeps all.
        """
        self.memory_keys_values = memory_keys_values
        self.source_mask = source_mask
        self.buffers: list[Tensor] = []  # per layer, [keys and values, batch, head, capacity, d_kv]
        self.first: list[tuple[Tensor, Tensor]] = []
        self.target_mask: Tensor | None = None  # [batch, target], True where the target is not padding
        self.length = 0
        self._row: list[Tensor | None] = []  # the biases of the last of so many positions
        self._reach = 0

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add the keys and values of new positions, [batch, head, new, d_kv]; return those of all positions.

        `length` still counts the positions before these; `decode` moves it on after the last layer.
        """
        if not self.length:
            # the first positions are kept as they came: training decodes once and never copies
            self.first.append((keys, values))
            return keys, values
        end = self.length + keys.shape[2]
        if layer == len(self.buffers):
            self.buffers.append(self._grown(torch.stack(self.first[layer]), max(2 * end, CAPACITY)))
        elif end > self.buffers[layer].shape[3]:
            self.buffers[layer] = self._grown(self.buffers[layer], 2 * end)
        buffer = self.buffers[layer]
        buffer[0, :, :, self.length : end] = keys
        buffer[1, :, :, self.length : end] = values
        return buffer[:, :, :, :end].unbind(0)

    def biases(self, make: Callable[[range, int], list[Tensor | None]], length: int) -> list[Tensor | None]:
        """Each layer's bias for the positions up to `length`: [1, head, new, length]; see Stack.biases.

        Those of a single position are parts of one row, which is made once.
        """
        if length > self.length + 1:
            return make(range(self.length, length), length)
        if self._reach < length:
            self._reach = max(2 * length, CAPACITY)
            self._row = make(range(self._reach - 1, self._reach), self._reach)
        return [None if row is None else row[..., self._reach - length :] for row in self._row]

    def _grown(self, buffer: Tensor, capacity: int) -> Tensor:
        grown = buffer.new_empty(*buffer.shape[:3], capacity, buffer.shape[4])
        grown[:, :, :, : self.length] = buffer[:, :, :, : self.length]
        return grown

    def select(self, rows: Tensor) -> None:
        """Go on with these rows of the batch, in this order; a row may be taken several times."""
        self.memory_keys_values = [(k[rows], v[rows]) for k, v in self.memory_keys_values]
        self.first = [(k[rows], v[rows]) for k, v in self.first] if not self.buffers else []
        self.buffers = [buffer[:, rows] for buffer in self.buffers]
        self.source_mask = None if self.source_mask is None else self.source_mask[rows]
        self.target_mask = None if self.target_mask is None else self.target_mask[rows]
