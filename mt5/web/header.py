"""The top of the page: what it is, which model answers, and in which language the page speaks."""

from pathlib import Path
from typing import Any

import gradio as gr

from mt5.errors import PromptError
from mt5.languages import ASSETS, LANGUAGES
from mt5.web.models import Models
from mt5.web.tab import LIGHT, Shell
from mt5.web.text import FALLBACK, Text, escape, languages, text_of
from mt5.web.words import Words

EMBEDDED = ASSETS / "model"
WATCH_S = 1.0  # how often the page looks whether a model has been loaded


def model_line(models: Models, text: Text) -> str:
    """Which model answers, in a line of HTML."""
    info = models.info
    own = Path(info.path).resolve() != EMBEDDED
    facts = [
        f"<strong>{escape(info.name)}</strong>",
        text.html("parameters", number=text.number(info.parameters)),
        escape(info.dtype),
        text.html("tensor_parallel", number=text.number(info.tensor_parallel, 0)),
        text.html("own_model" if own else "embedded_model"),
    ]
    if info.rank_memory:
        sizes = " + ".join(text.size(memory / 1e9, "gigabyte", 2) for memory in info.rank_memory)
        facts.append(text.html("rank_memory", sizes=sizes))
    if own:
        facts.append(text.html("load_time", number=text.number(info.load_s, 1)))
    return f'<p class="model">{" · ".join(facts)}</p>'


def build_language(words: Words) -> gr.Dropdown:
    """The switch of the page's language, in the languages' own names."""
    names = {language.code: language.endonym for language in LANGUAGES}
    choices = [(names[code], code) for code in languages()]
    switch = gr.Dropdown(
        choices, value=FALLBACK, elem_id="page-language", scale=0, min_width=190, filterable=False
    )
    return words.put(switch, label="page_language")


def build_header(words: Words, models: Models) -> tuple[gr.Dropdown, gr.HTML]:
    """Title, notice, the line about the model, and the switch of the language; returns switch and line."""
    with gr.Row(elem_id="header"):
        with gr.Column(scale=5, min_width=300):
            words.put(gr.HTML(elem_id="title"), value=_title)
            line = words.put(gr.HTML(elem_id="model"), value=lambda text: model_line(models, text))
        return build_language(words), line


def build_model(shell: Shell, line: gr.HTML) -> None:
    """A choice of models where there are any; `line` says which one answers."""
    models = shell.models
    if len(models.choices) < 2:
        return
    choice = gr.Dropdown(list(models.choices), value=models.chosen, elem_id="model-choice", filterable=False)
    shell.words.put(choice, label="model", info="model_info")
    state, timer = gr.HTML(elem_id="model-state"), gr.Timer(WATCH_S, active=False)

    def choose(language: str, name: str) -> list[Any]:
        try:
            models.choose(name)
        except PromptError:
            return [gr.skip(), gr.update(value=models.chosen), gr.Timer(active=False)]
        return [loading(models, text_of(language)), gr.skip(), gr.Timer(active=True)]

    def watch(language: str) -> list[Any]:
        text, busy = text_of(language), models.loading is not None
        chosen = gr.skip() if busy else gr.update(value=models.chosen)
        return [model_line(models, text), loading(models, text), chosen, gr.Timer(active=busy)]

    choice.input(choose, [shell.language, choice], [state, choice, timer], **LIGHT)
    timer.tick(watch, shell.language, [line, state, choice, timer], **LIGHT)


def loading(models: Models, text: Text) -> str:
    """Which model is being loaded, or could not be."""
    if models.loading:
        return f'<p class="hint" role="status">{text.html("model_loading", name=models.loading)}</p>'
    if models.failed:
        return f'<p class="fault" role="alert">{text.html("model_failed", name=models.failed)}</p>'
    return ""


def _title(text: Text) -> str:
    return f'<h1>{text.html("title")}</h1><p class="notice">{text.html("notice")}</p>'
