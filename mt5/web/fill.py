"""The tab that fills masks."""

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.components.plot import PlotData

from mt5 import figures
from mt5.engine import Engine
from mt5.errors import PromptError
from mt5.generate import Settings
from mt5.infill import Fill
from mt5.languages import LANGUAGES, examples
from mt5.web import chips, export
from mt5.web.text import Text, escape

SHOW_S, REDRAW_S = 0.25, 2.0  # chips and chart change at most so often: a chart can take a second
FIRST = "La capitale de la France est <mask>."
MODEL = "model"  # events that share it take turns with the model

# runs in the browser: writes the mask where the cursor is in the prompt
INSERT_MASK = """(prompt) => {
  const box = document.querySelector('#prompt textarea');
  const [start, end] = [box.selectionStart, box.selectionEnd];
  setTimeout(() => { box.focus(); box.setSelectionRange(start + 6, start + 6); }, 50);
  return box.value.slice(0, start) + '<mask>' + box.value.slice(end);
}"""
CHOOSE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-example]');
  if (button) trigger('select', {example: Number(button.dataset.example)});
});
"""
# the figure's own bar offers SVG; nothing else of it is needed
PLOT = {"displaylogo": False, "toImageButtonOptions": {"format": "svg", "filename": "surprise"}}


def settings_of(values: tuple[Any, ...]) -> dict[str, Any]:
    """The settings from the fields of `build_settings`, in their order, without those that do not count."""
    strategy, beams, results, temperature, top_k, top_p, seed, tokens, alternatives = values
    settings = {
        "strategy": strategy,
        "max_new_tokens": _whole(tokens),
        "num_alternatives": _whole(alternatives),
    }
    if strategy == "beam":
        return settings | {"num_beams": _whole(beams), "num_return": _whole(results)}
    if strategy == "sample":
        chosen = {
            "num_return": _whole(results),
            "temperature": temperature,
            "top_k": _whole(top_k),
            "top_p": top_p,
        }
        return settings | chosen | {"seed": _whole(seed)}
    return settings


def _whole(value: Any) -> Any:
    # a number field sends 3.0 for 3; anything else is for the engine to judge
    return int(value) if isinstance(value, float) and value.is_integer() else value


def fault(message: str) -> str:
    """What a visitor can mend, as HTML."""
    return f'<p class="fault" role="alert">{escape(message)}</p>'


def candidates(result: Fill, text: Text) -> str:
    """All results asked for, best first, as HTML."""
    rows = "".join(
        f"<li>{chips.visible(one.text)}"
        f" <small>{escape(text('log_prob'))} {text.number(one.log_prob, 2)}</small></li>"
        for one in result.candidates
    )
    return f'<h3>{escape(text("candidates"))}</h3><ol class="candidates">{rows}</ol>' if rows else ""


def plot(result: Fill, text: Text) -> PlotData:
    """The bars of surprise with the figure's own download button."""
    figure = figures.surprise(result.tokens, title=text("surprise_title"), unit=text("bits"))
    return drawn(figure)


def drawn(figure: Any) -> PlotData:
    # gr.Plot would drop the configuration of a figure passed as such
    data = figure.to_json()[:-1] + ',"config":' + json.dumps(PLOT) + "}"
    return PlotData(type="plotly", plot=data)


def answer(result: Fill, text: Text) -> str:
    """The filled sentence, plain, and how sure the model was of all of it."""
    log_prob = f"{text('log_prob')} {text.number(result.log_prob, 3)}"
    numbers = f"{log_prob} · {text('perplexity')} {text.number(result.perplexity, 2)}"
    return (
        f'<p class="filled" dir="auto" aria-live="polite">{chips.visible(result.text)}</p>'
        f'<p class="hint">{escape(numbers)}</p>'
    )


def paced(results: Iterator[Fill]) -> Iterator[tuple[Fill, bool, bool]]:
    """Every partial result, whether it is time to show it, and whether to draw the chart again."""
    shown_at = drawn_at = -math.inf
    for result in results:
        now = time.monotonic()
        show, draw = now - shown_at > SHOW_S, now - drawn_at > REDRAW_S
        shown_at, drawn_at = now if show else shown_at, now if show and draw else drawn_at
        yield result, show, show and draw


def views(result: Fill, text: Text, show: bool, draw: bool) -> list[Any]:
    """A partial result, in the order of the outputs: chips, chart, sentence, candidates, message, record."""
    if not show:  # still a chance to stop
        return [gr.skip()] * 6
    chart = plot(result, text) if draw else gr.skip()
    return [chips.sentence(result, text), chart, answer(result, text), "", "", None]


def finished(result: Fill, text: Text, record: dict[str, Any]) -> list[Any]:
    """The whole result, in the same order."""
    shown = [chips.sentence(result, text), plot(result, text), answer(result, text), candidates(result, text)]
    return [*shown, "", record]


def failed(error: PromptError) -> list[Any]:
    """What is wrong with the input, above whatever was shown before."""
    return [gr.skip(), gr.skip(), gr.skip(), gr.skip(), fault(str(error)), gr.skip()]


