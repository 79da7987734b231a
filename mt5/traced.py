"""The network as recorded operations, which run without Python between them: the same numbers, sooner.

There are two records: from a prompt to what the decoder reads of it, and from new tokens to logits.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from mt5.cache import CAPACITY
from mt5.model import MT5
from mt5.parallel import VocabularyLogProbs, log_sum_exp

Tensors = tuple[Tensor, ...]
WARM = 24
"""Calls after which a network is recorded; that takes as long as some hundred calls."""


WIDE = 256
"""Positions of which the encoder's biases are kept."""
CALL = 32
"""Positions that the encoder reads in the time that one more call of it takes."""


class Recorded:
    """A module that is recorded once it has been called often enough.

    Tensors may change their sizes, but which of them are None is part of a record.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.calls: Counter[tuple[bool, ...]] = Counter()
        self.records: dict[tuple[bool, ...], Callable[..., Tensors]] = {}

    def __call__(self, *inputs: Tensor | None) -> Tensors:
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
            # the method, because calling the module takes longer than some of its operations
            return torch.jit.freeze(record, optimize_numerics=False).forward


class _Present(nn.Module):
    """A module as a function of the tensors that are there."""

    def __init__(self, module: nn.Module, absent: tuple[bool, ...]) -> None:
        super().__init__()
        self.module, self.absent = module, absent

    def forward(self, *given: Tensor) -> Tensors:
        left = iter(given)
        return self.module(*(None if absent else next(left) for absent in self.absent))


class Prompt(nn.Module):
    """From source ids to the keys and values that the decoder's layers read."""

    def __init__(self, model: MT5) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor, keep: Tensor | None, room: Tensor, *biases: Tensor | None) -> Tensors:
        """source: ids, [batch, source]. keep, biases: as in model.py; one bias serves all layers alike.

        room: where the result goes, [layer, keys and values, batch, head, source, d_kv].
        """
        memory = self.model.encoded(source, keep, _each(biases, len(self.model.encoder.layers)))
        for number, layer in enumerate(self.model.decoder.layers):
            for part, made in zip(
                room[number].unbind(0), layer.cross_attention.keys_values(memory), strict=True
            ):
                part.copy_(made)
        return (room,)


class Step(nn.Module):
    """From new ids to the logits of what follows, with their normaliser."""

    def __init__(self, model: MT5, *, every: bool) -> None:
        """every: logits after each of the new ids, not after the last alone."""
        super().__init__()
        self.model, self.every = model, every

    def forward(
        self,
        target: Tensor,
        places: Tensor,
        slots: Tensor,
        buffers: Tensor,
        memory: Tensor,
        memory_keep: Tensor | None,
        *biases: Tensor,
    ) -> Tensors:
        """target: [batch, new]; places: their positions. buffers, memory: see `State`; slots: the buffers'
        part for the new positions. biases: [1, head or 1, new, capacity]; one serves all layers alike.

        Returns logits, [batch or batch × new, columns], and log Σ exp of each row, [rows, 1].
        """

        def append(number: int, keys: Tensor, values: Tensor) -> Tensors:
            slots[number, 0].copy_(keys)
            slots[number, 1].copy_(values)
            return buffers[number].unbind(0)

        model, layers = self.model, len(self.model.decoder.layers)
        pairs = [memory[number].unbind(0) for number in range(layers)]
        hidden = model.decoded(target, places, append, pairs, None, memory_keep, _each(biases, layers))
        log_probs = model.log_probs(hidden.flatten(0, 1) if self.every else hidden[:, -1])
        return log_probs.logits, log_sum_exp(log_probs.logits)


def alike(lengths: Sequence[int]) -> list[slice]:
    """Neighbours to encode together, such that padding them to one length costs less than one call more."""

    def padded(rows: slice) -> int:
        return max(lengths[rows]) * (rows.stop - rows.start)

    found, left = [], [slice(0, len(lengths))]
    while left:
        rows = left.pop()
        halves = [(slice(rows.start, cut), slice(cut, rows.stop)) for cut in range(rows.start + 1, rows.stop)]
        best = min(halves, key=lambda pair: padded(pair[0]) + padded(pair[1]), default=None)
        if best and padded(rows) - padded(best[0]) - padded(best[1]) > CALL:
            left += reversed(best)
        else:
            found.append(rows)
    return found


def _each(biases: Sequence[Tensor | None], layers: int) -> Sequence[Tensor | None]:
    return biases if len(biases) == layers else list(biases) * layers


def _distinct(biases: Sequence[Tensor | None]) -> Sequence[Tensor | None]:
    return biases[:1] if all(bias is biases[0] for bias in biases) else biases


