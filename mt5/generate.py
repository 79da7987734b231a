"""Greedy, beam and sampling, over anything that yields the distribution of the next token."""

import hashlib
import math
from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from mt5.rules import Row, Rules
from mt5.settings import Settings


class LogProbs(Protocol):
    """Distributions of the next token, one per row; parallel.VocabularyLogProbs has the details."""

    def forbid(self, ids: Tensor, rows: Tensor | None = None) -> None: ...
    def at(self, ids: Tensor) -> Tensor: ...
    def top(self, k: int) -> tuple[Tensor, Tensor]: ...
    def sample(
        self, *, temperature: float, top_k: int, top_p: float, generators: Sequence[torch.Generator | None]
    ) -> tuple[Tensor, Tensor]: ...


class Decoder(Protocol):
    """A batch of decodings in progress."""

    def step(self, tokens: Tensor) -> LogProbs:
        """Add tokens, [rows, new], to every row; return the distribution of what follows the last."""

    def read(self, tokens: Tensor) -> LogProbs:
        """The same, but the distributions of what follows each of them: [rows × new], row by row."""

    def select(self, rows: Tensor) -> None:
        """Go on with these rows, in this order; a row may be taken several times."""


def decode(
    decoder: Decoder, rules: Sequence[Rules], settings: Settings | Sequence[Settings]
) -> Generator[list[list[Row]], Iterable[int] | None, None]:
    """Decode one prompt per element of `rules`, all in one batch; the decoder starts with a row for each.

    settings: for all, or one for each, which may differ in the seed alone. Prompts with given tokens are
    decoded with such as begin with equally many.

    Yields after every step, for each prompt, its rows: for beam the best first, finished ones before
    those in progress; for greedy one; for sample one per draw. The last yield holds finished rows only.
    Prompts whose numbers are sent are decoded no further; theirs stay as they are.
    """
    each = [settings] * len(rules) if isinstance(settings, Settings) else list(settings)
    starts = _read(decoder, rules, each[0].num_alternatives)
    search = _Beams(rules, starts, each) if each[0].strategy == "beam" else _Draws(rules, starts, each)
    if not search.rows:  # everything was given
        yield search.results()
    before = len(rules)
    while search.rows:
        if search.parents != list(range(before)):
            decoder.select(torch.tensor(search.parents))
        # a row's extra pending tokens go in first; only rows that have caught up choose
        width = min(len(row.pending) for row in search.rows)
        log_probs = decoder.step(torch.tensor([row.pending[:width] for row in search.rows]))
        rows = [row.fed(width) for row in search.rows]
        before = len(rows)
        search.advance(rows, log_probs)
        search.drop(frozenset((yield search.results()) or ()))


def _read(decoder: Decoder, rules: Sequence[Rules], num_alternatives: int) -> list[Row]:
    """The rows that the prompts start with; given tokens go in at once, the last of them excepted."""
    rows = [rule.start() for rule in rules]
    if not any(row.unread for row in rows):
        return rows
    lengths = {len(row.pending) for row in rows}
    if len(lengths) > 1:
        raise ValueError(f"prompts that begin with {sorted(lengths)} tokens cannot be decoded together")
    width = lengths.pop() - 1
    log_probs = decoder.read(torch.tensor([row.pending[:width] for row in rows]))
    # the distribution after a token is that of the next one, and the start id is no token of the hypothesis
    places = [(number, token) for number, row in enumerate(rows) for token in row.unread]
    flat = [number * width + token.place for number, token in places]
    gaps = [replace(rows[number], length=token.length) for number, token in places]
    _forbid(log_probs, [rules[number] for number, _ in places], gaps, flat)
    written = torch.tensor([row.hypothesis.ids for row in rows]).flatten()
    at, (ids, values) = (
        log_probs.at(written).tolist(),
        map(Tensor.tolist, log_probs.top(num_alternatives + 1)),
    )
    found: list[dict[int, tuple[float, tuple[tuple[int, float], ...]]]] = [{} for _ in rows]
    for (number, token), place in zip(places, flat, strict=True):
        others = _others(int(written[place]), ids[place], values[place], num_alternatives)
        found[number][token.place] = at[place], others
    return [replace(row.read(own), pending=row.pending[width:]) for row, own in zip(rows, found, strict=True)]


