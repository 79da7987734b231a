"""The vocabulary: a SentencePiece unigram model with mT5's layout."""

import argparse
import io
import json
import lzma
import random
import struct
from collections.abc import Iterator
from pathlib import Path

import sentencepiece

from mt5 import languages
from mt5.tokenizer import SENTINELS, SPACE

LANGUAGES = [language.code for language in languages.LANGUAGES]
VOCAB_SIZE = 16_384
CHARACTERS = 900_000
"""Characters of text taken from a language of middling size; see `sample`."""
EXPONENT = 0.25
FACT_COPIES = 8
"""So often is a fact's sentence counted, so that names of countries and cities become few pieces."""
USER_DEFINED = 4  # SentencePiece's type of a piece that is matched before any other


def sample(corpus: Path, rng: random.Random) -> Iterator[str]:
    """Lines for the vocabulary: the facts several times, nearly as much text of each language."""
    with lzma.open(corpus / "facts.jsonl.xz", "rt", encoding="utf-8") as facts:
        for line in facts:
            yield from [json.loads(line)["text_with_object"]] * FACT_COPIES
    for language in LANGUAGES:
        with lzma.open(corpus / f"{language}.txt.xz", "rt", encoding="utf-8") as file:
            lines = file.read().splitlines()
        budget = CHARACTERS * (sum(map(len, lines)) / 4e6) ** EXPONENT
        rng.shuffle(lines)
        for line in lines:
            if budget < 0:
                break
            budget -= len(line)
            yield line


def train(lines: Iterator[str], vocab_size: int = VOCAB_SIZE) -> bytes:
    """A model file with pad 0, eos 1, unk 2, byte pieces, and last `▁<extra_id_99>` … `▁<extra_id_0>`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines,
        model_writer=model,
        vocab_size=vocab_size - SENTINELS,
        model_type="unigram",
        byte_fallback=True,
        character_coverage=0.9995,
        split_digits=True,
        normalization_rule_name="nmt_nfkc",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=1,
    )
    return model.getvalue() + b"".join(_piece(f"{SPACE}<extra_id_{n}>") for n in reversed(range(SENTINELS)))


def _piece(text: str) -> bytes:
    """A piece in the wire format of the model file, in which a repeated field goes on wherever it recurs."""
    data = text.encode()
    message = (
        b"\x0a" + bytes([len(data)]) + data + b"\x15" + struct.pack("<f", 0.0) + bytes([0x18, USER_DEFINED])
    )
    return b"\x0a" + bytes([len(message)]) + message


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--corpus", type=Path, required=True, help="folder with <language>.txt.xz and facts.jsonl.xz"
    )
    parser.add_argument("--out", type=Path, required=True, help="spiece.model to write")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_bytes(train(sample(options.corpus, random.Random(0))))


if __name__ == "__main__":
    main()
