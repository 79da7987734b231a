"""The tab that fills a file."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gradio as gr

from mt5 import __version__, batch
from mt5.errors import PromptError
from mt5.settings import Settings
from mt5.tokenizer import MASK
from mt5.web import chips, export, permalink
from mt5.web.faults import SAID, explained, fault
from mt5.web.settings import settings_of
from mt5.web.tab import LIGHT, NOTED, OFF, Shell, Tab, heavy, stoppable
from mt5.web.text import Text, text_of

SIZE_MB = 1
SHOWN = 50  # rows
EXAMPLE = "prompt\nLa capitale de la France est <mask>.\nThe capital of Japan is <mask>.\nno gap here\n"
TYPES = {"csv": "text/csv", "jsonl": "application/jsonl"}


@dataclass(frozen=True, eq=False)  # told apart by identity: a page asks for a hash of its state
class Answer:
    """The rows filled so far, of `rows`. source: what every row of the result says of where it is from."""

    rows: int
    done: tuple[dict[str, Any], ...]
    source: dict[str, Any]

    @property
    def failed(self) -> int:
        return sum(bool(row["error"]) for row in self.done)


def filled(models: Any, name: str, data: bytes, settings: dict[str, Any]) -> Iterator[Answer]:
    """Fill a file's prompts; yields what is done after every few of them."""
    found = batch.read(data, name)
    chosen = Settings(**settings)
    with models.engine() as engine:
        info = engine.info
        source = {"model": info.name, "sha256": info.sha256}
        source |= {"settings": asdict(chosen), "version": __version__}
        answer = Answer(len(found), (), source)
        yield answer
        for first in range(0, len(found), batch.ROWS_AT_ONCE):
            rows = found[first : first + batch.ROWS_AT_ONCE]
            done = batch.fill(rows, lambda prompts: engine.fill(prompts, **settings))
            answer = replace(answer, done=(*answer.done, *done))
            yield answer


def views(answer: Answer | None, text: Text, *, stopped: bool = False) -> list[Any]:
    """A result as the outputs: answer, table, message."""
    if answer is None:
        return [None, export.nothing(text, "batch_empty"), ""]
    numbers = {"done": len(answer.done), "all": answer.rows, "failed": answer.failed}
    said = {name: text.number(number, 0) for name, number in numbers.items()}
    whole = len(answer.done) == answer.rows
    key = "batch_done" if whole else "batch_stopped" if stopped else "batch_progress"
    name = text.html("tab_batch")
    bar = f'<progress max="{answer.rows}" value="{len(answer.done)}" aria-label="{name}"></progress>'
    return [answer, table(answer, text), f'{bar}<p class="hint" role="status">{text.html(key, **said)}</p>']


def table(answer: Answer, text: Text) -> str:
    """The first rows, with what is wrong with those that could not be filled."""
    heads = "".join(
        f'<th scope="col">{text.html(key)}</th>' for key in ("batch_row", "batch_prompt", "batch_text")
    )
    rows = "".join(
        f'<tr><th scope="row">{text.number(number, 0)}</th>'
        f"<td>{chips.visible(str(row['prompt']))}</td>{_filled(row, text)}</tr>"
        for number, row in enumerate(answer.done[:SHOWN], 1)
    )
    more = len(answer.done) - SHOWN
    hint = f'<p class="hint">{text.html("batch_more", number=text.number(more, 0))}</p>' if more > 0 else ""
    return f'<table class="rows"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>{hint}'


def _filled(row: dict[str, Any], text: Text) -> str:
    if row["error"]:
        known = explained(row["prompt"], text, whole=False)
        lang = "" if known else ' lang="en"'
        return f'<td class="wrong"{lang}>{chips.visible(known or row["error"])}</td>'
    return f"<td>{chips.visible(row['text'])}</td>"


def saved(answer: Answer, format_: str) -> str:
    """The rows done, as a file; every row says where it is from."""
    chosen: batch.Format = "csv" if format_ == "csv" else "jsonl"
    source = dict(answer.source)
    if chosen == "csv":
        source["settings"] = json.dumps(source["settings"], ensure_ascii=False)
    rows = [{**row, **source} for row in answer.done]
    return export.file(f"filled.{chosen}", TYPES[chosen], batch.write(rows, chosen).decode())