def build_settings(text: Text) -> list[gr.components.Component]:
    """The fields of the settings, in the order of `settings_of`."""
    strategies = [(text(f"strategy_{name}"), name) for name in ("greedy", "beam", "sample")]
    with gr.Accordion(text("settings"), open=False, elem_id="settings"):
        strategy = gr.Radio(strategies, value="greedy", label=text("strategy"), info=text("strategy_info"))
        with gr.Row():
            tokens = gr.Slider(1, 64, 16, step=1, label=text("tokens"), info=text("tokens_info"))
            alternatives = gr.Slider(
                0, 20, 5, step=1, label=text("alternatives"), info=text("alternatives_info")
            )
            results = gr.Slider(1, 16, 3, step=1, label=text("results"), info=text("results_info"))
            beams = gr.Slider(1, 16, 4, step=1, label=text("beams"), info=text("beams_info"))
        with gr.Row():
            temperature = gr.Slider(
                0.1, 3, 1, step=0.1, label=text("temperature"), info=text("temperature_info")
            )
            top_k = gr.Slider(0, 100, 0, step=1, label=text("top_k"), info=text("top_k_info"))
            top_p = gr.Slider(0.05, 1, 1, step=0.05, label=text("top_p"), info=text("top_p_info"))
            seed = gr.Number(0, precision=0, minimum=0, label=text("seed"), info=text("seed_info"))
    return [strategy, beams, results, temperature, top_k, top_p, seed, tokens, alternatives]


def build_examples(text: Text) -> gr.HTML:
    """A list of prompts per language; a click on one raises `select` with its number."""
    endonyms = {language.code: language.endonym for language in LANGUAGES}
    groups: dict[str, list[str]] = {code: [] for code in endonyms}
    for number, example in enumerate(examples()):
        prompt = escape(example.prompt)
        button = f'<button type="button" data-example="{number}">{prompt}</button>'
        groups[example.language].append(f"<li>{button}</li>")
    more = escape(text("more"))
    items = "".join(
        f'<section lang="{code}"><h3>{escape(endonyms[code])}</h3><ul>{buttons[0]}</ul>'
        f'<details><summary lang="{text.language}">{more}'
        f'<span class="sr"> ({escape(endonyms[code])})</span></summary>'
        f"<ul>{''.join(buttons[1:])}</ul></details></section>"
        for code, buttons in groups.items()
        if buttons
    )
    with gr.Accordion(text("examples"), open=True, elem_id="examples"):
        return gr.HTML(f'<div class="examples">{items}</div>', js_on_load=CHOOSE)


def build(engine: Engine, text: Text) -> None:
    """Lay the tab out and say what its buttons do."""

    def fill(prompt: str, *values: Any) -> Iterator[list[Any]]:
        settings = settings_of(values)
        try:
            for result, show, draw in paced(engine.stream(prompt, **settings)):
                yield views(result, text, show, draw)
            yield finished(result, text, engine.record(result, Settings(**settings)))
        except PromptError as error:
            yield failed(error)

    prompt = gr.Textbox(
        FIRST,
        label=text("prompt"),
        info=text("prompt_info"),
        lines=2,
        max_length=4000,
        elem_id="prompt",
        autofocus=True,
    )
    with gr.Row(elem_id="actions"):
        start = gr.Button(text("fill"), variant="primary", scale=4, elem_id="fill")
        mask = gr.Button("+ <mask>", scale=1, min_width=90, elem_id="insert-mask")
        stop = gr.Button(text("stop"), variant="stop", scale=1, min_width=90, elem_id="stop")
    message = gr.HTML(elem_id="message")
    with gr.Row(elem_id="result"):
        with gr.Column(scale=1, min_width=300):
            filled = gr.HTML(elem_id="filled")
            shown = gr.HTML(elem_id="chips", js_on_load=chips.SCRIPT)
            others = gr.HTML(elem_id="candidates")
        with gr.Column(scale=1, min_width=300):
            chart = gr.Plot(show_label=False, container=False, elem_id="surprise")
    record, file = gr.State(), gr.Textbox(visible="hidden", elem_id="file")
    with gr.Row(elem_id="downloads"):
        as_json = gr.Button(text("save_json"), size="sm", elem_id="save-json")
        as_csv = gr.Button(text("save_csv"), size="sm", elem_id="save-csv")
    settings = build_settings(text)
    chosen = build_examples(text)

    outputs = [shown, chart, filled, others, message, record]
    light = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    model = light | {"concurrency_id": MODEL, "concurrency_limit": 1, "queue": True}
    inputs = [prompt, *settings]
    run = gr.on([start.click, prompt.submit], fill, inputs, outputs, trigger_mode="always_last", **model)
    example = chosen.select(prompt_of, None, prompt, **light)
    then = example.then(fill, inputs, outputs, **model)
    stop.click(None, cancels=[run, then], **light)
    mask.click(None, prompt, prompt, js=INSERT_MASK, **light)
    as_json.click(export.as_json, record, file, **light).then(None, file, js=export.SAVE, **light)
    as_csv.click(export.as_csv, record, file, **light).then(None, file, js=export.SAVE, **light)


def prompt_of(event: gr.EventData) -> str:
    """The prompt of the example that was clicked."""
    return examples()[event.example].prompt
