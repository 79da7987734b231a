"""Figures of results."""

import json
import math

import plotly.io
import pytest

from mt5 import figures
from mt5.errors import PromptError
from mt5.results import Attention, Filled, Span, Sweep, SweepWord, Token


def tokens(*pieces: str, probability: float = 0.5) -> list[Token]:
    return [Token(number, piece, math.log(probability)) for number, piece in enumerate(pieces)]


def span(text: str, probability: float) -> Span:
    return Span(0, text, (Token(0, text, math.log(probability)),))


BLANK = Span(0, "")


def filled(*spans: Span) -> Filled:
    return Filled("<mask>", "", "", spans)


def test_a_bar_is_as_high_as_the_surprise_in_bits() -> None:
    figure = figures.surprise(tokens("▁Paris", probability=0.25))
    assert figure.data[0].y == pytest.approx([2.0])


def test_a_certain_token_has_no_bar_rather_than_a_negative_one() -> None:
    figure = figures.surprise([Token(0, "x", 1e-9)])
    assert list(figure.data[0].y) == [0.0]


def test_tags_in_a_piece_are_shown_as_they_are() -> None:
    figure = figures.surprise(tokens("<b>&"))
    assert list(figure.layout.xaxis.ticktext) == ["&lt;b&gt;&amp;"]


def test_no_tokens_make_an_empty_figure_that_is_strict_json() -> None:
    figure = figures.surprise([])
    assert json.loads(figure.to_json(), parse_constant=pytest.fail)["data"]


@pytest.mark.parametrize("value", [-math.inf, math.nan, math.inf])
def test_a_log_probability_that_is_no_number_has_no_bar(value: float) -> None:
    figure = figures.surprise([Token(0, "x", value), Token(1, "y", -1.0)])
    assert list(figure.data[0].text) == ["–", "1.4"]
    assert json.loads(figure.to_json(), parse_constant=pytest.fail)["data"][0]["y"][0] is None


def test_a_sweep_has_a_bar_for_each_word_and_says_what_the_model_would_have_written() -> None:
    words = [
        SweepWord(0, 1, "a", span("a", 0.25), span(" b", 0.5)),
        SweepWord(2, 3, "c", span("c", 1.0), BLANK),
    ]
    figure = figures.sweep(Sweep("a c", tuple(words)))
    assert figure.data[0].y == pytest.approx([2.0, 0.0])
    assert list(figure.layout.xaxis.ticktext) == ["a", "c"]
    assert list(figure.data[0].hovertext) == ["a (b): 2.00 bits", "c (): 0.00 bits"]


def test_an_answer_stands_above_the_models() -> None:
    own, model = filled(span("<b>", 0.125), span("x", 0.5)), filled(span("Paris", 0.5), BLANK)
    figure = figures.comparison(own, model, names=("mine", "its"))
    assert figure.data[0].x == pytest.approx([3.0, 1.0, 1.0, 0.0])
    low, high = figure.layout.yaxis.range
    assert low > high  # the first is on top
    assert list(figure.layout.yaxis.ticktext) == [
        "&lt;b&gt;<br>mine", "Paris<br>its", "x<br>mine", "–<br>its",
    ]  # fmt: skip


def test_each_language_has_a_row_with_its_fill_and_probability() -> None:
    figure = figures.languages(
        ["Čeština", "日本語"], [filled(span(" Paříž", 0.25)), filled(span("英語", 0.5))]
    )
    assert figure.data[0].orientation == "h"
    assert figure.data[0].x == pytest.approx([2.0, 1.0])
    assert list(figure.data[0].text) == ["Paříž  25.0%", "英語  50.0%"]
    assert list(figure.layout.yaxis.ticktext) == ["Čeština", "日本語"]
    low, high = figure.layout.yaxis.range
    assert low > high  # the first is on top


def test_numbers_are_written_as_the_reader_does() -> None:
    notation = figures.Notation(lambda value, digits: f"{value:.{digits}f}".replace(".", ","), str, ", ")
    one = filled(span("Paris", 0.25))
    sweep = Sweep("a", (SweepWord(0, 1, "a", span("a", 0.25), BLANK),))
    for figure in (
        figures.surprise(one.tokens, notation=notation),
        figures.sweep(sweep, notation=notation),
        figures.comparison(one, one, notation=notation),
    ):
        assert figure.data[0].text[0] == "2,0" and figure.data[0].hovertext[0].endswith(": 2,00 bits")
        assert figure.layout.separators == ", "
    assert figures.languages(["x"], [one], notation=notation).data[0].text[0] == "Paris  0.25"


