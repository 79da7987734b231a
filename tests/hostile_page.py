"""The fake page for tests of what may go wrong, as a process of its own: `python -m tests.hostile_page`.

A prompt that holds "slow" gets three hundred tokens, one every 0.1 s, "steady" thirty of them; "boom" is a
bug that tells the prompt; "unlikely" has a log-probability of minus infinity; "half" writes half a character.
SIGUSR1 ends the engine, SIGUSR2 stops the queue. With SHORT in the environment deadlines are short, and
uploads may take 8 MB.
"""

import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from app import QUIET

# before gradio is imported: it looks for its maker's server otherwise
os.environ |= {f"GRADIO_{name}": value for name, value in QUIET.items()}

from mt5.results import Fill
from mt5.web import guard, line, quota
from mt5.web.models import Models
from mt5.web.page import build_page, serving
from tests.fake_engine import FakeEngine

if os.environ.get("SHORT"):
    guard.BODY_S, guard.RETRY_S, line.LISTEN_S, line.HELD_S = 2.0, 1, 3.0, 1.0
    quota.MOST, quota.LOOK = 8 << 20, 1 << 20


class Troubled(FakeEngine):
    def stream(self, prompt: str, *, given: Sequence[Sequence[int]] = (), **settings: Any) -> Iterator[Fill]:
        if "boom" in prompt:
            raise RuntimeError(f"tensor of {prompt}")
        tokens = 300 if "slow" in prompt else 30 if "steady" in prompt else 0
        engine = FakeEngine(("▁slow",) * tokens, 0.1) if tokens else FakeEngine(self.pieces)
        for result in engine.stream(prompt, given=given, **settings):
            print("token", flush=True)
            yield _odd(result) if "unlikely" in prompt or "half" in prompt else result

    def fill(self, prompt: Any, **settings: Any) -> Any:
        if not isinstance(prompt, str):
            return [self.fill(one, **settings) for one in prompt]
        *_, last = self.stream(prompt, **settings)
        return last


def _odd(fill: Fill) -> Fill:
    def change(token: Any) -> Any:
        if "unlikely" in fill.prompt:
            return replace(token, log_prob=-float("inf"))
        return replace(token, piece="\ufffd")

    spans = tuple(replace(span, tokens=tuple(map(change, span.tokens))) for span in fill.spans)
    return replace(fill, spans=spans)


if __name__ == "__main__":
    engine = Troubled()
    models = Models(engine)
    page = build_page(models)
    signal.signal(signal.SIGUSR1, lambda *_: engine.close())
    signal.signal(signal.SIGUSR2, lambda *_: setattr(page._queue, "stopped", True))
    _, url, _ = page.launch(server_name="127.0.0.1", **serving(models))
    print(f"The page is at {url}", flush=True)
    page.block_thread()
