"""Greedy, beam and sampling, over anything that yields the distribution of the next token."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

from mt5.errors import PromptError


class LogProbs(Protocol):
    """Distributions of the next token, one per row; parallel.VocabularyLogProbs has the details."""

    def forbid(self, ids: Tensor, rows: Tensor | None = None) -> None: ...
    def top(self, k: int) -> tuple[Tensor, Tensor]: ...
    def sample(
        self, *, temperature: float, top_k: int, top_p: float, generators: Sequence[torch.Generator | None]
    ) -> tuple[Tensor, Tensor]: ...


class Decoder(Protocol):
    """A batch of decodings in progress."""

    def step(self, tokens: Tensor) -> LogProbs:
        """Add tokens, [rows, new], to every row; return the distribution of what follows the last."""

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, in this order; a row may be taken several times."""


@dataclass(frozen=True)
class Settings:
    """How to decode. PromptError names what is out of range.

    num_beams: beams kept (beam). num_return: results per prompt (beam: n best, sample: n draws).
    temperature, top_k (0: off), top_p (1: off), seed: of sampling.
    max_new_tokens: at most so many tokens for each mask. num_alternatives: other candidates per token.
    guided: give the sentinels instead of predicting them, so that every mask gets exactly one span.
    """

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    num_beams: int = 4
    num_return: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 16
    num_alternatives: int = 5
    guided: bool = True

    def __post_init__(self) -> None:
        faults = []
        if self.strategy not in ("greedy", "beam", "sample"):
            faults.append(f"strategy is {self.strategy!r}, expected greedy, beam or sample")
        for name, low, high in _WHOLE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                faults.append(f"{name} is {value!r}, expected a whole number from {low} to {high}")
        for name, low, high in _REAL:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                faults.append(f"{name} is {value!r}, expected a number from {low} to {high}")
        if not isinstance(self.guided, bool):
            faults.append(f"guided is {self.guided!r}, expected true or false")
        if not faults and self.strategy == "greedy" and self.num_return > 1:
            faults.append("greedy has one result; choose beam or sample, or num_return 1")
        if not faults and self.strategy == "beam" and self.num_return > self.num_beams:
            faults.append(f"num_return {self.num_return} exceeds num_beams {self.num_beams}")
        if faults:
            raise PromptError("Settings: " + "; ".join(faults) + ".")


_WHOLE = (
    ("num_beams", 1, 32),
    ("num_return", 1, 32),
    ("top_k", 0, 1_000),
    ("seed", 0, 2**63 - 1),
    ("max_new_tokens", 1, 256),
    ("num_alternatives", 0, 20),
)
_REAL = (("temperature", 0.01, 100), ("top_p", 0.001, 1))


@dataclass(frozen=True)
class Hypothesis:
    """What a decoder wrote after its start id.

    log_probs: natural logarithm of each token's softmax probability, before temperature or truncation;
    0 for a token that was given rather than chosen. alternatives: per token, other candidates with their
    log-probabilities, likeliest first. truncated: the gaps, counted from 0, that ended for want of tokens.
    """

    ids: tuple[int, ...] = ()
    log_probs: tuple[float, ...] = ()
    alternatives: tuple[tuple[tuple[int, float], ...], ...] = ()
    truncated: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Row:
    """One decoding in progress.

    pending: tokens to feed before the next choice. gap: the gap being filled, length: its tokens so far.
    score: log-probability of every choice made, those that closed a gap included.
    """

    hypothesis: Hypothesis = Hypothesis()
    pending: tuple[int, ...] = ()
    gap: int = 0
    length: int = 0
    score: float = 0.0
    finished: bool = False

    def given(self, *ids: int) -> "Row":
        """With tokens that are not chosen."""
        h = self.hypothesis
        hypothesis = replace(
            h,
            ids=h.ids + ids,
            log_probs=h.log_probs + (0.0,) * len(ids),
            alternatives=h.alternatives + ((),) * len(ids),
        )
        return replace(self, hypothesis=hypothesis, pending=self.pending + ids)

    def chosen(self, token: int, log_prob: float, alternatives: tuple[tuple[int, float], ...]) -> "Row":
        """With one more token."""
        h = self.hypothesis
        hypothesis = replace(
            h,
            ids=(*h.ids, token),
            log_probs=(*h.log_probs, log_prob),
            alternatives=(*h.alternatives, alternatives),
        )
        return replace(
            self, hypothesis=hypothesis, pending=(token,), length=self.length + 1, score=self.score + log_prob
        )


class Rules(Protocol):
    """What a decoding starts from, what it may not write, and when it ends."""

    def start(self) -> Row: ...
    def forbidden(self, row: Row) -> tuple[int, ...]: ...
    def choose(
        self, row: Row, token: int, log_prob: float, alternatives: tuple[tuple[int, float], ...]
    ) -> Row: ...


