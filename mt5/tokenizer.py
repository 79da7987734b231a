"""Text to ids and back: SentencePiece, the sentinels of T5, and NeMo's rules for special tokens."""

import re
from collections.abc import Sequence
from typing import Self

import sentencepiece

from mt5.errors import CheckpointError, PromptError

MASK = "<mask>"
SENTINELS = 100
SPACE = "▁"  # how SentencePiece writes a space
LARGEST_PIECE = 1_000  # characters
# appended to a model file, this sets normalizer_spec.add_dummy_prefix to false: later fields of a
# protocol buffer override earlier ones
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
LOOKS_LIKE_CONTROL = re.compile(r"<(?=/?[A-Za-z0-9_]+>)")


class Tokenizer:
    """A SentencePiece model with a hundred sentinels.

    sentinels: id of `<extra_id_k>` at [k]. vocab_size: ids in use, the appended special tokens included.
    special: NeMo's registry of special tokens, name to id, empty for Hugging Face.
    control_ids: ids that a filled gap must not hold. model_proto: the bytes of the model file.
    """

    def __init__(
        self,
        model_proto: bytes,
        *,
        vocab_size: int,
        pad_id: int,
        eos_id: int,
        bos_id: int | None,
        sentinels: Sequence[int],
        special: dict[str, int],
    ) -> None:
        self.model_proto = model_proto
        self._pieces = _processor(model_proto)
        self._inner = _processor(model_proto + NO_DUMMY_PREFIX)
        self.vocab_size, self.pad_id, self.eos_id, self.bos_id = vocab_size, pad_id, eos_id, bos_id
        self.unk_id = self._pieces.unk_id()
        self.sentinels, self.special = tuple(sentinels), special
        self._names = {id_: name for name, id_ in special.items() if id_ >= len(self._pieces)}
        self._sentinel_number = {id_: number for number, id_ in enumerate(self.sentinels)}
        self.control_ids = frozenset(
            {self.pad_id, self.eos_id, self.unk_id, *self.sentinels, *special.values()}
            | {id_ for id_ in range(len(self._pieces)) if self._pieces.is_control(id_)}
            | set(range(len(self._pieces), vocab_size))
        )

    @classmethod
    def huggingface(cls, model_proto: bytes, vocab_size: int) -> Self:
        """As transformers reads a spiece.model: mT5's holds the sentinels, T5's gets them after its pieces.

        vocab_size: rows of the embedding.
        """
        pieces = _processor(model_proto)
        sentinels = [_owned_sentinel(pieces, number) for number in range(SENTINELS)]
        if None in sentinels:
            sentinels = [len(pieces) + SENTINELS - 1 - number for number in range(SENTINELS)]
        used = max(len(pieces), *(id_ + 1 for id_ in sentinels if id_ is not None))
        if used > vocab_size:
            raise CheckpointError(
                f"spiece.model needs {used:,} ids with its sentinels, but the network has {vocab_size:,}. "
                "Take the spiece.model that belongs to these weights."
            )
        return cls(
            model_proto,
            vocab_size=vocab_size,
            pad_id=max(pieces.pad_id(), 0),
            eos_id=pieces.eos_id() if pieces.eos_id() >= 0 else 1,
            bos_id=None,
            sentinels=[id_ for id_ in sentinels if id_ is not None],
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
                return pieces.piece_to_id(name)
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
        numbers = []
        for number in range(sentinels):
            owned = pieces.piece_to_id(f"{SPACE}<extra_id_{number}>")
            if owned != pieces.unk_id():
                special[f"<extra_id_{number}>"] = owned
                numbers.append(owned)
            else:
                numbers.append(add(f"<extra_id_{number}>"))
        return cls(
            model_proto,
            vocab_size=size,
            pad_id=pad_id,
            eos_id=eos_id,
            bos_id=bos_id,
            sentinels=numbers,
            special=special,
        )

    @property
    def _typed_ids(self) -> frozenset[int]:
        """Control ids that SentencePiece might find in plain text."""
        return self.control_ids - {self.unk_id}

    def encode(self, text: str, *, inside: bool = False) -> list[int]:
        """Ids of plain text; what looks like a control token is read letter by letter.

        inside: the text goes on where other text stopped, so no space is put before it.
        """
        pieces = self._inner if inside else self._pieces
        ids = pieces.encode(text)
        if not self._typed_ids.isdisjoint(ids):
            ids = pieces.encode(_literal(text))
        return ids

    def spans(self, text: str) -> list[tuple[int, int]]:
        """Where the pieces of a text stand in it, [start, end) in characters."""
        return self._pieces.encode(text, return_type="offset_mapping")["offsets"]

    def encode_masked(self, parts: Sequence[str]) -> list[int]:
        """Ids of a text whose gaps lie between `parts`: the parts' pieces with sentinel k after part k.

        The pieces are those of the unmasked text as far as possible: a space before a gap belongs to
        what fills it, as in `▁Paris`, and text that follows a gap directly begins without a space.
        """
        ids: list[int] = []
        for number, part in enumerate(parts):
            if number:
                ids.append(self.sentinels[number - 1])
            ids += self.encode(part, inside=number > 0 and not part[:1].isspace())
        return ids

    def encode_answer(self, before: str, answer: str, *, first: bool) -> list[int]:
        """Ids of what fills a gap after the part `before`; first: the gap is the first of the text."""
        starts_word = before[-1:].isspace() or (first and not before) or answer[:1].isspace()
        return self.encode(answer, inside=not starts_word)

    def piece(self, id_: int) -> str:
        """How a token is written: its piece, or the name of a special token."""
        if id_ < len(self._pieces):
            return self._pieces.id_to_piece(id_)
        if id_ in self._names:
            return self._names[id_]
        return f"<extra_id_{self._sentinel_number[id_]}>" if id_ in self._sentinel_number else f"<{id_}>"

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids, with the space that a leading `▁` stands for; bytes that are not UTF-8 become U+FFFD."""
        own = [id_ for id_ in ids if id_ < len(self._pieces) and not self._pieces.is_control(id_)]
        text = self._inner.decode(own)
        return f" {text}" if own and self._starts_word(own[0]) and not text.startswith(" ") else text

    def _starts_word(self, id_: int) -> bool:
        return self._pieces.id_to_piece(id_).startswith(SPACE)

    def is_sentinel(self, id_: int) -> int | None:
        """The number of a sentinel, None for any other id."""
        return self._sentinel_number.get(id_)

    # NeMo's own ways

    def nemo_encode(self, text: str) -> list[int]:
        """Special tokens wherever their names occur; the text between them, each piece of it on its own."""
        if not self.special:
            return self._pieces.encode(text)
        names = sorted(self.special, key=list(self.special).index)
        found = re.compile("|".join(re.escape(name) for name in names))
        ids, end = [], 0
        for match in found.finditer(text):
            ids += self._pieces.encode(text[end : match.start()])
            ids.append(self.special[match.group()])
            end = match.end()
        return ids + self._pieces.encode(text[end:])

    def nemo_masked_ids(self, prompt: str) -> list[int]:
        """The encoder's ids in NeMo: the k-th word that is exactly `<mask>` becomes `<extra_id_k>`."""
        words, number = prompt.split(), 0
        for place, word in enumerate(words):
            if word == MASK:
                words[place], number = f"<extra_id_{number}>", number + 1
        return self.nemo_encode(" ".join(words))

    def nemo_text(self, pieces: Sequence[str]) -> str:
        """Text of pieces, as NeMo's tokens_to_text gives it."""
        return self._pieces.decode_pieces(list(pieces))


def _literal(text: str) -> str:
    """The text with a zero-width joiner inside whatever might be read as a control token."""
    return LOOKS_LIKE_CONTROL.sub("<\u2060", text)


def _owned_sentinel(pieces: sentencepiece.SentencePieceProcessor, number: int) -> int | None:
    for name in (f"{SPACE}<extra_id_{number}>", f"<extra_id_{number}>"):
        if pieces.piece_to_id(name) != pieces.unk_id():
            return pieces.piece_to_id(name)
    return None


def _processor(model_proto: bytes) -> sentencepiece.SentencePieceProcessor:
    """CheckpointError with the likely cause when the bytes are no SentencePiece model."""
    start = model_proto[:200].lstrip()
    if not start:
        raise CheckpointError("The SentencePiece model is empty. Download it again.")
    if start.startswith(b"version https://git-lfs"):
        raise CheckpointError("The SentencePiece model is a Git LFS pointer. Run `git lfs pull` where it came from.")
    if start[:1] == b"<" or start[:5].lower() == b"<!doc":
        raise CheckpointError("The SentencePiece model is a web page. Download the file itself.")
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.load_from_serialized_proto(model_proto)
    except RuntimeError as fault:
        raise CheckpointError("The SentencePiece model cannot be read; it is damaged or not one.") from fault
    if len(processor) < 4:
        raise CheckpointError(f"The SentencePiece model has {len(processor)} pieces. Download it again.")
    longest = max(len(processor.id_to_piece(id_)) for id_ in range(len(processor)))
    if longest > LARGEST_PIECE:
        raise CheckpointError(f"The SentencePiece model has a piece of {longest:,} characters; it is damaged.")
    return processor
