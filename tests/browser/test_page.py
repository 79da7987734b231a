"""The tab that fills masks, and what all tabs share, in Chromium."""

import json
import re
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect

from mt5.languages import LANGUAGES
from tests.browser.driving import HOSTILE, PARIS, TABS, Server, fill, go, opened

pytestmark = pytest.mark.browser


def test_a_prompt_is_filled_and_every_token_shows_its_probability(page: Page) -> None:
    fill(page, PARIS)
    expect(page.locator(".filled")).to_have_text("La capitale de la France est Paris.")
    expect(page.locator(".chip")).to_have_count(2)
    expect(page.locator(".chip small").first).to_have_text("50.0%")
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    expect(page.locator(".sentence")).to_have_attribute("lang", "fr")


def test_tokens_appear_one_after_another_and_stop_ends_the_work(page: Page, server: Server) -> None:
    expect(page.locator("#stop")).to_be_disabled()
    fill(page, "a slow <mask>.")
    page.wait_for_selector(".chip >> nth=1")
    expect(page.locator("#stop")).to_be_enabled()
    assert page.locator(".chip").count() < 300
    page.click("#stop")
    expect(page.locator("#stop")).to_be_disabled()
    page.wait_for_timeout(300)
    tokens = server.tokens
    page.wait_for_timeout(700)
    assert server.tokens == tokens
    shown = page.locator(".chip").count()
    assert 2 <= shown < 300
    with page.expect_download() as saved:  # what was there when it was stopped
        page.click("#fill-json")
    record = json.loads(saved.value.path().read_text(encoding="utf-8"))
    assert abs(len(record["spans"][0]["tokens"]) - shown) <= 5
    fill(page, PARIS)
    expect(page.locator(".filled")).to_contain_text("Paris")
    expect(page.locator("#stop")).to_be_disabled()


# what the queue says comes when all other requests of the page have long been answered
SAID_LATE = """{
  const fetched = window.fetch;
  const pause = () => new Promise((done) => setTimeout(done, 700));
  const words = new TextDecoder();
  const later = {transform: async (chunk, sink) => {
    await pause();
    sink.enqueue(chunk);
    window.late += words.decode(chunk, {stream: true});
  }};
  window.fetch = async (where, ...how) => {
    const answer = await fetched(where, ...how);
    if (!(where.url ?? `${where}`).includes('/queue/data')) return answer;
    window.late = '';
    return new Response(answer.body.pipeThrough(new TransformStream(later)), answer);
  };
}"""


@pytest.mark.parametrize("script", ["", SAID_LATE], ids=["", "said_late"])
def test_a_run_that_is_stopped_before_it_writes_has_not_failed(
    browser: Browser, server: Server, script: str
) -> None:
    page = opened(browser, server.url, script=script)
    fill(page, "too late <mask>.")
    page.click("#stop")
    expect(page.locator("#stop")).to_be_disabled()
    if script:
        page.wait_for_function("window.late.includes('process_completed')")
        page.wait_for_timeout(300)
    else:
        page.wait_for_timeout(2_500)  # when it would have begun to write
    assert page.locator(".error, .toast-body").count() == 0
    assert page.locator("#fill-result .sentence, #message .fault").count() == 0
    fill(page, PARIS)
    expect(page.locator(".filled")).to_contain_text("Paris")
    page.context.close()


@pytest.mark.parametrize("key", ["Control+Enter", "Meta+Enter"])
def test_a_key_starts_what_the_button_of_the_tab_starts(page: Page, key: str) -> None:
    page.fill("#prompt textarea", PARIS)
    page.press("#prompt textarea", key)
    expect(page.locator(".filled")).to_contain_text("Paris")
    expect(page.locator("#prompt textarea")).to_have_value(PARIS)


