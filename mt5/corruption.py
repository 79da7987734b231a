"""Span corruption, the task on which T5 trains (Raffel et al. 2020, §3.1.4): a sentence becomes a pair."""

import random
from dataclasses import dataclass

from mt5.errors import PromptError
from mt5.tokenizer import SPACE, Tokenizer

LONGEST_SPAN = 10  # tokens, as NeMo draws them


@dataclass(frozen=True)
class Corruption:
    """A sentence with spans of its tokens masked.

    pieces: the sentence's tokens. spans: [start, end) of each in `pieces`; span k is behind sentinel k.
    source: the encoder's ids, a sentinel in place of every span. target: sentinel 0, span 0, …, eos.
    source_text, target_text: both as a person reads them. parts: the text around the spans, one more than
    there are; removed: that of the spans.
    """

    text: str
    pieces: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    source: tuple[int, ...]
    target: tuple[int, ...]
    source_text: str
    target_text: str
    parts: tuple[str, ...]
    removed: tuple[str, ...]


def draw_spans(
    length: int, *, density: float, mean_span: float, rng: random.Random, most: int
) -> list[tuple[int, int]]:
    """Spans of `length` tokens that hold the share `density` of them, in order, none touching another.

    The budget is rounded, at least one token, and leaves at least one unmasked. Lengths are geometric with
    mean `mean_span`, at most LONGEST_SPAN, the last cut to fit; any arrangement is as likely as another.
    Spans grow longer only where there would be more than `most`, or too few tokens to keep them apart.
    """
    budget = min(max(1, round(density * length)), length - 1)
    unmasked = length - budget
    lengths: list[int] = []
    while (left := budget - sum(lengths)) > 0:
        if len(lengths) == min(most, unmasked + 1):
            for number in range(left):
                lengths[number % len(lengths)] += 1
            break
        span = 1
        while span < LONGEST_SPAN and rng.random() > 1 / mean_span:
            span += 1
        lengths.append(min(span, left))
    # before each span stand so many of the unmasked tokens
    slots = sorted(rng.sample(range(unmasked + 1), len(lengths)))
    rng.shuffle(lengths)  # else the one that was cut to fit would always be the last
    spans, masked = [], 0
    for slot, span in zip(slots, lengths, strict=True):
        spans.append((slot + masked, slot + masked + span))
        masked += span
    return spans


def corrupt(
    text: str, tokenizer: Tokenizer, *, density: float, mean_span: float, rng: random.Random
) -> Corruption:
    """Mask spans of a sentence's tokens. PromptError when it is too short or the numbers are out of range."""
    if not 0.01 <= density <= 0.9:
        raise PromptError(f"The noise density is {density!r}, expected 0.01 to 0.9.")
    if not 1 <= mean_span <= LONGEST_SPAN:
        raise PromptError(f"The mean span length is {mean_span!r}, expected 1 to {LONGEST_SPAN}.")
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        raise PromptError(
            "The sentence has fewer than two tokens, so nothing can be masked. Type a longer one."
        )
    spans = draw_spans(len(ids), density=density, mean_span=mean_span, rng=rng, most=len(tokenizer.sentinels))
    pieces = [tokenizer.piece(id_) for id_ in ids]
    source: list[int] = []
    target: list[int] = []
    parts: list[str] = []
    removed: list[str] = []
    end = 0
    for (start, stop), sentinel in zip(spans, tokenizer.sentinels, strict=False):
        source += [*ids[end:start], sentinel]
        target += [sentinel, *ids[start:stop]]
        # the space before a masked word is masked with it, but without it nobody could read the input
        gap = " " if pieces[start].startswith(SPACE) else ""
        parts.append(tokenizer.decode(ids[end:start]) + gap)
        removed.append(tokenizer.decode(ids[start:stop]))
        end = stop
    parts = [parts[0].lstrip(), *parts[1:], tokenizer.decode(ids[end:]).rstrip()]
    source_text = parts[0] + "".join(f"<extra_id_{n}>{part}" for n, part in enumerate(parts[1:]))
    target_text = "".join(f"<extra_id_{n}>{span} " for n, span in enumerate(removed))
    return Corruption(
        text,
        tuple(pieces),
        tuple(spans),
        (*source, *ids[end:]),
        (*target, tokenizer.eos_id),
        source_text,
        f"{target_text}</s>",
        tuple(parts),
        tuple(span.strip() for span in removed),
    )
