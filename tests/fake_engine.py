"""An engine without a model: it writes the same words into every gap, at once."""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from mt5 import infill
from mt5.errors import PromptError
from mt5.generate import Settings
from mt5.infill import Alternative, Fill, Span, Token


@dataclass(frozen=True)
class FakeInfo:
    name: str = "fake"
    path: str = "nowhere"
    format: str = "huggingface"
    parameters: int = 12_345_678
    dtype: str = "float32"
    tensor_parallel: int = 1
    sha256: str = "0" * 64


class FakeEngine:
    """Fills every mask with `pieces`. pause_s: before each token."""

    def __init__(self, pieces: tuple[str, ...] = ("▁Pa", "ris"), pause_s: float = 0.0) -> None:
        self.info, self.pieces, self.pause_s = FakeInfo(), pieces, pause_s

    def stream(self, prompt: str, **settings: Any) -> Iterator[Fill]:
        masked = infill.parse(prompt)
        if settings.get("seed", 0) is None:
            raise PromptError("Settings: seed is None, expected a whole number.")
        tokens: list[list[Token]] = [[] for _ in range(masked.masks)]
        for mask in range(masked.masks):
            for number, piece in enumerate(self.pieces):
                time.sleep(self.pause_s)
                tokens[mask].append(token(number, piece))
                yield self._fill(masked, tokens)

    def _fill(self, masked: infill.MaskedPrompt, tokens: list[list[Token]]) -> Fill:
        texts = ["".join(token.piece for token in row).replace("▁", " ") for row in tokens]
        spans = infill.fitted(masked, [Span(n, texts[n], tuple(row)) for n, row in enumerate(tokens)])
        return Fill(masked.prompt, infill.splice(masked, [span.text for span in spans]), "▁masked", spans)

    def fill(self, prompt: str, **settings: Any) -> Fill:
        *_, last = self.stream(prompt, **settings)
        return replace(last, candidates=(last,))

    def record(self, fill: Fill, settings: Settings) -> dict[str, Any]:
        spans = [
            {
                "mask": span.mask,
                "text": span.text,
                "log_prob": span.log_prob,
                "tokens": [{"id": t.id, "piece": t.piece, "log_prob": t.log_prob} for t in span.tokens],
            }
            for span in fill.spans
        ]
        model = {"name": self.info.name, "sha256": self.info.sha256}
        return {
            "prompt": fill.prompt,
            "text": fill.text,
            "spans": spans,
            "model": model,
            "settings": asdict(settings),
        }


def token(number: int, piece: str, probability: float = 0.5) -> Token:
    others = (Alternative(90 + number, "▁Lyon", math.log(0.25)), Alternative(95, "<b>", math.log(0.01)))
    return Token(number, piece, math.log(probability), others)
