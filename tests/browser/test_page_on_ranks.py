"""The page on two ranks: it answers as on one, survives a rank's death, and leaves nothing behind."""

import os
import signal
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.driving import PARIS, Server, fill, opened
from tests.rank_engine import MARK, free_port, marked, nothing_left, until

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.mark.parametrize("state", ["restarting", "reduced", "failed"])
def test_the_page_says_so_when_the_models_processes_fail(page: Page, state: str) -> None:
    expect(page.locator("#health p:visible")).to_have_count(0)
    page.route("**/health", lambda route: route.fulfill(json={"state": state, "message": ""}))
    page.reload()
    expect(page.locator(f"#health [data-state={state}]")).to_be_visible()
    expect(page.locator("#health p:visible")).to_have_count(1)


def test_the_embedded_model_fills_over_two_ranks_and_after_one_was_killed(
    browser: Browser, tmp_path: Path
) -> None:
    with nothing_left(15):
        server = Server(tmp_path / "log", "app.py", "--tensor-parallel", "2", "--port", str(free_port()))
        try:
            page = opened(browser, server.url)
            expect(page.locator("#header")).to_contain_text("2")
            fill(page, PARIS)
            expect(page.locator("#filled")).to_contain_text("La capitale de la France est Paris.")
            *_, last = sorted(marked(os.environ[MARK]))
            os.kill(last, signal.SIGKILL)
            fill(page, "The capital of France is <mask>.")
            expect(page.locator("#filled")).to_contain_text("The capital of France is")
            until(lambda: last not in marked(os.environ[MARK]), 5)
            page.context.close()
        finally:
            server.close()
        assert "Traceback" not in server.log.read_text()
