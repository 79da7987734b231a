"""Text to ids and back: SentencePiece, the sentinels of T5, and NeMo's rules for special tokens."""

import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from typing import Self

from sentencepiece import SentencePieceProcessor

from mt5.errors import CheckpointError, PromptError

MASK = "<mask>"
SENTINELS = 100
SPACE = "▁"  # how SentencePiece writes a space
LONGEST_PIECE = 1_000  # characters
# appended to a model file, these bytes set normalizer_spec.add_dummy_prefix: where a field of a protocol
# buffer recurs, the last one counts
DUMMY_PREFIX = b"\x1a\x02\x18\x01"
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


class Tokenizer:
    """A SentencePiece model with T5's sentinels.

    model_proto: the bytes of the model file. vocab_size: ids that the network can predict.
    sentinels: id of `<extra_id_k>` at [k]. special: NeMo's registry of special tokens, name to id, in its
    order; empty for Hugging Face. control_ids: ids that a filled gap must not hold.
    """

    def __init__(
        self,
        model_proto: bytes,
        pieces: SentencePieceProcessor,
        *,
        vocab_size: int,
        pad_id: int,
        eos_id: int,
        bos_id: int | None,
        sentinels: Sequence[int],
        special: dict[str, int],
    ) -> None:
        self.model_proto = model_proto
        self._pieces = pieces
        # text that starts a word, and text that goes on inside one
        prefixed = pieces.normalize("a").startswith(SPACE)
        self._outer = pieces if prefixed else SentencePieceProcessor(model_proto=model_proto + DUMMY_PREFIX)
        self.vocab_size, self.pad_id, self.eos_id, self.bos_id = vocab_size, pad_id, eos_id, bos_id
        self.unk_id: int = pieces.unk_id()
        self.sentinels, self.special = tuple(sentinels), special
        self._sentinel_number = {id_: number for number, id_ in enumerate(self.sentinels)}
        self._appended = {id_: f"<extra_id_{number}>" for id_, number in self._sentinel_number.items()}
        self._appended |= {id_: name for name, id_ in special.items()}
        silent = {id_ for id_ in range(len(pieces)) if pieces.is_control(id_) or pieces.is_unused(id_)}
        # what SentencePiece must not find in text that was typed
        named = {pad_id, eos_id, *self.sentinels, *special.values()}
        self._never_typed = frozenset(named | silent) - {self.unk_id}
        self.control_ids = self._never_typed | {self.unk_id} | frozenset(range(len(pieces), vocab_size))

    @cached_property
    def _inner(self) -> SentencePieceProcessor:
        """Made when it is first needed: a large one takes 50 MB, and ranks read no text."""
        return SentencePieceProcessor(model_proto=self.model_proto + NO_DUMMY_PREFIX)

    @classmethod
    def huggingface(
        cls, model_proto: bytes, vocab_size: int | None = None, *, extra_ids: int = SENTINELS
    ) -> Self:
        """As transformers reads a spiece.model: mT5's holds the sentinels, T5's gets them after its pieces.

        vocab_size: rows of the embedding, by default as many as there are ids. extra_ids: sentinels that are
        appended, the first of them last; 300 in umT5.
        """
        pieces = _processor(model_proto)
        owned = [_owned_sentinel(pieces, number) for number in range(SENTINELS)]
        sentinels = [id_ for id_ in owned if id_ is not None]
        if not sentinels:
            sentinels = [len(pieces) + extra_ids - 1 - number for number in range(min(extra_ids, SENTINELS))]
        elif len(sentinels) < SENTINELS:
            raise CheckpointError(
                f"The SentencePiece model has {len(sentinels)} of the {SENTINELS} sentinels, "
                f"<extra_id_{owned.index(None)}> is missing. "
                "Take the spiece.model that belongs to these weights."
            )
        used = max(len(pieces), *(id_ + 1 for id_ in sentinels))
        if vocab_size is not None and used > vocab_size:
            raise CheckpointError(
                f"The SentencePiece model needs {used:,} ids with its sentinels, "
                f"but the network has {vocab_size:,}. Take the spiece.model that belongs to these weights."
            )
        return cls(
            model_proto,
            pieces,
            vocab_size=used if vocab_size is None else vocab_size,
            pad_id=max(pieces.pad_id(), 0),
            eos_id=pieces.eos_id() if pieces.eos_id() >= 0 else 1,
            bos_id=None,
            sentinels=sentinels,
            special={},
        )

    @classmethod
    def nemo(cls, model_proto: bytes, *, sentinels: int = SENTINELS) -> Self:
        """As NeMo 1.11 registers its special tokens, in its order; what SentencePiece lacks is appended."""
        pieces = _processor(model_proto)
        special: dict[str, int] = {}
        size = len(pieces)

        def add(name: str) -> int:
            """The id of a special token: SentencePiece's own where it knows the string, else a new one."""
            nonlocal size
            if pieces.piece_to_id(name) != pieces.unk_id():
                return int(pieces.piece_to_id(name))
            if name not in special:
                special[name] = size
                size += 1
            return special[name]

        for name in ("<cls>", "<sep>", MASK):
            add(name)
        # NeMo asks for an id above 0, so a padding piece at 0 is looked up by its name instead
        pad_id = pieces.pad_id() if pieces.pad_id() > 0 else add("<pad>")
        bos_id = pieces.bos_id() if pieces.bos_id() > 0 else add("<bos>")
        eos_id = pieces.eos_id() if pieces.eos_id() > 0 else add("<eos>")
        numbers = {}
        names = [f"<extra_id_{number}>" for number in range(sentinels)]
        for name in names:  # first all that SentencePiece owns, then those to append, as NeMo does
            if pieces.piece_to_id(SPACE + name) != pieces.unk_id():
                special[name] = numbers[name] = pieces.encode(name)[0]
        for name in names:
            if name not in numbers:
                numbers[name] = add(name)
        return cls(
            model_proto,
            pieces,
            vocab_size=size,
            pad_id=pad_id,
            eos_id=eos_id,
            bos_id=bos_id,
            sentinels=[numbers[name] for name in names],
            special=special,
        )

    def encode(self, text: str, *, inside: bool = False) -> list[int]:
        """Ids of plain text; what looks like a control token is read letter by letter.

        inside: the text goes on where other text stopped, so no space is put before it.
        """
        return self._plain(self._inner if inside else self._pieces, text)

    def _plain(self, pieces: SentencePieceProcessor, text: str) -> list[int]:
        ids = pieces.encode(text)
        if self._never_typed.isdisjoint(ids):
            return list(ids)
        found = pieces.encode(text, return_type="offset_mapping")
        # cut off the last character of each control token, and it is found no more
        cuts = [
            end - 1
            for id_, (_, end) in zip(found["ids"], found["offsets"], strict=True)
            if id_ in self._never_typed
        ]
        ids = self._plain(pieces, text[: cuts[0]])
        for start, end in pairwise([*cuts, len(text)]):
            ids += self._plain(self._inner, text[start:end])
        return ids

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the pieces of a text stand in it, [start, end) in characters."""
        offsets = self._pieces.encode(text, return_type="offset_mapping")["offsets"]
        return [(start, end) for start, end in offsets]

    def encode_masked(self, parts: Sequence[str]) -> list[int]:
        """Ids of a text whose gaps lie between `parts`: the parts' pieces with sentinel k after part k.

        The pieces are those of the unmasked text as far as possible: a space before a gap belongs to
        what fills it, as in `▁Paris`, and text that follows a gap directly begins without a space.
        PromptError when there are more gaps than sentinels.
        """
        if len(parts) > len(self.sentinels) + 1:
            raise PromptError(
                f"The prompt has {len(parts) - 1:,} masks; this model fills at most {len(self.sentinels)}. "
                "Remove some."
            )
        ids: list[int] = []
        for number, part in enumerate(parts):
            if number:
                ids.append(self.sentinels[number - 1])
            ids += self._part(part, first=number == 0)
        return ids

    def encode_answer(self, before: str, answer: str, *, first: bool) -> list[int]:
        """Ids of what fills a gap after the part `before`; first: the gap is the first of the text."""
        spaced = self._ends_in_space(before) or (first and not before)
        return self._plain(self._outer, answer) if spaced else self._part(answer, first=False)

    def _part(self, text: str, *, first: bool) -> list[int]:
        if first:
            return self._plain(self._pieces, text)
        # whatever the model's normalizer takes for a space opens a word: it is put there as `▁`
        return self._plain(self._outer if self._starts_with_space(text) else self._inner, text)

    def _starts_with_space(self, text: str) -> bool:
        return bool(text) and self._inner.normalize(f"a{text}a").startswith(f"a{SPACE}")

    def _ends_in_space(self, text: str) -> bool:
        return bool(text) and self._inner.normalize(f"a{text}a").endswith(f"{SPACE}a")

    def piece(self, id_: int) -> str:
        """How a token is written: its piece, or the name of a special token."""
        if id_ < len(self._pieces):
            return str(self._pieces.id_to_piece(id_))
        return self._appended.get(id_, f"<{id_}>")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, with the space that a leading `▁` stands for; bytes that are not UTF-8 become U+FFFD.

        Control tokens have no text.
        """
        own = [id_ for id_ in ids if id_ < len(self._pieces) and not self._pieces.is_control(id_)]
        text = str(self._inner.decode(own))
        spaced = bool(own) and self.piece(own[0]).startswith(SPACE) and not text.startswith(" ")
        return f" {text}" if spaced else text

    def is_sentinel(self, id_: int) -> int | None:
        """The number of a sentinel, None for any other id."""
        return self._sentinel_number.get(id_)

    # NeMo's own ways

    def nemo_encode(self, text: str) -> list[int]:
        """Special tokens wherever their names occur; the text between them, each piece of it on its own."""
        ids: list[int] = []
        for plain, name in self._nemo_split(text):
            ids += self._pieces.encode(plain)
            ids += [self.special[name]] if name else []
        return ids

    def _nemo_split(self, text: str) -> Iterator[tuple[str, str]]:
        """Plain text and the name of the special token after it, "" at the end."""
        end = 0
        # of two names at one place the one registered first is taken, as in NeMo
        for match in re.finditer("|".join(map(re.escape, self.special)) or "(?!)", text):
            yield text[end : match.start()], match.group()
            end = match.end()
        yield text[end:], ""

    def nemo_masked_ids(self, prompt: str) -> list[int]:
        """The encoder's ids in NeMo: the k-th word that is exactly `<mask>` becomes `<extra_id_k>`."""
        words, number = prompt.split(), 0
        for place, word in enumerate(words):
            if word == MASK:
                words[place], number = f"<extra_id_{number}>", number + 1
        return self.nemo_encode(" ".join(words))

    def nemo_text(self, pieces: Sequence[str]) -> str:
        """Text of pieces, as NeMo's tokens_to_text gives it."""
        return str(self._pieces.decode_pieces(list(pieces)))