@dataclass(frozen=True)
class Free:
    """The decoder writes what it likes and ends with a stop id or after max_tokens."""

    start_id: int
    stop_ids: frozenset[int]
    max_tokens: int

    def start(self) -> Row:
        return Row(pending=(self.start_id,))

    def forbidden(self, row: Row) -> tuple[int, ...]:
        return ()

    def choose(
        self, row: Row, token: int, log_prob: float, alternatives: tuple[tuple[int, float], ...]
    ) -> Row:
        row = row.chosen(token, log_prob, alternatives)
        return replace(row, finished=token in self.stop_ids or row.length == self.max_tokens)


@dataclass(frozen=True)
class Guided:
    """The sentinel before each gap is given; the decoder fills the gap with at least one token.

    A gap is closed by any of `closing_ids`, which are not written, or by its max_tokens-th token.
    Decoding ends with the last gap, or where the whole target reaches max_target tokens.
    """

    start_id: int
    sentinels: tuple[int, ...]
    closing_ids: tuple[int, ...]
    never_ids: tuple[int, ...]
    max_tokens: int
    max_target: int | None = None

    def start(self) -> Row:
        return Row(pending=(self.start_id,)).given(self.sentinels[0])

    def forbidden(self, row: Row) -> tuple[int, ...]:
        return self.never_ids if row.length else self.never_ids + self.closing_ids

    def choose(
        self, row: Row, token: int, log_prob: float, alternatives: tuple[tuple[int, float], ...]
    ) -> Row:
        if token in self.closing_ids:
            return self._close(replace(row, score=row.score + log_prob, pending=()))
        row = row.chosen(token, log_prob, alternatives)
        if self._full(row):
            return replace(self._truncated(row), finished=True)
        return self._close(self._truncated(row)) if row.length == self.max_tokens else row

    def _full(self, row: Row) -> bool:
        # the start id is in the target, but not among the hypothesis' ids
        return self.max_target is not None and len(row.hypothesis.ids) + 1 > self.max_target

    def _truncated(self, row: Row) -> Row:
        return replace(
            row, hypothesis=replace(row.hypothesis, truncated=row.hypothesis.truncated | {row.gap})
        )

    def _close(self, row: Row) -> Row:
        row = replace(row, gap=row.gap + 1, length=0)
        if row.gap == len(self.sentinels):
            return replace(row, finished=True)
        opened = row.given(self.sentinels[row.gap])
        return replace(row, finished=True) if self._full(opened) else opened


def decode(decoder: Decoder, rules: Sequence[Rules], settings: Settings) -> Iterator[list[list[Row]]]:
    """Decode one prompt per element of `rules`, all in one batch; the decoder starts with a row for each.

    Yields after every step, for each prompt, its rows: for beam the best first, finished ones before
    those in progress; for greedy one; for sample one per draw. The last yield holds finished rows only.
    """
    search = _Beams(rules, settings) if settings.strategy == "beam" else _Draws(rules, settings)
    if search.parents != list(range(len(rules))):
        decoder.select(torch.tensor(search.parents))
    while search.rows:
        # a row's extra pending tokens go in first; only rows that have caught up choose
        width = min(len(row.pending) for row in search.rows)
        log_probs = decoder.step(torch.tensor([row.pending[:width] for row in search.rows]))
        rows = [replace(row, pending=row.pending[width:]) for row in search.rows]
        before = len(rows)
        search.advance(rows, log_probs)
        if search.rows and search.parents != list(range(before)):
            decoder.select(torch.tensor(search.parents))
        yield search.results()


