"""A prompt with masks, and what fills them."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from typing import Protocol

from mt5.errors import PromptError
from mt5.results import Alternative, Fill, Span, Token
from mt5.tokenizer import MASK, SENTINELS, Tokenizer

LONGEST_PROMPT = 4_000  # characters
# Chinese characters, kana, and the punctuation that goes with them: written without spaces
UNSPACED = re.compile("[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\uff01-\uff9f\U00020000-\U0003ffff]")


@dataclass(frozen=True)
class MaskedPrompt:
    """A prompt and the parts of it around its masks: one part more than masks."""

    prompt: str
    parts: tuple[str, ...]

    @property
    def masks(self) -> int:
        return len(self.parts) - 1


class Written(Protocol):
    """What a decoder wrote after its start id; generate.Hypothesis."""

    @property
    def ids(self) -> tuple[int, ...]: ...
    @property
    def log_probs(self) -> tuple[float, ...]: ...
    @property
    def alternatives(self) -> tuple[tuple[tuple[int, float], ...], ...]: ...
    @property
    def truncated(self) -> frozenset[int]: ...


def check_text(text: object, what: str = "prompt") -> str:
    """The text itself, or PromptError that says why it cannot be used."""
    if not isinstance(text, str):
        raise PromptError(f"The {what} is {type(text).__name__}, expected text.")
    if not text.strip():
        raise PromptError(f"The {what} is empty. Type a sentence.")
    if len(text) > LONGEST_PROMPT:
        raise PromptError(
            f"The {what} has {len(text):,} characters; at most {LONGEST_PROMPT:,} are read. Shorten it."
        )
    for place, character in enumerate(text, 1):
        if character == "\0" or "\ud800" <= character <= "\udfff":
            raise PromptError(
                f"Character {place:,} of the {what} is U+{ord(character):04X}, which is no text. Delete it."
            )
    return text


def parse(prompt: object) -> MaskedPrompt:
    """Find the masks of a prompt. PromptError when there are none or too many, or it is no usable text."""
    text = check_text(prompt)
    parts = tuple(text.split(MASK))
    if len(parts) == 1:
        raise PromptError(f"The prompt has no {MASK}. Put {MASK} where a word or a few are missing.")
    if len(parts) - 1 > SENTINELS:
        raise PromptError(
            f"The prompt has {len(parts) - 1:,} masks; at most {SENTINELS} can be filled. Remove some."
        )
    return MaskedPrompt(text, parts)


def check_answers(masked: MaskedPrompt, answers: object) -> list[str | Span]:
    """One answer per mask, a text or a span that was filled before, or PromptError."""
    if isinstance(answers, str) or not isinstance(answers, Sequence):
        raise PromptError("The answers must be a list with one text per mask.")
    if len(answers) != masked.masks:
        raise PromptError(
            f"Masks: {masked.masks}, answers: {len(answers)}. Give one answer per mask, in their order."
        )
    return [
        answer if isinstance(answer, Span) else check_text(answer, f"answer for mask {number}")
        for number, answer in enumerate(answers, 1)
    ]


def answer_ids(masked: MaskedPrompt, answers: Sequence[str | Span], tokenizer: Tokenizer) -> list[list[int]]:
    """Ids of each answer in its place: those of the sentence that it makes, as far as the gap's edges allow.

    A span gives the ids it holds, so that a fill that is scored again is scored as it was written.
    """
    ids = []
    for mask, answer in enumerate(answers):
        if isinstance(answer, Span):
            ids.append([token.id for token in answer.tokens])
        else:
            ids.append(tokenizer.encode_answer(masked.parts[mask], answer, first=mask == 0))
    return ids


def split_spans(written: Written, masks: int, tokenizer: Tokenizer) -> list[Span]:
    """The spans of a decoder's output, one per mask; their text is not yet fitted to a prompt.

    What stands before the first sentinel is dropped, and so is what follows a sentinel that belongs to no
    mask or was written before; a mask whose sentinel was never written is missing.
    """
    tokens: dict[int, list[Token]] = {}
    current: list[Token] | None = None
    for place, (id_, log_prob) in enumerate(zip(written.ids, written.log_probs, strict=True)):
        if id_ == tokenizer.eos_id:
            break
        number = tokenizer.is_sentinel(id_)
        if number is not None:
            current = [] if number < masks and number not in tokens else None
            if current is not None:
                tokens[number] = current
        elif current is not None and id_ not in tokenizer.control_ids:
            others = tuple(Alternative(i, tokenizer.piece(i), v) for i, v in written.alternatives[place])
            current.append(Token(id_, tokenizer.piece(id_), log_prob, others))
    return [
        Span(
            mask,
            tokenizer.decode([token.id for token in tokens.get(mask, ())]),
            tuple(tokens.get(mask, ())),
            missing=mask not in tokens,
            truncated=mask in written.truncated,
        )
        for mask in range(masks)
    ]


def fitted(masked: MaskedPrompt, spans: Sequence[Span]) -> tuple[Span, ...]:
    """The spans with their text as it stands in the sentence: spaces at its ends only where they belong."""
    result: list[Span] = []
    before = ""  # the sentence so far
    for span, part, after in zip(spans, masked.parts, masked.parts[1:], strict=False):
        before += part
        text = _fitted(before, span.text, after)
        result.append(replace(span, text=text))
        before += text
    return tuple(result)


def _fitted(before: str, text: str, after: str) -> str:
    bare, last = text.strip(" "), before[-1:]
    inside = _is_letter(last) and _is_letter(after[:1])  # of a word
    unspaced = _is_unspaced(last) and _is_unspaced(bare[:1])
    if not last or last.isspace() or _opens(last) or inside or unspaced:
        text = text.lstrip(" ")
    goes_on = _is_letter(after[:1]) and not _is_unspaced(after[:1]) and not inside
    return text if goes_on else text.rstrip(" ")


def _is_letter(character: str) -> bool:
    return character != "" and unicodedata.category(character)[0] in "LNM"


def _opens(character: str) -> bool:
    return unicodedata.category(character) in ("Ps", "Pi") or character in "¿¡„‚"


def _is_unspaced(character: str) -> bool:
    return UNSPACED.match(character) is not None


def splice(masked: MaskedPrompt, texts: Sequence[str]) -> str:
    """The prompt with each mask replaced; all else is byte for byte what it was."""
    pairs = zip(masked.parts[1:], texts, strict=True)
    return masked.parts[0] + "".join(text + part for part, text in pairs)


def fill_of(masked: MaskedPrompt, masked_input: str, written: Written, tokenizer: Tokenizer) -> Fill:
    """A decoder's output as a filled prompt."""
    spans = fitted(masked, split_spans(written, masked.masks, tokenizer))
    return Fill(masked.prompt, splice(masked, [span.text for span in spans]), masked_input, spans)


