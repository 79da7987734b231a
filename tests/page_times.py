"""How long a visitor waits: `python -m tests.page_times`, on a machine that does nothing else.

Starts the page twice; the second start is the one that counts, as of a page that was used before.
"""

import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

import mt5
from mt5.web.languages import meanings
from tests.browser.driving import ARGUMENTS, CHROMIUM, Server, unused_port

MODEL = Path(__file__).resolve().parent.parent / "assets" / "model"
CHIPS = 10
# runs in the browser: milliseconds from a click on Fill until other chips, all of the answer, stand there
CLICK = """async () => {
  const chips = () => document.querySelector('#chips')?.textContent;
  const filled = () => document.querySelector('.filled')?.textContent;
  const before = [chips(), filled()], start = performance.now();
  const changed = (look, old) => new Promise((done) => {
    const ask = () => look() && look() !== old ? done(performance.now() - start) : requestAnimationFrame(ask);
    ask();
  });
  document.querySelector('#fill').click();
  const whole = () => document.querySelector('#stop').disabled && filled();
  return Promise.all([changed(chips, before[0]), changed(whole, before[1])]);
}"""


def main() -> None:
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for start in ("first", "second"):
            began = time.perf_counter()
            server = Server(Path(folder) / "log", "app.py", "--port", unused_port())
            try:
                visit(browser, server.url, start, began)
            finally:
                server.close()
        browser.close()
    languages_at_once()


def visit(browser: Browser, url: str, start: str, began: float) -> None:
    """Print how long a start takes, and the first fills after it. began: by time.perf_counter()."""
    page = browser.new_context(viewport={"width": 1440, "height": 1000}, locale="en-US").new_page()
    page.goto(url)
    page.wait_for_selector("#fill")
    print(f"{start} start: painted after {time.perf_counter() - began:.2f} s (bar: 8 s)")
    page.wait_for_timeout(2_000)
    chip_ms, fill_ms = page.evaluate(CLICK)
    print(f"{start} start: first fill {fill_ms:.0f} ms (bar: 500 ms), its first chip {chip_ms:.0f} ms")
    times = []
    for prompt, _ in list(meanings()["capital_japan"].values())[:CHIPS]:
        page.fill("#prompt textarea", prompt)
        page.wait_for_timeout(1_500)
        times.append(page.evaluate(CLICK)[0])
    print(f"{start} start: chip after {statistics.median(times):.0f} ms, median of {CHIPS} (bar: 300 ms)")
    page.context.close()


def languages_at_once() -> None:
    """Print how long one meaning in 24 languages takes, the first time and the best of others."""
    with mt5.open(MODEL) as engine:
        for meaning in list(meanings())[:4]:
            prompts = [prompt for prompt, _ in meanings()[meaning].values()]
            began = time.perf_counter()
            engine.fill(prompts)
            print(f"{meaning} in {len(prompts)} languages: {time.perf_counter() - began:.2f} s (bar: 1.5 s)")


if __name__ == "__main__":
    main()
