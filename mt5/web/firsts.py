"""The sentences that tabs begin with: in the language of the page, as long as nobody wrote others."""

from collections.abc import Callable, Mapping
from typing import Any

import gradio as gr

from mt5.tokenizer import MASK
from mt5.web.languages import meanings
from mt5.web.tab import LIGHT, Shell
from mt5.web.text import Text, languages, text_of

LONGEST_PASTE = 100_000  # characters: more than is read, so that it is said; two fit into a body


def gapped(text: Text) -> str:
    """A sentence with a gap."""
    return meanings()["capital_france"][text.language][0]


def whole(text: Text) -> str:
    """The same without one."""
    prompt, answer = meanings()["capital_france"][text.language]
    return prompt.replace(MASK, answer)


def guess(text: Text) -> str:
    """A wrong answer to it."""
    return meanings()["capital_japan"][text.language][1]


def long(text: Text) -> str:
    """A sentence long enough to be cut up."""
    return text("lesson_6_sentence")


First = Callable[[Text], str]


def build_first(shell: Shell, first: First, **options: Any) -> gr.Textbox:
    """A field that holds such a sentence, in another language when the visitor chooses one for the page."""
    field = gr.Textbox(first(shell.words.text), lines=2, max_length=LONGEST_PASTE, **options)

    def follow(language: str, written: str) -> Any:
        own = written in {first(text_of(other)) for other in languages()}
        return first(text_of(language)) if own else gr.skip()

    shell.language.input(follow, [shell.language, field], field, **LIGHT)
    return field


def missing(**firsts: First) -> Callable[[Mapping[str, str], Text], dict[str, str]]:
    """For `Tab.missing`: what an address that does not name these fields leaves to the page."""
    return lambda query, text: {name: first(text) for name, first in firsts.items()}