def _owned_sentinel(pieces: SentencePieceProcessor, number: int) -> int | None:
    for name in (f"{SPACE}<extra_id_{number}>", f"<extra_id_{number}>"):
        if pieces.piece_to_id(name) != pieces.unk_id():
            return int(pieces.piece_to_id(name))
    return None


def _processor(model_proto: bytes) -> SentencePieceProcessor:
    """CheckpointError with the likely cause when the bytes are no usable SentencePiece model."""
    start = model_proto[:200].lstrip().lower()
    if not start:
        raise CheckpointError("The SentencePiece model is empty. Download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError(
            "The SentencePiece model is a Git LFS pointer. Run `git lfs pull` where it came from."
        )
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError("The SentencePiece model is a web page. Download the file itself.")
    processor = SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model_proto)
    except (RuntimeError, UnicodeDecodeError) as fault:  # the latter when it quotes what is no text
        quoted = isinstance(fault, UnicodeDecodeError)
        reason = (fault.object.decode(errors="replace") if quoted else str(fault)).removeprefix("INTERNAL: ")
        if "null character" in reason:
            raise CheckpointError(
                "The SentencePiece model has a piece with a NUL character, which SentencePiece refuses since "
                "0.2.2. Train or export the model again without it."
            ) from fault
        raise CheckpointError(
            f"The SentencePiece model cannot be read ({reason[:200]}): it is damaged, half downloaded or "
            "another kind of file. Download it again."
        ) from fault
    if len(processor) < 4:
        raise CheckpointError(f"The SentencePiece model has only {len(processor)} pieces. Download it again.")
    try:
        longest = max(map(len, processor.id_to_piece(list(range(len(processor))))))
    except UnicodeDecodeError as fault:
        raise CheckpointError(
            "The SentencePiece model has a piece that is not UTF-8; it is damaged. Download it again."
        ) from fault
    if longest > LONGEST_PIECE:
        raise CheckpointError(
            f"The SentencePiece model has a piece of {longest:,} characters; it is damaged. "
            "Download it again."
        )
    return processor
