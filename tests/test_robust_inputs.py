"""Prompts and settings that are odd or meant to harm (rows I4 to I15 of the table of faults).

Those that need a page that is served: test_robust_network.py; a browser: tests/browser.
"""

import json
import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt5.errors import PromptError
from mt5.infill import fill_of, parse, splice, words
from mt5.record import record
from mt5.results import Fill, Span, Token
from mt5.settings import Settings
from mt5.tokenizer import MASK, SENTINELS, Tokenizer
from mt5.web import chips
from tests.fake_engine import PIECES, FakeInfo
from tests.written import Written

TOKENIZER = Tokenizer.huggingface(PIECES.read_bytes())


def test_i4_a_hundred_masks_are_read_and_more_are_refused_by_the_limit() -> None:
    assert parse(MASK * 100).masks == 100
    for masks in (101, 600):
        with pytest.raises(PromptError, match=f"{masks} masks; at most {SENTINELS}"):
            parse(MASK * masks)
    with pytest.raises(PromptError, match="6,000 characters"):
        parse(MASK * 1_000)


@pytest.mark.parametrize(
    "typed", ["<extra_id_0>", "<extra_id_99>", "</s>", "<pad>", "<unk>", "▁<extra_id_0>", "<s>"]
)
def test_i5_a_typed_control_token_stays_letters(typed: str) -> None:
    masked = parse(f"a {typed} {MASK} {typed}{typed}")
    ids = TOKENIZER.encode_masked(masked.parts)
    assert [id_ for id_ in ids if id_ in TOKENIZER.control_ids - {TOKENIZER.unk_id}] == [
        TOKENIZER.sentinels[0]
    ]


@pytest.mark.parametrize("character", ["\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\u00ad"])
def test_i7_a_character_that_cannot_be_seen_is_spelt_out_and_kept(character: str) -> None:
    prompt = f"a{character}b {MASK}"
    assert splice(parse(prompt), ["x"]) == f"a{character}b x"
    assert f"U+{ord(character):04X}" in chips.visible(prompt)


@given(
    st.lists(st.text(st.sampled_from("ée\u0301ﬁ①ªﬀK\u212b \u3000\n"), max_size=12), min_size=2, max_size=5)
)
def test_i8_composed_letters_ligatures_and_circled_digits_are_kept_to_the_byte(parts: list[str]) -> None:
    masked = parse(MASK.join(parts))
    TOKENIZER.encode_masked(masked.parts)
    assert splice(masked, ["x"] * masked.masks).encode() == "x".join(parts).encode()


@pytest.mark.parametrize(
    "typed", ["<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "javascript:alert(1)", "<b>"]
)
def test_i9_markup_is_shown_as_it_is_written(typed: str) -> None:
    assert "<" not in chips.visible(typed)


@pytest.mark.parametrize(
    "filling", ["<" * 3994, "(a+)+$" * 600, "{0}%s{{" * 500, "<mask" * 790, "\\" * 3994, "ªµ" * 1900]
)
def test_i11_metacharacters_take_no_time(filling: str) -> None:
    TOKENIZER.encode("a")  # what the first use makes ready
    began = time.process_time()
    TOKENIZER.encode_masked(parse(MASK + filling).parts)
    words(filling)
    chips.visible(filling)
    assert time.process_time() - began < 0.1  # measured: 0.02 s


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_i12_what_is_no_number_is_null_in_a_record(number: float) -> None:
    span = Span(0, "x", (Token(5, "▁x", number),))
    result = Fill(f"a {MASK}", "a x", "▁a", (span,))
    text = json.dumps(record(result, FakeInfo(), Settings()), allow_nan=False)  # type: ignore[arg-type]  # a fake
    assert json.loads(text)["spans"][0]["tokens"][0]["log_prob"] is None


ODD = st.one_of(
    st.integers(),
    st.floats(),
    st.none(),
    st.booleans(),
    st.text(max_size=5),
    st.sampled_from([0, 1e-9, 1e9, -1, 10**6]),
)


BOUNDS = {
    "temperature": (0.01, 100),
    "top_k": (0, 1_000),
    "top_p": (0.001, 1),
    "num_beams": (1, 32),
    "num_return": (1, 32),
    "max_new_tokens": (1, 256),
    "seed": (0, 2**63 - 1),
}


@given(st.sampled_from(sorted(BOUNDS)), ODD)
def test_i13_and_i14_a_setting_is_within_its_bounds_or_refused_by_name(name: str, value: object) -> None:
    try:
        chosen = Settings(strategy="sample", **{name: value})  # type: ignore[arg-type]  # any value is tried
    except PromptError as fault:
        assert name in str(fault) and str(fault).isprintable()
    else:
        low, high = BOUNDS[name]
        assert low <= getattr(chosen, name) <= high


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (0, 1e-9, math.nan, math.inf, 1e9, -1)),
        ("top_k", -1),
        ("num_beams", 10**6),
        ("max_new_tokens", 10**6),
    ],
)
def test_i13_settings_that_would_never_end_are_refused(name: str, value: object) -> None:
    with pytest.raises(PromptError, match=f"{name} is"):
        Settings(strategy="sample", **{name: value})  # type: ignore[arg-type]  # any value is tried


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64, "text", 1.5, math.nan, None, True])
def test_i14_a_seed_that_is_none_is_refused(seed: object) -> None:
    with pytest.raises(PromptError, match="seed is"):
        Settings(seed=seed)  # type: ignore[arg-type]  # any value is tried


IDS = st.one_of(
    st.sampled_from([*TOKENIZER.sentinels[:6], TOKENIZER.sentinels[99], TOKENIZER.eos_id, TOKENIZER.pad_id]),
    st.integers(0, TOKENIZER.vocab_size - 1),
)


@given(st.integers(1, 5), st.lists(IDS, max_size=30))
def test_i15_whatever_a_decoder_writes_every_mask_is_there_and_missing_ones_are_marked(
    masks: int, ids: list[int]
) -> None:
    prompt = "a " + f"{MASK} b " * masks
    result = fill_of(parse(prompt), "", Written(tuple(ids)), TOKENIZER)
    assert [span.mask for span in result.spans] == list(range(masks))
    until = ids[: ids.index(TOKENIZER.eos_id)] if TOKENIZER.eos_id in ids else ids
    for span in result.spans:
        assert span.missing == (TOKENIZER.sentinels[span.mask] not in until)
        assert all(token.id not in TOKENIZER.control_ids for token in span.tokens)
    assert result.text.count(" b ") >= masks - 1 and MASK not in result.text
    assert result.text == splice(parse(prompt), [span.text for span in result.spans])
