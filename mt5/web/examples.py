"""Prompts to begin with, in every language."""

import gradio as gr

from mt5.languages import LANGUAGES, examples
from mt5.web.text import Text, escape
from mt5.web.words import Words

# runs in the browser
CHOOSE = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-example]');
  if (button) trigger('select', {example: Number(button.dataset.example)});
});
"""


def build_examples(words: Words) -> gr.HTML:
    """A list of prompts per language; a click on one raises `select`, for `prompt_of`."""
    with words.put(gr.Accordion(open=True, elem_id="examples"), label="examples"):
        return words.put(gr.HTML(js_on_load=CHOOSE), value=_lists)


def prompt_of(event: gr.EventData) -> tuple[str, str]:
    """The prompt of the example that was clicked, and its language."""
    number = event.example
    example = examples()[number if isinstance(number, int) and 0 <= number < len(examples()) else 0]
    return example.prompt, example.language


def _lists(text: Text) -> str:
    rows: dict[str, list[str]] = {language.code: [] for language in LANGUAGES}
    for number, example in enumerate(examples()):
        button = f'<button type="button" data-example="{number}">{escape(example.prompt)}</button>'
        rows[example.language].append(f"<li>{button}</li>")
    own_first = sorted(LANGUAGES, key=lambda language: language.code != text.language)
    items = "".join(
        _section(language.code, language.endonym, rows[language.code], text)
        for language in own_first
        if rows[language.code]
    )
    return f'<p class="hint">{text.html("examples_info")}</p><div class="examples">{items}</div>'


def _section(code: str, endonym: str, rows: list[str], text: Text) -> str:
    more = f'{text.html("more")}<span class="sr"> ({escape(endonym)})</span>'
    return (
        f'<section lang="{code}"><h2>{escape(endonym)}</h2><ul>{rows[0]}</ul>'
        f'<details><summary lang="{text.language}">{more}</summary>'
        f"<ul>{''.join(rows[1:])}</ul></details></section>"
    )
