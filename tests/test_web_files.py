"""What the page saves, and what its addresses hold."""

import csv
import io
import json

import gradio as gr
import pytest

from mt5.settings import Settings
from mt5.web import batch, corrupt, export, fill, permalink, score, sweep
from mt5.web.answer import Answer
from mt5.web.languages import COLUMNS as LANGUAGE_COLUMNS
from mt5.web.languages import asked
from mt5.web.languages import rows as language_rows
from mt5.web.models import Models
from mt5.web.tab import Tab
from mt5.web.text import text_of
from tests.fake_engine import FakeEngine

ENGLISH = text_of("en")
PARIS = "La capitale de la France est <mask>."


def answered(prompt: str, *pieces: str, seed: int = 0) -> Answer:
    engine = FakeEngine(pieces)
    return Answer(engine.fill(prompt), Settings(seed=seed), (), engine.info, None)


def rows(file: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(json.loads(file)["content"].lstrip("\ufeff"))))


def test_json_says_what_is_needed_to_repeat_it() -> None:
    content = json.loads(json.loads(fill.SAVES["json"](answered("a <mask>.", "▁x", seed=3)))["content"])
    assert content["model"]["sha256"] == FakeEngine().info.sha256
    assert content["settings"]["seed"] == 3 and content["version"]


def test_csv_has_a_row_per_token_and_no_formulas() -> None:
    found = rows(fill.SAVES["csv"](answered("=1+<mask>", "=x", "y")))
    assert [row["piece"] for row in found] == ["'=x", "y"]
    assert found[0]["prompt"].startswith("'=")


def test_csv_of_every_tab_says_checkpoint_version_and_settings() -> None:
    engine = FakeEngine()
    scored = score.scored(engine, PARIS, "Lyon", "auto")
    swept = sweep.Answer(engine.sweep("Paris est une ville."), engine.info, None)
    cut = corrupt.corrupted(engine, "Paris est une ville.", "auto", density=0.3, mean_span=2, seed=1)
    spoken = asked(engine, "day", {})
    tables = (
        (score.COLUMNS, score.rows(scored), scored),
        (sweep.COLUMNS, sweep.rows(swept), swept),
        (corrupt.COLUMNS, corrupt.rows(cut), cut),
        (LANGUAGE_COLUMNS, language_rows(spoken), spoken),
    )
    for columns, own, answer in tables:
        found = rows(export.as_csv(columns, own, answer.record, "x"))
        assert found and all(row["sha256"] and row["version"] and row["settings"] for row in found)
        assert json.loads(export.as_json(answer.record, "x"))["name"] == "x.json"


def test_no_cell_of_a_result_acts_as_a_formula() -> None:
    record = {"settings": {}, "model": {"name": "=x", "sha256": "a"}, "version": "1"}
    cells = ("=cmd()", "＝cmd()", "\t=1", "'x", "-5", -5.0)
    [row] = rows(export.as_csv(tuple("abcdef"), [cells], record, "x"))
    assert list(row.values())[:6] == ["'=cmd()", "'＝cmd()", "'\t=1", "''x", "-5", "-5.0"]
    assert row["model"] == "'=x"


def batched(data: bytes, name: str = "x.csv", **settings: object) -> list[batch.Answer]:
    return list(batch.filled(Models(FakeEngine()), name, data, settings))


def test_a_file_is_filled_row_by_row_and_keeps_its_columns() -> None:
    *_, last = batched(b"id,prompt\n1,a <mask>.\n2,no gap\n")
    assert [row["text"] for row in last.done] == ["a Paris.", ""]
    assert last.failed == 1 and "no <mask>" in last.done[1]["error"]
    assert [json.loads(line)["id"] for line in saved(last, "jsonl").splitlines()] == ["1", "2"]


def saved(answer: batch.Answer, format_: str) -> str:
    return json.loads(batch.saved(answer, format_))["content"]


@pytest.mark.parametrize("format_", ["csv", "jsonl"])
def test_every_row_of_a_filled_file_says_where_it_is_from(format_: str) -> None:
    *_, last = batched(b"prompt\na <mask>.\n", num_alternatives=2)
    assert FakeEngine().info.sha256 in saved(last, format_) and "num_alternatives" in saved(last, format_)


def test_a_file_that_was_stopped_can_be_saved_as_far_as_it_came() -> None:
    states = batched(b"prompt\n" + b"a <mask>.\n" * 40)
    assert [len(state.done) for state in states] == [0, 16, 32, 40]
    table, message = batch.views(states[1], ENGLISH, stopped=True)[1:]
    assert ENGLISH("batch_stopped", done="16", all="40") in message and table.count("<tr>") == 17
    assert len(saved(states[1], "jsonl").splitlines()) == 16


def test_a_long_table_says_how_much_is_not_shown() -> None:
    *_, last = batched(b"prompt\n" + b"a <mask>.\n" * 60)
    html = batch.table(last, ENGLISH)
    assert html.count("<tr>") == batch.SHOWN + 1 and ENGLISH("batch_more", number="10") in html


@pytest.fixture
def tabs() -> list[Tab]:
    prompt, seed = gr.Textbox("first"), gr.Number(0, precision=0, minimum=0)
    share, kind = gr.Slider(0, 1, 0.5), gr.Radio(["a", "b"], value="a")
    fields = {"q": prompt, "seed": seed, "share": share, "kind": kind}
    shared = Tab("two", {"q": gr.Textbox(), "seed": seed}, gr.Textbox())
    return [Tab("one", fields, gr.Textbox()), shared]


def restored(tabs: list[Tab], **query: str) -> list[object]:
    return permalink.restored(tabs, query, ENGLISH)


def test_an_address_fills_the_fields_of_its_tab_only(tabs: list[Tab]) -> None:
    selected, prompt, seed, share, kind, go, other, other_go = restored(
        tabs, tab="one", q="<b>${x}", seed="7", share="0.25", kind="b", run="1"
    )
    assert isinstance(selected, gr.Tabs)
    assert (prompt, seed, share, kind, go) == ("<b>${x}", 7, 0.25, "b", "go")
    assert other == other_go == gr.skip()


def test_a_field_that_two_tabs_share_is_restored_by_either(tabs: list[Tab]) -> None:
    assert restored(tabs, tab="two", seed="9")[2] == 9


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"tab": "nowhere", "q": "x"},
        {"tab": "one", "seed": "-1"},
        {"tab": "one", "seed": "1e999"},
        {"tab": "one", "seed": "nan"},
        {"tab": "one", "share": "2"},
        {"tab": "one", "kind": "c"},
        {"tab": "one", "run": "yes"},
    ],
)
def test_what_an_address_says_wrongly_stays_as_it_is(tabs: list[Tab], query: dict[str, str]) -> None:
    assert all(update == gr.skip() for update in restored(tabs, **query)[1:])


def test_a_very_long_address_is_cut_where_it_is_still_found_to_be_too_long(tabs: list[Tab]) -> None:
    assert len(str(restored(tabs, tab="one", q="x" * 10_000)[1])) == 4_001


def test_outputs_and_updates_agree(tabs: list[Tab]) -> None:
    assert len(permalink.outputs(gr.Tabs(), tabs)) == len(restored(tabs))


def test_on_a_space_a_link_is_that_of_the_space(monkeypatch: pytest.MonkeyPatch) -> None:
    assert permalink.base() == ""
    monkeypatch.setenv("SPACE_ID", "someone/infilling")
    assert permalink.base() == "https://huggingface.co/spaces/someone/infilling"
