"""Pictures of the page with the embedded model, for the README: `python -m tests.screenshots`."""

import re
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.test_page import ARGUMENTS, CHROMIUM, PARIS

ROOT = Path(__file__).resolve().parent.parent
PICTURES = (("desktop", 1440, 1000, "light"), ("phone", 390, 844, "light"), ("dark", 1440, 1000, "dark"))


def main() -> None:
    command = [sys.executable, "app.py", "--port", "7868"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            take(next(url[1] for line in server.stdout or () if (url := re.search(r"at (http\S+)", line))))
        finally:
            server.terminate()


def take(url: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for name, width, height, theme in PICTURES:
            page = browser.new_page(viewport={"width": width, "height": height})
            page.goto(f"{url}?__theme={theme}")
            page.fill("#prompt textarea", PARIS)
            page.click("#fill")
            page.wait_for_selector("#surprise .bars .point")
            page.click(".chip >> nth=0")
            page.wait_for_timeout(2_000)  # until the chart stands still
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=ROOT / "docs" / f"{name}.png")
            print(f"docs/{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
