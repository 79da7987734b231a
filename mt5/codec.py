"""Prompts and answers as ids, and ids as results."""

from collections.abc import Sequence
from dataclasses import replace

from mt5 import infill
from mt5.config import ModelConfig
from mt5.errors import PromptError
from mt5.infill import MaskedPrompt
from mt5.network import Scored
from mt5.results import Alternative, Fill, Filled, Score, Span, Token
from mt5.rules import Free, Guided, Row, Rules
from mt5.settings import Settings
from mt5.tokenizer import Tokenizer

LONGEST_SCORED_TARGET = 8_192
Given = Sequence[Sequence[int]]
"""Ids that the first gaps of a prompt begin with, a list for each gap begun; an id that closes a gap may end
its list. The gap of the last list goes on from there, those before it are closed."""


class Codec:
    """What one model reads and writes. PromptError names what it cannot."""

    def __init__(self, tokenizer: Tokenizer, config: ModelConfig) -> None:
        self.tokenizer, self.config = tokenizer, config
        # forbidden in a gap: ids that are no text. Any of the closing ids ends a gap
        self.closing = (tokenizer.eos_id, *tokenizer.sentinels)
        self.never = tuple(sorted(tokenizer.control_ids - set(self.closing)))

    def source(self, masked: MaskedPrompt) -> list[int]:
        """The encoder's ids of a prompt."""
        ids = self.tokenizer.encode_masked(masked.parts)
        return self.readable([*ids, self.config.eos_id] if self.config.source_eos else ids)

    def readable(self, ids: Sequence[int]) -> list[int]:
        """The ids themselves, when the encoder can read them."""
        limit = self.config.max_positions
        if not ids:
            raise PromptError("The prompt has no tokens. Type a sentence.")
        if limit is not None and len(ids) > limit:
            raise PromptError(
                f"The prompt has {len(ids):,} tokens; this model reads at most {limit:,}. Shorten it."
            )
        return self.known(ids)

    def known(self, ids: Sequence[int]) -> list[int]:
        """The ids themselves, when the network has a row for each."""
        rows = self.config.padded_vocab_size
        odd = [id_ for id_ in ids if isinstance(id_, bool) or not isinstance(id_, int) or not 0 <= id_ < rows]
        if odd:
            raise PromptError(f"Ids are whole numbers from 0 to {rows - 1:,}; got {odd[0]!r}.")
        return list(ids)

    def check_target(self, length: int) -> None:
        """PromptError when the decoder cannot write so many tokens."""
        limit = self.config.max_positions or LONGEST_SCORED_TARGET
        if length > limit:
            raise PromptError(
                f"The answers have {length:,} tokens; this model writes at most {limit:,}. Shorten them."
            )

    def rules(self, masked: MaskedPrompt, settings: Settings, given: Given = ()) -> Rules:
        """What a prompt's decoding begins with and may write."""
        start, limit = self.config.start_id, self.config.max_positions
        sentinels = self.tokenizer.sentinels[: masked.masks]
        begun = self._given(masked, settings, given) if given else ()
        if settings.guided:
            most = settings.max_new_tokens
            return Guided(start, sentinels, self.closing, self.never, most, limit, begun)
        # the sentinel after the last gap's closes it
        after = self.tokenizer.sentinels[masked.masks : masked.masks + 1]
        most = masked.masks * (settings.max_new_tokens + 1) + 1
        stops = frozenset({self.config.eos_id, *after})
        return Free(start, stops, most if limit is None else min(most, limit))

    def _given(self, masked: MaskedPrompt, settings: Settings, given: Given) -> tuple[tuple[int, ...], ...]:
        if not settings.guided:
            raise PromptError("Given tokens need guided decoding: choose guided.")
        lists = isinstance(given, Sequence) and all(isinstance(ids, Sequence) for ids in given)
        if not lists or any(isinstance(ids, str) for ids in (given, *given)):
            raise PromptError("Given tokens are a list of ids for each mask that is begun.")
        if len(given) > masked.masks:
            raise PromptError(f"Masks: {masked.masks}, lists of given tokens: {len(given)}. Remove some.")
        begun = []
        closed = False
        for number, own in enumerate(given, 1):
            ids = self.known(own)
            closed = bool(ids) and ids[-1] in self.closing
            ids = ids[:-1] if closed else ids
            self._check_given(ids, number, settings.max_new_tokens)
            if not ids and (closed or number < len(given)):
                raise PromptError(f"Mask {number} has no given tokens, but is closed. Give it one or more.")
            begun.append(tuple(ids))
        self.check_target(sum(len(ids) + 1 for ids in begun))
        return (*begun, ()) if closed else tuple(begun)

    def _check_given(self, ids: Sequence[int], number: int, most: int) -> None:
        if len(ids) > most:
            raise PromptError(
                f"Mask {number} has {len(ids):,} given tokens; at most {most:,} are written for each mask. "
                "Give fewer, or raise max_new_tokens."
            )
        control = [id_ for id_ in ids if id_ in self.tokenizer.control_ids or id_ >= self.config.vocab_size]
        if control:
            raise PromptError(
                f"Mask {number}: the given token {control[0]} ({self.tokenizer.piece(control[0])}) "
                "cannot be written in a gap. Choose another."
            )

    def fill(
        self, masked: MaskedPrompt, source: Sequence[int], rows: Sequence[Row], settings: Settings
    ) -> Fill:
        """A state of a decoding as a filled prompt."""
        text = self._masked_input(source)
        fills = [infill.fill_of(masked, text, row.hypothesis, self.tokenizer) for row in rows]
        return replace(fills[0], candidates=tuple(fills)) if settings.num_return > 1 else fills[0]

    def _masked_input(self, source: Sequence[int]) -> str:
        without_eos = source[:-1] if self.config.source_eos else source
        return " ".join(map(self.tokenizer.piece, without_eos))

    def target(self, spans: Sequence[Sequence[int] | None]) -> list[int]:
        """The decoder's ids for spans: each after its sentinel. None leaves a span out."""
        pairs = zip(self.tokenizer.sentinels, spans, strict=False)
        target = [id_ for sentinel, span in pairs if span is not None for id_ in (sentinel, *span)]
        self.check_target(len(target))
        return self.known(target)

    def target_of(self, filled: Filled) -> list[int]:
        """The decoder's ids for a result, without the masks it never came to."""
        return self.target(
            [None if span.missing else [token.id for token in span.tokens] for span in filled.spans]
        )

    def score(
        self,
        masked: MaskedPrompt,
        source: Sequence[int],
        ids: Sequence[Sequence[int]],
        scored: Scored,
        num_alternatives: int,
    ) -> Score:
        """Answers whose ids were scored, one for each mask, as a result."""
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
        fitted = infill.fitted(masked, spans)
        text = infill.splice(masked, [span.text for span in fitted])
        return Score(masked.prompt, text, self._masked_input(source), fitted)
