"""A Chromium that looks at a page."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from tests.browser.driving import ARGUMENTS, AS_USUAL, CHROMIUM, Server, visited


@pytest.fixture(scope="module")  # playwright's event loop is in the way of tests that have one of their own
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def window(browser: Browser) -> Iterator[BrowserContext]:
    """One in which Chromium remembers the page's programs from test to test, which it takes long to read."""
    window = browser.new_context(**AS_USUAL)
    yield window
    window.close()


@pytest.fixture
def page(window: BrowserContext, server: Server) -> Iterator[Page]:
    """The page as at a first visit."""
    page = visited(window.new_page(), server.url)
    yield page
    page.evaluate("() => { localStorage.clear(); sessionStorage.clear(); }")
    page.close()