def test_an_alternative_is_taken_and_the_choice_is_undone(page: Page) -> None:
    fill(page, PARIS)
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    page.click(".chip >> nth=0")
    page.click(".alternatives:visible [data-fork] >> nth=0")
    expect(page.locator(".filled")).to_have_text("La capitale de la France est Lyonris.")
    expect(page.locator("#trail li")).to_have_text("␣Lyon in place of ␣Pa")
    page.click(".chip >> nth=1")
    page.click(".alternatives:visible [data-fork] >> nth=1")
    expect(page.locator("#trail li")).to_have_count(2)
    expect(page.locator(".filled")).to_have_text("La capitale de la France est Lyon Lille.")
    page.click("#undo")
    expect(page.locator("#trail li")).to_have_count(1)
    expect(page.locator(".filled")).to_have_text("La capitale de la France est Lyonris.")
    page.click("#undo")
    expect(page.locator(".filled")).to_have_text("La capitale de la France est Paris.")
    expect(page.locator("#undo")).to_have_count(0)


def test_the_keyboard_alone_fills_moves_opens_and_forks(page: Page) -> None:
    page.focus("#prompt textarea")
    page.keyboard.press("Control+a")
    page.keyboard.type(PARIS)
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "fill":
            break
    page.keyboard.press("Enter")
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('chip')"):
            break
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    panel = page.locator("#chips .alternatives:visible")
    expect(panel).to_have_count(1)
    expect(panel).to_contain_text("Alternatives to ris")
    expect(page.locator(".chip >> nth=1")).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(panel).to_contain_text("Alternatives to ␣Pa")
    for _ in range(5):
        page.keyboard.press("Tab")
        if page.evaluate("'fork' in document.activeElement.dataset"):
            break
    page.keyboard.press("Enter")
    expect(page.locator(".filled")).to_contain_text("Lyonris.")


def test_the_keyboard_alone_goes_through_the_tabs(page: Page) -> None:
    page.focus("[role=tab][aria-selected=true]")
    for tab in TABS[1:]:
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        expect(page.locator(f"[data-tab-id={tab}][role=tab]")).to_have_attribute("aria-selected", "true")


def test_i9_markup_and_templates_typed_into_any_tab_do_nothing(page: Page) -> None:
    fill(page, f"{HOSTILE} <mask>")
    expect(page.locator(".filled")).to_contain_text("<img src=x onerror=window.hit=1> ${window.hit=1}")
    fill(page, HOSTILE)
    expect(page.locator(".block.status .fault")).to_be_visible()
    go(page, "score")
    page.fill("#score-prompt textarea", f"{HOSTILE} <mask>")
    page.fill("#answers textarea", HOSTILE)
    page.click("#score")
    expect(page.locator("#score-chips .card")).to_have_count(2)
    for tab in ("sweep", "corrupt"):
        go(page, tab)
        page.fill(f"#{tab}-text textarea", HOSTILE)
        page.click(f"#{tab}")
        expect(page.locator(f"#{tab}-result")).to_contain_text("onerror")
    go(page, "lesson")
    page.fill("#guess textarea", HOSTILE)
    page.click("#lesson-do")
    expect(page.locator("#lesson-chips")).to_contain_text("onerror")
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert page.locator("img[src='x']").count() == 0


@pytest.mark.parametrize(("prompt", "said"), [("no gap here", "<mask>"), ("", "Type a sentence")])
def test_what_cannot_be_filled_is_said_and_nothing_typed_is_lost(page: Page, prompt: str, said: str) -> None:
    fill(page, prompt)
    expect(page.locator(".block.status .fault")).to_contain_text(said)
    expect(page.locator("#prompt textarea")).to_have_value(prompt)
    fill(page, PARIS)  # the stream has survived
    expect(page.locator(".filled")).to_contain_text("Paris")
    expect(page.locator(".block.status .fault")).to_have_count(0)


def test_a_text_that_is_too_long_arrives_whole_and_nothing_older_is_left_under_what_is_said(
    page: Page,
) -> None:
    fill(page, PARIS)
    expect(page.locator(".filled")).to_contain_text("Paris")
    fill(page, "x" * 5_000 + " <mask>")
    expect(page.locator(".block.status .fault")).to_contain_text("5,007")
    expect(page.locator(".filled")).to_have_count(0)
    expect(page.locator("#attention-show")).to_have_count(0)


def test_a_line_that_is_read_from_the_right_stands_at_the_right(page: Page) -> None:
    box = page.locator("#prompt textarea")
    expect(box).to_have_css("unicode-bidi", "plaintext")
    expect(box).to_have_css("text-align", "start")


