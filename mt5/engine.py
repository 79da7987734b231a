"""A loaded model that answers requests."""

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any, Literal, Self, TypedDict, Unpack, overload

from mt5 import corruption, infill
from mt5.corruption import Corruption
from mt5.errors import PromptError
from mt5.generate import Free, Guided, Hypothesis, Row, Rules, Settings
from mt5.infill import Alternative, Fill, MaskedPrompt, Score, Span, Sweep, SweepWord, Token
from mt5.info import Info
from mt5.network import Network, Scored
from mt5.tokenizer import Tokenizer

BATCH = 32
"""Prompts decoded together; more of them are taken in turns, the long with the long."""
MAX_GENERATED = 1_024
LONGEST_SCORED_TARGET = 8_192


class SettingsOptions(TypedDict, total=False):
    """The fields of generate.Settings, as keywords."""

    strategy: Literal["greedy", "beam", "sample"]
    num_beams: int
    num_return: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    max_new_tokens: int
    num_alternatives: int
    guided: bool


class Engine:
    """Answers requests with one model; safe to call from several threads. PromptError names bad input."""

    def __init__(self, network: Network, tokenizer: Tokenizer, info: Info) -> None:
        self._network: Network | None = network
        self.tokenizer, self.info, self.config = tokenizer, info, info.config
        # forbidden in a gap: ids that are no text. Any of the closing ids ends a gap
        self._closing = (tokenizer.eos_id, *tokenizer.sentinels)
        self._never = tuple(sorted(tokenizer.control_ids - set(self._closing)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the model; the engine answers no more."""
        self._network = None

    @property
    def network(self) -> Network:
        if self._network is None:
            raise RuntimeError("the engine is closed")
        return self._network

    @overload
    def fill(self, prompt: str, **settings: Unpack[SettingsOptions]) -> Fill: ...
    @overload
    def fill(self, prompt: Sequence[str], **settings: Unpack[SettingsOptions]) -> list[Fill]: ...
    def fill(self, prompt: str | Sequence[str], **settings: Unpack[SettingsOptions]) -> Fill | list[Fill]:
        """Fill the masks of a prompt, or of each of a list in one batch; settings: see generate.Settings."""
        chosen = Settings(**settings)
        masked = [infill.parse(one) for one in _listed(prompt)]
        fills: list[Fill | None] = [None] * len(masked)
        for block in self._blocks(masked):
            filled = self._decoded([masked[place] for place in block], chosen)
            for place, fill in zip(block, filled, strict=True):
                fills[place] = fill
        done = [fill for fill in fills if fill is not None]
        return done[0] if isinstance(prompt, str) else done

    def stream(self, prompt: str, **settings: Unpack[SettingsOptions]) -> Iterator[Fill]:
        """Fill the masks of a prompt; yields what is there after every token, at last the whole."""
        masked, chosen = infill.parse(prompt), Settings(**settings)
        return (fills[0] for fills in self._decode([masked], chosen))

    @overload
    def score(self, prompt: str, answers: Sequence[str | Span], *, num_alternatives: int = 5) -> Score: ...
    @overload
    def score(
        self, prompt: Sequence[str], answers: Sequence[Sequence[str | Span]], *, num_alternatives: int = 5
    ) -> list[Score]: ...
    def score(
        self, prompt: str | Sequence[str], answers: Sequence[Any], *, num_alternatives: int = 5
    ) -> Score | list[Score]:
        """Score given answers, one per mask, by teacher forcing: log-probability and rank of every token.

        An answer is a text, or a span of an earlier result, which is scored in the very tokens it holds.
        Of a list of prompts, `answers` holds a list for each.
        """
        Settings(num_alternatives=num_alternatives)
        prompts = _listed(prompt)
        wanted = [answers] if isinstance(prompt, str) else list(answers)
        if len(wanted) != len(prompts):
            raise PromptError(f"Prompts: {len(prompts)}, lists of answers: {len(wanted)}. Give one for each.")
        masked = [infill.parse(one) for one in prompts]
        checked = [infill.check_answers(one, given) for one, given in zip(masked, wanted, strict=True)]
        scores = self._score(masked, checked, num_alternatives)
        return scores[0] if isinstance(prompt, str) else scores

    def sweep(self, text: str) -> Sweep:
        """Mask every word in turn, in one batch: how likely it was, and what the model writes."""
        infill.check_text(text, "text")
        if infill.MASK in text:
            raise PromptError(
                f"The text holds {infill.MASK}. Every word is masked in turn: type a whole sentence."
            )
        places = infill.words(text)
        if not places:
            raise PromptError("The text has no words. Type a sentence.")
        masked = [infill.mask_word(text, start, end) for start, end in places]
        words = [text[start:end] for start, end in places]
        scores = self._score(masked, [[word] for word in words], 5)
        fills: list[Fill | None] = [None] * len(masked)
        for block in self._blocks(masked):
            filled = self._decoded([masked[place] for place in block], Settings())
            for place, fill in zip(block, filled, strict=True):
                fills[place] = fill
        return Sweep(
            text,
            tuple(
                SweepWord(start, end, word, score.spans[0], fill.spans[0])
                for (start, end), word, score, fill in zip(places, words, scores, fills, strict=True)
                if fill is not None
            ),
        )

    def corrupt(
        self, text: str, *, density: float = 0.15, mean_span: float = 3.0, seed: int = 0
    ) -> Corruption:
        """Mask spans of a text as T5's training does; the same seed masks the same spans."""
        infill.check_text(text, "text")
        Settings(seed=seed)
        rng = random.Random(seed)
        return corruption.corrupt(text, self.tokenizer, density=density, mean_span=mean_span, rng=rng)

    @overload
    def generate(
        self,
        source_ids: Sequence[int],
        *,
        max_new_tokens: int = 16,
        stop: bool = True,
        num_alternatives: int = 0,
    ) -> Hypothesis: ...
    @overload
    def generate(
        self,
        source_ids: Sequence[Sequence[int]],
        *,
        max_new_tokens: int = 16,
        stop: bool = True,
        num_alternatives: int = 0,
    ) -> list[Hypothesis]: ...
    def generate(
        self,
        source_ids: Sequence[Any],
        *,
        max_new_tokens: int = 16,
        stop: bool = True,
        num_alternatives: int = 0,
    ) -> Hypothesis | list[Hypothesis]:
        """Greedy decoding of ids, as the encoder is to read them; a list of lists is one batch.

        stop: end with eos, which is then the last id; otherwise exactly max_new_tokens ids are written.
        """
        if not source_ids:
            raise PromptError("The prompt has no tokens. Type a sentence.")
        one = isinstance(source_ids[0], int)
        sources = [self._source(ids) for ids in ([source_ids] if one else source_ids)]
        if not 1 <= max_new_tokens <= MAX_GENERATED:
            raise PromptError(f"max_new_tokens is {max_new_tokens!r}, expected 1 to {MAX_GENERATED:,}.")
        self._check_target(max_new_tokens)
        stops = frozenset({self.config.eos_id} if stop else ())
        rules = [Free(self.config.start_id, stops, max_new_tokens)] * len(sources)
        settings = Settings(num_alternatives=num_alternatives)
        [last] = deque(self.network.generate(sources, rules, settings), maxlen=1)
        found = [rows[0].hypothesis for rows in last]
        return found[0] if one else found

    def log_probs(self, source_ids: Sequence[int], label_ids: Sequence[int]) -> list[float]:
        """Log-probability of each label, given the source and the labels before it (teacher forcing)."""
        if not label_ids:
            return []
        self._check_target(len(label_ids))
        [scored] = self.network.score([self._source(source_ids)], [self._ids(label_ids)])
        return list(scored.log_probs)

    def nemo_response(self, prompt: str, tokens_to_generate: int = 16) -> dict[str, Any]:
        """The response that NeMo's megatron_t5_eval.py prints for a prompt, computed as NeMo 1.11 does.

        Exactly tokens_to_generate steps are run, and log-probabilities are paired with tokens in NeMo's way:
        special tokens are dropped from the one list and not from the other.
        """
        infill.check_text(prompt)
        source = self.tokenizer.nemo_masked_ids(prompt)
        written = self.generate(source, max_new_tokens=tokens_to_generate, stop=False)
        log_probs = written.log_probs
        if self.config.pad_id in written.ids[:-1]:
            # NeMo decodes the whole prefix anew at every step and keeps the last step's maxima, which differ
            # at a pad: its row attends to what was written since
            [scored] = self.network.score([source], [list(written.ids)], candidates=1)
            log_probs = tuple(best[0][1] for best in scored.candidates)
        ids = (self.config.start_id, *written.ids)
        return infill.nemo_response(prompt, source, ids, log_probs, self.tokenizer)

    def record(self, fill: Fill, settings: Settings) -> dict[str, Any]:
        """A result for JSON: the model card's shape, log-probabilities rightly paired, and the spans."""
        spans = [
            {
                "mask": span.mask,
                "text": span.text,
                "log_prob": _finite(span.log_prob),
                "missing": span.missing,
                "truncated": span.truncated,
                "tokens": [
                    {
                        "id": token.id,
                        "piece": token.piece,
                        "log_prob": _finite(token.log_prob),
                        "alternatives": [
                            [other.piece, _finite(other.log_prob)] for other in token.alternatives
                        ],
                    }
                    for token in span.tokens
                ],
            }
            for span in fill.spans
        ]
        model = {key: value for key, value in asdict(self.info).items() if key not in ("config", "path")}
        return {
            "prompt": fill.prompt,
            "completion": {
                "text": fill.completion,
                "tokens": [[token.id, token.piece, _finite(token.log_prob)] for token in fill.tokens],
            },
            "masked_input": fill.masked_input,
            "text": fill.text,
            "log_prob": _finite(fill.log_prob),
            "spans": spans,
            "candidates": [{"text": one.text, "log_prob": _finite(one.log_prob)} for one in fill.candidates],
            "model": model,
            "settings": asdict(settings),
        }

    def _decode(self, masked: Sequence[MaskedPrompt], settings: Settings) -> Iterator[list[Fill]]:
        """Fill prompts in one batch; yields their state after every step."""
        sources = [self._prompt_ids(one) for one in masked]
        for state in self._states(masked, sources, settings):
            yield self._fills(masked, sources, state, settings)

    def _decoded(self, masked: Sequence[MaskedPrompt], settings: Settings) -> list[Fill]:
        """Fill prompts in one batch; only the last state is kept and read."""
        sources = [self._prompt_ids(one) for one in masked]
        [last] = deque(self._states(masked, sources, settings), maxlen=1)
        return self._fills(masked, sources, last, settings)

    def _states(
        self, masked: Sequence[MaskedPrompt], sources: Sequence[list[int]], settings: Settings
    ) -> Iterator[list[list[Row]]]:
        return self.network.generate(sources, [self._rules(one, settings) for one in masked], settings)

    def _fills(
        self,
        masked: Sequence[MaskedPrompt],
        sources: Sequence[list[int]],
        state: Sequence[Sequence[Row]],
        settings: Settings,
    ) -> list[Fill]:
        inputs = [" ".join(map(self.tokenizer.piece, self._without_eos(source))) for source in sources]
        return [
            self._fill(one, text, rows, settings)
            for one, text, rows in zip(masked, inputs, state, strict=True)
        ]

    def _fill(self, masked: MaskedPrompt, masked_input: str, rows: Sequence[Row], settings: Settings) -> Fill:
        fills = [infill.fill_of(masked, masked_input, row.hypothesis, self.tokenizer) for row in rows]
        return replace(fills[0], candidates=tuple(fills)) if settings.num_return > 1 else fills[0]

    def _rules(self, masked: MaskedPrompt, settings: Settings) -> Rules:
        start, limit = self.config.start_id, self.config.max_positions
        sentinels = self.tokenizer.sentinels[: masked.masks]
        if settings.guided:
            return Guided(start, sentinels, self._closing, self._never, settings.max_new_tokens, limit)
        # the sentinel after the last gap's closes it
        after = self.tokenizer.sentinels[masked.masks : masked.masks + 1]
        most = masked.masks * (settings.max_new_tokens + 1) + 1
        stops = frozenset({self.config.eos_id, *after})
        return Free(start, stops, most if limit is None else min(most, limit))

    def _score(
        self, masked: Sequence[MaskedPrompt], answers: Sequence[Sequence[str | Span]], num_alternatives: int
    ) -> list[Score]:
        ids = [
            infill.answer_ids(one, given, self.tokenizer) for one, given in zip(masked, answers, strict=True)
        ]
        targets = []
        for spans in ids:
            pairs = zip(self.tokenizer.sentinels, spans, strict=False)
            targets.append([id_ for sentinel, span in pairs for id_ in (sentinel, *span)])
            self._check_target(len(targets[-1]))
        scores: list[Score | None] = [None] * len(masked)
        for block in self._blocks(masked):
            sources = [self._prompt_ids(masked[place]) for place in block]
            found = self.network.score(
                sources,
                [targets[place] for place in block],
                candidates=num_alternatives + 1 if num_alternatives else 0,
            )
            for place, source, scored in zip(block, sources, found, strict=True):
                spans = self._scored_spans(masked[place], ids[place], scored, num_alternatives)
                text = infill.splice(masked[place], [span.text for span in spans])
                pieces = " ".join(map(self.tokenizer.piece, self._without_eos(source)))
                scores[place] = Score(masked[place].prompt, text, pieces, spans)
        return [score for score in scores if score is not None]

    def _scored_spans(
        self, masked: MaskedPrompt, ids: Sequence[Sequence[int]], scored: Scored, num_alternatives: int
    ) -> tuple[Span, ...]:
        spans, place = [], 0
        for mask, span in enumerate(ids):
            place += 1  # the sentinel, which is given
            tokens = []
            for id_ in span:
                others = [pair for pair in scored.candidates[place] if pair[0] != id_][:num_alternatives]
                alternatives = tuple(Alternative(i, self.tokenizer.piece(i), value) for i, value in others)
                piece = self.tokenizer.piece(id_)
                tokens.append(Token(id_, piece, scored.log_probs[place], alternatives, scored.ranks[place]))
                place += 1
            spans.append(Span(mask, self.tokenizer.decode(span), tuple(tokens)))
        return infill.fitted(masked, spans)

    def _blocks(self, masked: Sequence[MaskedPrompt]) -> Iterator[list[int]]:
        """Places of prompts that are decoded together: few, and of like length, since padding costs."""
        order = sorted(range(len(masked)), key=lambda place: len(masked[place].prompt))
        for first in range(0, len(order), BATCH):
            yield order[first : first + BATCH]

    def _prompt_ids(self, masked: MaskedPrompt) -> list[int]:
        ids = self.tokenizer.encode_masked(masked.parts)
        return self._source([*ids, self.config.eos_id] if self.config.source_eos else ids)

    def _without_eos(self, source: Sequence[int]) -> Sequence[int]:
        return source[:-1] if self.config.source_eos else source

    def _source(self, ids: Sequence[int]) -> list[int]:
        """The ids themselves, when the encoder can read them."""
        limit = self.config.max_positions
        if not ids:
            raise PromptError("The prompt has no tokens. Type a sentence.")
        if limit is not None and len(ids) > limit:
            raise PromptError(
                f"The prompt has {len(ids):,} tokens; this model reads at most {limit:,}. Shorten it."
            )
        return self._ids(ids)

    def _ids(self, ids: Sequence[int]) -> list[int]:
        rows = self.config.padded_vocab_size
        odd = [id_ for id_ in ids if isinstance(id_, bool) or not isinstance(id_, int) or not 0 <= id_ < rows]
        if odd:
            raise PromptError(f"Ids are whole numbers from 0 to {rows - 1:,}; got {odd[0]!r}.")
        return list(ids)

    def _check_target(self, length: int) -> None:
        limit = self.config.max_positions or LONGEST_SCORED_TARGET
        if length > limit:
            raise PromptError(
                f"The answers have {length:,} tokens; this model writes at most {limit:,}. Shorten them."
            )


def _listed(prompt: str | Sequence[str]) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, Sequence):
        raise PromptError(f"The prompt is {type(prompt).__name__}, expected text or a list of texts.")
    return list(prompt)


def _finite(value: float) -> float | None:
    """The number itself, None where JSON has no word for it."""
    return value if math.isfinite(value) else None
