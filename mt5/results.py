"""What an engine answers."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

LARGEST_SURPRISE = 700  # nats, of which exp is still a number


@dataclass(frozen=True)
class Alternative:
    """Another candidate for a token."""

    id: int
    piece: str
    log_prob: float


@dataclass(frozen=True)
class Token:
    """A token that the decoder wrote, or was asked about.

    log_prob: natural logarithm of its softmax probability, before temperature or truncation.
    alternatives: other candidates at its place, likeliest first. rank: 1 for the likeliest, when scored.
    """

    id: int
    piece: str
    log_prob: float
    alternatives: tuple[Alternative, ...] = ()
    rank: int | None = None

    @property
    def probability(self) -> float:
        return math.exp(self.log_prob)

    @property
    def surprise(self) -> float:
        """In bits: −log2 p."""
        return -self.log_prob / math.log(2)


@dataclass(frozen=True)
class Span:
    """What fills one mask, counted from 0.

    text: as it stands in the filled sentence. missing: the decoder never came to this mask.
    truncated: the span ended because it had reached the longest length allowed.
    """

    mask: int
    text: str
    tokens: tuple[Token, ...] = ()
    missing: bool = False
    truncated: bool = False

    @property
    def log_prob(self) -> float:
        return sum(token.log_prob for token in self.tokens)

    @property
    def perplexity(self) -> float:
        return perplexity(self.tokens)


def perplexity(tokens: Sequence[Token]) -> float:
    """exp of the mean surprise, in nats per token; 1 for no tokens."""
    if not tokens:
        return 1.0
    surprise = -sum(token.log_prob for token in tokens) / len(tokens)
    return math.exp(surprise) if surprise < LARGEST_SURPRISE else math.inf


def finite(value: float) -> float | None:
    """The number itself; None for infinity and for what is no number, which JSON has no word for."""
    return value if math.isfinite(value) else None


@dataclass(frozen=True)
class Filled:
    """A prompt with its masks filled.

    text: the prompt with each mask replaced by its span, all else byte for byte as it was.
    masked_input: the pieces that the encoder read.
    """

    prompt: str
    text: str
    masked_input: str
    spans: tuple[Span, ...]

    @property
    def tokens(self) -> tuple[Token, ...]:
        return tuple(token for span in self.spans for token in span.tokens)

    @property
    def log_prob(self) -> float:
        """Of all tokens of all spans together."""
        return sum(span.log_prob for span in self.spans)

    @property
    def perplexity(self) -> float:
        return perplexity(self.tokens)


@dataclass(frozen=True)
class Fill(Filled):
    """What the model wrote. candidates: all results, best first, when several were asked for."""

    candidates: tuple["Fill", ...] = ()

    @property
    def completion(self) -> str:
        """The spans alone, joined by spaces."""
        return " ".join(span.text for span in self.spans)


@dataclass(frozen=True)
class Score(Filled):
    """What the model thinks of given answers; every token has its rank."""


@dataclass(frozen=True)
class SweepWord:
    """A word, [start, end) in the text, masked: how likely it was, and what the model would have written."""

    start: int
    end: int
    word: str
    score: Span
    fill: Span


@dataclass(frozen=True)
class Sweep:
    """Every word of a text, masked in turn."""

    text: str
    words: tuple[SweepWord, ...]


@dataclass(frozen=True)
class Attention:
    """Where the decoder looked while it wrote, heads averaged.

    source: the pieces that the encoder read. target: the pieces written, sentinels included.
    weights: [layer][target][source], from the first layer; each row sums to 1.
    """

    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: tuple[tuple[tuple[float, ...], ...], ...]
