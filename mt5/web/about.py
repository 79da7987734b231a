"""What the words on the page mean, and whose the model is."""

import gradio as gr

from mt5.web.text import Text
from mt5.web.words import Words

TERMS = (
    "mask", "token", "span", "probability", "surprise", "log_prob", "perplexity", "rank",
    "greedy", "beam", "sampling", "encoder", "attention",
)  # fmt: skip
PARAGRAPHS = ("task", "model", "limits", "embedded", "licence", "privacy", "api")


def build_about(words: Words) -> None:
    """The glossary, and about."""
    with words.put(gr.Accordion(open=False, elem_id="glossary"), label="glossary"):
        words.put(gr.HTML(), value=_glossary)
    with words.put(gr.Accordion(open=False, elem_id="about"), label="about"):
        words.put(gr.HTML(), value=_about)


def _glossary(text: Text) -> str:
    terms = "".join(
        f"<div><dt>{text.html(f'glossary_{term}')}</dt><dd>{text.html(f'glossary_{term}_text')}</dd></div>"
        for term in TERMS
    )
    return f'<dl class="glossary">{terms}</dl>'


def _about(text: Text) -> str:
    return "".join(f"<p>{text.html(f'about_{part}')}</p>" for part in PARAGRAPHS)
