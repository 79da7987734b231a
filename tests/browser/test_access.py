"""axe-core finds nothing to complain of, and the page speaks the reader's language."""

import json

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect

from mt5.web.text import text_of
from tests.browser.driving import PARIS, TABS, Server, fill, go, opened, speak, visited

pytestmark = pytest.mark.browser

RUN = {"score": "#score", "sweep": "#sweep", "corrupt": "#corrupt", "languages": "#languages-run"}
RUN |= {"batch": "#batch-example", "lesson": "#lesson-do"}

# until nothing fades in or out, but for what turns for ever
STILL = """async () => {
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  await pause(100);
  await Promise.race([Promise.allSettled(document.getAnimations().map((one) => one.finished)), pause(700)]);
}"""


def violations(page: Page) -> list[str]:
    """In the light theme and in the dark one, of which the page is left in the first."""
    found = []
    for _ in range(2):
        page.evaluate("document.body.classList.toggle('dark')")
        page.evaluate(STILL)
        found += Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    assert not page.evaluate("document.body.classList.contains('dark')")
    return [f"{one['id']}: {node['html'][:200]}" for one in found for node in one["nodes"]]


def test_the_first_tab_violates_no_rule_of_accessibility(page: Page) -> None:
    assert violations(page) == []
    page.click("#settings button")
    page.click("#all-candidates button")
    page.click("#glossary button")
    page.click("#about button")
    fill(page, "no gap")
    expect(page.locator(".block.status .fault")).to_be_visible()
    assert violations(page) == []
    fill(page, PARIS)
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    page.click(".chip >> nth=0")
    page.click(".alternatives:visible [data-fork] >> nth=0")
    expect(page.locator("#trail li")).to_have_count(1)
    expect(page.locator("#stop")).to_be_disabled()
    page.click("#attention-show")
    expect(page.locator("#attention .heatmaplayer image")).to_have_count(1)
    page.click(".chip >> nth=1")
    page.click("#fill-copy")
    expect(page.locator("#fill-link")).to_be_visible()
    assert violations(page) == []


@pytest.mark.parametrize("tab", TABS[1:])
def test_every_tab_violates_no_rule_of_accessibility(
    window: BrowserContext, server: Server, tab: str
) -> None:
    step = "&step=4" if tab == "lesson" else ""
    page = visited(window.new_page(), f"{server.url}?__theme=light&tab={tab}{step}")
    expect(page.locator(f"#{tab}-copy")).to_be_visible()
    assert violations(page) == []
    page.click(RUN[tab])
    expect(page.locator(f"#{tab}-result .empty")).to_have_count(0)
    page.wait_for_timeout(500)
    if page.locator(f"#{tab}-result .chip").count():
        page.locator(f"#{tab}-result .chip").first.click()
    assert violations(page) == []
    page.close()


@pytest.mark.parametrize(
    ("locale", "language"), [("en-GB", "en"), ("pt-BR", "pt"), ("nb-NO", "no"), ("tlh", "en")]
)
def test_a_first_visit_is_answered_in_the_browsers_language(
    browser: Browser, server: Server, locale: str, language: str
) -> None:
    page = opened(browser, server.url, locale=locale)
    expect(page.locator("#fill")).to_have_text(text_of(language)("fill"))
    expect(page.locator("html")).to_have_attribute("lang", language)
    page.context.close()


def test_words_that_are_gradios_own_are_said_in_the_pages_language(page: Page) -> None:
    for language in ("it", "el"):  # gradio speaks neither
        speak(page, language)
        text = text_of(language)
        expect(page.locator("footer .show-api")).to_have_text(text("use_api"))
        expect(page.locator("footer .settings")).to_have_text(text("settings"))
        go(page, "batch")
        expect(page.locator("#batch-file [data-testid=upload-text]")).to_have_text(
            text("drop_file"), use_inner_text=True
        )


def test_the_first_sentence_is_in_the_language_of_the_page_until_a_visitor_writes_one(page: Page) -> None:
    prompt = page.locator("#prompt textarea")
    expect(prompt).to_have_value("The capital of France is <mask>.")
    speak(page, "fi")
    expect(prompt).to_have_value("Ranskan pääkaupunki on <mask>.")
    prompt.fill("Oma <mask>.")
    speak(page, "en")
    expect(page.locator("#fill")).to_have_text("Fill in")
    page.wait_for_timeout(300)
    expect(prompt).to_have_value("Oma <mask>.")


def test_a_link_holds_its_sentence_whatever_the_page_speaks(page: Page, browser: Browser) -> None:
    page.click("#fill-copy")
    link = page.locator("#fill-link textarea, #fill-link input").input_value()
    other = opened(browser, link, locale="fi-FI")
    expect(other.locator("#fill")).to_have_text(text_of("fi")("fill"))
    expect(other.locator("#prompt textarea")).to_have_value("The capital of France is <mask>.")
    other.context.close()


@pytest.mark.parametrize("language", ["ja", "el", "hi"])
def test_the_page_can_speak_another_language(
    page: Page, browser: Browser, server: Server, language: str
) -> None:
    text = text_of(language)
    fill(page, PARIS)
    expect(page.locator("#surprise .bars .point")).to_have_count(2)
    speak(page, language)
    expect(page.locator("#fill")).to_have_text(text("fill"))
    expect(page.locator("html")).to_have_attribute("lang", language)
    expect(page.locator("h1")).to_have_text(text("title"))
    expect(page.locator(".chip small").first).to_have_text(text.percent(0.5))
    for tab in TABS:
        expect(page.locator(f"[data-tab-id={tab}][role=tab]")).to_have_text(text(f"tab_{tab}"))
    go(page, "lesson")
    expect(page.locator("#lesson-told h2")).to_have_text(text("lesson_1"))
    expect(page.locator("#lesson-prompt textarea")).to_have_value(text("lesson_1_prompt"))
    page.reload()
    expect(page.locator("#fill")).to_have_text(text("fill"))  # remembered
    assert json.loads(page.evaluate("JSON.stringify(Object.keys(localStorage))")).count("mt5-page-language")
    other = opened(browser, f"{server.url}?ui={language}&tab=lesson&step=4")
    expect(other.locator("#lesson-second textarea")).to_have_value(text("lesson_4_second"))
    other.context.close()
