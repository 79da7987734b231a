import json
import tarfile
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt5.errors import PromptError
from mt5.infill import (
    MaskedPrompt,
    answer_ids,
    check_answers,
    fill_of,
    fitted,
    forked,
    mask_word,
    nemo_response,
    parse,
    splice,
    split_spans,
    words,
)
from mt5.languages import examples
from mt5.results import Span, Token
from mt5.tokenizer import MASK, Tokenizer
from tests.written import Written

DATA = Path(__file__).parent / "data"
MT5 = Tokenizer.huggingface((DATA / "hf_tiny_mt5" / "spiece.model").read_bytes(), 1024)
GOLDEN = json.loads((DATA / "nemo_tiny_expected.json").read_text(encoding="utf-8"))
SENTENCES = [example.prompt.replace(MASK, example.answers[0]) for example in examples()]
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)


def filled(prompt: str, *texts: str) -> str:
    masked = parse(prompt)
    spans = fitted(masked, [Span(mask, text) for mask, text in enumerate(texts)])
    return splice(masked, [span.text for span in spans])


# Prompts


def test_the_parts_of_a_prompt_lie_around_its_masks() -> None:
    assert parse("a <mask><mask> b").parts == ("a ", "", " b")


@pytest.mark.parametrize(
    ("prompt", "complaint"),
    [
        ("no gap", "no <mask>"),
        ("no gap <Mask>", "no <mask>"),
        ("", "empty"),
        (" \n\t", "empty"),
        (None, "NoneType, expected text"),
        ({"prompt": "<mask>"}, "dict, expected text"),
        (5, "int, expected text"),
        ([], "list, expected text"),
        (["<mask>"], "list, expected text"),
        (b"<mask>", "bytes, expected text"),
        (True, "bool, expected text"),
        ("<mask>\ud800", "U\\+D800"),
        ("a\0<mask>", "Character 2 .* U\\+0000"),
        ("<mask>" + "a" * 3995, "4,001 characters; at most 4,000"),
        (MASK + "a" * 60_000_000, "60,000,006 characters; at most 4,000"),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_a_prompt_that_cannot_be_used_is_refused_with_the_reason(prompt: object, complaint: str) -> None:
    with pytest.raises(PromptError, match=complaint):
        parse(prompt)


@pytest.mark.parametrize("prompt", ["<mask>" * 100, "<mask>" + "a" * 3994])
def test_the_limits_themselves_are_allowed(prompt: str) -> None:
    assert parse(prompt).prompt == prompt


# Splicing


@given(TEXT, st.data())
def test_filling_with_the_removed_text_restores_any_text(text: str, data: st.DataObject) -> None:
    cuts = sorted(
        data.draw(
            st.lists(st.integers(0, len(text)), min_size=2, max_size=8).filter(lambda n: len(n) % 2 == 0)
        )
    )
    edges = [0, *cuts, len(text)]
    kept = [text[a:b] for a, b in zip(edges[::2], edges[1::2], strict=True)]
    removed = [text[a:b] for a, b in zip(cuts[::2], cuts[1::2], strict=True)]
    masked = MaskedPrompt(MASK.join(kept), tuple(kept))
    assert splice(masked, removed) == text
    if MASK not in text and text.strip():
        assert splice(parse(masked.prompt), removed) == text


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_decoder_that_writes_the_removed_word_restores_the_sentence(sentence: str) -> None:
    for start, end in words(sentence):
        masked = mask_word(sentence, start, end)
        [ids] = answer_ids(masked, [sentence[start:end]], MT5)
        fill = fill_of(masked, "", Written((MT5.sentinels[0], *ids, MT5.eos_id)), MT5)
        assert (fill.text, fill.spans[0].text) == (sentence, sentence[start:end])
        # and scoring that text asks for the very same ids
        assert answer_ids(masked, [fill.spans[0].text], MT5) == [ids]


@pytest.mark.parametrize(
    ("prompt", "written", "text"),
    [
        ("est <mask>.", " Paris", "est Paris."),
        ("<mask> est", " Paris", "Paris est"),
        ("est <mask>", " Paris ", "est Paris"),
        ("Ber<mask>in", " l", "Berlin"),
        ("Ber<mask>in", "l", "Berlin"),
        ("(<mask>)", " Paris", "(Paris)"),
        ("« <mask> »", " Paris", "« Paris »"),
        ("Paris<mask> London", " and", "Paris and London"),
        ("the <mask>London", " city of ", "the city of London"),
        ("Paris<mask>", ", too", "Paris, too"),
        ("首都是<mask>。", " 北京", "首都是北京。"),
        ("首都は<mask>です。", " パリ", "首都はパリです。"),
        ("首都是<mask>。", " Paris", "首都是 Paris。"),
        ("est\u00a0<mask>\u2009!", " Paris", "est\u00a0Paris\u2009!"),
        ("e\u0301tait ﬁn ① <mask>", " Paris", "e\u0301tait ﬁn ① Paris"),
    ],
)
def test_a_span_is_spaced_as_its_place_asks(prompt: str, written: str, text: str) -> None:
    assert filled(prompt, written) == text


def test_a_span_after_an_empty_one_gets_no_second_space() -> None:
    assert filled("a <mask><mask> b", "", " car") == "a car b"
    assert filled("a <mask><mask> b", " new", " car") == "a new car b"


# Decoder output


def spans(ids: list[int], masks: int) -> list[Span]:
    return split_spans(Written(tuple(ids)), masks, MT5)


S = MT5.sentinels
[EST] = MT5.encode("est")
[UND] = MT5.encode("und")


def test_each_span_follows_its_sentinel() -> None:
    first, second = spans([S[0], EST, S[1], UND, UND, S[2], MT5.eos_id], 2)
    assert ([t.id for t in first.tokens], [t.id for t in second.tokens]) == ([EST], [UND, UND])
    assert (first.text, second.text) == (" est", " und und")
    assert (first.tokens[0].log_prob, first.tokens[0].piece, second.log_prob) == (-1.0, "▁est", -3.0 - 4.0)
    assert first.tokens[0].alternatives[0].piece == "<unk>"


def test_missing_sentinel_yields_an_empty_span() -> None:
    first, second = spans([S[1], UND], 2)
    assert (first.missing, first.text, first.tokens) == (True, "", ())
    assert (second.missing, second.text) == (False, " und")


def test_disordered_sentinels_are_matched_by_their_number() -> None:
    assert [span.text for span in spans([S[1], UND, S[0], EST], 2)] == [" est", " und"]


def test_a_repeated_sentinel_counts_once() -> None:
    assert [span.text for span in spans([S[0], EST, S[0], UND, S[1], UND], 2)] == [" est", " und"]


def test_text_before_the_first_sentinel_and_after_the_end_is_dropped() -> None:
    assert [span.text for span in spans([UND, S[0], EST, MT5.eos_id, UND], 1)] == [" est"]


def test_a_missing_span_leaves_the_rest_of_the_sentence_whole() -> None:
    fill = fill_of(parse("a <mask>, b <mask>."), "", Written((S[1], UND), frozenset({1})), MT5)
    assert fill.text == "a , b und."
    assert [(span.missing, span.truncated) for span in fill.spans] == [(True, False), (False, True)]


# Choosing another token


def test_a_fork_keeps_what_stands_before_the_token() -> None:
    fill = fill_of(parse("<mask> <mask>"), "", Written((S[0], EST, UND, S[1], UND, EST)), MT5)
    assert forked(fill, 0, 0, UND) == ((UND,),)
    assert forked(fill, 0, 1, EST) == ((EST, EST),)
    assert forked(fill, 1, 1, 7) == ((EST, UND), (UND, 7))


@pytest.mark.parametrize(("mask", "position"), [(0, 1), (0, -1), (1, 0), (-1, 0)])
def test_a_fork_at_a_token_that_is_not_there_is_refused(mask: int, position: int) -> None:
    fill = fill_of(parse("<mask>"), "", Written((S[0], EST)), MT5)
    with pytest.raises(PromptError, match="has no token"):
        forked(fill, mask, position, UND)


# Answers


def test_answers_must_be_as_many_as_masks() -> None:
    with pytest.raises(PromptError, match="Masks: 2, answers: 1"):
        check_answers(parse("<mask> <mask>"), ["a"])
    with pytest.raises(PromptError, match="answer for mask 1 is empty"):
        check_answers(parse("<mask>"), [""])
    with pytest.raises(PromptError, match="list"):
        check_answers(parse("<mask>"), "a")


def test_a_span_as_an_answer_is_scored_as_it_was_written() -> None:
    span = Span(0, "est", (Token(5, "x", -1.0), Token(7, "y", -1.0)))
    masked = parse("<mask>.")
    assert answer_ids(masked, check_answers(masked, [span]), MT5) == [[5, 7]]


def test_an_answer_starts_a_word_only_after_a_space() -> None:
    masked = parse("est <mask> e<mask>e")
    first, second = answer_ids(masked, ["est", "st"], MT5)
    assert (MT5.decode(first), MT5.decode(second)) == (" est", "st")


# Words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("« C'est l'été », dit-il: 3,5 €!", ["C'est", "l'été", "dit-il", "3,5"]),
        ("Le… <mask>?", ["Le", "mask"]),
        ("भारत की राजधानी है।", ["भारत", "की", "राजधानी", "है"]),
        ("한국의 수도는 서울입니다.", ["한국의", "수도는", "서울입니다"]),
        ("フランスの首都はパリです。", ["フランス", "の", "首都", "は", "パリ", "です"]),
        ("法国的首都是北京。", ["法国", "的", "首都", "是", "北京"]),
        ("😀 日本 (Tokyo) 2020", ["日本", "Tokyo", "2020"]),
        ("e\u0301te\u0301.", ["e\u0301te\u0301"]),
        ("— … !", []),
    ],
)
def test_words_are_found_without_their_punctuation(text: str, expected: list[str]) -> None:
    assert [text[start:end] for start, end in words(text)] == expected


# NeMo


@cache
def nemo_tokenizer() -> Tokenizer:
    with tarfile.open(DATA / "nemo_tiny_tp2.nemo") as archive:
        [name] = [name for name in archive.getnames() if name.endswith("_mt5_tokenizer.model")]
        file = archive.extractfile(name)
        assert file
        return Tokenizer.nemo(file.read())


@pytest.mark.parametrize("row", GOLDEN["prompts"], ids=lambda row: row["prompt"])
def test_the_response_is_that_of_nemo(row: dict[str, list[float]]) -> None:
    ids = [int(id_) for id_ in row["greedy_decoder_ids"]]
    response = nemo_response(
        str(row["prompt"]),
        [int(id_) for id_ in row["masked_ids"]],
        ids,
        row["greedy_log_probs"],
        nemo_tokenizer(),
    )
    assert response == row["response"]
    assert list(response) == ["prompt", "completion", "masked_input"]  # in NeMo's order
