"""A filled prompt as it is shown, while the model writes and afterwards."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from mt5 import figures
from mt5.info import Info
from mt5.languages import LANGUAGES
from mt5.record import record
from mt5.results import Fill
from mt5.settings import Settings
from mt5.web import charts, chips
from mt5.web.export import nothing
from mt5.web.faults import SAID, fault
from mt5.web.line import left
from mt5.web.text import Text

if TYPE_CHECKING:
    from mt5.engine import Engine


@dataclass(frozen=True, eq=False)  # told apart by identity: a page asks for a hash of its state
class Answer:
    """A result as it is shown: with what an export says of it, and the language of its sentence."""

    fill: Fill
    settings: Settings
    given: Sequence[Sequence[int]]
    info: Info
    spoken: str | None

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        return record(self.fill, self.info, self.settings, self.given)


def answered(answer: Answer, text: Text) -> str:
    """The filled sentence, plain, how sure the model was of all of it, and which language it is."""
    fill, endonyms = answer.fill, {language.code: language.endonym for language in LANGUAGES}
    spoken = endonyms.get(answer.spoken or "")
    numbers = (
        f"{text('log_prob')} {text.number(fill.log_prob, 3)}",
        f"{text('perplexity')} {text.number(fill.perplexity, 2)}",
        answer.info.name,
        *([text("language_detected", language=spoken)] if spoken else []),
    )
    return (
        f'<p class="filled" dir="auto" aria-live="polite">{chips.visible(fill.text)}</p>'
        f'<p class="hint">{chips.visible(" · ".join(numbers))}</p>'
    )


def candidates(fill: Fill | None, text: Text) -> str:
    """All results asked for, best first, as HTML."""
    if fill is None or not fill.candidates:
        return f'<p class="hint">{text.html("candidates_info")}</p>'
    rows = "".join(
        f"<li>{chips.visible(one.text)}"
        f" <small>{text.html('log_prob')} {text.number(one.log_prob, 2)}</small></li>"
        for one in fill.candidates
    )
    return f'<ol class="candidates">{rows}</ol>'


def sentence(answer: Answer, text: Text) -> str:
    """The chips, with what explains them."""
    shown = chips.sentence(answer.fill, text, answer.spoken, forks=True)
    return f'{shown}{chips.legend(text)}<p class="hint">{text.html("chip_hint")}</p>'


def chart(fill: Fill, text: Text) -> dict[str, Any]:
    """The bars of surprise."""
    figure = figures.surprise(fill.tokens, **charts.said("surprise_title", text))
    return charts.shown(charts.drawn(figure, "surprise"))


def views(answer: Answer | None, text: Text, *, draw: bool = True) -> list[Any]:
    """A result as the outputs: answer, sentence, chips, chart, candidates, message."""
    if answer is None:
        return [None, nothing(text, "fill_empty"), "", charts.shown(None), candidates(None, text), ""]
    return [
        answer,
        answered(answer, text),
        sentence(answer, text),
        chart(answer.fill, text) if draw else gr.skip(),
        candidates(answer.fill, text),
        "",
    ]


def streamed(
    engine: "Engine",
    text: Text,
    prompt: str,
    spoken: str | None,
    settings: dict[str, Any],
    given: Sequence[Sequence[int]] = (),
    busy_s: object = None,
) -> Iterator[list[Any]]:
    """The outputs while the model writes, at last those of the whole; a fault stands above what it wrote."""
    answer = None
    try:
        chosen, info = Settings(**settings), engine.info
        for fill, show, draw in charts.paced(engine.stream(prompt, given=given, **settings), busy_s):
            answer = Answer(fill, chosen, given, info, spoken)
            if left():
                return
            if show:
                yield views(answer, text, draw=draw)
        yield views(answer, text, draw=True)
    except SAID as error:
        yield [*views(answer, text)[:-1], fault(error, prompt, text)]
