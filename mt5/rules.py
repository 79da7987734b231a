"""What a decoding begins with, what it may write, and when it ends."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol


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


class Unread(NamedTuple):
    """A given token whose log-probability is known once the tokens before it are fed.

    place: in the hypothesis. length: tokens of its gap before it.
    """

    place: int
    length: int


@dataclass(frozen=True)
class Row:
    """One decoding in progress.

    pending: tokens to feed before the next choice. gap: the gap being filled, length: its tokens so far.
    score: log-probability of every choice made, those that closed a gap included. unread: given tokens that
    have no log-probability yet.
    """

    hypothesis: Hypothesis = Hypothesis()
    pending: tuple[int, ...] = ()
    gap: int = 0
    length: int = 0
    score: float = 0.0
    finished: bool = False
    unread: tuple[Unread, ...] = ()

    def given(self, *ids: int) -> "Row":
        """With tokens that are not chosen; their log-probability is 0."""
        h = self.hypothesis
        hypothesis = replace(
            h,
            ids=h.ids + ids,
            log_probs=h.log_probs + (0.0,) * len(ids),
            alternatives=h.alternatives + ((),) * len(ids),
        )
        return replace(self, hypothesis=hypothesis, pending=self.pending + ids)

    def fixed(self, ids: tuple[int, ...]) -> "Row":
        """With tokens of a gap that are not chosen, but have a log-probability: see `read`."""
        places = range(len(self.hypothesis.ids), len(self.hypothesis.ids) + len(ids))
        unread = tuple(Unread(place, length) for length, place in enumerate(places))
        return replace(self.given(*ids), length=len(ids), unread=self.unread + unread)

    def read(self, found: Mapping[int, tuple[float, tuple[tuple[int, float], ...]]]) -> "Row":
        """With the log-probabilities and the alternatives of the tokens that were fixed, by their places."""
        h = self.hypothesis
        pairs = [
            found.get(place, given)
            for place, given in enumerate(zip(h.log_probs, h.alternatives, strict=True))
        ]
        log_probs, alternatives = zip(*pairs, strict=True)
        return replace(self, hypothesis=replace(h, log_probs=log_probs, alternatives=alternatives), unread=())

    def fed(self, width: int) -> "Row":
        """Without the first pending tokens, which went in."""
        pending = self.pending[width:]
        return Row(self.hypothesis, pending, self.gap, self.length, self.score, self.finished, self.unread)

    def chosen(self, token: int, log_prob: float, alternatives: tuple[tuple[int, float], ...]) -> "Row":
        """With one more token."""
        h = self.hypothesis
        # positional, because this runs for every row at every step and `replace` takes several times as long
        hypothesis = Hypothesis(
            (*h.ids, token), (*h.log_probs, log_prob), (*h.alternatives, alternatives), h.truncated
        )
        score = self.score + log_prob
        return Row(hypothesis, (token,), self.gap, self.length + 1, score, self.finished, self.unread)


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
        ends = token in self.stop_ids or row.length == self.max_tokens
        return replace(row, finished=True) if ends else row


@dataclass(frozen=True)
class Guided:
    """The sentinel before each gap is given; the decoder fills the gap with at least one token.

    A gap is closed by any of `closing_ids`, which are not written, or by its max_tokens-th token.
    Decoding ends with the last gap, or where the whole target reaches max_target tokens.
    given: the tokens that the first gaps begin with. All but the last of these gaps are closed; one more
    than there are gaps, empty, says that the last is closed too.
    """

    start_id: int
    sentinels: tuple[int, ...]
    closing_ids: tuple[int, ...]
    never_ids: tuple[int, ...]
    max_tokens: int
    max_target: int | None = None
    given: tuple[tuple[int, ...], ...] = ()

    def start(self) -> Row:
        row = Row(pending=(self.start_id,)).given(self.sentinels[0])
        for number, ids in enumerate(self.given):
            row = self._close(row) if number else row
            row = row.fixed(ids)
            row = self._truncated(row) if row.length == self.max_tokens else row
        return self._close(row) if row.length == self.max_tokens else row

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
