"""The tab that asks one meaning in 24 languages."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import gradio as gr

from mt5 import figures
from mt5.errors import PromptError
from mt5.info import Info
from mt5.languages import ASSETS, LANGUAGES
from mt5.record import record
from mt5.results import Fill, finite
from mt5.settings import Settings
from mt5.tokenizer import MASK
from mt5.web import charts, chips, export
from mt5.web.faults import SAID, fault
from mt5.web.settings import settings_of
from mt5.web.tab import Shell, Tab, heavy
from mt5.web.text import Text, escape, text_of

if TYPE_CHECKING:
    from mt5.engine import Engine

COLUMNS = ("language", "prompt", "text", "span", "expected", "log_prob", "perplexity")


@cache
def meanings() -> dict[str, dict[str, tuple[str, str]]]:
    """Meaning → language → prompt and the answer that is expected."""
    rows = json.loads((ASSETS / "meanings.json").read_text(encoding="utf-8"))
    codes = [language.code for language in LANGUAGES]
    return {name: {code: tuple(said[code]) for code in codes} for name, said in rows.items()}


@dataclass(frozen=True, eq=False)  # told apart by identity: a page asks for a hash of its state
class Answer:
    """A meaning and what the model wrote for it, language by language, in the order of LANGUAGES."""

    meaning: str
    fills: tuple[Fill, ...]
    settings: Settings
    info: Info

    @property
    def record(self) -> dict[str, Any]:
        """For JSON, language by language."""
        each = [record(fill, self.info, self.settings) for fill in self.fills]
        shared = {key: each[0][key] for key in ("model", "settings", "version")}
        own = [
            {"language": code, "expected": answer, **{key: one[key] for key in one if key not in shared}}
            for (code, (_, answer)), one in zip(meanings()[self.meaning].items(), each, strict=True)
        ]
        return {"meaning": self.meaning, "languages": own, **shared}

    @property
    def expected(self) -> list[bool]:
        """Whether each of them is the answer that is expected."""
        answers = [answer for _, answer in meanings()[self.meaning].values()]
        return [fill.completion.strip() == answer for fill, answer in zip(self.fills, answers, strict=True)]


def asked(engine: "Engine", meaning: object, settings: dict[str, Any]) -> Answer:
    """Ask a meaning in every language, in one batch."""
    if meaning not in meanings():
        raise PromptError(f"Meaning {meaning!r} is unknown; choose {', '.join(meanings())}.")
    said = meanings()[str(meaning)]
    fills = engine.fill([prompt for prompt, _ in said.values()], **settings)
    return Answer(str(meaning), tuple(fills), Settings(**settings), engine.info)


def views(answer: Answer | None, text: Text) -> list[Any]:
    """A result as the outputs: answer, list, chart, message."""
    if answer is None:
        return [None, export.nothing(text, "languages_empty"), charts.shown(None), ""]
    right = {"right": text.number(sum(answer.expected), 0), "all": text.number(len(answer.fills), 0)}
    rows = "".join(
        _row(language.code, language.endonym, fill, answer.meaning, good, text)
        for language, fill, good in zip(LANGUAGES, answer.fills, answer.expected, strict=True)
    )
    table = (
        f'<table class="languages"><caption class="sr">{text.html(f"meaning_{answer.meaning}")}</caption>'
        f'<thead><tr><th scope="col">{text.html("languages_name")}</th>'
        f'<th scope="col">{text.html("languages_sentence")}</th>'
        f'<th scope="col">{text.html("probability")}</th>'
        f"</tr></thead><tbody>{rows}</tbody></table>"
    )
    summary = f'<p class="verdict">{text.html("languages_right", **right)}</p>'
    return [answer, summary + table + chips.legend(text), chart(answer, text), ""]


def chart(answer: Answer, text: Text) -> dict[str, Any]:
    """A bar for each language."""
    names = [language.endonym for language in LANGUAGES]
    figure = figures.languages(names, answer.fills, **charts.said("languages_title", text))
    return charts.shown(charts.drawn(figure, "languages"))


def rows(answer: Answer) -> Iterable[tuple[Any, ...]]:
    """A row per language, for COLUMNS."""
    for (code, (prompt, expected)), fill in zip(
        meanings()[answer.meaning].items(), answer.fills, strict=True
    ):
        numbers = (finite(fill.log_prob), finite(fill.perplexity))
        yield (code, prompt, fill.text, fill.completion, expected, *numbers)


def _row(code: str, endonym: str, fill: Fill, meaning: str, good: bool, text: Text) -> str:
    probability = math.exp(fill.log_prob)
    before, after = fill.prompt.split(MASK)
    answer = meanings()[meaning][code][1]
    sign = "✓" if good else ""
    label = text.html("right") if good else text.html("expected", answer=answer)
    written = chips.visible(fill.completion.strip()) or text.html("missing")
    return (
        f'<tr><th scope="row" lang="{code}">{escape(endonym)}</th>'
        f'<td lang="{code}">{chips.visible(before)}<span class="written step-{figures.step(probability)}"'
        f' title="{label}">{written}</span>{chips.visible(after)} '
        f'<span class="right" role="img" aria-label="{label}">{sign}</span></td>'
        f"<td>{escape(text.percent(probability))}</td></tr>"
    )


def build(shell: Shell, settings: dict[str, Any]) -> Tab:
    """Lay the tab out and say what its buttons do. settings: the fields of build_settings."""
    put, models = shell.words.put, shell.models

    def run(language: str, meaning: str, *values: Any) -> list[Any]:
        text = text_of(language)
        try:
            with models.engine() as engine:
                return views(asked(engine, meaning, settings_of(values)), text)
        except SAID as error:
            return [*views(None, text)[:-1], fault(error, MASK, text)]

    def show(language: str, answer: Answer | None) -> list[Any]:
        return views(answer, text_of(language))

    put(gr.HTML(elem_classes="intro"), value=lambda text: f"<p>{text.html('languages_intro')}</p>")
    meaning = gr.Radio(_choices(shell.words.text), value="capital_france", elem_id="meaning")
    put(meaning, label="meaning", choices=_choices)
    start = put(gr.Button(variant="primary", elem_id="languages-run"), value="languages_run")
    message = gr.HTML(elem_classes="status")
    with gr.Row(elem_id="languages-result", elem_classes="result"):
        with gr.Column(scale=1, min_width=300):
            shown = gr.HTML(export.nothing(shell.words.text, "languages_empty"), elem_id="languages-list")
        with gr.Column(scale=1, min_width=300):
            bars = charts.build_plot(shell.words, "languages-chart")
    answer, go = gr.State(), gr.Textbox(visible="hidden")
    tab = Tab("languages", {"meaning": meaning, **settings}, go)
    export.build_downloads(shell, tab, answer, COLUMNS, rows)
    outputs = [answer, shown, bars, message]
    inputs = [shell.language, meaning, *settings.values()]
    gr.on([start.click, go.change], run, inputs, outputs, trigger_mode="always_last", **heavy(message))
    shell.redrawn(show, answer, outputs)
    return tab


def _choices(text: Text) -> list[tuple[str, str]]:
    return [(text(f"meaning_{name}"), name) for name in meanings()]
