"""Results as files that the browser saves; nothing is written on the server."""

import csv
import io
import json
from typing import Any

from mt5 import __version__

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

COLUMNS = ("mask", "token", "id", "piece", "log_prob", "prompt", "text", "settings", "sha256", "version")
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")
"""What a spreadsheet takes for a formula, or for the mark that keeps it from doing so."""


def as_json(record: dict[str, Any] | None) -> str:
    """A filled prompt with settings, model and version, as a file for SAVE; "" when there is none."""
    if record is None:
        return ""
    content = json.dumps({**record, "version": __version__}, ensure_ascii=False, allow_nan=False, indent=2)
    return _file("infilling.json", "application/json", content + "\n")


def as_csv(record: dict[str, Any] | None) -> str:
    """A row per token, each with what is needed to repeat it, as a file for SAVE; "" when there is none."""
    if record is None:
        return ""
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(COLUMNS)
    settings = json.dumps(record["settings"], ensure_ascii=False)
    for span in record["spans"]:
        for number, token in enumerate(span["tokens"], 1):
            row = [span["mask"] + 1, number, token["id"], _cell(token["piece"]), token["log_prob"]]
            texts = [_cell(record["prompt"]), _cell(record["text"]), settings]
            writer.writerow([*row, *texts, record["model"]["sha256"], __version__])
    return _file("infilling.csv", "text/csv", "\ufeff" + out.getvalue())


def _cell(text: str) -> str:
    return f"'{text}" if text.startswith(FORMULA) else text


def _file(name: str, type_: str, content: str) -> str:
    return json.dumps({"name": name, "type": type_, "content": content})
