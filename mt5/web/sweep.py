"""The tab that masks every word in turn."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mt5 import figures
from mt5.info import Info
from mt5.record import record
from mt5.results import Sweep, finite
from mt5.web import charts, chips, export, firsts
from mt5.web.faults import SAID, fault
from mt5.web.spoken import build_spoken, spoken_in
from mt5.web.tab import Shell, Tab, heavy
from mt5.web.text import Text, text_of

COLUMNS = ("word", "start", "end", "log_prob", "surprise_bits", "model", "model_log_prob", "text")


@dataclass(frozen=True, eq=False)  # told apart by identity: a page asks for a hash of its state
class Answer:
    """A result as it is shown."""

    sweep: Sweep
    info: Info
    spoken: str | None

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        return record(self.sweep, self.info, {})


def views(answer: Answer | None, text: Text) -> list[Any]:
    """A result as the outputs: answer, sentence, chart, message."""
    if answer is None:
        return [None, export.nothing(text, "sweep_empty"), charts.shown(None), ""]
    shown = chips.swept(answer.sweep, text, answer.spoken)
    hint = f'{chips.legend(text)}<p class="hint">{text.html("sweep_hint")}</p>'
    return [answer, shown + hint, chart(answer.sweep, text), ""]


def chart(sweep: Sweep, text: Text) -> dict[str, Any]:
    """A bar of surprise for each word."""
    figure = figures.sweep(sweep, **charts.said("sweep_title", text))
    return charts.shown(charts.drawn(figure, "sweep-surprise"))


def rows(answer: Answer) -> Iterable[tuple[Any, ...]]:
    """A row per word, for COLUMNS."""
    for word in answer.sweep.words:
        log_prob = finite(word.score.log_prob)
        bits = None if log_prob is None else -log_prob / math.log(2)
        own = (word.fill.text, finite(word.fill.log_prob), answer.sweep.text)
        yield (word.word, word.start, word.end, log_prob, bits, *own)


def build(shell: Shell) -> Tab:
    """Lay the tab out and say what its buttons do."""
    put, models = shell.words.put, shell.models

    def run(language: str, sentence: str, chosen: str) -> list[Any]:
        text = text_of(language)
        try:
            with models.engine() as engine:
                answer = Answer(engine.sweep(sentence), engine.info, spoken_in(chosen, sentence))
            return views(answer, text)
        except SAID as error:
            return [*views(None, text)[:-1], fault(error, sentence, text, whole=True)]

    def show(language: str, answer: Answer | None) -> list[Any]:
        return views(answer, text_of(language))

    put(gr.HTML(elem_classes="intro"), value=lambda text: f"<p>{text.html('sweep_intro')}</p>")
    with gr.Row(elem_classes="ask"):
        sentence = firsts.build_first(shell, firsts.whole, elem_id="sweep-text", scale=5, min_width=280)
        put(sentence, label="sentence", info="sentence_info")
        chosen = build_spoken(shell.words, "sweep-language")
    start = put(gr.Button(variant="primary", elem_id="sweep"), value="sweep")
    message = gr.HTML(elem_classes="status")
    with gr.Column(elem_id="sweep-result", elem_classes="result"):
        empty = export.nothing(shell.words.text, "sweep_empty")
        shown = gr.HTML(empty, elem_id="sweep-chips", js_on_load=chips.SCRIPT)
        bars = charts.build_plot(shell.words, "sweep-surprise")
    answer, go = gr.State(), gr.Textbox(visible="hidden")
    tab = Tab("sweep", {"q": sentence, "lang": chosen}, go, firsts.missing(q=firsts.whole))
    export.build_downloads(shell, tab, answer, COLUMNS, rows)
    outputs = [answer, shown, bars, message]
    inputs = [shell.language, sentence, chosen]
    gr.on([start.click, go.change], run, inputs, outputs, trigger_mode="always_last", **heavy(message))
    shell.redrawn(show, answer, outputs)
    return tab
