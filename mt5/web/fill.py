"""The tab that fills masks."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from mt5.record import record
from mt5.web import charts, chips, export, firsts, permalink
from mt5.web.answer import Answer, candidates, streamed, views
from mt5.web.attention import build_attention
from mt5.web.examples import build_examples, prompt_of
from mt5.web.faults import fault
from mt5.web.fork import Trail, beside, followed, forked, read, undone
from mt5.web.models import OtherModelError
from mt5.web.settings import build_settings, settings_of
from mt5.web.spoken import build_spoken, spoken_in
from mt5.web.tab import LIGHT, OFF, Shell, Tab, heavy, stoppable
from mt5.web.text import text_of

# run in the browser: a new run begins with nothing given; both end with how long drawing takes
FRESH = "(...values) => [...values.slice(0, 3), '', ...values.slice(4, -1), window.busyS ?? null]"
# writes the mask where the cursor is in the prompt
INSERT_MASK = """(prompt) => {
  const box = document.querySelector('#prompt textarea');
  const [start, end] = [box.selectionStart, box.selectionEnd];
  setTimeout(() => { box.focus(); box.setSelectionRange(start + 6, start + 6); }, 50);
  return box.value.slice(0, start) + '<mask>' + box.value.slice(end);
}"""


SAVES = {
    "json": lambda answer: export.as_json(answer.record, "infilling"),
    "csv": lambda answer: export.as_csv(
        export.TOKEN_COLUMNS, export.token_rows(answer.record), answer.record, "infilling"
    ),
}


def build_nemo(shell: Shell, result: gr.State) -> None:
    """A button that saves what NeMo's evaluation script would print, and by which model it is."""
    models, file = shell.models, gr.Textbox(visible="hidden", elem_id="nemo-file")
    button = gr.Button("NeMo", size="sm", min_width=70, elem_id="fill-nemo")

    def save(language: str, answer: Answer | None) -> str:
        if answer is None:
            return export.refused(language)
        try:
            with models.engine(answer.info) as engine:
                response = engine.nemo_response(answer.fill.prompt, answer.settings.max_new_tokens)
        except OtherModelError as other:
            return export.refused(language, "fault_model", name=other.name)
        own = record(answer.fill, answer.info, {"tokens_to_generate": answer.settings.max_new_tokens})
        source = {key: own[key] for key in ("model", "settings", "version")}
        return export.as_json(response | source, "nemo")

    made = button.click(save, [shell.language, result], file, **heavy(file))
    made.then(None, file, js=export.SAVE, **LIGHT)


def build(shell: Shell) -> Tab:
    """Lay the tab out and say what its buttons do."""
    put, models = shell.words.put, shell.models

    def run(language: str, prompt: str, chosen: str, given: str, *values: Any) -> Iterator[list[Any]]:
        *fields, busy_s = values
        text, spoken = text_of(language), spoken_in(chosen, prompt)
        with models.engine() as engine:
            fill = streamed(engine, text, prompt, spoken, settings_of(fields), read(given), busy_s)
            yield from beside(fill, followed((), text, given))

    def fork(event: gr.EventData, language: str, answer: Answer, trail: Trail, given: str, *values: Any):
        *fields, busy_s = values
        text, settings = text_of(language), settings_of(fields)
        given, trail = forked(answer, getattr(event, "fork", None), given, trail)
        try:
            with models.engine(answer.info) as engine:
                fill = streamed(
                    engine, text, answer.fill.prompt, answer.spoken, settings, read(given), busy_s
                )
                yield from beside(fill, followed(trail, text, given))
        except OtherModelError as other:
            yield [*[gr.skip()] * 5, fault(other, answer.fill.prompt, text), *[gr.skip()] * 4]

    def undo(language: str, trail: Trail) -> list[Any]:
        return undone(trail, text_of(language))

    def show(language: str, answer: Answer | None, trail: Trail, given: str) -> list[Any]:
        text = text_of(language)
        return [*views(answer, text), *followed(trail, text, given)]

    put(gr.HTML(elem_classes="intro"), value=lambda text: f"<p>{text.html('fill_intro')}</p>")
    with gr.Row(elem_classes="ask"):
        prompt = firsts.build_first(shell, firsts.gapped, elem_id="prompt", scale=5, min_width=280)
        put(prompt, label="prompt", info="prompt_info")
        chosen = build_spoken(shell.words, "fill-language")
    with gr.Row(elem_id="actions"):
        start = put(gr.Button(variant="primary", scale=4, elem_id="fill"), value="fill")
        mask = gr.Button("+ <mask>", scale=1, min_width=90, elem_id="insert-mask")
        stop = gr.Button(variant="stop", scale=1, min_width=90, interactive=False, elem_id="stop")
        put(stop, value="stop")
    message = gr.HTML(elem_id="message", elem_classes="status")
    with gr.Row(elem_id="fill-result", elem_classes="result"):
        with gr.Column(scale=1, min_width=300):
            filled = gr.HTML(export.nothing(shell.words.text, "fill_empty"), elem_id="filled")
            shown = gr.HTML(elem_id="chips", js_on_load=chips.SCRIPT)
            path = gr.HTML(elem_id="trail")
            back = put(gr.Button(size="sm", visible=False, elem_id="undo"), value="undo")
        with gr.Column(scale=1, min_width=300):
            bars = charts.build_plot(shell.words, "surprise")
            look = build_attention(shell)
    answer, trail = gr.State(), gr.State(())
    given, go = (gr.Textbox(visible="hidden") for _ in range(2))
    pace = gr.Number(visible="hidden")
    downloads = gr.Row(elem_classes="downloads")
    with put(gr.Accordion(open=False, elem_id="all-candidates"), label="candidates"):
        others = gr.HTML(candidates(None, shell.words.text), elem_id="candidates")
    fields = build_settings(shell.words)
    example = build_examples(shell.words)

    tab = Tab(
        "fill", {"q": prompt, "lang": chosen, "given": given, **fields}, go, firsts.missing(q=firsts.gapped)
    )
    with downloads:
        link = permalink.build_copy(shell.words, tab, shell.language)
        export.build_saves(shell, answer, "fill", SAVES)
        build_nemo(shell, answer)
    link.render()

    outputs = [answer, filled, shown, bars, others, message, trail, path, back, given]
    inputs = [shell.language, prompt, chosen, given, *fields.values(), pace]
    options = heavy(message)
    fresh = stoppable([start.click, prompt.submit], run, inputs, outputs, stop, js=FRESH, **options)
    linked = stoppable([go.change], run, inputs, outputs, stop, js=charts.PACE, **options)
    taken = example.select(prompt_of, None, [prompt, chosen], **LIGHT)
    chained = stoppable(taken, run, inputs, outputs, stop, js=FRESH, **options)
    forks = [shell.language, answer, trail, given, *fields.values(), pace]
    forking = stoppable([shown.select], fork, forks, outputs, stop, js=charts.PACE, **options)
    stop.click(None, None, stop, js=OFF, cancels=[fresh, linked, chained, forking], **LIGHT)
    back.click(undo, [shell.language, trail], outputs, **LIGHT)
    mask.click(None, prompt, prompt, js=INSERT_MASK, **LIGHT)
    shell.language.change(show, [shell.language, answer, trail, given], outputs, **LIGHT)
    look(answer)
    return tab
