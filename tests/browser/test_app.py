"""`python app.py` with the embedded model, in Chromium."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.browser.driving import PARIS, Server, fill, opened, unused_port

pytestmark = pytest.mark.browser


def test_the_embedded_model_names_the_capital_of_france(browser: Browser, tmp_path: Path) -> None:
    server = Server(tmp_path / "log", "app.py", "--port", unused_port())
    try:
        page = opened(browser, server.url)
        expect(page.locator(".model")).to_contain_text("embedded demo model")
        fill(page, PARIS)
        expect(page.locator("#surprise .bars .point")).to_have_count(1)
        expect(page.locator(".filled")).to_have_text("La capitale de la France est Paris.")
        page.click("#attention-show")
        expect(page.locator("#attention .heatmaplayer image")).to_have_count(1)
        with page.expect_download() as saved:
            page.click("#fill-nemo")
        assert json.loads(saved.value.path().read_text(encoding="utf-8"))["completion"]["text"]
        with page.expect_download() as saved:
            page.click("#fill-json")
        record = json.loads(saved.value.path().read_text(encoding="utf-8"))
        assert record["completion"]["text"] == "Paris" and len(record["model"]["sha256"]) == 64
        page.context.close()
    finally:
        server.close()
    assert "Traceback" not in server.log.read_text() and server.process.returncode == 0
