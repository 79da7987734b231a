"""Results as figures."""

import math
import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import plotly.graph_objects as go

from mt5.errors import PromptError
from mt5.results import Attention, Filled, Sweep, Token

Part = dict[str, Any]
"""A part of a figure, as plotly takes it."""


@dataclass(frozen=True)
class Notation:
    """How the reader writes numbers.

    number(2.5, 1): with so many digits after the decimal sign. percent(0.25): a probability. separators: the
    decimal sign and what parts thousands, as plotly takes them.
    """

    number: Callable[[float, int], str] = "{:,.{}f}".format
    percent: Callable[[float], str] = "{:.1%}".format
    separators: str = ".,"


ENGLISH = Notation()
HEIGHT = 300  # pixels: the page does not jump while tokens arrive
MAP_HEIGHT = 420
ROWS_HEIGHT = 200  # or more
ROW = 24  # of a bar that lies
MOST_SHOWN = 60  # bars; more cannot be read
LONGEST_LABEL, SHORT_LABEL = 32, 16  # characters
LONGEST_TITLE = 44  # characters of a line
MISSING = "–"  # in place of a number that is none, or of an answer that was not written
GRID = "rgba(128, 128, 128, 0.35)"
SPACE = "▁"  # how a piece spells the space before it
BYTE = re.compile(r"<0x([0-9A-F]{2})>")
LEAST = 1e-3  # the first colour is for this probability and below
# cividis, from what the model found impossible to what it was sure of; assets/style.css has the same
COLOURS = (
    "#00224e", "#123570", "#3b496c", "#575d6d", "#707173",
    "#8a8678", "#a59c74", "#c3b369", "#e1cc55", "#fee838",
)  # fmt: skip


def step(probability: float) -> int:
    """The colour of a probability, 1 to 10, by its logarithm between 0.1 % and 100 %."""
    if not probability > LEAST:  # what is no number is also of the first
        return 1
    share = 1 - math.log(probability) / math.log(LEAST)
    return min(int(share * len(COLOURS)) + 1, len(COLOURS))


def spelling(piece: str) -> str:
    """A piece as it is written on its chip, not escaped."""
    shown = piece.replace(SPACE, "␣")
    return "◌" + shown if unicodedata.category(shown[:1] or "x").startswith("M") else shown


def joined(tokens: Sequence[Token]) -> list[tuple[str, tuple[Token, ...]]]:
    """Tokens as they share chips: the bytes of one character stand on one, with the character as its text."""
    chips: list[tuple[str, tuple[Token, ...]]] = []
    run: list[Token] = []
    for token in [*tokens, None]:
        if token is not None and BYTE.fullmatch(token.piece):
            run.append(token)
            if (character := _character(run)) is not None:
                chips.append((character, tuple(run)))
                run = []
            continue
        chips += [(byte.piece, (byte,)) for byte in run]  # bytes that make no character
        run = []
        if token is not None:
            chips.append((token.piece, (token,)))
    return chips


def _character(run: Iterable[Token]) -> str | None:
    try:
        return bytes(int(token.piece[3:5], 16) for token in run).decode()
    except UnicodeDecodeError:
        return None


