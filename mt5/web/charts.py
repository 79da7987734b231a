"""Figures on the page: how often they are drawn, and how they are saved."""

import json
import math
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr
from gradio.components.plot import PlotData

from mt5.results import Fill
from mt5.web.text import Text
from mt5.web.words import Words

SHOW_S, REDRAW_S = 0.25, 0.5  # chips and chart change at most so often
FEW = 4  # answers written at once; with more of them, each is shown seldomer
# a figure may take the browser so much of the time; until the page has measured it, one takes so long
SHARE, UNKNOWN_S = 0.25, 0.5

# runs in the browser: how long drawing keeps it busy, as the last input of a handler
PACE = "(...values) => [...values.slice(0, -1), window.busyS ?? null]"
WATCH = """
new PerformanceObserver((list) => {
  for (const entry of list.getEntries())
    window.busyS = Math.max(entry.duration / 1000, 0.7 * (window.busyS ?? 0));
}).observe({type: 'longtask'});
"""
# plotly's own button saves a picture in the format that the figure says at that moment
SAVE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-format]');
  const figure = button && document.querySelector(`#${button.dataset.figure} .js-plotly-plot`);
  if (!figure) return;
  figure._context.toImageButtonOptions.format = button.dataset.format;
  figure.querySelector('.modebar-btn')?.click();
});
"""
FORMATS = ("svg", "png")
written: set[object] = set()
"""What stands for each of the answers that are written now."""


def said(title: str, text: Text) -> dict[str, Any]:
    """What a figure of surprise says in the reader's language. title: a key of the text."""
    return {"title": text(title), "unit": text("bits"), "notation": text.notation}


def drawn(figure: Any, name: str, *, zoom: bool = False) -> PlotData:
    """A figure for gr.Plot, which would drop the configuration of one passed as such."""
    buttons = [["toImage"], ["zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]]
    config = {
        "displaylogo": False,
        "displayModeBar": True if zoom else "hover",
        "modeBarButtons": buttons if zoom else buttons[:1],
        "toImageButtonOptions": {"format": "svg", "filename": name, "scale": 2},
    }
    return PlotData(type="plotly", plot=figure.to_json()[:-1] + ',"config":' + json.dumps(config) + "}")


def build_plot(words: Words, name: str) -> gr.Plot:
    """A figure that is there once it has something to show, with buttons that save it."""
    plot = gr.Plot(show_label=False, container=False, visible=False, elem_id=name, elem_classes="figure")
    words.put(gr.HTML(js_on_load=SAVE, elem_classes="figure-bar"), value=lambda text: _bar(text, name))
    return plot


def _bar(text: Text, name: str) -> str:
    return "".join(
        f'<button type="button" data-figure="{name}" data-format="{format_}"'
        f' aria-label="{text.html("save_figure", format=format_.upper())}">{format_.upper()}</button>'
        for format_ in FORMATS
    )


def shown(data: PlotData | None) -> dict[str, Any]:
    """What makes a figure appear, or go."""
    return gr.update(value=data, visible=data is not None)


def paced(results: Iterator[Fill], busy_s: object = None) -> Iterator[tuple[Fill, bool, bool]]:
    """Every partial result, whether it is time to show it, and whether to draw the chart again.

    busy_s: how long the browser was last kept busy by drawing, as far as it has told.
    """
    known = isinstance(busy_s, int | float) and 0 <= busy_s < 60
    redraw_s = max(REDRAW_S, (busy_s if known else UNKNOWN_S) / SHARE)
    # in a crowd, an answer that is soon there is shown as a whole
    shown_at = drawn_at = -math.inf if len(written) < FEW else time.monotonic()
    own = object()
    written.add(own)
    try:
        for result in results:
            now = time.monotonic()
            show_s = SHOW_S * max(1, len(written) / FEW)
            show, draw = now - shown_at > show_s, now - drawn_at > redraw_s
            shown_at, drawn_at = now if show else shown_at, now if show and draw else drawn_at
            yield result, show, show and draw
    finally:
        written.discard(own)
