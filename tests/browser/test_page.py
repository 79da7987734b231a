"""The page in Chromium."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from mt5.languages import LANGUAGES

pytestmark = pytest.mark.browser
expect.set_options(timeout=20_000)  # a busy machine is not a fault of the page

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PARIS = "La capitale de la France est <mask>."
HOSTILE = "<img src=x onerror=window.hit=1> ${window.hit=1} {{window.hit=1}} <script>window.hit=1</script>"


class Server:
    """A process that serves the page. url: where. tokens: how many its engine has written."""

    def __init__(self, log: Path, *command: str) -> None:
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [sys.executable, *command], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
            )
        self.url = self._url()

    def _url(self) -> str:
        end = time.monotonic() + 120
        while time.monotonic() < end and self.process.poll() is None:
            if found := re.search(r"The page is at (\S+)", self.log.read_text()):
                return found[1]
            time.sleep(0.1)
        raise AssertionError(f"the page did not start:\n{self.log.read_text()}")

    @property
    def tokens(self) -> int:
        return self.log.read_text().count("token")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("page") / "log", "-m", "tests.fake_page")
    yield server
    server.close()
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def opened(browser: Browser, url: str, *, width: int = 1440, height: int = 1000) -> Page:
    page = browser.new_page(viewport={"width": width, "height": height})
    page.set_default_timeout(20_000)
    page.goto(url)
    page.wait_for_selector("#fill")
    return page


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    page = opened(browser, server.url)
    yield page
    page.close()


def fill(page: Page, prompt: str) -> None:
    page.fill("#prompt textarea", prompt)
    page.click("#fill")


def test_a_prompt_is_filled_and_every_token_shows_its_probability(page: Page) -> None:
    fill(page, PARIS)
    expect(page.locator(".filled")).to_have_text("La capitale de la France est Paris.")
    expect(page.locator(".chip")).to_have_count(2)
    expect(page.locator(".chip small").first).to_have_text("50.0\u00a0%")
    expect(page.locator("#surprise .bars .point")).to_have_count(2)


def test_tokens_appear_one_after_another_and_stop_ends_the_work(page: Page, server: Server) -> None:
    fill(page, "a slow <mask>.")
    page.wait_for_selector(".chip >> nth=1")
    assert page.locator(".chip").count() < 300
    page.click("#stop")
    page.wait_for_timeout(500)
    tokens = server.tokens
    page.wait_for_timeout(700)
    assert server.tokens == tokens
    assert 2 <= page.locator(".chip").count() < 300
    fill(page, PARIS)
    expect(page.locator(".filled")).to_contain_text("Paris")


def test_the_keyboard_alone_moves_between_chips_and_opens_alternatives(page: Page) -> None:
    fill(page, PARIS)
    expect(page.locator("#candidates")).to_be_attached()
    expect(page.locator(".chip")).to_have_count(2)
    page.wait_for_timeout(300)
    page.focus(".chip >> nth=0")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    panel = page.locator(".alternatives:visible")
    expect(panel).to_have_count(1)
    expect(panel).to_contain_text("Alternatives to ris")
    expect(panel).to_contain_text("␣Lyon")
    expect(page.locator(".chip >> nth=1")).to_have_attribute("aria-expanded", "true")
    page.keyboard.press("Escape")
    expect(panel).to_have_count(0)


def test_markup_and_templates_typed_as_prompt_do_nothing(page: Page) -> None:
    fill(page, f"{HOSTILE} <mask>")
    expect(page.locator(".filled")).to_contain_text("<img src=x onerror=window.hit=1> ${window.hit=1}")
    fill(page, HOSTILE)
    expect(page.locator(".fault")).to_be_visible()
    page.wait_for_timeout(300)
    assert page.evaluate("window.hit") is None
    assert page.locator("img[src='x']").count() == 0


@pytest.mark.parametrize(
    ("prompt", "said"), [("no gap here", "<mask>"), ("", "empty"), ("\ud800 <mask>", "")]
)
def test_what_cannot_be_filled_is_said_and_nothing_typed_is_lost(page: Page, prompt: str, said: str) -> None:
    if "\ud800" in prompt:  # the keyboard cannot type half a character, a script can
        page.evaluate(
            """() => { const box = document.querySelector('#prompt textarea');
            box.value = '\\ud800 <mask>'; box.dispatchEvent(new Event('input')); }"""
        )
        page.click("#fill")
    else:
        fill(page, prompt)
        expect(page.locator(".fault")).to_contain_text(said)
        expect(page.locator("#prompt textarea")).to_have_value(prompt)
    fill(page, PARIS)  # the stream has survived
    expect(page.locator(".filled")).to_contain_text("Paris")
    expect(page.locator(".fault")).to_have_count(0)


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


def test_results_can_be_saved_as_json_and_csv(page: Page) -> None:
    fill(page, PARIS)
    expect(page.locator(".filled")).to_contain_text("Paris.")
    page.wait_for_timeout(500)
    with page.expect_download() as saved:
        page.click("#save-json")
    record = json.loads(saved.value.path().read_text(encoding="utf-8"))
    assert (
        record["prompt"] == PARIS and record["model"]["sha256"] and record["settings"] and record["version"]
    )
    with page.expect_download() as saved:
        page.click("#save-csv")
    assert saved.value.path().read_text(encoding="utf-8-sig").startswith("mask,token,id,piece,log_prob")


def test_nothing_is_asked_of_another_host_and_no_prompt_is_kept(browser: Browser, server: Server) -> None:
    page = browser.new_page()
    hosts: set[str | None] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    page.goto(server.url)
    page.wait_for_selector("#fill")
    fill(page, "canary <mask>")
    expect(page.locator(".filled")).to_contain_text("canary")
    assert hosts - {None} == {"127.0.0.1"}
    kept = page.evaluate("JSON.stringify({...localStorage}) + JSON.stringify({...sessionStorage})")
    assert "canary" not in kept
    page.close()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_scrolls_in_one_direction_only(browser: Browser, server: Server, theme: str) -> None:
    page = opened(browser, f"{server.url}?__theme={theme}", width=390, height=844)
    fill(page, f"{'Donaudampfschifffahrt' * 8} <mask> <mask> <mask>.")
    expect(page.locator(".chip")).to_have_count(6)
    page.click(".chip >> nth=0")
    page.wait_for_timeout(300)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()


def test_letters_on_chips_keep_their_colour_in_the_dark_theme(browser: Browser, server: Server) -> None:
    page = opened(browser, f"{server.url}?__theme=dark")
    fill(page, PARIS)
    page.wait_for_selector(".chip")
    expect(page.locator("body.dark")).to_be_attached()
    letters = page.locator(".chip bdi").first.evaluate("chip => getComputedStyle(chip).color")
    assert letters == "rgb(0, 0, 0)"
    page.close()


def test_the_embedded_model_names_the_capital_of_france(
    browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    server = Server(tmp_path_factory.mktemp("app") / "log", "app.py", "--port", "7869")
    try:
        page = opened(browser, server.url)
        expect(page.locator(".model")).to_contain_text("embedded demo model")
        fill(page, PARIS)
        expect(page.locator(".filled")).to_have_text("La capitale de la France est Paris.")
        page.wait_for_timeout(1_000)
        with page.expect_download() as saved:
            page.click("#save-json")
        record = json.loads(saved.value.path().read_text(encoding="utf-8"))
        assert record["completion"]["text"] == "Paris" and len(record["model"]["sha256"]) == 64
        page.close()
        assert "Traceback" not in server.log.read_text()
    finally:
        server.close()
