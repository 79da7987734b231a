"""The other tabs in Chromium."""

import csv
import io
import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect

from tests.browser.driving import PARIS, Server, go, opened, speak, visited

pytestmark = pytest.mark.browser


def downloaded(page: Page, button: str) -> str:
    with page.expect_download() as saved:
        page.click(button)
    return Path(saved.value.path()).read_text(encoding="utf-8-sig")


def link(page: Page, tab: str) -> str:
    page.click(f"#{tab}-copy")
    return page.locator(f"#{tab}-link textarea, #{tab}-link input").input_value()


def test_your_words_stand_beside_the_models(page: Page, browser: Browser) -> None:
    go(page, "score")
    page.fill("#score-prompt textarea", PARIS)
    page.fill("#answers textarea", "La Rochelle")
    page.click("#score")
    cards = page.locator("#score-chips .card")
    expect(cards).to_have_count(2)
    expect(cards.first.locator(".chip")).to_have_count(2)
    expect(cards.first).to_contain_text("rank 7")
    expect(cards.last).to_contain_text("rank 1")
    expect(page.locator(".verdict")).to_contain_text("times as likely")
    expect(page.locator("#score-surprise .bars .point")).to_have_count(2)
    cards.first.locator(".chip").first.click()
    expect(page.locator("#score-chips .alternatives:visible")).to_contain_text("Lyon")
    assert json.loads(downloaded(page, "#score-json"))["model_writes"]["text"].endswith("Paris.")
    rows = list(csv.DictReader(io.StringIO(downloaded(page, "#score-csv"))))
    assert {row["who"] for row in rows} == {"you", "model"} and rows[0]["rank"] == "7"
    other = opened(browser, link(page, "score"))
    expect(other.locator("#score-chips .card")).to_have_count(2)
    expect(other.locator("#answers textarea")).to_have_value("La Rochelle")
    other.context.close()


def test_gaps_and_lines_must_agree(page: Page) -> None:
    go(page, "score")
    page.fill("#answers textarea", "one\ntwo")
    page.click("#score")
    expect(page.locator("#tabs .block.status .fault")).to_contain_text("one line for each gap")


def test_every_word_is_masked_in_turn(page: Page, browser: Browser) -> None:
    go(page, "sweep")
    page.fill("#sweep-text textarea", "Die Donau fließt durch Wien.")
    page.click("#sweep")
    expect(page.locator("#sweep-chips .chip")).to_have_count(5)
    expect(page.locator("#sweep-chips .sentence")).to_have_attribute("lang", "de")
    page.click("#sweep-chips .chip >> nth=1")
    expect(page.locator("#sweep-chips .alternatives:visible")).to_contain_text("Paris")
    expect(page.locator("#sweep-surprise .bars .point")).to_have_count(5)
    assert len(json.loads(downloaded(page, "#sweep-json"))["words"]) == 5
    assert downloaded(page, "#sweep-csv").startswith("word,start,end,log_prob,surprise_bits")
    other = opened(browser, link(page, "sweep"))
    expect(other.locator("#sweep-chips .chip")).to_have_count(5)
    other.context.close()


def test_a_sentence_is_cut_up_as_in_training(page: Page, browser: Browser) -> None:
    go(page, "corrupt")
    page.click("#corrupt")
    expect(page.locator("#corrupt-result .card")).to_have_count(3)
    first = page.locator("#corrupt-result .card").first.inner_text()
    assert page.locator(".card >> nth=0").locator(".marker").count() >= 1
    page.click("#corrupt-again")
    expect(page.locator("#corrupt-seed input")).to_have_value("1")
    expect(page.locator("#corrupt-result .card").first).not_to_have_text(first)
    cut = page.locator("#corrupt-result .card").first.inner_text()
    record = json.loads(downloaded(page, "#corrupt-json"))
    assert record["settings"] == {"density": 0.15, "mean_span": 3, "seed": 1}
    assert downloaded(page, "#corrupt-csv").startswith("span,text,model")
    other = opened(browser, link(page, "corrupt"))
    expect(other.locator("#corrupt-result .card").first).to_have_text(cut, use_inner_text=True)
    other.context.close()


def test_one_meaning_is_asked_in_24_languages(page: Page, browser: Browser) -> None:
    go(page, "languages")
    page.click("#meaning label >> nth=4")
    page.click("#languages-run")
    expect(page.locator(".languages tbody tr")).to_have_count(24)
    expect(page.locator(".languages tbody tr [lang=ja]").last).to_contain_text("Paris")
    expect(page.locator("#languages-chart .bars .point")).to_have_count(24)
    record = json.loads(downloaded(page, "#languages-json"))
    assert record["meaning"] == "day" and len(record["languages"]) == 24
    assert len(list(csv.DictReader(io.StringIO(downloaded(page, "#languages-csv"))))) == 24
    query = parse_qs(urlsplit(link(page, "languages")).query)
    assert query == {"tab": ["languages"], "meaning": ["day"], "run": ["1"]}


