"""The tab that shows how the model was trained."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from mt5.corruption import Corruption
from mt5.errors import PromptError
from mt5.info import Info
from mt5.record import record
from mt5.results import Fill, finite
from mt5.tokenizer import MASK
from mt5.web import chips, export, firsts
from mt5.web.faults import SAID, fault
from mt5.web.settings import whole
from mt5.web.spoken import build_spoken, spoken_in
from mt5.web.tab import Shell, Tab, heavy
from mt5.web.text import Text, text_of

if TYPE_CHECKING:
    from mt5.engine import Engine

COLUMNS = ("span", "text", "model", "model_log_prob", "sentence")
COLOURS = 8  # of .span-0, .span-1, … in assets/style.css


@dataclass(frozen=True, eq=False)  # told apart by identity: a page asks for a hash of its state
class Answer:
    """A sentence cut up, and what the model writes into the gaps."""

    corruption: Corruption
    fill: Fill
    settings: dict[str, Any]
    info: Info
    spoken: str | None

    @property
    def record(self) -> dict[str, Any]:
        """For JSON, with what the model wrote."""
        own = record(self.fill, self.info, {})
        return record(self.corruption, self.info, self.settings) | {"model_writes": own["spans"]}


def corrupted(engine: "Engine", sentence: str, chosen: object, **options: Any) -> Answer:
    """Cut a sentence up and let the model try to restore it. options: density, mean_span, seed."""
    if MASK in sentence:
        raise PromptError(f"The sentence holds {MASK}. Spans are cut out of a whole one.")
    found = engine.corrupt(sentence, **options)
    return Answer(found, engine.restore(found), options, engine.info, spoken_in(chosen, sentence))


def views(answer: Answer | None, text: Text) -> list[Any]:
    """A result as the outputs: answer, cards, message."""
    if answer is None:
        return [None, export.nothing(text, "corrupt_empty"), ""]
    lang = f' lang="{answer.spoken}"' if answer.spoken else ""
    cards = (
        ("corrupt_input", source(answer)),
        ("corrupt_target", target(answer.corruption.removed, text)),
        ("corrupt_attempt", attempt(answer, text)),
    )
    shown = "".join(
        f'<section class="card"><h2>{text.html(title)}</h2>'
        f'<p class="spans" dir="auto"{lang}>{body}</p></section>'
        for title, body in cards
    )
    return [answer, f'<p class="hint">{counted(answer, text)}</p><div class="trio">{shown}</div>', ""]


def counted(answer: Answer, text: Text) -> str:
    """How much was cut out, and how much of it the model restored."""
    spans = answer.corruption.spans
    masked = sum(end - start for start, end in spans)
    pairs = zip(answer.fill.spans, answer.corruption.removed, strict=True)
    right = sum(own.text.strip() == span for own, span in pairs)
    numbers = {"masked": masked, "tokens": len(answer.corruption.pieces), "spans": len(spans), "right": right}
    said = {name: text.number(number, 0) for name, number in numbers.items()}
    return f"{text.html('corrupt_count', **said)} · {text.html('corrupt_right', **said)}"


def source(answer: Answer) -> str:
    """The input: the text with a marker for every span."""
    parts = [chips.visible(part) for part in answer.corruption.parts]
    return parts[0] + "".join(f"{_marker(number)}{part}" for number, part in enumerate(parts[1:]))


def target(spans: Iterable[str], text: Text) -> str:
    """The target: every marker with its span, and the end."""
    shown = (f"{_marker(number)} {_span(span, number)} " for number, span in enumerate(spans))
    return f'{"".join(shown)}<span class="marker end">{text.html("end_marker")}</span>'


def attempt(answer: Answer, text: Text) -> str:
    """What the model writes for every marker, with its probability and whether it is right."""
    shown = []
    for own, span in zip(answer.fill.spans, answer.corruption.removed, strict=True):
        right = own.text.strip() == span
        sign = f'<span class="right" role="img" aria-label="{text.html("right")}">✓</span>' if right else ""
        percent = text.percent(math.exp(own.log_prob))
        written = _span(own.text.strip() or "…", own.mask)
        shown.append(f"{_marker(own.mask)} {written}{sign} <small>{chips.visible(percent)}</small> ")
    return "".join(shown)


def _marker(number: int) -> str:
    name = chips.visible(f"<extra_id_{number}>")
    return f'<span class="marker span-{number % COLOURS}" dir="ltr">{name}</span>'


def _span(span: str, number: int) -> str:
    return f'<span class="cut span-{number % COLOURS}">{chips.visible(span)}</span>'


def rows(answer: Answer) -> Iterable[tuple[Any, ...]]:
    """A row per span, for COLUMNS."""
    for own, span in zip(answer.fill.spans, answer.corruption.removed, strict=True):
        yield (own.mask, span, own.text, finite(own.log_prob), answer.corruption.text)


def build(shell: Shell) -> Tab:
    """Lay the tab out and say what its buttons do."""
    put, models = shell.words.put, shell.models

    def run(
        language: str, sentence: str, chosen: str, density: float, mean_span: float, seed: float
    ) -> list[Any]:
        text, options = text_of(language), {"density": density, "mean_span": mean_span, "seed": whole(seed)}
        try:
            with models.engine() as engine:
                return [*views(corrupted(engine, sentence, chosen, **options), text), seed]
        except SAID as error:
            return [*views(None, text)[:-1], fault(error, sentence, text, whole=True), seed]

    def again(*values: Any) -> list[Any]:
        return run(*values[:-1], (values[-1] or 0) + 1)

    def show(language: str, answer: Answer | None) -> list[Any]:
        return views(answer, text_of(language))

    put(gr.HTML(elem_classes="intro"), value=lambda text: f"<p>{text.html('corrupt_intro')}</p>")
    with gr.Row(elem_classes="ask"):
        sentence = firsts.build_first(shell, firsts.long, elem_id="corrupt-text", scale=5, min_width=280)
        put(sentence, label="sentence", info="sentence_info")
        chosen = build_spoken(shell.words, "corrupt-language")
    with gr.Row():
        density = gr.Slider(0.05, 0.9, 0.15, step=0.05, min_width=200, elem_id="density")
        put(density, label="density", info="density_info")
        mean_span = gr.Slider(1, 10, 3, step=0.5, min_width=200, elem_id="mean-span")
        put(mean_span, label="mean_span", info="mean_span_info")
        seed = gr.Number(0, precision=0, minimum=0, min_width=200, elem_id="corrupt-seed")
        put(seed, label="seed", info="seed_info")
    with gr.Row():
        start = put(gr.Button(variant="primary", scale=4, elem_id="corrupt"), value="corrupt")
        other = put(gr.Button(scale=2, min_width=150, elem_id="corrupt-again"), value="corrupt_again")
    message = gr.HTML(elem_classes="status")
    with gr.Column(elem_id="corrupt-result", elem_classes="result"):
        shown = gr.HTML(export.nothing(shell.words.text, "corrupt_empty"), elem_id="corrupt-spans")
    answer, go = gr.State(), gr.Textbox(visible="hidden")
    fields = {"q": sentence, "lang": chosen, "density": density, "mean_span": mean_span, "seed": seed}
    tab = Tab("corrupt", fields, go, firsts.missing(q=firsts.long))
    export.build_downloads(shell, tab, answer, COLUMNS, rows)
    inputs, outputs = [shell.language, *fields.values()], [answer, shown, message]
    options = heavy(message) | {"trigger_mode": "always_last"}
    gr.on([start.click, go.change], run, inputs, [*outputs, seed], **options)
    other.click(again, inputs, [*outputs, seed], **options)
    shell.redrawn(show, answer, outputs)
    return tab
