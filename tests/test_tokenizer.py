import io
import json
import tarfile
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from mt5.errors import CheckpointError, PromptError
from mt5.languages import examples
from mt5.tokenizer import MASK, Tokenizer

DATA = Path(__file__).parent / "data"
MT5_PROTO = (DATA / "hf_tiny_mt5" / "spiece.model").read_bytes()
MT5 = Tokenizer.huggingface(MT5_PROTO, 1024)
SENTENCES = [example.prompt.replace(MASK, example.answers[0]) for example in examples()]


def nemo_proto() -> bytes:
    with tarfile.open(DATA / "nemo_tiny_tp2.nemo") as archive:
        [name] = [name for name in archive.getnames() if name.endswith("_mt5_tokenizer.model")]
        file = archive.extractfile(name)
        assert file
        return file.read()


NEMO = Tokenizer.nemo(nemo_proto())
GOLDEN = json.loads((DATA / "nemo_tiny_expected.json").read_text(encoding="utf-8"))
MT5_GOLDEN = json.loads((DATA / "hf_tiny_mt5_expected.json").read_text(encoding="utf-8"))


def trained(**options: object) -> bytes:
    """A small SentencePiece model of its own make."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        **(
            {"vocab_size": 700, "byte_fallback": True, "character_coverage": 0.98, "minloglevel": 2} | options
        ),
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def plain() -> bytes:
    """A model without sentinels, with T5's ids for padding, end and unknown."""
    return trained(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    return [tokenizer.piece(id_) for id_ in ids]


def masked(tokenizer: Tokenizer, prompt: str) -> list[str]:
    return pieces(tokenizer, tokenizer.encode_masked(prompt.split(MASK)))


@pytest.mark.parametrize("row", MT5_GOLDEN["prompts"], ids=lambda row: row["text"])
def test_masks_between_spaces_give_the_reference_ids(row: dict[str, list[int] | str]) -> None:
    text = str(row["text"])
    parts = text.replace("<extra_id_0>", MASK).replace("<extra_id_1>", MASK).split(MASK)
    assert [*MT5.encode_masked(parts), MT5.eos_id] == row["input_ids"]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("est <mask>.", ["▁est", "▁<extra_id_0>", "."]),
        ("<mask> est", ["▁<extra_id_0>", "▁est"]),
        ("Ber<mask>in", ["▁", "B", "er", "▁<extra_id_0>", "in"]),
        ("<mask><mask> est", ["▁<extra_id_0>", "▁<extra_id_1>", "▁est"]),
        ("日<mask>。", ["▁", "日", "▁<extra_id_0>", "。"]),
        ("est\u3000<mask>\u00a0est", ["▁est", "▁<extra_id_0>", "▁est"]),
    ],
)
def test_text_around_a_mask_gets_no_space_that_is_not_there(prompt: str, expected: list[str]) -> None:
    assert masked(MT5, prompt) == expected


@given(st.sampled_from([s for s in SENTENCES if " " in s]), st.data())
def test_the_pieces_around_a_masked_word_are_those_of_the_sentence(
    sentence: str, data: st.DataObject
) -> None:
    words = sentence.split(" ")
    place = data.draw(st.integers(0, len(words) - 1))
    before = "".join(f"{word} " for word in words[:place])
    after = "".join(f" {word}" for word in words[place + 1 :])
    ids = MT5.encode_masked([before, after])
    where = ids.index(MT5.sentinels[0])
    ids[where : where + 1] = MT5.encode_answer(before, words[place], first=True)
    assert ids == MT5.encode(sentence)


TYPED = [
    "<extra_id_0>",
    " <extra_id_99> ",
    "</s>",
    "<pad>",
    "<unk>",
    "<0x41>",
    "<mask>",
    "＜extra_id_0＞",
    "<cls>",
    "<bos>",
]


@pytest.mark.parametrize("tokenizer", [MT5, NEMO], ids=["huggingface", "nemo"])
@given(
    st.lists(st.sampled_from([*TYPED, "a", "<", ">", "extra_id_0", " ", "▁", "日"]), max_size=12).map("".join)
)
def test_typed_control_tokens_stay_letters(tokenizer: Tokenizer, text: str) -> None:
    ids = [*tokenizer.encode(text), *tokenizer.encode(text, inside=True)]
    assert tokenizer.control_ids.isdisjoint(ids)
    assert (
        tokenizer.decode(tokenizer.encode(text)).split()
        == text.translate({0xFF1C: "<", 0xFF1E: ">", 0x2581: " "}).split()
    )


def test_bytes_of_one_character_are_joined() -> None:
    ids = MT5.encode("🙂")
    assert pieces(MT5, ids)[1:] == ["<0xF0>", "<0x9F>", "<0x99>", "<0x82>"]
    assert MT5.decode(ids[1:]) == "🙂"
    assert MT5.decode(ids[1:3]) == "\ufffd\ufffd"


def test_decoding_keeps_the_space_of_the_first_piece() -> None:
    [est] = MT5.encode("est")
    assert (MT5.decode([est, MT5.eos_id]), MT5.decode(MT5.encode("er", inside=True))) == (" est", "er")


