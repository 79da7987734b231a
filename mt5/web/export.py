"""Results as files that the browser saves; nothing is written on the server."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gradio as gr

from mt5.batch import escaped
from mt5.web import permalink
from mt5.web.tab import LIGHT, NOTED, Shell, Tab
from mt5.web.text import Text, text_of

# runs in the browser, on what `as_json` or `as_csv` returned
SAVE = """(file) => {
  if (!file) return;
  const {name, type, content} = JSON.parse(file);
  const link = document.createElement('a');
  link.href = URL.createObjectURL(new Blob([content], {type}));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}"""

PROVENANCE = ("settings", "model", "sha256", "version")
Maker = Callable[[Any], str]
Rows = Callable[[Any], Iterable[Sequence[Any]]]


def build_saves(shell: Shell, result: gr.State, tab: str, makers: Mapping[str, Maker]) -> None:
    """A button for each format; `makers` turn the result into a file for SAVE."""
    file = gr.Textbox(visible="hidden", elem_id=f"{tab}-file")
    for format_, make in makers.items():
        button = gr.Button(format_.upper(), size="sm", min_width=70, elem_id=f"{tab}-{format_}")
        made = button.click(_made(make), [shell.language, result], file, **NOTED)
        made.then(None, file, js=SAVE, **LIGHT)


def build_downloads(shell: Shell, tab: Tab, result: gr.State, columns: Sequence[str], rows: Rows) -> None:
    """A link to a tab as it stands, and its result as JSON and as CSV."""
    with gr.Row(elem_classes="downloads"):
        link = permalink.build_copy(shell.words, tab, shell.language)
        makers = {
            "json": lambda answer: as_json(answer.record, tab.id),
            "csv": lambda answer: as_csv(columns, rows(answer), answer.record, tab.id),
        }
        build_saves(shell, result, tab.id, makers)
    link.render()


def _made(make: Maker) -> Callable[[str, Any], str]:
    def save(language: str, result: Any) -> str:
        if result is None:
            return refused(language)
        return make(result)

    return save


def refused(language: str, key: str = "nothing_to_save", **values: str) -> str:
    """No file, and a note that says why; Gradio's own title for it is English."""
    gr.Info(text_of(language)(key, **values), title="")
    return ""


def nothing(text: Text, key: str) -> str:
    """What stands where a result will be."""
    return f'<p class="empty">{text.html(key)}</p>'


def as_json(record: Mapping[str, Any], name: str) -> str:
    """A record with settings, model and version, as a file for SAVE."""
    content = json.dumps(record, ensure_ascii=False, allow_nan=False, indent=2)
    return file(f"{name}.json", "application/json", content + "\n")


def as_csv(
    columns: Sequence[str], rows: Iterable[Sequence[Any]], record: Mapping[str, Any], name: str
) -> str:
    """Rows, each with what is needed to repeat it, as a file for SAVE."""
    settings = json.dumps(record["settings"], ensure_ascii=False)
    model = record["model"]
    source = (settings, model["name"], model["sha256"], record["version"])
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([*columns, *PROVENANCE])
    for row in rows:
        writer.writerow([escaped(one) if isinstance(one, str) else one for one in (*row, *source)])
    return file(f"{name}.csv", "text/csv", "\ufeff" + out.getvalue())


def file(name: str, type_: str, content: str) -> str:
    """A file for SAVE."""
    return json.dumps({"name": name, "type": type_, "content": content})


TOKEN_COLUMNS = ("mask", "token", "id", "piece", "log_prob", "prompt", "text")


def token_rows(record: Mapping[str, Any]) -> Iterable[tuple[Any, ...]]:
    """A row per token of a filled prompt's record, for TOKEN_COLUMNS."""
    for span in record["spans"]:
        for number, token in enumerate(span["tokens"], 1):
            said = (token["id"], token["piece"], token["log_prob"], record["prompt"], record["text"])
            yield (span["mask"] + 1, number, *said)
