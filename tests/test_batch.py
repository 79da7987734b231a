"""Files of prompts."""

import csv
import io
import json
from types import SimpleNamespace

import pytest

from mt5 import batch
from mt5.errors import PromptError


def filler(prompts):
    """Puts X for every mask; refuses the prompt that asks for it."""
    if any("refuse" in prompt for prompt in prompts):
        raise PromptError("refused")
    return [
        SimpleNamespace(
            text=p.replace("<mask>", "X"),
            spans=[SimpleNamespace(text="X")] * p.count("<mask>"),
            log_prob=-0.5,
        )
        for p in prompts
    ]


def table(data):
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def test_every_row_keeps_its_columns_and_gets_its_result():
    rows = batch.read(b"id,prompt\n7,a <mask>\n8,b <mask>\n", "in.csv")
    assert batch.fill(rows, filler) == [
        {"id": "7", "prompt": "a <mask>", "text": "a X", "spans": ["X"], "log_prob": -0.5, "error": ""},
        {"id": "8", "prompt": "b <mask>", "text": "b X", "spans": ["X"], "log_prob": -0.5, "error": ""},
    ]


def test_a_prompt_that_cannot_be_filled_spoils_no_other():
    rows = [{"prompt": f"{n} <mask>"} for n in range(40)] + [{"prompt": "refuse"}]
    results = batch.fill(rows, filler)
    assert [result["error"] for result in results] == [""] * 40 + ["refused"]
    assert results[39]["text"] == "39 X"


def test_progress_counts_every_row_once():
    counted = []
    batch.fill([{"prompt": "<mask>"}] * 35, filler, done=counted.append)
    assert sum(counted) == 35 and len(counted) > 1


def test_jsonl_survives_writing_and_reading():
    rows = [{"prompt": "日本の <mask>。\u2028", "n": 1}, {"prompt": 'a "quoted" <mask>', "n": None}]
    assert batch.read(batch.write(rows, "jsonl"), "rows.jsonl") == rows


def test_csv_survives_writing_and_reading():
    rows = [
        {"prompt": 'a "quoted", <mask>\nand a line'},
        {"prompt": "=1+1 <mask>"},
        {"prompt": "'=x <mask>"},
        {"prompt": "'tis"},
    ]
    assert batch.read(batch.write(rows, "csv"), "rows.csv") == rows


@pytest.mark.parametrize("cell", ["=cmd()", "+1+1", "-1+1", "@sum", "\t=1", "\r=1"])
def test_no_cell_of_a_csv_acts_as_a_formula(cell):
    written = table(batch.write([{"prompt": cell}], "csv"))
    assert written[0]["prompt"] == f"'{cell}"


def test_numbers_in_a_csv_stay_numbers():
    assert table(batch.write([{"prompt": "x", "log_prob": -0.25}], "csv"))[0]["log_prob"] == "-0.25"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_in_the_usual_encodings(encoding):
    assert batch.read("prompt\nžluťoučký <mask>\n".encode(encoding), "in.csv") == [
        {"prompt": "žluťoučký <mask>"}
    ]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_cells_are_parted_as_a_spreadsheet_of_the_readers_language_parts_them(mark, end):
    written = end.join([f"n{mark}prompt", f'1{mark}"a{mark} <mask>"', ""])
    assert batch.read(written.encode(), "in.csv") == [{"n": "1", "prompt": f"a{mark} <mask>"}]


def test_a_column_whose_name_holds_another_mark_is_one_column():
    assert batch.read(b"prompt,a;b\nx <mask>,1\n", "in.csv") == [{"prompt": "x <mask>", "a;b": "1"}]


@pytest.mark.parametrize(
    "data, name, message",
    [
        (b"text\nx\n", "in.csv", "no column `prompt`"),
        (b"", "in.csv", "no column `prompt`"),
        (b"prompt\n", "in.csv", "no rows"),
        (b"prompt,n\nx\n", "in.csv", "line 2"),
        (b'{"prompt": "a"}\n{"text": "b"}\n', "in.jsonl", "line 2"),
        (b"[1]\n", "in.jsonl", "line 1"),
        (b"{]\n", "in.jsonl", "line 1: not JSON"),
        (b'{"prompt": "\\ud83d <mask>"}\n', "in.jsonl", "line 1: not JSON of text"),
        (b'{"prompt": "<mask>", "n": NaN}\n', "in.jsonl", "line 1: not JSON of text"),
        (b"[" * 100_000, "in.jsonl", "65,536"),
        (b"prompt\n\xff\xff\n", "in.csv", "not UTF-8"),
        (b"prompt\n" + b"x\n" * 10_001, "in.csv", "10,001 rows"),
        (b"prompt\n" + b"x" * 70_000, "in.csv", "line 2"),
        (b"x", "in.xlsx", "expected a .csv or .jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_line(data, name, message):
    with pytest.raises(PromptError, match=message):
        batch.read(data, name)


def test_json_written_is_strict():
    with pytest.raises(ValueError, match="JSON"):
        batch.write([{"prompt": "x", "log_prob": float("nan")}], "jsonl")
    assert json.loads(batch.write([{"prompt": "x", "log_prob": None}], "jsonl"))["log_prob"] is None
