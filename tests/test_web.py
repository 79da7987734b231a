"""The page without a browser."""

import csv
import inspect
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import gradio as gr
import pytest

from mt5.generate import Settings
from mt5.infill import Fill, Span, Token
from mt5.web import chips, export, fill
from mt5.web.page import serving
from mt5.web.text import escape, text_of
from tests.fake_engine import FakeEngine

ROOT = Path(__file__).resolve().parent.parent

ENGLISH = text_of("en")
HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{value}} `x` \\ <mask>"


def filled(prompt: str, *pieces: str) -> Fill:
    *_, result = FakeEngine(pieces).stream(prompt)
    return result


def test_hostile_text_holds_neither_markup_nor_template() -> None:
    assert not re.search(r"[<>${}`\\]", escape(HOSTILE))


def test_a_hostile_prompt_and_a_hostile_token_are_shown_as_they_are() -> None:
    html = chips.sentence(filled(HOSTILE, "<script>", "${x}"), ENGLISH)
    assert "<img" not in html and "<script" not in html and "$" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_characters_that_cannot_be_seen_are_spelt_out() -> None:
    assert chips.visible("a\u202eb\u200b") == (
        'a<span class="unseen">U+202E</span>b<span class="unseen">U+200B</span>'
    )


def test_every_chip_opens_the_alternatives_that_belong_to_it() -> None:
    html = chips.sentence(filled("a <mask> b <mask>.", "▁x", "y"), ENGLISH)
    opened, panels = re.findall(r'aria-controls="([^"]+)"', html), re.findall(r'<div [^>]*id="([^"]+)"', html)
    assert opened == panels and len(set(opened)) == 4


def test_a_mask_that_was_never_written_is_marked() -> None:
    result = Fill("a <mask>.", "a .", "", (Span(0, "", missing=True),))
    assert ENGLISH("missing") in chips.sentence(result, ENGLISH)


def test_a_chip_prints_its_probability() -> None:
    token = Token(0, "▁x", math.log(0.0312))
    html = chips.sentence(Fill("<mask>", "x", "", (Span(0, "x", (token,)),)), ENGLISH)
    assert "3.12\u00a0%" in html


@pytest.mark.parametrize(("language", "shown"), [("en", "12.5\u00a0%"), ("de", "12,5\u00a0%")])
def test_percentages_are_written_in_the_readers_way(language: str, shown: str) -> None:
    text = type(ENGLISH)(language, ENGLISH.entries)
    assert text.percent(0.125) == shown


def test_an_unknown_page_language_falls_back_to_english() -> None:
    assert text_of("../../etc/passwd") is ENGLISH


def test_settings_that_do_not_count_are_left_out() -> None:
    values = ("beam", 4.0, 2, 0.5, 7, 0.9, 3, 16, 5)
    assert fill.settings_of(values) == {
        "strategy": "beam",
        "max_new_tokens": 16,
        "num_alternatives": 5,
        "num_beams": 4,
        "num_return": 2,
    }
    assert fill.settings_of(("sample", *values[1:]))["seed"] == 3
    assert set(fill.settings_of(("greedy", *values[1:]))) == {
        "strategy",
        "max_new_tokens",
        "num_alternatives",
    }


def test_json_export_says_what_is_needed_to_repeat_it() -> None:
    engine = FakeEngine()
    record = engine.record(filled("a <mask>.", "▁x"), Settings(seed=3))
    content = json.loads(json.loads(export.as_json(record))["content"])
    assert content["model"]["sha256"] == engine.info.sha256
    assert content["settings"]["seed"] == 3
    assert content["version"]


def test_csv_export_has_a_row_per_token_and_no_formulas() -> None:
    record = FakeEngine().record(filled("=1+<mask>", "=x", "y"), Settings())
    rows = list(csv.DictReader(io.StringIO(json.loads(export.as_csv(record))["content"].lstrip("\ufeff"))))
    assert [row["piece"] for row in rows] == ["'=x", "y"]
    assert rows[0]["prompt"].startswith("'=")


def test_there_is_nothing_to_export_before_anything_was_filled() -> None:
    assert export.as_json(None) == export.as_csv(None) == ""


def test_every_launch_option_exists_in_this_gradio() -> None:
    assert set(serving()) <= set(inspect.signature(gr.Blocks.launch).parameters)


def test_the_page_is_served_without_what_a_visitor_must_not_have() -> None:
    options = serving()
    for name in ("share", "show_error", "run_history", "enable_monitoring", "ssr_mode"):
        assert options[name] is False
    assert (
        options["strict_cors"]
        and options["max_file_size"] == "1mb"
        and options["state_session_capacity"] == 500
    )


@pytest.mark.slow
def test_the_page_reports_nothing_and_its_queue_is_bounded() -> None:
    # in a process of its own: gradio leaves event loops open
    program = (
        "from mt5.web.page import build_page\nfrom tests.fake_engine import FakeEngine\n"
        "page = build_page(FakeEngine())\nqueue = page._queue\n"
        "print(page.analytics_enabled, page.delete_cache, page.api_open)\n"
        "print(queue.max_size, queue.live_updates, queue.update_intervals, queue.default_concurrency_limit)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == ["False (600, 1800) False", "256 False 5 1"]