def test_the_mask_is_written_where_the_cursor_is(page: Page) -> None:
    page.fill("#prompt textarea", "ab")
    page.evaluate("document.querySelector('#prompt textarea').setSelectionRange(1, 1)")
    page.click("#insert-mask")
    expect(page.locator("#prompt textarea")).to_have_value("a<mask>b")


def test_every_language_has_examples_and_one_click_fills_one(page: Page) -> None:
    for language in LANGUAGES:
        assert page.locator(f".examples section[lang={language.code}] [data-example]").count() >= 1
    button = page.locator(".examples section[lang=ja] [data-example]").first
    prompt = button.inner_text()
    button.click()
    expect(page.locator("#prompt textarea")).to_have_value(prompt)
    expect(page.locator(".filled")).to_contain_text("Paris")
    expect(page.locator(".sentence")).to_have_attribute("lang", "ja")


def test_beam_search_lists_all_its_candidates(page: Page) -> None:
    page.click("#settings button")
    page.click("#strategy label >> nth=1")
    fill(page, PARIS)
    expect(page.locator(".filled")).to_contain_text("Paris")
    page.click("#all-candidates button")
    expect(page.locator("#candidates li")).to_have_count(3)


def test_results_can_be_saved_as_json_csv_and_in_nemos_way(page: Page) -> None:
    fill(page, PARIS)
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    with page.expect_download() as saved:
        page.click("#fill-json")
    record = json.loads(saved.value.path().read_text(encoding="utf-8"))
    assert record["prompt"] == PARIS and record["model"]["sha256"]
    assert record["settings"]["seed"] == 0 and record["version"]
    with page.expect_download() as saved:
        page.click("#fill-csv")
    assert saved.value.path().read_text(encoding="utf-8-sig").startswith("mask,token,id,piece,log_prob")
    with page.expect_download() as saved:
        page.click("#fill-nemo")
    record = json.loads(saved.value.path().read_text(encoding="utf-8"))
    assert set(record) >= {"prompt", "completion", "masked_input", "model", "settings", "version"}


def test_nothing_is_saved_before_there_is_a_result(page: Page) -> None:
    page.click("#fill-json")
    expect(page.locator(".toast-body")).to_contain_text("no result")


@pytest.mark.parametrize("format_", ["svg", "png"])
def test_a_figure_can_be_saved(page: Page, format_: str) -> None:
    fill(page, PARIS)
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    with page.expect_download() as saved:
        page.click(f"[data-figure=surprise][data-format={format_}]")
    content = Path(saved.value.path()).read_bytes()
    assert content.startswith(b"\x89PNG" if format_ == "png" else b"<svg")


def test_where_the_model_looked_is_drawn_layer_by_layer(page: Page) -> None:
    fill(page, PARIS)
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    page.click("#attention-show")
    expect(page.locator("#attention .heatmaplayer image")).to_have_count(1)
    expect(page.locator("#layer input[type=number]")).to_have_value("2")
    fill(page, PARIS)  # a map of another result would mislead
    expect(page.locator("#attention")).to_have_count(0)


def test_a_link_keeps_a_field_that_was_emptied(page: Page, browser: Browser) -> None:
    page.fill("#prompt textarea", "")
    page.click("#fill-copy")
    link = page.locator("#fill-link textarea, #fill-link input")
    expect(link).to_have_value(re.compile("tab=fill.*[?&]q=(&|$)"))
    other = opened(browser, link.input_value())
    expect(other.locator("#prompt textarea")).to_have_value("")
    other.context.close()


def test_a_link_brings_the_same_state_into_a_fresh_browser(
    page: Page, browser: Browser, server: Server
) -> None:
    page.click("#settings button")
    page.click("#strategy label >> nth=2")
    page.fill("#seed input", "7")
    fill(page, "Ένα ${x} & <mask> = ?")
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    page.click(".chip >> nth=0")
    page.click(".alternatives:visible [data-fork] >> nth=0")
    expect(page.locator(".filled")).to_have_text("Ένα ${x} & Lyonris = ?")
    page.click("#fill-copy")
    link = page.locator("#fill-link textarea, #fill-link input").input_value()
    query = parse_qs(urlsplit(link).query)
    assert query["seed"] == ["7"] and query["strategy"] == ["sample"] and "temperature" not in query
    other = opened(browser, link)
    expect(other.locator(".filled")).to_have_text("Ένα ${x} & Lyonris = ?")
    expect(other.locator("#prompt textarea")).to_have_value("Ένα ${x} & <mask> = ?")
    other.click("#settings button")
    expect(other.locator("#seed input")).to_have_value("7")
    other.context.close()


