"""A Chromium that looks at a page."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.driving import ARGUMENTS, CHROMIUM, Server, opened


@pytest.fixture(scope="module")  # playwright's event loop is in the way of tests that have one of their own
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, server: Server) -> Iterator[Page]:
    page = opened(browser, server.url)
    yield page
    page.context.close()