@dataclass
class _Draws:
    """Greedy and sampling: rows that do not look at each other."""

    rules: Sequence[Rules]
    starts: Sequence[Row]
    each: Sequence[Settings]
    parents: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = self.each[0]
        self.owner = [prompt for prompt in range(len(self.rules)) for _ in range(self.settings.num_return)]
        self.state = [self.starts[prompt] for prompt in self.owner]
        self.alive = [index for index, row in enumerate(self.state) if not row.finished]
        self.parents = [self.owner[index] for index in self.alive]

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
                generators=[
                    None if row.pending else self._noise(index, row)
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

    def _noise(self, index: int, row: Row) -> torch.Generator:
        """Noise that depends on the seed, the draw's number and the place in the target alone.

        So a batch gives what each prompt gives, and a decoding goes on from given tokens as it would have.
        """
        draw = self.each[self.owner[index]].seed + index % self.settings.num_return
        # hashed, because torch's generator looks at 32 bits of a seed, and sums of two numbers coincide
        mixed = hashlib.blake2b(f"{draw} {len(row.hypothesis.ids)}".encode(), digest_size=4).digest()
        return torch.Generator().manual_seed(int.from_bytes(mixed))

    def drop(self, prompts: frozenset[int]) -> None:
        if prompts:
            going = [number for number, index in enumerate(self.alive) if self.owner[index] not in prompts]
            self.parents = [self.parents[number] for number in going]
            self.alive = [self.alive[number] for number in going]

    def results(self) -> list[list[Row]]:
        draws = self.settings.num_return
        return [self.state[first : first + draws] for first in range(0, len(self.state), draws)]


@dataclass
class _Beams:
    """Beam search: the num_beams rows of each prompt whose choices have the highest probability together."""

    rules: Sequence[Rules]
    starts: Sequence[Row]
    each: Sequence[Settings]
    parents: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.settings = self.each[0]
        self.beams = [[] if row.finished else [row] for row in self.starts]
        self.finished = [[row] if row.finished else [] for row in self.starts]
        self.parents = [prompt for prompt, row in enumerate(self.starts) if not row.finished]

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
                if value != -math.inf:
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

    def drop(self, prompts: frozenset[int]) -> None:
        owners = [prompt for prompt, beams in enumerate(self.beams) for _ in beams]
        pairs = zip(owners, self.parents, strict=True)
        self.parents = [parent for owner, parent in pairs if owner not in prompts]
        for prompt in prompts:
            self.finished[prompt] += self.beams[prompt]
            self.beams[prompt] = []

    def results(self) -> list[list[Row]]:
        wanted = self.settings.num_return
        pairs = zip(self.finished, self.beams, strict=True)
        return [(finished + beams)[: max(wanted, 1)] for finished, beams in pairs]


def _forbid(
    log_probs: LogProbs, rules: Sequence[Rules], rows: Sequence[Row], places: Sequence[int] | None = None
) -> None:
    """Hide from each row what its rules forbid; rows with the same list are served together.

    places: where the rows' distributions stand, by default those are all there are.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for number, (rule, row) in enumerate(zip(rules, rows, strict=True)):
        groups.setdefault(rule.forbidden(row), []).append(number if places is None else places[number])
    for ids, numbers in groups.items():
        if ids:
            everyone = places is None and len(numbers) == len(rows)
            log_probs.forbid(_tensor(ids), None if everyone else torch.tensor(numbers))


@lru_cache(maxsize=16)
def _tensor(ids: tuple[int, ...]) -> Tensor:
    """The same few lists are forbidden at every step."""
    return torch.tensor(ids)


def _others(token: int, ids: list[int], values: list[float], count: int) -> tuple[tuple[int, float], ...]:
    """The best candidates but the chosen one, without those of probability zero."""
    if not count:
        return ()
    pairs = zip(ids, values, strict=True)
    return tuple((other, value) for other, value in pairs if other != token and value > -math.inf)[:count]