def test_a_link_without_a_result_does_not_reveal_one(page: Page, browser: Browser) -> None:
    page.fill("#prompt textarea", "An exercise: <mask>.")
    page.click("#fill-copy")
    link = page.locator("#fill-link textarea, #fill-link input").input_value()
    other = opened(browser, link)
    expect(other.locator("#prompt textarea")).to_have_value("An exercise: <mask>.")
    other.wait_for_timeout(500)
    assert other.locator(".chip").count() == 0
    other.context.close()


def test_an_address_with_a_page_that_is_not_there_opens_the_one_that_is(
    browser: Browser, server: Server
) -> None:
    page = opened(browser, f"{server.url}?page=nowhere&q=kept&tab=fill&ui=nowhere")
    expect(page.locator("#prompt textarea")).to_have_value("kept")
    page.context.close()


def test_another_model_is_loaded_while_the_old_one_answers(page: Page) -> None:
    def choose(name: str) -> None:
        page.click("#model-choice input")
        page.click(f"[role=option][aria-label='{name}']")

    choose("broken")
    expect(page.locator("#model-state")).to_contain_text("broken is being loaded")
    fill(page, PARIS)
    expect(page.locator(".filled")).to_contain_text("Paris")
    expect(page.locator("#model-state .fault")).to_contain_text("broken could not be loaded")
    choose("other")
    try:
        expect(page.locator("#model")).to_contain_text("other")
        told_whose_answer_it_is(page)
    finally:  # the server is that of other tests too
        choose("fake")
        expect(page.locator("#model")).to_contain_text("fake")


def told_whose_answer_it_is(page: Page) -> None:
    """After "fake" answered and another model took its place."""
    said = "This answer is by fake; another model answers now. Ask again."
    page.click(".chip >> nth=0")
    page.click(".alternatives:visible [data-fork] >> nth=0")
    expect(page.locator("#message")).to_have_text(said)
    expect(page.locator(".filled")).to_contain_text("Paris")
    page.click("#attention-show")
    expect(page.locator("#fill-result .status .fault")).to_have_text(said)
    page.click("#fill-nemo")
    expect(page.locator(".toast-body")).to_contain_text(said)
    fill(page, PARIS)
    expect(page.locator(".filled")).to_contain_text("Roma")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(browser: Browser, server: Server, theme: str) -> None:
    page = opened(browser, f"{server.url}?__theme={theme}", viewport={"width": 390, "height": 844})
    fill(page, f"{'Donaudampfschifffahrt' * 8} <mask> <mask> <mask>.")
    expect(page.locator(".chip")).to_have_count(6)
    page.click(".chip >> nth=0")
    for tab in TABS:
        go(page, tab)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, tab
    page.context.close()


def test_letters_on_chips_keep_their_colour_in_the_dark_theme(browser: Browser, server: Server) -> None:
    page = opened(browser, f"{server.url}?__theme=dark")
    fill(page, PARIS)
    page.wait_for_selector(".chip")
    expect(page.locator("body.dark")).to_be_attached()
    letters = page.locator(".chip bdi").first.evaluate("chip => getComputedStyle(chip).color")
    assert letters == "rgb(0, 0, 0)"
    page.context.close()


def test_print_is_light_and_keeps_the_colours(browser: Browser, server: Server) -> None:
    page = opened(browser, f"{server.url}?__theme=dark")
    fill(page, PARIS)
    page.wait_for_selector(".chip")
    page.emulate_media(media="print")
    assert (
        page.locator("body").evaluate("body => getComputedStyle(body).backgroundColor")
        == "rgb(255, 255, 255)"
    )
    assert page.locator(".chip").first.evaluate("chip => getComputedStyle(chip).printColorAdjust") == "exact"
    expect(page.locator("#fill")).to_be_hidden()
    page.context.close()