def build(shell: Shell, settings: dict[str, Any]) -> Tab:
    """Lay the tab out and say what its buttons do. settings: the fields of build_settings."""
    put, models = shell.words.put, shell.models

    def fill(language: str, name: str, data: bytes, values: tuple[Any, ...]) -> Iterator[list[Any]]:
        text, answer = text_of(language), None
        try:
            for answer in filled(models, name, data, settings_of(values)):
                yield views(answer, text)
        except SAID as error:
            yield [*views(answer, text)[:-1], fault(error, MASK, text)]

    def run(language: str, path: str | None, *values: Any) -> Iterator[list[Any]]:
        if path is None:
            error, text = PromptError("No file."), text_of(language)
            yield [*views(None, text)[:-1], fault(error, None, text, text("batch_no_file"))]
            return
        yield from fill(language, Path(path).name, Path(path).read_bytes(), values)

    def attempt(language: str, *values: Any) -> Iterator[list[Any]]:
        yield from fill(language, "example.csv", EXAMPLE.encode(), values)

    def stopped(language: str, answer: Answer | None) -> list[Any]:
        return views(answer, text_of(language), stopped=True)

    def save(language: str, answer: Answer | None, format_: str) -> str:
        if answer is None or not answer.done:
            return export.refused(language)
        return saved(answer, format_)

    put(gr.HTML(elem_classes="intro"), value=_intro)
    file = gr.File(file_types=[".csv", ".jsonl"], type="filepath", height=160, elem_id="batch-file")
    put(file, label=_limits)
    with gr.Row():
        start = put(gr.Button(variant="primary", scale=4, elem_id="batch-run"), value="batch_run")
        example = put(gr.Button(scale=2, min_width=150, elem_id="batch-example"), value="batch_example")
        stop = gr.Button(variant="stop", scale=1, min_width=90, interactive=False, elem_id="batch-stop")
        put(stop, value="batch_cancel")
    message = gr.HTML(elem_classes="status", elem_id="batch-message")
    with gr.Column(elem_id="batch-result", elem_classes="result"):
        shown = gr.HTML(export.nothing(shell.words.text, "batch_empty"), elem_id="batch-rows")
    answer, go, out = gr.State(), gr.Textbox(visible="hidden"), gr.Textbox(visible="hidden")
    format_ = gr.Radio([("JSONL", "jsonl"), ("CSV", "csv")], value="jsonl", elem_id="batch-format")
    put(format_, label="batch_format")
    tab = Tab("batch", {"format": format_, **settings}, go)
    with gr.Row(elem_classes="downloads"):
        link = permalink.build_copy(shell.words, tab, shell.language)
        keep = put(gr.Button(size="sm", elem_id="batch-save"), value="batch_save")
    link.render()
    outputs, options = [answer, shown, message], heavy(message, "batch", 1)
    inputs = [shell.language, file, *settings.values()]
    running = stoppable([start.click], run, inputs, outputs, stop, **options)
    first = [shell.language, *settings.values()]
    trying = stoppable([example.click, go.change], attempt, first, outputs, stop, **options)
    ended = stop.click(None, None, stop, js=OFF, cancels=[running, trying], **LIGHT)
    ended.then(stopped, [shell.language, answer], outputs, **LIGHT)
    made = keep.click(save, [shell.language, answer, format_], out, **NOTED)
    made.then(None, out, js=export.SAVE, **LIGHT)
    shell.redrawn(stopped, answer, outputs)
    return tab


def _intro(text: Text) -> str:
    return f"<p>{text.html('batch_intro')} {text.html('batch_settings')}</p>"


def _limits(text: Text) -> str:
    limits = text("batch_file_info", rows=text.number(batch.MAX_ROWS, 0), size=text.size(SIZE_MB, "megabyte"))
    return f"{text('batch_file')} · {limits}"
