"""A loaded network as a service: ids in, numbers out. Every tensor-parallel rank runs one."""

from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mt5 import threads
from mt5.cache import Cache
from mt5.generate import decode
from mt5.info import Health
from mt5.model import MT5
from mt5.parallel import VocabularyLogProbs
from mt5.rules import Row, Rules
from mt5.settings import Settings
from mt5.traced import State, Traced

MUCH = 16
"""Positions or rows that are worked on together, from which on more threads may be quicker than for one."""


@dataclass(frozen=True)
class Scored:
    """Teacher forcing of one target: per token its log-probability, its rank (1 = likeliest) and the
    likeliest candidates (id, log-probability), the token itself included where it is one of them."""

    log_probs: tuple[float, ...]
    ranks: tuple[int, ...]
    candidates: tuple[tuple[tuple[int, float], ...], ...]


class Network:
    """A model on a device."""

    def __init__(self, model: MT5, device: torch.device) -> None:
        self.model, self.device = model, device
        self.traced = Traced(model) if Traced.serves(model) else None
        self._threads: tuple[int, int] | None = None  # for little at a time, and for much

    @property
    def health(self) -> Health:
        return Health("ready", size=1)

    def close(self) -> None:
        """Nothing to end."""

    @torch.inference_mode()
    def choose_threads(self, most: int) -> tuple[int, int]:
        """Use as many threads as decode a token soonest, `most` at most: for one row, and for many."""
        self._threads = None  # trials use the number that is tried
        one = threads.choose(self._same_step(1), most)
        # what is quicker with all of them for one row is so for many
        many = one if one == most else threads.choose(self._same_step(MUCH), most)
        self._threads = one, many
        return self._threads

    def _same_step(self, rows: int) -> Callable[[], object]:
        """A step that can be taken over and over, without `Traced`, which would record it amid the trials."""
        tokens = torch.full((rows, 1), self.model.config.eos_id, device=self.device)
        decoder = _Decoder(self, self.model.start(self.model.encode(tokens)))
        decoder.step(tokens)

        def work() -> None:
            decoder.cache.length = 1
            decoder.step(tokens).top(1)

        return work

    def settle(self, positions: int) -> None:
        """Use the number of threads chosen for so many positions, of all rows together, in this thread,
        whatever others have set."""
        if self._threads is not None:
            number = self._threads[positions >= MUCH]
            if torch.get_num_threads() != number:
                torch.set_num_threads(number)

    @torch.inference_mode()
    def generate(
        self,
        sources: Sequence[Sequence[int]],
        rules: Sequence[Rules],
        settings: Settings | Sequence[Settings],
    ) -> Generator[list[list[Row]], Iterable[int] | None, None]:
        """Decode a batch; takes and yields after every step what `generate.decode` does."""
        yield from decode(self._decoder(sources), rules, settings)

    @torch.inference_mode()
    def score(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, candidates: int = 0
    ) -> list[Scored]:
        """Score targets, without start id, after their sources, with the `candidates` best of every step."""
        source, mask = self._batch(sources)
        # a shorter target's rows end in ids that are never looked at: causality hides them from the rest
        width = max(map(len, targets))
        labels = torch.tensor(
            [[*target, *[0] * (width - len(target))] for target in targets], device=self.device
        )
        self.settle(max(source.numel(), labels.numel()))
        start = torch.full_like(labels[:, :1], self.model.config.start_id)
        cache = self.model.start(self.model.encode(source, mask), mask)
        hidden = self.model.decode(torch.cat([start, labels[:, :-1]], 1), cache)
        log_probs = self.model.log_probs(hidden)
        values, ranks = log_probs.at(labels).tolist(), log_probs.rank(labels).tolist()
        best: list[list[tuple[tuple[int, float], ...]]] = [[()] * width for _ in targets]
        if candidates:
            ids, tops = (part.tolist() for part in log_probs.top(candidates))
            best = [
                [tuple(zip(*pair, strict=True)) for pair in zip(*row, strict=True)]
                for row in zip(ids, tops, strict=True)
            ]
        return [
            Scored(tuple(v[: len(t)]), tuple(r[: len(t)]), tuple(b[: len(t)]))
            for t, v, r, b in zip(targets, values, ranks, best, strict=True)
        ]

    @torch.inference_mode()
    def attention(self, source: Sequence[int], target: Sequence[int]) -> list[list[list[float]]]:
        """Cross-attention while `target` was written, heads averaged: weights[layer][target][source].

        Its row for a token is that of the position which predicts it; each row sums to 1.
        """
        self.settle(max(len(source), len(target)))
        model = self.model
        ids = torch.tensor([[model.config.start_id, *target[:-1]]], device=self.device)
        cache = model.start(model.encode(torch.tensor([list(source)], device=self.device)))
        attended: list[Tensor] = []
        model.decode(ids, cache, attended)
        # every rank averaged as many heads
        weights = model.shard.sum(torch.cat(attended)) / model.shard.size
        return weights.tolist()

    def _decoder(self, sources: Sequence[Sequence[int]]) -> "_Decoder | _TracedDecoder":
        source, mask = self._batch(sources)
        self.settle(source.numel())
        if self.traced is not None:
            return _TracedDecoder(self, self.traced.start(source, mask))
        return _Decoder(self, self.model.start(self.model.encode(source, mask), mask))

    def _batch(self, sources: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor | None]:
        """Pad to one length: ids [batch, source] and a mask like it, None when nothing is padded."""
        lengths = [len(source) for source in sources]
        width, pad = max(lengths), self.model.config.pad_id
        ids = torch.tensor(
            [[*source, *[pad] * (width - len(source))] for source in sources], device=self.device
        )
        if self.model.config.pad_masks_target:
            mask = ids != pad
            return ids, None if bool(mask.all()) else mask
        if min(lengths) == width:
            return ids, None
        ends = torch.tensor(lengths, device=self.device).unsqueeze(1)
        return ids, torch.arange(width, device=self.device) < ends


class _Decoder:
    """The model as decoding sees it."""

    def __init__(self, network: Network, cache: Cache) -> None:
        self.network, self.model, self.cache = network, network.model, cache

    def step(self, tokens: Tensor) -> VocabularyLogProbs:
        return self.model.log_probs(self._decoded(tokens)[:, -1])

    def read(self, tokens: Tensor) -> VocabularyLogProbs:
        return self.model.log_probs(self._decoded(tokens).flatten(0, 1))

    def _decoded(self, tokens: Tensor) -> Tensor:
        self.network.settle(tokens.numel())
        return self.model.decode(tokens.to(self.network.device), self.cache)

    def select(self, rows: Tensor) -> None:
        self.cache.select(rows.to(self.network.device))


class _TracedDecoder:
    """The recorded model as decoding sees it."""

    def __init__(self, network: Network, cache: State) -> None:
        self.network, self.traced, self.cache = network, network.traced, cache

    def step(self, tokens: Tensor) -> VocabularyLogProbs:
        self.network.settle(tokens.numel())
        return self.traced.step(tokens, self.cache)

    def read(self, tokens: Tensor) -> VocabularyLogProbs:
        self.network.settle(tokens.numel())
        return self.traced.step(tokens, self.cache, every=True)

    def select(self, rows: Tensor) -> None:
        self.cache.select(rows)
