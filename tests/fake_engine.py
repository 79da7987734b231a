"""An engine without a model: it writes the same words into every gap, at once."""

import math
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from mt5 import corruption, infill
from mt5.corruption import Corruption
from mt5.errors import PromptError
from mt5.infill import MaskedPrompt
from mt5.info import Health
from mt5.record import record
from mt5.results import Alternative, Attention, Fill, Filled, Score, Span, Sweep, SweepWord, Token
from mt5.settings import Settings
from mt5.tokenizer import Tokenizer

PIECES = Path(__file__).resolve().parent.parent / "assets" / "model" / "spiece.model"
OTHERS = {90: ("▁Lyon", 0.25), 91: ("▁Lille", 0.125), 92: ("<b>", 0.01)}


@dataclass(frozen=True)
class FakeInfo:
    name: str = "fake"
    path: str = "nowhere"
    format: str = "huggingface"
    parameters: int = 12_345_678
    dtype: str = "float32"
    tensor_parallel: int = 1
    load_s: float = 0.5
    rank_memory: tuple[int, ...] = ()
    sha256: str = "0" * 64

    def facts(self) -> dict[str, Any]:
        return asdict(self)


class FakeEngine:
    """Fills every mask with `pieces`. pause_s: before each token."""

    def __init__(
        self, pieces: tuple[str, ...] = ("▁Pa", "ris"), pause_s: float = 0.0, name: str = "fake"
    ) -> None:
        self.info, self.pieces, self.pause_s = FakeInfo(name, path=name), pieces, pause_s
        self.closed = False

    @property
    def health(self) -> Health:
        return Health("closed" if self.closed else "ready", 1)

    def close(self) -> None:
        self.closed = True

    def drain(self) -> None:
        self.close()

    def stream(self, prompt: str, *, given: Sequence[Sequence[int]] = (), **settings: Any) -> Iterator[Fill]:
        masked, chosen = infill.parse(prompt), Settings(**settings)
        return self._written(masked, given, chosen.num_return)

    def _written(
        self, masked: MaskedPrompt, given: Sequence[Sequence[int]], num_return: int
    ) -> Iterator[Fill]:
        tokens: list[list[Token]] = [[] for _ in range(masked.masks)]
        for mask in range(masked.masks):
            begun = given[mask] if mask < len(given) else ()
            tokens[mask] = [self._known(id_) for id_ in begun]
            for number, piece in enumerate(self.pieces[len(begun) :], len(begun)):
                time.sleep(self.pause_s)
                tokens[mask].append(token(number, piece))
                yield self._fill(masked, tokens)
        last = self._fill(masked, tokens)
        yield replace(last, candidates=(last,) * num_return) if num_return > 1 else last

    def _known(self, id_: int) -> Token:
        return token(id_, *OTHERS.get(id_, (self.pieces[id_ % len(self.pieces)],)))

    def _fill(self, masked: MaskedPrompt, tokens: list[list[Token]]) -> Fill:
        texts = ["".join(token.piece for token in row).replace("▁", " ") for row in tokens]
        spans = infill.fitted(masked, [Span(n, texts[n], tuple(row)) for n, row in enumerate(tokens)])
        return Fill(masked.prompt, infill.splice(masked, [span.text for span in spans]), "▁masked", spans)

    def generate(self, source_ids: Sequence[int], *, max_new_tokens: int = 16) -> None:
        """What the page asks for to know that the engine answers."""

    def fill(self, prompt: Any, **settings: Any) -> Any:
        if not isinstance(prompt, str):
            return [self.fill(one, **settings) for one in prompt]
        *_, last = self.stream(prompt, **settings)
        return last

    def restore(self, corruption: Corruption) -> Fill:
        *_, last = self._written(MaskedPrompt("<mask>".join(corruption.parts), corruption.parts), (), 1)
        return last

    def score(self, prompt: Any, answers: Any, *, num_alternatives: int = 5) -> Any:
        if not isinstance(prompt, str):
            pairs = zip(prompt, answers, strict=True)
            return [self.score(one, given, num_alternatives=num_alternatives) for one, given in pairs]
        masked = infill.parse(prompt)
        spans = [
            self._scored(mask, answer) for mask, answer in enumerate(infill.check_answers(masked, answers))
        ]
        fitted = infill.fitted(masked, spans)
        text = infill.splice(masked, [span.text for span in fitted])
        return Score(masked.prompt, text, "▁masked", fitted)

    def _scored(self, mask: int, answer: str | Span) -> Span:
        if isinstance(answer, Span):
            return replace(answer, tokens=tuple(replace(token, rank=1) for token in answer.tokens))
        words = [f"▁{word}" for word in answer.split()]
        return Span(
            mask, answer, tuple(replace(token(n, word, 0.125), rank=7) for n, word in enumerate(words))
        )

    def sweep(self, text: str) -> Sweep:
        infill.check_text(text, "text")
        if infill.MASK in text:
            raise PromptError("The text holds a mask.")
        words = []
        for start, end in infill.words(text):
            masked = infill.mask_word(text, start, end)
            fill = self.fill(masked.prompt)
            score = self.score(masked.prompt, [text[start:end]])
            words.append(SweepWord(start, end, text[start:end], score.spans[0], fill.spans[0]))
        return Sweep(text, tuple(words))

    def corrupt(
        self, text: str, *, density: float = 0.15, mean_span: float = 3.0, seed: int = 0
    ) -> Corruption:
        infill.check_text(text, "text")
        Settings(seed=seed)
        rng = random.Random(seed)
        return corruption.corrupt(text, tokenizer(), density=density, mean_span=mean_span, rng=rng)

    def attention(self, filled: Filled) -> Attention:
        target = tuple(token.piece for token in filled.tokens)
        row = (0.5, 0.25, 0.25)
        return Attention(("▁a", "<extra_id_0>", "."), target, ((row,) * len(target),) * 2)

    def nemo_response(self, prompt: str, tokens_to_generate: int = 16) -> dict[str, Any]:
        return {"prompt": prompt, "completion": {"text": "Paris", "tokens": []}, "masked_input": "▁masked"}

    def record(self, result: Any, settings: Any, given: Sequence[Sequence[int]] = ()) -> dict[str, Any]:
        return record(result, self.info, settings, given)


@cache
def tokenizer() -> Tokenizer:
    """The embedded model's."""
    return Tokenizer.huggingface(PIECES.read_bytes())


def token(number: int, piece: str, probability: float = 0.5) -> Token:
    others = tuple(Alternative(id_, piece, math.log(p)) for id_, (piece, p) in OTHERS.items())
    return Token(number, piece, math.log(probability), others)
