"""The language of a sentence: chosen or detected."""

import gradio as gr

from mt5.languages import LANGUAGES
from mt5.web.detection import detect
from mt5.web.text import Text
from mt5.web.words import Words

DETECT = "auto"


def build_spoken(words: Words, name: str) -> gr.Dropdown:
    """A list of the languages, headed by "detect"."""
    chosen = gr.Dropdown(
        _choices(words.text), value=DETECT, elem_id=name, scale=1, min_width=170, filterable=False
    )
    return words.put(chosen, label="language", choices=_choices)


def spoken_in(chosen: object, text: str) -> str | None:
    """The code of the language chosen, or of the one detected, if any."""
    if any(language.code == chosen for language in LANGUAGES):
        return str(chosen)
    return detect(text) if isinstance(text, str) else None


def _choices(text: Text) -> list[tuple[str, str]]:
    return [(text("language_auto"), DETECT), *((one.endonym, one.code) for one in LANGUAGES)]