def test_a_title_wraps_where_a_phone_ends() -> None:
    title = "Surprise of what the model wrote in each language"
    assert figures.surprise([], title=title).layout.title.text.replace("<br>", " ") == title
    assert "<br>" in figures.surprise([], title="驚き" * 12).layout.title.text


def test_attention_has_what_was_written_from_the_top_and_what_was_read_from_the_left() -> None:
    weights = (((1.0, 0.0, 0.0), (0.0, 0.5, 0.5)), ((0.0, 1.0, 0.0), (0.2, 0.3, 0.5)))
    result = Attention(("▁a", "<extra_id_0>", "</s>"), ("<extra_id_0>", "▁b"), weights)
    figure = figures.attention(result, 1)
    assert [list(row) for row in figure.data[0].z] == [[0.0, 1.0, 0.0], [0.2, 0.3, 0.5]]
    assert list(figure.layout.xaxis.ticktext) == ["␣a", "&lt;extra_id_0&gt;", "&lt;/s&gt;"]
    assert list(figure.layout.yaxis.ticktext) == ["&lt;extra_id_0&gt;", "␣b"]
    low, high = figure.layout.yaxis.range
    assert low > high
    assert figure.data[0].hovertext[1][2] == "␣b ← &lt;/s&gt;: 50.0%"
    assert figure.layout.dragmode == "zoom"
    for layer in (-1, 2):
        with pytest.raises(PromptError, match="layers 0 to 1"):
            figures.attention(result, layer)


@pytest.mark.parametrize("count", [0, 1, 3, 200])
def test_every_figure_has_a_height_of_its_own_no_background_and_strict_json(count: int) -> None:
    many = filled(*[span("long " * 20, 0.5)] * count)
    sweep = Sweep("", tuple(SweepWord(0, 1, "a", BLANK, BLANK) for _ in range(count)))
    square = Attention(("a",) * count, ("b",) * count, (((0.0,) * count,) * count,))
    drawn = [
        figures.surprise(many.tokens),
        figures.sweep(sweep),
        figures.comparison(many, many),
        figures.languages(["x"] * count, [many] * count),
        figures.attention(square, 0),
    ]
    for figure in drawn:
        assert figure.layout.height >= 200
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.template == plotly.io.templates["none"]
        json.loads(figure.to_json(), parse_constant=pytest.fail)
    for figure in drawn[:3]:
        assert len(figure.data[0].x) <= figures.MOST_SHOWN
    assert len(drawn[4].layout.xaxis.ticktext or ()) <= figures.MOST_SHOWN


def test_the_bytes_of_one_character_share_a_chip() -> None:
    bytes_ = tokens("<0xE6>", "<0x97>", "<0xA5>")
    assert [(piece, len(together)) for piece, together in figures.joined([*bytes_, *tokens("x")])] == [
        ("日", 3),
        ("x", 1),
    ]


def test_bytes_that_make_no_character_stay_apart() -> None:
    assert [piece for piece, _ in figures.joined(tokens("<0xE6>", "x", "<0x97>"))] == [
        "<0xE6>",
        "x",
        "<0x97>",
    ]


def test_a_space_and_a_combining_sign_can_be_seen() -> None:
    assert figures.spelling("▁Paris") == "␣Paris"
    assert figures.spelling("\u0301e") == "◌\u0301e"
    assert figures.spelling("▁") == "␣"


@pytest.mark.parametrize(
    ("probability", "step"),
    [(math.nan, 1), (0.0, 1), (0.001, 1), (0.002, 2), (0.5, 9), (0.999, 10), (1.0, 10)],
)
def test_colours_follow_the_logarithm_of_the_probability(probability: float, step: int) -> None:
    assert figures.step(probability) == step


@pytest.mark.parametrize("number", range(1, 11))
def test_letters_on_every_colour_can_be_read(number: int) -> None:
    channels = [int(figures.COLOURS[number - 1][place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    contrast = 1.05 / (luminance + 0.05) if number <= 5 else (luminance + 0.05) / 0.05  # white, black
    assert contrast >= 4.5
