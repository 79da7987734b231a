"""The page on an engine without a model, as a process of its own: `python -m tests.fake_page`.

A prompt that holds "slow" gets three hundred tokens, one every 0.1 s. Every token is a line of output.
"""

import os
from collections.abc import Iterator
from typing import Any

# before gradio is imported: it looks for its maker's server otherwise
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from mt5.infill import Fill
from mt5.web.page import build_page, serving
from tests.fake_engine import FakeEngine


class Paced(FakeEngine):
    def stream(self, prompt: str, **settings: Any) -> Iterator[Fill]:
        slow = FakeEngine(("▁slow",) * 300, 0.1) if "slow" in prompt else FakeEngine()
        for result in slow.stream(prompt, **settings):
            print("token", flush=True)
            yield result


if __name__ == "__main__":
    page = build_page(Paced())
    _, url, _ = page.launch(server_name="127.0.0.1", **serving())
    print(f"The page is at {url}", flush=True)
    page.block_thread()
