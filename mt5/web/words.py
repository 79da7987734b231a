"""Components whose words change with the language of the page."""

from collections.abc import Callable
from typing import Any, TypeVar

import gradio as gr
from gradio.blocks import Block

from mt5.web.text import Text, text_of

Said = str | Callable[[Text], Any]
"""A key of the text, or what makes a property out of the text."""
B = TypeVar("B", bound=Block)


class Words:
    """Remembers which property of which component says what."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self.said: dict[Block, dict[str, Said]] = {}

    def put(self, block: B, **said: Said) -> B:
        """Give a component its words: `words.put(gr.Button(), value="fill")`. Returns the component."""
        self.said[block] = said
        for name, value in _spoken(said, self.text).items():
            setattr(block, name, value)
        return block

    @property
    def blocks(self) -> list[Block]:
        """Every component that has words, in the order of `updates`."""
        return list(self.said)

    def updates(self, language: object) -> list[Any]:
        """What makes all of them speak a language."""
        text = text_of(language)
        return [gr.update(**_spoken(said, text)) for said in self.said.values()]


def _spoken(said: dict[str, Said], text: Text) -> dict[str, Any]:
    return {name: text(key) if isinstance(key, str) else key(text) for name, key in said.items()}