class State:
    """Keys and values of a batch of decodings: of the source, and of the target with room for more."""

    def __init__(self, memory: Tensor, keep: Tensor | None) -> None:
        """memory: [layer, keys and values, batch, head, source, d_kv]. keep: [batch, 1, 1, source]."""
        self.memory, self.keep, self.length = memory, keep, 0
        # zeros, because a position that has no weight yet must hold numbers
        self.buffers = memory.new_zeros(*memory.shape[:4], CAPACITY, memory.shape[5])

    def reserve(self, length: int) -> None:
        """Have room for so many positions."""
        before = self.buffers.shape[4]
        if length > before:
            grown = self.buffers.new_zeros(
                *self.buffers.shape[:4], max(length, 2 * before), self.buffers.shape[5]
            )
            grown[..., :before, :] = self.buffers
            self.buffers = grown

    def select(self, rows: Tensor) -> None:
        """Go on with these rows of the batch, in this order; a row may be taken several times."""
        self.memory, self.buffers = self.memory[:, :, rows], self.buffers[:, :, rows]
        self.keep = None if self.keep is None else self.keep[rows]


class Traced:
    """A network that decodes as `MT5` does."""

    def __init__(self, model: MT5) -> None:
        self.model, self.prompt = model, Recorded(Prompt(model))
        self.steps = {every: Recorded(Step(model, every=every)) for every in (False, True)}
        self._encoder_biases: tuple[int, Sequence[Tensor | None]] = 0, ()
        self._decoder_biases: tuple[int, Sequence[Tensor]] = 0, ()

    @staticmethod
    def serves(model: MT5) -> bool:
        """Whether a network can be recorded.

        It can on a CPU in one process, with float32 activations and no mask that depends on the target.
        """
        norm = model.decoder.final_norm.weight
        plain = norm.dtype == torch.float32 and norm.device.type == "cpu"
        return plain and model.shard.size == 1 and not model.config.pad_masks_target

    def start(self, source: Tensor, source_mask: Tensor | None = None) -> State:
        """Begin to decode. source: ids, [batch, source]; source_mask: False on padding, which is at the end;
        None keeps all."""
        (batch, width), stack = source.shape, self.model.config.decoder
        keep = None if source_mask is None else source_mask[:, None, None, :]
        # zeros, because what is masked must hold numbers
        memory = torch.zeros(stack.num_layers, 2, batch, stack.num_heads, width, stack.d_kv)
        lengths = [width] * batch if source_mask is None else source_mask.sum(1).tolist()
        biases = self._square(width)
        for rows in alike(lengths):
            longest, shortest = max(lengths[rows]), min(lengths[rows])
            self.prompt(
                source[rows, :longest],
                None if keep is None or longest == shortest else keep[rows, ..., :longest],
                memory[:, :, rows, :, :longest],
                *(None if one is None else one[..., :longest, :longest] for one in biases),
            )
        return State(memory, keep)

    def step(self, target: Tensor, state: State, *, every: bool = False) -> VocabularyLogProbs:
        """Add ids, [batch, new]; returns the distributions after the last, or one row after the other of
        those after every new id."""
        start, end = state.length, state.length + target.shape[1]
        state.reserve(end)
        places, slots = torch.arange(start, end), state.buffers[..., start:end, :]
        biases = self._rows(range(start, end), state.buffers.shape[4])
        logits, normaliser = self.steps[every](
            target, places, slots, state.buffers, state.memory, state.keep, *biases
        )
        state.length = end
        size, shard = self.model.config.vocab_size, self.model.shard
        return VocabularyLogProbs(logits, vocab_size=size, shard=shard, local_normaliser=normaliser)

    def _square(self, width: int) -> Sequence[Tensor | None]:
        """The encoder's biases of so many positions: [1, head, width, width] each."""
        if self._encoder_biases[0] < width:
            reach = max(width, CAPACITY)
            made = reach, _distinct(self.model.encoder.biases(range(reach), reach))
            if width > WIDE:
                return made[1]
            self._encoder_biases = made
        return [None if one is None else one[..., :width, :width] for one in self._encoder_biases[1]]

    def _rows(self, queries: range, capacity: int) -> list[Tensor]:
        """Biases of these positions with all there is room for: [1, head or 1, query, capacity] each."""
        if self._decoder_biases[0] != capacity:
            # the last position's row, and after it what none of them sees; each position's is a part of it
            rows = self.model.decoder.biases(range(capacity - 1, capacity), capacity)
            zeros = torch.zeros(1, 1, 1, capacity)
            whole = [zeros if row is None else row for row in _distinct(rows)]
            ahead = [torch.cat([row, torch.full_like(row, -torch.inf)], -1) for row in whole]
            self._decoder_biases = capacity, ahead
        last = capacity - 1
        parts = [
            [row[..., last - q : last - q + capacity] for q in queries] for row in self._decoder_biases[1]
        ]
        return [one[0] if len(one) == 1 else torch.cat(one, 2) for one in parts]
