import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mt5.corruption import LONGEST_SPAN, Corruption, corrupt, draw_spans
from mt5.errors import PromptError
from mt5.infill import MaskedPrompt, splice
from mt5.tokenizer import Tokenizer

MT5 = Tokenizer.huggingface(
    (Path(__file__).parent / "data" / "hf_tiny_mt5" / "spiece.model").read_bytes(), 1024
)
SENTENCE = "La capitale de la France est Paris, la capitale de l'Italie est Rome."


def corrupted(
    seed: int = 0, density: float = 0.15, mean_span: float = 3.0, text: str = SENTENCE
) -> Corruption:
    return corrupt(text, MT5, density=density, mean_span=mean_span, rng=random.Random(seed))


@given(
    st.integers(2, 600),
    st.floats(0.01, 0.9),
    st.floats(1, LONGEST_SPAN),
    st.integers(0, 2**32),
    st.integers(1, 100),
)
def test_spans_use_the_budget_exactly_and_keep_apart(
    length: int, density: float, mean_span: float, seed: int, most: int
) -> None:
    spans = draw_spans(length, density=density, mean_span=mean_span, rng=random.Random(seed), most=most)
    assert sum(end - start for start, end in spans) == min(max(1, round(density * length)), length - 1)
    assert 1 <= len(spans) <= most
    assert all(start < end for start, end in spans)
    assert all(end < start for (_, end), (start, _) in pairwise(spans))
    assert spans[0][0] >= 0
    assert spans[-1][1] <= length


def test_spans_have_about_the_mean_length_asked_for() -> None:
    rng = random.Random(0)
    spans = [
        span for _ in range(200) for span in draw_spans(500, density=0.15, mean_span=3, rng=rng, most=100)
    ]
    mean = sum(end - start for start, end in spans) / len(spans)
    # the cap at ten tokens and the last span, cut to fit, take a little away
    assert 2.7 < mean < 3.05


def test_every_token_is_masked_about_as_often() -> None:
    rng = random.Random(0)
    counts = [0] * 30
    for _ in range(4000):
        for start, end in draw_spans(30, density=0.2, mean_span=2, rng=rng, most=100):
            for place in range(start, end):
                counts[place] += 1
    # the ends have neighbours on one side only; the standard error of a share is 0.006
    assert all(0.12 < count / 4000 < 0.25 for count in counts)


@given(st.integers(0, 1000), st.floats(0.01, 0.9), st.floats(1, 10))
def test_input_and_target_hold_the_sentence_between_them(seed: int, density: float, mean_span: float) -> None:
    result = corrupt(SENTENCE, MT5, density=density, mean_span=mean_span, rng=random.Random(seed))
    assert result.target[-1] == MT5.eos_id
    behind: dict[int, list[int]] = {}
    for id_ in result.target[:-1]:
        if id_ in MT5.sentinels:
            current = behind[id_] = []
        else:
            current.append(id_)
    whole = [token for id_ in result.source for token in behind.get(id_, [id_])]
    assert whole == MT5.encode(SENTENCE)
    assert list(behind) == list(MT5.sentinels[: len(result.spans)])
    assert list(behind.values()) == [MT5.encode(SENTENCE)[start:end] for start, end in result.spans]


def test_a_seed_gives_the_same_spans_again_and_another_gives_others() -> None:
    assert corrupted(1) == corrupted(1)
    assert len({str(corrupted(seed)) for seed in range(20)}) > 10


def test_a_person_can_read_the_pair() -> None:
    result = corrupt("est est est est", MT5, density=0.25, mean_span=1, rng=random.Random(3))
    [(start, _)] = result.spans
    words = ["est"] * 4
    words[start] = "<extra_id_0>"
    assert (result.source_text, result.target_text) == (" ".join(words), "<extra_id_0> est </s>")


@given(st.integers(0, 1000), st.floats(0.01, 0.9), st.floats(1, 10))
def test_the_text_around_the_spans_and_that_of_the_spans_make_the_sentence(
    seed: int, density: float, mean_span: float
) -> None:
    sentence = "1 <extra_id_0> <mask> l'été"  # markers typed as text
    result = corrupted(seed, density, mean_span, sentence)
    masked = MaskedPrompt("", result.parts)
    names = [f"<extra_id_{number}>" for number in range(len(result.removed))]
    assert splice(masked, names) == result.source_text
    assert splice(masked, result.removed).replace(" ", "") == sentence.replace(" ", "")


@pytest.mark.parametrize(
    ("text", "density", "mean_span", "complaint"),
    [
        ("est", 0.15, 3, "fewer than two tokens"),
        (SENTENCE, 0, 3, "density is 0, expected 0.01 to 0.9"),
        (SENTENCE, float("nan"), 3, "density is nan"),
        (SENTENCE, 0.15, 0.5, "span length is 0.5"),
        (SENTENCE, 0.15, float("inf"), "span length is inf"),
    ],
)
def test_what_cannot_be_corrupted_is_refused(
    text: str, density: float, mean_span: float, complaint: str
) -> None:
    with pytest.raises(PromptError, match=complaint):
        corrupt(text, MT5, density=density, mean_span=mean_span, rng=random.Random(0))
