"""Figures of results."""

import json
import math

import pytest

from mt5 import figures
from mt5.results import Token


def tokens(*pieces: str, probability: float = 0.5) -> list[Token]:
    return [Token(number, piece, math.log(probability)) for number, piece in enumerate(pieces)]


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
    ("probability", "step"), [(0.0, 1), (0.001, 1), (0.002, 2), (0.5, 9), (0.999, 10), (1.0, 10)]
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
