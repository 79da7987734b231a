"""Files of prompts: read, filled, written."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

from mt5.errors import PromptError
from mt5.results import Fill, finite

MAX_ROWS = 10_000
MAX_LINE = 65_536
ROWS_AT_ONCE = 16
Format = Literal["csv", "jsonl"]
Record = dict[str, Any]
FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""What a spreadsheet takes for a formula when a cell begins with it; some take the wide signs as well."""
SEPARATORS = ",;\t"
LISTED = 8  # columns that a message lists


class Filler(Protocol):
    def __call__(self, prompts: list[str], /) -> list[Fill]: ...


def format_of(name: str) -> Format:
    """The format that a file's name promises. PromptError when it is neither."""
    if name.lower().endswith(".csv"):
        return "csv"
    if name.lower().endswith(".jsonl"):
        return "jsonl"
    raise PromptError(f"{name}: expected a .csv or .jsonl file.")


def read(data: bytes, name: str) -> list[Record]:
    """The rows of a CSV or JSONL file with a column `prompt`; text in UTF-8, or UTF-16 with its mark.

    Cells of CSV are parted by commas, semicolons or tabs, as the first line has it.

    PromptError names the row that cannot be read; nothing is read in part.
    """
    format_ = format_of(name)
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as fault:
        line, kind = data.count(b"\n", 0, fault.start) + 1, encoding.upper().removesuffix("-SIG")
        raise PromptError(
            f"{name}, line {line:,}: byte {fault.start:,} is not {kind}. Save the file as UTF-8."
        ) from fault
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_LINE:
            raise PromptError(
                f"{name}, line {number:,}: {len(line):,} characters, at most {MAX_LINE:,} are read."
            )
    rows = list(_csv_rows(text, name) if format_ == "csv" else _jsonl_rows(text, name))
    if not rows:
        raise PromptError(f"{name}: no rows. A column `prompt` is expected, with one prompt in each row.")
    if len(rows) > MAX_ROWS:
        raise PromptError(f"{name}: {len(rows):,} rows, at most {MAX_ROWS:,} are read. Split the file.")
    return rows


def _csv_rows(text: str, name: str) -> Iterator[Record]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, delimiter=_separator(text))
    try:
        columns = [_unescaped(column) for column in reader.fieldnames or ()]
        if "prompt" not in columns:
            found = ", ".join(columns[:LISTED]) or "nothing"
            more = f" and {len(columns) - LISTED:,} more" if len(columns) > LISTED else ""
            raise PromptError(f"{name}, line 1: no column `prompt`, found {found}{more}.")
        if len(set(columns)) < len(columns):
            twice = next(column for column in columns if columns.count(column) > 1)
            raise PromptError(f"{name}, line 1: the column {twice!r} occurs twice. Rename one of them.")
        reader.fieldnames = columns
        for row in reader:
            if None in row or None in row.values():
                raise PromptError(
                    f"{name}, line {reader.line_num:,}: as many cells as there are columns are expected."
                )
            yield {key: _unescaped(value) for key, value in row.items()}
    except csv.Error as fault:
        raise PromptError(f"{name}, line {reader.reader.line_num:,}: {fault}.") from fault


def _separator(text: str) -> str:
    """What parts the column `prompt` from others in the first line: in many languages it is ;."""
    first = next(iter(io.StringIO(text, newline="")), "").rstrip("\r\n")
    named = (mark for mark in SEPARATORS if "prompt" in (cell.strip('"') for cell in first.split(mark)))
    return next(named, SEPARATORS[0])


def _jsonl_rows(text: str, name: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            # what cannot be written again is refused before any row is filled
            json.dumps(row, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as fault:
            raise PromptError(f"{name}, line {number:,}: not JSON of text and numbers ({fault}).") from fault
        if not isinstance(row, dict) or "prompt" not in row:
            raise PromptError(
                f'{name}, line {number:,}: expected an object such as {{"prompt": "…<mask>…"}}.'
            )
        yield row


def fill(
    rows: Sequence[Record], filler: Filler, *, done: Callable[[int], object] = lambda count: None
) -> list[Record]:
    """Every row with its results: `text`, `spans`, `log_prob` and an `error` that is empty unless it failed.

    A prompt that cannot be filled spoils no other. done: called with the number of rows finished since.
    """
    results: list[Record] = []
    for first in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[first : first + ROWS_AT_ONCE]
        results += _fill_block(block, filler)
        done(len(block))
    return results


def _fill_block(rows: Sequence[Record], filler: Filler) -> list[Record]:
    try:
        fills = filler([row["prompt"] for row in rows])
    except PromptError as fault:
        if len(rows) > 1:  # one of them is at fault: find out which
            return [result for row in rows for result in _fill_block([row], filler)]
        return [rows[0] | {"text": "", "spans": [], "log_prob": None, "error": str(fault)}]
    return [
        row
        | {
            "text": fill.text,
            "spans": [span.text for span in fill.spans],
            "log_prob": finite(fill.log_prob),
            "error": "",
        }
        for row, fill in zip(rows, fills, strict=True)
    ]


def write(rows: Sequence[Record], format_: Format) -> bytes:
    """The rows as a file, in UTF-8; in CSV, spans are joined by " | " and no cell can act as a formula."""
    if format_ == "jsonl":
        return "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows).encode()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow([escaped(column) for column in columns])
    for row in rows:
        writer.writerow([escaped(_cell(row.get(column))) for column in columns])
    return out.getvalue().encode("utf-8-sig")


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " | ".join(map(str, value))
    return "" if value is None else str(value)


def escaped(cell: str) -> str:
    """A leading apostrophe keeps a spreadsheet from running the cell; numbers stay as they are."""
    return f"'{cell}" if cell.startswith((*FORMULA, "'")) and not _is_number(cell) else cell


def _unescaped(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and cell[1:].startswith((*FORMULA, "'")) else cell


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