def test_a_file_is_filled_and_saved_with_its_errors(page: Page, tmp_path: Path) -> None:
    source = tmp_path / "prompts.csv"
    source.write_text("id,prompt\n1,a <mask>.\n2,<img src=x onerror=window.hit=1>\n", encoding="utf-8")
    go(page, "batch")
    page.click("#batch-run")
    expect(page.locator("#batch-message .fault")).to_contain_text("Choose a CSV or JSONL file")
    page.set_input_files("#batch-file input[type=file]", source)
    expect(page.locator("#batch-file")).to_contain_text("prompts")
    page.click("#batch-run")
    expect(page.locator("#batch-rows tbody tr")).to_have_count(2)
    expect(page.locator("#batch-rows .wrong")).to_contain_text("<mask>")
    expect(page.locator("#batch-message")).to_contain_text("with an error: 1")
    rows = [json.loads(line) for line in downloaded(page, "#batch-save").splitlines()]
    assert [row["text"] for row in rows] == ["a Paris.", ""] and rows[1]["error"] and rows[0]["sha256"]
    page.click("#batch-format label >> nth=1")
    assert next(csv.DictReader(io.StringIO(downloaded(page, "#batch-save"))))["id"] == "1"
    assert page.evaluate("window.hit") is None


def test_a_file_can_be_stopped_and_what_was_done_is_kept(page: Page, tmp_path: Path) -> None:
    source = tmp_path / "slow.jsonl"
    source.write_text('{"prompt": "slow <mask>"}\n' * 400, encoding="utf-8")
    go(page, "batch")
    page.set_input_files("#batch-file input[type=file]", source)
    expect(page.locator("#batch-file")).to_contain_text("slow")
    page.click("#batch-run")
    expect(page.locator("#batch-message progress")).to_have_attribute("value", re.compile("[1-9]"))
    page.click("#batch-stop")
    expect(page.locator("#batch-message")).to_contain_text("Stopped after")
    done = len(downloaded(page, "#batch-save").splitlines())
    assert 16 <= done < 400 and done % 16 == 0


def test_who_waits_sees_the_place_in_the_queue(
    page: Page, browser: Browser, server: Server, tmp_path: Path
) -> None:
    source = tmp_path / "slow.jsonl"
    source.write_text('{"prompt": "slow <mask>"}\n' * 2_000, encoding="utf-8")
    pages = [page, opened(browser, server.url)]
    for one in pages:
        go(one, "batch")
        one.set_input_files("#batch-file input[type=file]", source)
        expect(one.locator("#batch-file")).to_contain_text("slow")
        one.click("#batch-run")
    expect(pages[0].locator("#batch-message progress")).to_be_visible()
    expect(pages[1].locator("#batch-message")).to_contain_text("Place in the queue: 1 of 1")
    for one in reversed(pages):
        one.click("#batch-stop")
    pages[1].context.close()


def test_the_lesson_goes_step_by_step(page: Page, browser: Browser, server: Server) -> None:
    go(page, "lesson")
    page.click("#lesson-do")
    expect(page.locator("#lesson-result .fault")).to_contain_text("Write your guess first")
    page.fill("#guess textarea", "Kyoto")
    page.click("#lesson-do")
    expect(page.locator("#lesson-result .verdict")).to_contain_text("Kyoto")
    page.click("#lesson-next")
    expect(page.locator("#lesson-told h2")).to_have_text("Reveal")
    page.click("#lesson-do")
    expect(page.locator("#lesson-chips .card")).to_have_count(2)
    expect(page.locator("#lesson-chips .card").first).to_contain_text("Kyoto")
    page.click("#lesson-next")
    expect(page.locator("#lesson-told h2")).to_have_text("Surprise")
    page.click("#lesson-do")
    expect(page.locator("#lesson-surprise .bars .point")).to_have_count(2)
    page.click("#lesson-next")
    expect(page.locator("#lesson-told h2")).to_have_text("Change the context")
    expect(page.locator("#guess")).to_have_count(0)
    expect(page.locator("#lesson-second textarea")).to_have_value("The capital of Russia is <mask>.")
    page.click("#lesson-do")
    expect(page.locator("#lesson-chips .card")).to_have_count(2)
    page.fill("#lesson-second textarea", "The capital of Kenya is <mask>.")
    other = opened(browser, link(page, "lesson"))
    expect(other.locator("#lesson-told h2")).to_have_text("Change the context")
    expect(other.locator("#lesson-second textarea")).to_have_value("The capital of Kenya is <mask>.")
    expect(other.locator("#lesson-chips .card")).to_have_count(2)
    # in another language the sentences are others, and what stood below them was about the old ones
    speak(other, "de")
    expect(other.locator("#lesson-told h2")).to_have_text("Kontext ändern")
    expect(other.locator("#lesson-chips .card")).to_have_count(0)
    other.context.close()


@pytest.mark.parametrize("step", range(1, 8))
def test_every_step_of_the_lesson_has_an_address(window: BrowserContext, server: Server, step: int) -> None:
    page = visited(window.new_page(), f"{server.url}?tab=lesson&step={step}")
    expect(page.locator("#lesson-told")).to_contain_text(f"Step {step} of 7")
    if step == 1:
        page.fill("#guess textarea", "Lyon")
    page.click("#lesson-do")
    expect(page.locator("#lesson-chips > *:not(.wrap)").first).not_to_be_empty()
    expect(page.locator("#lesson-back")).to_be_disabled() if step == 1 else None
    expect(page.locator("#lesson-next")).to_be_disabled() if step == 7 else None
    page.close()