@dataclass
class _Draws:
    """Greedy and sampling: rows that do not look at each other."""

    rules: Sequence[Rules]
    settings: Settings
    parents: list[int] = field(init=False)

    def __post_init__(self) -> None:
        draws = self.settings.num_return
        self.parents = [prompt for prompt in range(len(self.rules)) for _ in range(draws)]
        self.state = [self.rules[prompt].start() for prompt in self.parents]
        self.owner = self.parents
        self.alive = list(range(len(self.state)))
        # a draw's noise depends on the seed and its number alone: a batch gives what each prompt gives
        seeds = [(self.settings.seed + draw) % 2**63 for _ in self.rules for draw in range(draws)]
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    @property
    def rows(self) -> list[Row]:
        return [self.state[index] for index in self.alive]

    def advance(self, rows: list[Row], log_probs: LogProbs) -> None:
        rules = [self.rules[self.owner[index]] for index in self.alive]
        _forbid(log_probs, rules, rows)
        width = self.settings.num_alternatives + 1
        if self.settings.strategy == "greedy":
            ids, values = (part.tolist() for part in log_probs.top(width))
            picked, log_prob = [row[0] for row in ids], [row[0] for row in values]
        else:
            drawn = log_probs.sample(
                temperature=self.settings.temperature,
                top_k=self.settings.top_k,
                top_p=self.settings.top_p,
                # a row that is being fed draws nothing, so that its noise does not depend on the batch
                generators=[
                    None if row.pending else self.generators[index]
                    for index, row in zip(self.alive, rows, strict=True)
                ],
            )
            picked, log_prob = (part.tolist() for part in drawn)
            ids, values = (part.tolist() for part in log_probs.top(width))
        for number, (index, row) in enumerate(zip(self.alive, rows, strict=True)):
            if row.pending:
                self.state[index] = row
                continue
            others = _others(picked[number], ids[number], values[number], self.settings.num_alternatives)
            self.state[index] = rules[number].choose(row, picked[number], log_prob[number], others)
        going = [number for number, index in enumerate(self.alive) if not self.state[index].finished]
        self.parents, self.alive = going, [self.alive[number] for number in going]

    def results(self) -> list[list[Row]]:
        draws = self.settings.num_return
        return [self.state[first : first + draws] for first in range(0, len(self.state), draws)]


@dataclass
class _Beams:
    """Beam search: the num_beams rows of each prompt whose choices have the highest probability together."""

    rules: Sequence[Rules]
    settings: Settings
    parents: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.parents = list(range(len(self.rules)))
        self.beams = [[rule.start()] for rule in self.rules]
        self.finished: list[list[Row]] = [[] for _ in self.rules]

    @property
    def rows(self) -> list[Row]:
        return [row for beams in self.beams for row in beams]

    def advance(self, rows: list[Row], log_probs: LogProbs) -> None:
        owners = [prompt for prompt, beams in enumerate(self.beams) for _ in beams]
        _forbid(log_probs, [self.rules[owner] for owner in owners], rows)
        width = max(2 * self.settings.num_beams, self.settings.num_alternatives + 1)
        ids, values = (part.tolist() for part in log_probs.top(width))
        self.parents, first = [], 0
        for prompt, beams in enumerate(self.beams):
            numbers = range(first, first + len(beams))
            first += len(beams)
            self.beams[prompt] = self._step(prompt, [(n, rows[n], ids[n], values[n]) for n in numbers])

    def _step(self, prompt: int, beams: list[tuple[int, Row, list[int], list[float]]]) -> list[Row]:
        """Choose the prompt's next beams and note their parents."""
        size, rule = self.settings.num_beams, self.rules[prompt]
        candidates = []  # (score, parent, the choice or None for a row that is still being fed)
        for number, row, ids, values in beams:
            if row.pending:
                candidates.append((row.score, number, row, None))
                continue
            for token, value in zip(ids[: 2 * size], values, strict=False):
                if value > -math.inf:
                    others = _others(token, ids, values, self.settings.num_alternatives)
                    candidates.append((row.score + value, number, row, (token, value, others)))
        candidates.sort(key=lambda candidate: -candidate[0])
        going: list[Row] = []
        for place, (_, number, row, choice) in enumerate(candidates):
            if len(going) == size:
                break
            grown = row if choice is None else rule.choose(row, *choice)
            if not grown.finished:
                going.append(grown)
                self.parents.append(number)
            elif place < size:
                self.finished[prompt].append(grown)
        done = sorted(self.finished[prompt], key=lambda row: -row.score)[:size]
        self.finished[prompt] = done
        # a score only ever falls, so nothing in progress can overtake a full list of better ones
        if going and len(done) == size and going[0].score <= done[-1].score:
            del self.parents[len(self.parents) - len(going) :]
            return []
        return going

    def results(self) -> list[list[Row]]:
        wanted = self.settings.num_return
        pairs = zip(self.finished, self.beams, strict=True)
        return [(finished + beams)[: max(wanted, 1)] for finished, beams in pairs]


def _forbid(log_probs: LogProbs, rules: Sequence[Rules], rows: Sequence[Row]) -> None:
    """Hide from each row what its rules forbid; rows with the same list are served together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (rule, row) in enumerate(zip(rules, rows, strict=True)):
        groups.setdefault(rule.forbidden(row), []).append(number)
    for ids, numbers in groups.items():
        if ids:
            everyone = len(numbers) == len(rows)
            log_probs.forbid(torch.tensor(ids), None if everyone else torch.tensor(numbers))


def _others(token: int, ids: list[int], values: list[float], count: int) -> tuple[tuple[int, float], ...]:
    """The best candidates but the chosen one, without those of probability zero."""
    pairs = zip(ids, values, strict=True)
    return tuple((other, value) for other, value in pairs if other != token and value > -math.inf)[:count]