def plain(text: str) -> str:
    """Text in which plotly finds no tags of its own."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def surprise(
    tokens: Sequence[Token], *, title: str = "Surprise", unit: str = "bits", notation: Notation = ENGLISH
) -> go.Figure:
    """A bar per chip, −log2 of its probability, in the order of writing."""
    shown = joined(tokens)[:MOST_SHOWN]
    bits = [bits_of(token.log_prob for token in together) for _, together in shown]
    labels = [spelling(piece) for piece, _ in shown]
    return _columns(labels, bits, labels, title=title, unit=unit, notation=notation)


def sweep(
    result: Sweep,
    *,
    title: str = "Surprise of each word",
    unit: str = "bits",
    notation: Notation = ENGLISH,
) -> go.Figure:
    """A bar per word, with what the model would have written in its place."""
    shown = result.words[:MOST_SHOWN]
    bits = [bits_of([word.score.log_prob]) for word in shown]
    hover = [f"{word.word} ({word.fill.text.strip()})" for word in shown]
    return _columns([word.word for word in shown], bits, hover, title=title, unit=unit, notation=notation)


def comparison(
    own: Filled,
    model: Filled,
    *,
    names: tuple[str, str] = ("yours", "the model's"),
    title: str = "Surprise of each answer",
    unit: str = "bits",
    notation: Notation = ENGLISH,
) -> go.Figure:
    """Two bars per gap, from the top: an answer, and under it what the model wrote."""
    pairs = [
        pair for both in zip(own.spans, model.spans, strict=True) for pair in zip(both, names, strict=True)
    ]
    shown = pairs[:MOST_SHOWN]
    bits = [bits_of(token.log_prob for token in span.tokens) for span, _ in shown]
    answers = [span.text.strip() or MISSING for span, _ in shown]
    labels = [f"{_short(text, SHORT_LABEL)}\n{name}" for text, (_, name) in zip(answers, shown, strict=True)]
    texts = [_number(value, notation) for value in bits]
    sizes = {"row": 2 * ROW, "room": 1.2}
    return _rows(labels, bits, texts, answers, **sizes, title=title, unit=unit, notation=notation)


def languages(
    names: Sequence[str],
    fills: Sequence[Filled],
    *,
    title: str = "Surprise in each language",
    unit: str = "bits",
    notation: Notation = ENGLISH,
) -> go.Figure:
    """A bar per language, from the top, with what fills the gaps and its probability."""
    bits = [bits_of(token.log_prob for token in fill.tokens) for fill in fills]
    texts = [
        f"{' · '.join(span.text.strip() for span in fill.spans)}  {_probability(value, notation)}"
        for fill, value in zip(fills, bits, strict=True)
    ]
    sizes = {"row": ROW, "room": 1.8}
    return _rows(names, bits, texts, texts, **sizes, title=title, unit=unit, notation=notation)


def attention(
    result: Attention,
    layer: int,
    *,
    title: str = "Cross-attention",
    read: str = "read",
    written: str = "written",
    notation: Notation = ENGLISH,
) -> go.Figure:
    """A layer's map: a row for every piece written, from the top, a column for every piece read.

    layer: from 0. Dragging zooms. PromptError when there is no such layer.
    """
    if not 0 <= layer < len(result.weights):
        raise PromptError(f"The model has layers 0 to {len(result.weights) - 1}; {layer} is none of them.")
    weights = result.weights[layer]
    columns, rows = ([spelling(piece) for piece in pieces] for pieces in (result.source, result.target))
    hover = [
        [
            f"{plain(row)} ← {plain(column)}: {notation.percent(weight)}"
            for column, weight in zip(columns, line, strict=True)
        ]
        for row, line in zip(rows, weights, strict=True)
    ]
    last = len(COLOURS) - 1
    cells = {
        "type": "heatmap",
        "z": [[weight if math.isfinite(weight) else None for weight in line] for line in weights],
        "zmin": 0,
        "colorscale": [[number / last, colour] for number, colour in enumerate(COLOURS)],
        "colorbar": {"thickness": 12, "tickformat": ".0%", "outlinewidth": 0},
        "hovertext": hover,
        "hovertemplate": "%{hovertext}<extra></extra>",
    }
    xaxis = _named(list(range(len(columns))), columns) | {"title": _axis_title(read)}
    yaxis = _named(list(range(len(rows))), rows) | {"title": _axis_title(written)}
    yaxis["range"] = [len(rows) - 0.5, -0.5]
    return _figure(cells, title, xaxis, yaxis, notation, height=MAP_HEIGHT, left=96, dragmode="zoom")


def bits_of(log_probs: Iterable[float]) -> float | None:
    """Surprise of tokens together, in bits; None when it is no number that can be drawn."""
    bits = -sum(log_probs) / math.log(2)
    return max(0.0, bits) if math.isfinite(bits) else None


def _columns(
    labels: Sequence[str],
    bits: Sequence[float | None],
    hover: Sequence[str],
    *,
    title: str,
    unit: str,
    notation: Notation,
) -> go.Figure:
    """A column for each label, from the left."""
    numbers = list(range(len(labels)))
    texts = [_number(value, notation) for value in bits]
    bars = _bars(bits, texts, hover, unit, notation) | {"orientation": "v", "x": numbers, "y": bits}
    xaxis = _named(numbers, labels) | {"range": [-0.6, max(len(labels), 4) - 0.4]}
    yaxis = _measured(unit, [1.2 * value for value in bits if value is not None])
    return _figure(bars, title, xaxis, yaxis, notation, height=HEIGHT, left=48)


def _rows(
    labels: Sequence[str],
    bits: Sequence[float | None],
    texts: Sequence[str],
    hover: Sequence[str],
    *,
    row: int,
    room: float,
    title: str,
    unit: str,
    notation: Notation,
) -> go.Figure:
    """A bar that lies for each label, from the top, with a text beside it.

    row: pixels for each. room: how many times as long as the longest bar the axis is, for the texts.
    """
    numbers = list(range(len(labels)))
    shown = [plain(_short(text)) for text in texts]
    bars = _bars(bits, shown, hover, unit, notation) | {"orientation": "h", "x": bits, "y": numbers}
    xaxis = _measured(unit, [room * value for value in bits if value is not None])
    yaxis = _named(numbers, labels) | {"range": [len(labels) - 0.4, -0.6]}
    return _figure(
        bars, title, xaxis, yaxis, notation, height=max(row * len(labels) + 120, ROWS_HEIGHT), left=88
    )


def _bars(
    bits: Sequence[float | None], texts: Sequence[str], hover: Sequence[str], unit: str, notation: Notation
) -> Part:
    """Bars whose colours are those of the probabilities; where they stand is not yet said."""
    return {
        "type": "bar",
        "marker": {
            "color": [COLOURS[step(0.0 if value is None else 2**-value) - 1] for value in bits],
            "line": {"color": "#767676", "width": 1},
        },
        "text": texts,
        "textposition": "outside",
        "cliponaxis": False,
        "hovertext": [
            plain(f"{text}: {_number(value, notation, 2)} {unit}")
            for text, value in zip(hover, bits, strict=True)
        ],
        "hovertemplate": "%{hovertext}<extra></extra>",
    }


def _figure(
    drawn: Part,
    title: str,
    xaxis: Part,
    yaxis: Part,
    notation: Notation,
    *,
    height: int,
    left: int,
    dragmode: str | bool = False,
) -> go.Figure:
    """What is drawn, with what all figures have in common; sizes in pixels.

    Made at once: plotly takes ten times as long for a figure that is changed step by step.
    """
    lines = _wrapped(title)
    place = {"x": 0, "xref": "container", "xanchor": "left", "y": 1, "yref": "paper", "yanchor": "bottom"}
    layout = {
        "template": "none",
        "height": height,
        "separators": notation.separators,
        "title": {
            "text": "<br>".join(map(plain, lines)),
            "font": {"size": 14},
            "pad": {"b": 18 * len(lines) - 4},
            **place,
        },
        "margin": {"l": left, "r": 12, "t": 34 + 18 * len(lines), "b": 40},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "showlegend": False,
        "bargap": 0.35,
        "dragmode": dragmode,
        "xaxis": xaxis,
        "yaxis": yaxis,
    }
    return go.Figure({"data": [drawn], "layout": layout})


def _named(numbers: Sequence[int], labels: Sequence[str]) -> Part:
    """An axis with the labels along it, of very many every second, third, …"""
    every = -(-len(labels) // MOST_SHOWN) or 1
    texts = ["<br>".join(plain(_short(line)) for line in label.split("\n")) for label in labels]
    return {
        "tickvals": list(numbers)[::every],
        "ticktext": texts[::every],
        "showgrid": False,
        "zeroline": False,
        "automargin": True,
    }


def _measured(unit: str, ends: Sequence[float]) -> Part:
    """An axis with bits along it."""
    end = max([1.2, *ends])
    return {"title": _axis_title(unit), "gridcolor": GRID, "zeroline": False, "range": [0, end]}


def _axis_title(text: str) -> Part:
    return {"text": plain(text), "font": {"size": 13}}


def _short(text: str, longest: int = LONGEST_LABEL) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _wrapped(title: str) -> list[str]:
    """The lines of a title that fits a phone; an ideograph is as wide as two letters."""
    wide = any(unicodedata.east_asian_width(sign) == "W" for sign in title)
    return textwrap.wrap(title, LONGEST_TITLE // 2 if wide else LONGEST_TITLE) or [""]


def _number(value: float | None, notation: Notation, digits: int = 1) -> str:
    return MISSING if value is None else notation.number(value, digits)


def _probability(bits: float | None, notation: Notation) -> str:
    return MISSING if bits is None else notation.percent(2**-bits)
