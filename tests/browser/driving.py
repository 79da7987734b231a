"""How a test serves the page and drives it."""

import re
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect

from mt5.web.text import languages

ROOT = Path(__file__).resolve().parents[2]
# what Debian calls it, or what playwright has downloaded itself
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
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
AS_USUAL: dict[str, Any] = {"viewport": {"width": 1440, "height": 1000}, "locale": "en-US"}
TABS = ("fill", "score", "sweep", "corrupt", "languages", "batch", "lesson")

expect.set_options(timeout=60_000)  # a busy machine is not a fault of the page


def unused_port() -> str:
    """A port that nothing listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return str(found.getsockname()[1])


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
            time.sleep(0.05)
        raise AssertionError(f"the page did not start:\n{self.log.read_text()}")

    @property
    def tokens(self) -> int:
        return self.log.read_text().count("token")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(30)


def opened(browser: Browser, url: str, *, script: str = "", **options: Any) -> Page:
    """The page in a window of its own, with Playwright's options. script: runs before the page's own."""
    page = browser.new_context(**AS_USUAL | options).new_page()
    page.add_init_script(script)
    return visited(page, url)


def visited(page: Page, url: str) -> Page:
    page.set_default_timeout(60_000)
    page.goto(url)
    page.wait_for_selector("#tabs [role=tab]")
    return page


def fill(page: Page, prompt: str) -> None:
    page.fill("#prompt textarea", prompt)
    page.click("#fill")


def speak(page: Page, language: str) -> None:
    """Choose the language of the page, by its code."""
    page.click("#page-language input")
    page.click(f"[role=option][data-index='{languages().index(language)}']")


def go(page: Page, tab: str) -> None:
    page.click(f"[data-tab-id={tab}][role=tab]")
