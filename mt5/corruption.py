"""Span corruption, the task on which T5 trains (Raffel et al. 2020, §3.1.4): a sentence becomes input and target."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from mt5.errors import PromptError
from mt5.tokenizer import Tokenizer

LONGEST_SPAN = 10


@dataclass(frozen=True)
class Corruption:
    """A sentence with spans of its tokens masked.

    source: the encoder's ids, sentinel k in place of span k. target: sentinel 0, span 0, sentinel 1, …, eos.
    spans: [start, end) of each in the sentence's tokens. pieces: the sentence's tokens as text.
    """

    text: str
    pieces: tuple[str, ...]
    spans: tuple[tuple[int, int], ...]
    source: tuple[int, ...]
    target: tuple[int, ...]
    source_text: str
    target_text: str


def draw_spans(length: int, *, density: float, mean_span: float, rng: random.Random) -> list[tuple[int, int]]:
    """Spans of `length` tokens that hold about the share `density` of them, in order and apart.

    Lengths are geometric with mean `mean_span`, at most LONGEST_SPAN; starts are tried in random order until
    the budget of masked tokens is used, which is at least one token. One token at least stays unmasked.
    """
    budget = min(max(1, round(density * length)), length - 1)
    taken = [False] * length
    starts = list(range(length))
    rng.shuffle(starts)
    spans = []
    for start in starts:
        if budget == 0:
            break
        wanted = 1
        while wanted < LONGEST_SPAN and rng.random() > 1 / mean_span:
            wanted += 1
        end = start
        # a span neither overlaps nor touches another: two that touch would be one
        while end < length and end - start < min(wanted, budget) and not taken[end]:
            end += 1
        apart = (start == 0 or not taken[start - 1]) and (end == length or not taken[end])
        if end > start and apart:
            taken[start:end] = [True] * (end - start)
            spans.append((start, end))
            budget -= end - start
    return sorted(spans)


def corrupt(text: str, tokenizer: Tokenizer, *, density: float, mean_span: float, rng: random.Random) -> Corruption:
    """Mask spans of a sentence's tokens. PromptError when it is too short or the numbers are out of range."""
    if not 0.01 <= density <= 0.9:
        raise PromptError(f"The noise density is {density!r}, expected 0.01 to 0.9.")
    if not 1 <= mean_span <= LONGEST_SPAN:
        raise PromptError(f"The mean span length is {mean_span!r}, expected 1 to {LONGEST_SPAN}.")
    ids = tokenizer.encode(text)
    if len(ids) < 2:
        raise PromptError("The sentence has fewer than two tokens, so nothing can be masked. Type a longer one.")
    spans = draw_spans(len(ids), density=density, mean_span=mean_span, rng=rng)[: len(tokenizer.sentinels)]
    source: list[int] = []
    target: list[int] = []
    end = 0
    for number, span in enumerate(spans):
        source += [*ids[end : span[0]], tokenizer.sentinels[number]]
        target += [tokenizer.sentinels[number], *ids[slice(*span)]]
        end = span[1]
    source += ids[end:]
    target.append(tokenizer.eos_id)
    return Corruption(
        text,
        tuple(tokenizer.piece(id_) for id_ in ids),
        tuple(spans),
        tuple(source),
        tuple(target),
        _spelled(source, tokenizer),
        _spelled(target, tokenizer),
    )


def _spelled(ids: Sequence[int], tokenizer: Tokenizer) -> str:
    """Ids as a person reads them: text, with the sentinels' names and the end of sequence."""
    text, run = "", []

    def flushed() -> str:
        piece = tokenizer.decode(run)
        run.clear()
        return piece

    for id_ in ids:
        number = tokenizer.is_sentinel(id_)
        if number is None and id_ != tokenizer.eos_id:
            run.append(id_)
            continue
        text += flushed() + (" </s>" if number is None else f" <extra_id_{number}>")
    return (text + flushed()).strip()
