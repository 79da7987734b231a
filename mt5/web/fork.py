"""Another token in place of one that was written: choices, and how they are undone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mt5 import infill
from mt5.web import chips
from mt5.web.answer import Answer, views
from mt5.web.text import Text

LONGEST_TRAIL = 50


@dataclass(frozen=True, eq=False)  # told apart by identity: a page asks for a hash of its state
class Choice:
    """A visitor wrote `piece` in place of `instead`. before, given: what stood there, for undoing it."""

    piece: str
    instead: str
    before: Answer
    given: str


Trail = tuple[Choice, ...]


def written(given: Sequence[Sequence[int]]) -> str:
    """Given tokens as an address says them: "12,7;4" are two of the first gap and one of the second."""
    return ";".join(",".join(map(str, ids)) for ids in given)


def read(given: object) -> tuple[tuple[int, ...], ...]:
    """The tokens of `written`; none when it is no such text."""
    try:
        lists = [ids.split(",") for ids in str(given or "").split(";") if ids]
        return tuple(tuple(int(id_) for id_ in ids) for ids in lists)
    except ValueError:
        return ()


def forked(answer: Answer, fork: object, given: str, trail: Trail) -> tuple[str, Trail]:
    """What is given when the alternative of a chip was clicked, "gap,place,id", and the trail with it.

    Only the page itself asks this: ValueError when it is no alternative of the answer.
    """
    mask, place, id_ = (int(number) for number in str(fork).split(","))
    ids = infill.forked(answer.fill, mask, place, id_)
    token = answer.fill.spans[mask].tokens[place]
    [piece] = (other.piece for other in token.alternatives if other.id == id_)
    return written(ids), (*trail, Choice(piece, token.piece, answer, given))[-LONGEST_TRAIL:]


def undone(trail: Sequence[Choice], text: Text) -> list[Any]:
    """The outputs of the state before the last choice."""
    if not trail:
        return [gr.skip()] * 10
    *rest, last = trail
    return [*views(last.before, text), *followed(rest, text, last.given)]


def followed(trail: Sequence[Choice], text: Text, given: str) -> list[Any]:
    """The choices of the visitor as the outputs: trail, its list, the button that undoes, given."""
    said = [
        text("trail_step", token=chips.named(choice.piece, text), instead=chips.named(choice.instead, text))
        for choice in trail
    ]
    steps = "".join(f"<li>{chips.visible(step)}</li>" for step in said)
    listed = f'<h2>{text.html("trail")}</h2><ol class="trail">{steps}</ol>' if steps else ""
    return [tuple(trail), listed, gr.update(visible=bool(trail)), given]


def beside(shown: Iterable[list[Any]], said: list[Any]) -> Iterator[list[Any]]:
    """Outputs as they come, with those of `followed` beside the first: nothing is built anew for the rest."""
    for outputs in shown:
        yield [*outputs, *said]
        said = [gr.skip()] * len(said)
