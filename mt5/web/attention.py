"""Where the model looked while it wrote."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from mt5 import figures
from mt5.web import charts
from mt5.web.faults import SAID, fault
from mt5.web.tab import LIGHT, Shell, heavy
from mt5.web.text import Text, text_of


def drawn(attention: Any, layer: object, text: Text) -> dict[str, Any]:
    """The weights of a layer, counted from 1, as a map."""
    layers = len(attention.weights)
    number = int(layer) if isinstance(layer, int | float) and 1 <= layer <= layers else layers
    names = {"read": text("attention_source"), "written": text("attention_target")}
    said = {"title": text("attention_title"), "notation": text.notation, **names}
    figure = figures.attention(attention, number - 1, **said)
    return charts.shown(charts.drawn(figure, "attention", zoom=True))


def build_attention(shell: Shell) -> Callable[[gr.State], None]:
    """A button that draws the map of a result, and a choice of the layer; call what it returns with both."""
    put, models = shell.words.put, shell.models
    button = put(gr.Button(size="sm", visible=False, elem_id="attention-show"), value="attention_show")
    status = gr.HTML(elem_classes="status")
    layer = gr.Slider(1, 2, 1, step=1, visible=False, elem_id="layer")
    put(layer, label="attention_layer", info="attention_info")
    plot = charts.build_plot(shell.words, "attention")
    kept = gr.State()

    def look(language: str, answer: Any) -> list[Any]:
        text = text_of(language)
        try:
            with models.engine(answer.info) as engine:
                found = engine.attention(answer.fill)
        except SAID as error:
            said = fault(error, answer.fill.prompt, text)
            return [None, gr.update(visible=False), charts.shown(None), said]
        layers = len(found.weights)
        slider = gr.update(maximum=layers, value=layers, visible=layers > 1)
        return [found, slider, drawn(found, layers, text), ""]

    def show(language: str, found: Any, layer: object) -> Any:
        return gr.skip() if found is None else drawn(found, layer, text_of(language))

    def connect(answer: gr.State) -> None:
        def hide(answer: Any) -> list[Any]:
            askable = gr.update(visible=answer is not None)
            return [None, gr.update(visible=False), charts.shown(None), "", askable]

        outputs = [kept, layer, plot, status]
        answer.change(hide, answer, [*outputs, button], **LIGHT)
        button.click(look, [shell.language, answer], outputs, **heavy(status))
        gr.on([layer.release, shell.language.change], show, [shell.language, kept, layer], plot, **LIGHT)

    return connect
