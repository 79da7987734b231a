"""A loaded model that answers requests."""

import random
import weakref
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Self, TypedDict, Unpack, overload

from mt5 import corruption, infill
from mt5.codec import Codec, Given
from mt5.corruption import Corruption
from mt5.errors import PromptError
from mt5.infill import MaskedPrompt
from mt5.info import Health, Info
from mt5.network import Network
from mt5.ranks import Ranks
from mt5.record import Result, record
from mt5.results import Attention, Fill, Filled, Score, Span, Sweep, SweepWord
from mt5.rules import Free, Hypothesis
from mt5.scheduler import Scheduler
from mt5.settings import Settings
from mt5.tasks import Attending, Decoding, Scoring
from mt5.tokenizer import Tokenizer

BLOCK = 32
"""Prompts of a list that are asked for together; those of other threads may join them."""
CLOSE_S = 10.0
MAX_GENERATED = 1_024
MOST_WEIGHTS = 2_000_000
"""Numbers in a map of attention."""


class SettingsOptions(TypedDict, total=False):
    """The fields of settings.Settings, as keywords."""

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

    def __init__(self, network: Network | Ranks, tokenizer: Tokenizer, info: Info) -> None:
        self.tokenizer, self.info, self.config = tokenizer, info, info.config
        self._codec = Codec(tokenizer, info.config)
        self._scheduler = Scheduler(network)
        # its thread ends with the engine, and lets the weights go
        weakref.finalize(self, self._scheduler.close)
        self._network: Network | Ranks | None = network

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the model; the engine answers no more, and who waits for it gets a RuntimeError."""
        self._scheduler.close()
        network, self._network = self._network, None
        if network is not None:
            network.close()
        self._scheduler.wait(CLOSE_S)

    def drain(self, timeout_s: float = 10.0) -> None:
        """Refuse new requests, wait for those being answered, and close."""
        self._scheduler.drain(timeout_s)
        self.close()

    @property
    def health(self) -> Health:
        """Whether requests are answered now, and what a person should know."""
        if self._network is None:
            return Health("closed", 0)
        health = self._network.health
        if self._scheduler.hangs and health.state in ("ready", "reduced"):
            health = replace(health, state="failed", message="The model makes no progress. Start it again.")
        return replace(health, state="draining") if self._scheduler.draining else health

    @property
    def network(self) -> Network | Ranks:
        if self._network is None:
            raise RuntimeError("the engine is closed")
        return self._network

    @overload
    def fill(self, prompt: str, *, given: Given = (), **settings: Unpack[SettingsOptions]) -> Fill: ...
    @overload
    def fill(self, prompt: Sequence[str], **settings: Unpack[SettingsOptions]) -> list[Fill]: ...
    def fill(
        self, prompt: str | Sequence[str], *, given: Given = (), **settings: Unpack[SettingsOptions]
    ) -> Fill | list[Fill]:
        """Fill the masks of a prompt, or of each of a list in one batch; settings: see settings.Settings.

        given: tokens that the first gaps of a single prompt begin with, see codec.Given.
        """
        chosen = Settings(**settings)
        if given and not isinstance(prompt, str):
            raise PromptError("Given tokens belong to a single prompt. Pass the prompts one by one.")
        fills = self._filled([infill.parse(one) for one in _listed(prompt)], chosen, given)
        return fills[0] if isinstance(prompt, str) else fills

    def stream(
        self, prompt: str, *, given: Given = (), **settings: Unpack[SettingsOptions]
    ) -> Iterator[Fill]:
        """Fill the masks of a prompt; yields what is there after every token, at last the whole.

        given: tokens that the first gaps begin with, see codec.Given.
        """
        masked, chosen = infill.parse(prompt), Settings(**settings)
        [task] = self._tasks([masked], chosen, given)
        states = self._scheduler.follow(task)
        return (self._codec.fill(masked, task.source, state, chosen) for state in states)

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
        scores, fills = self._score(masked, [[word] for word in words], 5), self._filled(masked, Settings())
        return Sweep(
            text,
            tuple(
                SweepWord(start, end, word, score.spans[0], fill.spans[0])
                for (start, end), word, score, fill in zip(places, words, scores, fills, strict=True)
            ),
        )

    def attention(self, filled: Filled) -> Attention:
        """Cross-attention of a result, found by teacher forcing of its own tokens."""
        source = self._codec.source(infill.parse(filled.prompt))
        target = self._codec.target_of(filled)
        layers = self.config.decoder.num_layers
        if not target:
            raise PromptError("The result has no tokens, so there is no attention to show. Fill a prompt.")
        if (weights := len(source) * len(target) * layers) > MOST_WEIGHTS:
            raise PromptError(
                f"The attention of {len(target):,} tokens to {len(source):,} in {layers} layers is "
                f"{weights:,} numbers; at most {MOST_WEIGHTS:,} are shown. Shorten the prompt."
            )
        [found] = self._scheduler.answers([Attending(tuple(source), tuple(target))])
        pieces = [tuple(map(self.tokenizer.piece, ids)) for ids in (source, target)]
        return Attention(*pieces, tuple(tuple(tuple(row) for row in layer) for layer in found))

    def corrupt(
        self, text: str, *, density: float = 0.15, mean_span: float = 3.0, seed: int = 0
    ) -> Corruption:
        """Mask spans of a text as T5's training does; the same seed masks the same spans."""
        infill.check_text(text, "text")
        Settings(seed=seed)
        rng = random.Random(seed)
        return corruption.corrupt(text, self.tokenizer, density=density, mean_span=mean_span, rng=rng)

    def restore(self, corruption: Corruption, **settings: Unpack[SettingsOptions]) -> Fill:
        """What the model writes for the spans of a corruption, given the very ids of its source."""
        parts, chosen = corruption.parts, Settings(**settings)
        masked = MaskedPrompt(infill.MASK.join(parts), parts)
        eos = [self.config.eos_id] if self.config.source_eos else []
        [task] = self._tasks([masked], chosen, sources=[[*corruption.source, *eos]])
        [state] = self._answers([task])
        return self._codec.fill(masked, task.source, state, chosen)

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
        sources = [self._codec.readable(ids) for ids in ([source_ids] if one else source_ids)]
        if not 1 <= max_new_tokens <= MAX_GENERATED:
            raise PromptError(f"max_new_tokens is {max_new_tokens!r}, expected 1 to {MAX_GENERATED:,}.")
        self._codec.check_target(max_new_tokens)
        stops = frozenset({self.config.eos_id} if stop else ())
        rules = Free(self.config.start_id, stops, max_new_tokens)
        settings = Settings(num_alternatives=num_alternatives)
        tasks = [Decoding(tuple(source), rules, settings) for source in sources]
        found = [rows[0].hypothesis for rows in self._scheduler.answers(tasks, known=False)]
        return found[0] if one else found

    def log_probs(self, source_ids: Sequence[int], label_ids: Sequence[int]) -> list[float]:
        """Log-probability of each label, given the source and the labels before it (teacher forcing)."""
        if not label_ids:
            return []
        self._codec.check_target(len(label_ids))
        source, labels = self._codec.readable(source_ids), self._codec.known(label_ids)
        [scored] = self._scheduler.answers([Scoring(tuple(source), tuple(labels), 0)], known=False)
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
            [scored] = self._scheduler.answers([Scoring(tuple(source), written.ids, 1)])
            log_probs = tuple(best[0][1] for best in scored.candidates)
        ids = (self.config.start_id, *written.ids)
        return infill.nemo_response(prompt, source, ids, log_probs, self.tokenizer)

    def record(
        self, result: Result, settings: Settings | Mapping[str, Any], given: Given = ()
    ) -> dict[str, Any]:
        """A result for JSON, with the model, the settings and the tokens given: see record.record."""
        return record(result, self.info, settings, given)

    def _tasks(
        self,
        masked: Sequence[MaskedPrompt],
        settings: Settings,
        given: Given = (),
        sources: Sequence[Sequence[int]] | None = None,
    ) -> list[Decoding]:
        """How the prompts are decoded. sources: what the encoder reads, by default the prompts' own ids."""
        # a seed that has no effect must not keep apart what is the same
        asked = settings if settings.strategy == "sample" else replace(settings, seed=0)
        read = (
            [self._codec.source(one) for one in masked]
            if sources is None
            else map(self._codec.readable, sources)
        )
        return [
            Decoding(tuple(source), self._codec.rules(one, settings, given), asked)
            for one, source in zip(masked, read, strict=True)
        ]

    def _filled(self, masked: Sequence[MaskedPrompt], settings: Settings, given: Given = ()) -> list[Fill]:
        tasks = self._tasks(masked, settings, given)
        states = self._answers(tasks)
        return [
            self._codec.fill(one, task.source, state, settings)
            for one, task, state in zip(masked, tasks, states, strict=True)
        ]

    def _score(
        self, masked: Sequence[MaskedPrompt], answers: Sequence[Sequence[str | Span]], num_alternatives: int
    ) -> list[Score]:
        pairs = zip(masked, answers, strict=True)
        ids = [infill.answer_ids(one, given, self.tokenizer) for one, given in pairs]
        candidates = num_alternatives + 1 if num_alternatives else 0
        tasks = [
            Scoring(tuple(self._codec.source(one)), tuple(self._codec.target(spans)), candidates)
            for one, spans in zip(masked, ids, strict=True)
        ]
        return [
            self._codec.score(one, task.source, spans, scored, num_alternatives)
            for one, task, spans, scored in zip(masked, tasks, ids, self._answers(tasks), strict=True)
        ]

    def _answers(self, tasks: Sequence[Decoding] | Sequence[Scoring]) -> list[Any]:
        """Answers to tasks, asked block by block, so that others get in between; the long with the long."""
        answers: list[Any] = [None] * len(tasks)
        order = sorted(range(len(tasks)), key=lambda place: len(tasks[place].source))
        for first in range(0, len(order), BLOCK):
            block = order[first : first + BLOCK]
            found = self._scheduler.answers([tasks[place] for place in block])
            for place, answer in zip(block, found, strict=True):
                answers[place] = answer
        return answers


def _listed(prompt: str | Sequence[str]) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    if not isinstance(prompt, Sequence):
        raise PromptError(f"The prompt is {type(prompt).__name__}, expected text or a list of texts.")
    return list(prompt)
