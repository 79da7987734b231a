"""The fields that say how to decode, shared by the tabs that do."""

from typing import Any

import gradio as gr
from gradio.components import Component

from mt5.web.text import Text
from mt5.web.words import Words

STRATEGIES = ("greedy", "beam", "sample")
FIELDS = ("strategy", "beams", "results", "temperature", "top_k", "top_p", "seed", "tokens", "alternatives")
"""Their names in an address, in the order of `settings_of`."""


def settings_of(values: tuple[Any, ...]) -> dict[str, Any]:
    """The settings from the fields of `build_settings`, in their order, without those that do not count."""
    strategy, beams, results, temperature, top_k, top_p, seed, tokens, alternatives = values
    settings = {
        "strategy": strategy,
        "max_new_tokens": whole(tokens),
        "num_alternatives": whole(alternatives),
    }
    if strategy == "beam":
        return settings | {"num_beams": whole(beams), "num_return": whole(results)}
    if strategy == "sample":
        chosen = {
            "num_return": whole(results),
            "temperature": temperature,
            "top_k": whole(top_k),
            "top_p": top_p,
        }
        return settings | chosen | {"seed": whole(seed)}
    return settings


def whole(value: Any) -> Any:
    """3 for the 3.0 that a number field sends; anything else is for the engine to judge."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def build_settings(words: Words) -> dict[str, Component]:
    """The fields by their names in an address, in the order of `settings_of`."""
    put = words.put
    with put(gr.Accordion(open=False, elem_id="settings"), label="settings"):
        put(gr.HTML(elem_classes="hint"), value=lambda text: text.html("settings_info"))
        strategy = gr.Radio(_strategies(words.text), value="greedy", elem_id="strategy")
        put(strategy, label="strategy", info="strategy_info", choices=_strategies)
        with gr.Row():
            tokens = _slider(words, "tokens", 1, 64, 16)
            alternatives = _slider(words, "alternatives", 0, 20, 5)
            results = _slider(words, "results", 1, 16, 3)
            beams = _slider(words, "beams", 1, 16, 4)
        with gr.Row():
            temperature = _slider(words, "temperature", 0.1, 3, 1, 0.1)
            top_k = _slider(words, "top_k", 0, 100, 0)
            top_p = _slider(words, "top_p", 0.05, 1, 1, 0.05)
            seed = put(gr.Number(0, precision=0, minimum=0, elem_id="seed"), label="seed", info="seed_info")
    fields = (strategy, beams, results, temperature, top_k, top_p, seed, tokens, alternatives)
    return dict(zip(FIELDS, fields, strict=True))


def _strategies(text: Text) -> list[tuple[str, str]]:
    return [(text(f"strategy_{name}"), name) for name in STRATEGIES]


def _slider(words: Words, name: str, low: float, high: float, value: float, step: float = 1) -> gr.Slider:
    return words.put(
        gr.Slider(low, high, value, step=step, min_width=200, elem_id=name), label=name, info=f"{name}_info"
    )
