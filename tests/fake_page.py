"""The page on an engine without a model, as a process of its own: `python -m tests.fake_page`.

A prompt that holds "slow" gets three hundred tokens, one every 0.1 s; one with "late" waits for its first.
Every token is a line of output. Two other models can be chosen, one of which cannot be opened.
"""

import os
import time
from collections.abc import Iterator, Sequence
from typing import Any

# before gradio is imported: it looks for its maker's server otherwise
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

from mt5.errors import CheckpointError
from mt5.results import Fill
from mt5.web.models import Models
from mt5.web.page import build_page, serving
from tests.fake_engine import FakeEngine

MODELS = {"fake": "fake", "other": "other", "broken": "broken"}


class Paced(FakeEngine):
    def stream(self, prompt: str, *, given: Sequence[Sequence[int]] = (), **settings: Any) -> Iterator[Fill]:
        slow = FakeEngine(("▁slow",) * 300, 0.1) if "slow" in prompt else FakeEngine(self.pieces)
        if "late" in prompt:
            time.sleep(2)
        for result in slow.stream(prompt, given=given, **settings):
            print("token", flush=True)
            yield result

    def fill(self, prompt: Any, **settings: Any) -> Any:
        quick = FakeEngine(self.pieces)
        if isinstance(prompt, list) and any("slow" in one for one in prompt):
            time.sleep(0.5)
        return quick.fill(prompt, **settings)


def opened(path: str) -> FakeEngine:
    time.sleep(1.5)
    if path == "broken":
        raise CheckpointError("broken: no such checkpoint.")
    return Paced(("▁Ro", "ma"), name=path) if path == "other" else Paced()


if __name__ == "__main__":
    models = Models(Paced(), MODELS, opened)
    page = build_page(models)
    _, url, _ = page.launch(server_name="127.0.0.1", **serving(models))
    print(f"The page is at {url}", flush=True)
    page.block_thread()
