"""Results as strict JSON: what was asked, what was answered, and by which model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from mt5 import __version__
from mt5.corruption import Corruption
from mt5.info import Info
from mt5.results import Attention, Fill, Filled, Score, Span, Sweep, Token, finite
from mt5.settings import Settings

NO_PART_OF_A_RECORD = ("config", "path", "load_s", "rank_memory", "version")
"""Facts that say nothing of the answer: the same question must make the same file."""
Result = Fill | Score | Sweep | Corruption | Attention


def record(
    result: Result, info: Info, settings: Settings | Mapping[str, Any], given: Sequence[Sequence[int]] = ()
) -> dict[str, Any]:
    """A result as a dictionary that JSON can hold, with all that is needed to have it again.

    settings: those that it was asked for with. given: the tokens that a fill began with. A number that JSON
    has no word for is None.
    """
    asked = asdict(settings) if isinstance(settings, Settings) else dict(settings)
    facts = {key: value for key, value in info.facts().items() if key not in NO_PART_OF_A_RECORD}
    own = _OF[type(result)](result)
    begun = {"given": [list(ids) for ids in given]} if given else {}
    return {**own, **begun, "model": facts, "settings": asked, "version": __version__}


def _fill(fill: Fill) -> dict[str, Any]:
    """The model card's shape, log-probabilities rightly paired, and the spans."""
    completion = {
        "text": fill.completion,
        "tokens": [[token.id, token.piece, finite(token.log_prob)] for token in fill.tokens],
    }
    candidates = [{"text": one.text, "log_prob": finite(one.log_prob)} for one in fill.candidates]
    return {"prompt": fill.prompt, "completion": completion, **_filled(fill), "candidates": candidates}


def _score(score: Score) -> dict[str, Any]:
    return {"prompt": score.prompt, **_filled(score), "perplexity": finite(score.perplexity)}


def _filled(filled: Filled) -> dict[str, Any]:
    return {
        "masked_input": filled.masked_input,
        "text": filled.text,
        "log_prob": finite(filled.log_prob),
        "spans": [_span(span) for span in filled.spans],
    }


def _sweep(sweep: Sweep) -> dict[str, Any]:
    words = [
        {
            "start": word.start,
            "end": word.end,
            "word": word.word,
            "log_prob": finite(word.score.log_prob),
            "score": _span(word.score),
            "fill": _span(word.fill),
        }
        for word in sweep.words
    ]
    return {"text": sweep.text, "words": words}


def _corruption(corruption: Corruption) -> dict[str, Any]:
    return asdict(corruption)


def _attention(attention: Attention) -> dict[str, Any]:
    weights = [[[finite(weight) for weight in row] for row in layer] for layer in attention.weights]
    return {"source": list(attention.source), "target": list(attention.target), "weights": weights}


_OF: dict[type, Callable[[Any], dict[str, Any]]] = {
    Fill: _fill,
    Score: _score,
    Sweep: _sweep,
    Corruption: _corruption,
    Attention: _attention,
}


def _span(span: Span) -> dict[str, Any]:
    return {
        "mask": span.mask,
        "text": span.text,
        "log_prob": finite(span.log_prob),
        "missing": span.missing,
        "truncated": span.truncated,
        "tokens": [_token(token) for token in span.tokens],
    }


def _token(token: Token) -> dict[str, Any]:
    rank = {} if token.rank is None else {"rank": token.rank}
    return {
        "id": token.id,
        "piece": token.piece,
        "log_prob": finite(token.log_prob),
        **rank,
        "alternatives": [[other.piece, finite(other.log_prob)] for other in token.alternatives],
    }
