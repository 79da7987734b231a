"""A page that is served, and a Chromium that looks at it."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.driving import ARGUMENTS, CHROMIUM, Server, opened


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("page") / "log", "-m", "tests.fake_page")
    yield server
    server.close()
    assert "Traceback" not in server.log.read_text()


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
