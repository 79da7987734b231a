"""Pictures of the page with the embedded model, for the README: `python -m tests.screenshots`.

`python -m tests.screenshots FOLDER` takes every tab, wide, on a phone and in the dark, for looking at.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.driving import ARGUMENTS, CHROMIUM, PARIS, TABS, unused_port

ROOT = Path(__file__).resolve().parent.parent
WIDE, PHONE = (1440, 1000), (390, 844)
ASKED = {
    "fill": {"q": PARIS},
    "score": {"q": PARIS, "a": "Lyon"},
    "lesson": {"step": "7"},
}
# name, tab, size, theme
PICTURES = (
    ("desktop", "fill", WIDE, "light"),
    ("phone", "fill", PHONE, "light"),
    ("dark", "sweep", WIDE, "dark"),
    ("score", "score", WIDE, "light"),
    ("trained", "corrupt", WIDE, "light"),
    ("languages", "languages", WIDE, "light"),
    ("lesson", "lesson", WIDE, "light"),
)


def main() -> None:
    command = [sys.executable, "app.py", "--port", unused_port()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            url = next(url[1] for line in server.stdout or () if (url := re.search(r"at (http\S+)", line)))
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
                for name, page in taken(browser, url, PICTURES):
                    page.screenshot(path=ROOT / "docs" / f"{name}.png")
                for name, page in taken(browser, url, all_tabs()) if sys.argv[1:] else ():
                    page.screenshot(path=Path(sys.argv[1]) / f"{name}.png", full_page=True)
                browser.close()
        finally:
            server.terminate()


def all_tabs() -> list[tuple[str, str, tuple[int, int], str]]:
    kinds = (("wide", WIDE, "light"), ("phone", PHONE, "light"), ("dark", WIDE, "dark"))
    return [(f"{tab}-{kind}", tab, size, theme) for tab in TABS for kind, size, theme in kinds]


def taken(
    browser: Browser, url: str, pictures: tuple[tuple[str, str, tuple[int, int], str], ...] | list[tuple]
) -> Iterator[tuple[str, Page]]:
    """Every picture's name, and the page as it is to be taken."""
    for name, tab, (width, height), theme in pictures:
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en-US")
        page = context.new_page()
        page.set_default_timeout(120_000)
        page.goto(f"{url}?{urlencode({'tab': tab, 'run': '1', '__theme': theme, **ASKED.get(tab, {})})}")
        page.wait_for_selector(f"#{tab}-result:not(:has(.empty))")
        page.wait_for_timeout(4_000)  # until the charts stand still
        if chip := page.query_selector(f"#{tab}-result .chip"):
            chip.click()
        page.mouse.move(0, 0)
        page.wait_for_timeout(500)
        page.evaluate("scrollTo(0, 0)")
        yield name, page
        print(name, flush=True)
        context.close()


if __name__ == "__main__":
    main()