def forked(fill: Fill, mask: int, position: int, token_id: int) -> tuple[tuple[int, ...], ...]:
    """What is given when another token is chosen at a position of a span: all before it, and that token.

    position: among the span's tokens, from 0. The result is an engine's `given`. PromptError when the fill
    has no such token.
    """
    tokens = fill.spans[mask].tokens if 0 <= mask < len(fill.spans) else ()
    if not 0 <= position < len(tokens):
        raise PromptError(f"The fill has no token {position + 1} in mask {mask + 1}. Choose one that it has.")
    before = [tuple(token.id for token in span.tokens) for span in fill.spans[:mask]]
    return (*before, (*(token.id for token in tokens[:position]), token_id))


def nemo_response(
    prompt: str,
    masked_ids: Sequence[int],
    ids: Sequence[int],
    log_probs: Sequence[float],
    tokenizer: Tokenizer,
) -> dict[str, object]:
    """The response of NeMo 1.11's `complete`, its pairing of log-probabilities included.

    ids: the decoder's, its start id first. log_probs[j] is that of ids[j + 1]. NeMo drops special ids from
    the ids, but not from the log-probabilities, so each one dropped shifts what follows.
    """
    own = list(ids)
    if tokenizer.eos_id in own:
        own = own[: own.index(tokenizer.eos_id)]
    else:
        own = [id_ for id_ in own if id_ != tokenizer.pad_id]
    special = set(tokenizer.special.values())
    own = [id_ for id_ in own if id_ not in special]
    pieces = [tokenizer.piece(id_) for id_ in own]
    return {
        "prompt": prompt,
        "completion": {
            "text": tokenizer.nemo_text(pieces),
            "tokens": [list(row) for row in zip(own, pieces, log_probs, strict=False)],
        },
        "masked_input": " ".join(tokenizer.piece(id_) for id_ in masked_ids),
    }


def mask_word(text: str, start: int, end: int) -> MaskedPrompt:
    """The text with [start, end) masked."""
    return MaskedPrompt(f"{text[:start]}{MASK}{text[end:]}", (text[:start], text[end:]))


def words(text: str) -> list[tuple[int, int]]:
    """Where the words stand, [start, end) in characters, punctuation left out.

    Japanese and Chinese, told by their script, are cut by ICU's dictionary (the Unicode Consortium's own
    library, one for both languages and kept up with Unicode); other text at spaces.
    """
    if UNSPACED.search(text):
        from icu4py.breakers import WordBreaker  # 40 MB of data, of use to these languages only

        lengths = [len(part) for part in WordBreaker(text, "ja")]
        ends = list(accumulate(lengths, initial=0))
        found = list(pairwise(ends))
    else:
        found = [match.span() for match in re.finditer(r"\S+", text)]
    trimmed = [_trimmed(text, start, end) for start, end in found]
    return [(start, end) for start, end in trimmed if start < end]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """Without what is no letter, number or mark at either side."""
    while start < end and unicodedata.category(text[start])[0] not in "LN":
        start += 1
    while start < end and not _is_letter(text[end - 1]):
        end -= 1
    return start, end
