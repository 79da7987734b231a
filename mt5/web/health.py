"""A line that says so when the model's processes fail; the browser asks for it, past the queue."""

import gradio as gr

from mt5.web.text import Text
from mt5.web.words import Words

STATES = ("restarting", "reduced", "failed")
# runs in the browser: often while something runs, now and then otherwise
WATCH = """
const look = async () => {
  try {
    const answer = await fetch(new URL('health', document.baseURI), {cache: 'no-store'});
    const {state} = await answer.json();
    for (const line of element.querySelectorAll('[data-state]')) line.hidden = line.dataset.state !== state;
  } catch { /* the page itself says when the server is gone */ }
  setTimeout(look, document.querySelector('button.stop:not([disabled])') ? 1000 : 15000);
};
look();
"""


def build_health(words: Words) -> None:
    """The line, empty as long as all is well."""
    words.put(gr.HTML(elem_id="health", js_on_load=WATCH), value=_lines)


def _lines(text: Text) -> str:
    return "".join(
        f'<p class="fault" role="alert" data-state="{state}" hidden>{text.html(f"health_{state}")}</p>'
        for state in STATES
    )
