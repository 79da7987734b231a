"""Results as figures."""

import math
import re
import unicodedata
from collections.abc import Iterable, Sequence

import plotly.graph_objects as go

from mt5.results import Token

HEIGHT = 300  # pixels: the page does not jump while tokens arrive
MOST_SHOWN = 60  # bars; more cannot be read
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
    share = 1 - math.log(max(probability, LEAST)) / math.log(LEAST)
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


def surprise(tokens: Sequence[Token], *, title: str = "Surprise", unit: str = "bits") -> go.Figure:
    """A bar per chip, −log2 of its probability, in the order of writing."""
    shown = joined(tokens)[:MOST_SHOWN]
    labels = [plain(spelling(piece)) for piece, _ in shown]
    bits = [max(0.0, sum(token.surprise for token in together)) for _, together in shown]
    figure = go.Figure(
        go.Bar(
            x=list(range(len(shown))),
            y=bits,
            marker={
                "color": [COLOURS[step(2**-value) - 1] for value in bits],
                "line": {"color": "#767676", "width": 1},
            },
            text=[f"{value:.1f}" for value in bits],
            textposition="outside",
            cliponaxis=False,
            hovertext=labels,
            hovertemplate=f"%{{hovertext}}: %{{y:.2f}} {plain(unit)}<extra></extra>",
        )
    )
    figure.update_layout(
        template="none",
        height=HEIGHT,
        title={"text": plain(title), "x": 0, "xref": "paper", "font": {"size": 14}},
        margin={"l": 48, "r": 12, "t": 44, "b": 64},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 13},
        showlegend=False,
        bargap=0.35,
        dragmode=False,
    )
    figure.update_xaxes(
        tickvals=list(range(len(shown))),
        ticktext=labels,
        range=[-0.6, max(len(shown), 4) - 0.4],
        showgrid=False,
    )
    figure.update_yaxes(
        title={"text": plain(unit)},
        gridcolor=GRID,
        zeroline=False,
        range=[0, max([1.0, *bits]) * 1.2],
    )
    return figure