def test_t5_without_sentinels_of_its_own_gets_them_after_its_pieces(plain: bytes) -> None:
    t5 = Tokenizer.huggingface(plain, 832)  # T5 v1.1: 32,000 pieces, 32,128 rows
    assert (t5.sentinels[0], t5.sentinels[99], t5.vocab_size) == (799, 700, 832)
    assert t5.piece(799) == "<extra_id_0>"
    assert set(range(700, 832)) <= t5.control_ids
    assert Tokenizer.huggingface(plain).vocab_size == 800


def test_a_vocabulary_larger_than_the_network_is_refused(plain: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"needs 800 ids.*has 799"):
        Tokenizer.huggingface(plain, 799)


def test_some_sentinels_but_not_all_are_refused() -> None:
    with pytest.raises(CheckpointError, match="1 of the 100 sentinels, <extra_id_1> is missing"):
        Tokenizer.huggingface(trained(user_defined_symbols=["<extra_id_0>"]), 2000)


def test_more_masks_than_sentinels_are_refused(plain: bytes) -> None:
    with pytest.raises(PromptError, match=r"3 masks.*at most 2"):
        Tokenizer.nemo(plain, sentinels=2).encode_masked(["a", "b", "c", "d"])


def test_nemo_registers_special_tokens_as_the_reference_does() -> None:
    expected = GOLDEN["tokenizer"]
    assert (NEMO.vocab_size, NEMO.pad_id, NEMO.bos_id, NEMO.eos_id, NEMO.unk_id) == tuple(
        expected[name] for name in ("vocab_size", "pad_id", "bos_id", "eos_id", "unk_id")
    )
    assert {name: NEMO.special[name] for name in expected["special_token_to_id"]} == expected[
        "special_token_to_id"
    ]


@pytest.mark.parametrize("row", GOLDEN["prompts"], ids=lambda row: row["prompt"])
def test_nemo_reads_prompts_as_the_reference_does(row: dict[str, list[int] | str]) -> None:
    prompt = str(row["prompt"])
    ids = NEMO.nemo_masked_ids(prompt)
    assert (NEMO.nemo_encode(prompt), ids) == (row["prompt_ids"], row["masked_ids"])
    assert " ".join(pieces(NEMO, ids)) == row["masked_input"]


def test_nemo_takes_a_mask_that_is_no_word_of_its_own_for_its_special_token() -> None:
    assert NEMO.nemo_masked_ids("a<mask>, <mask>")[-1] == NEMO.sentinels[0]
    assert NEMO.special[MASK] in NEMO.nemo_masked_ids("a<mask>, <mask>")


def test_nemo_uses_padding_bos_and_eos_of_the_model_when_their_ids_are_above_zero() -> None:
    nemo = Tokenizer.nemo(trained(unk_id=0, bos_id=1, eos_id=2, pad_id=3))
    assert (nemo.bos_id, nemo.eos_id, nemo.pad_id) == (1, 2, 3)
    assert [nemo.special[name] for name in ("<cls>", "<sep>", MASK, "<extra_id_0>", "<extra_id_99>")] == [
        700,
        701,
        702,
        703,
        802,
    ]
    assert (nemo.vocab_size, nemo.sentinels) == (803, tuple(range(703, 803)))
    assert nemo.nemo_encode("a<extra_id_1>") == [*nemo.encode("a"), 704]


def test_nemo_appends_padding_bos_and_eos_where_the_model_has_none() -> None:
    nemo = Tokenizer.nemo(trained(unk_id=0, bos_id=-1, eos_id=-1, pad_id=-1))
    assert (nemo.pad_id, nemo.bos_id, nemo.eos_id, nemo.sentinels[0]) == (703, 704, 705, 706)


def piece_field(text: bytes) -> bytes:
    """One more piece, in the wire format of SentencePiece's model file."""

    def length(number: int) -> bytes:
        low, rest = number & 0x7F, number >> 7
        return bytes([low | 0x80]) + length(rest) if rest else bytes([low])

    message = b"\x0a" + length(len(text)) + text
    return b"\x0a" + length(len(message)) + message


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (b"", "empty"),
        (b"\n\n", "empty"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4309802\n", "Git LFS pointer"),
        (MT5_PROTO[:5000], "half downloaded"),
        (b"PK\x03\x04 something else", "another kind of file"),
        (MT5_PROTO + piece_field(b"x" * 100_000), "100,000 characters|cannot be read"),
    ],
)
def test_a_file_that_is_no_sentencepiece_model_is_refused_with_its_cause(data: bytes, cause: str) -> None:
    with pytest.raises(CheckpointError, match=cause):
        Tokenizer.huggingface(data, 1024)


def test_a_word_starts_with_a_space_after_a_mask_even_where_a_sentence_does_not() -> None:
    bare = Tokenizer.huggingface(trained(pad_id=0, eos_id=1, unk_id=2, bos_id=-1, add_dummy_prefix=False))
    ids = bare.encode_masked(["est ", " est"])
    assert (
        bare.decode(ids[: ids.index(bare.sentinels[0])]),
        bare.decode(ids[ids.index(bare.sentinels[0]) + 1 :]),
    ) == ("est", " est")
