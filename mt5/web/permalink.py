"""Addresses that hold what a tab was asked: `?tab=fill&q=…&lang=fr&seed=7`."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import gradio as gr
from gradio.components import Component

from mt5.infill import LONGEST_PROMPT
from mt5.web.tab import LIGHT, Tab
from mt5.web.text import Text
from mt5.web.words import Words

# run in the browser, so that the click still allows writing to the clipboard; what is as at first is left
# out. The link is shown, too, for browsers that refuse
COPY = """(...values) => {
  const {tab, names, defaults, base, result} = %s;
  const url = new URL(base || location.origin + location.pathname);
  url.searchParams.set('tab', tab);
  names.forEach((name, place) => {
    const value = values[place];
    if (value !== null && value !== undefined && value !== defaults[place])
      url.searchParams.set(name, value);
  });
  const language = values[names.length];
  if (language && language !== 'en') url.searchParams.set('ui', language);
  if (document.querySelector(result)) url.searchParams.set('run', '1');
  navigator.clipboard?.writeText(url.href).catch(() => {});
  setTimeout(() => document.querySelector(`#${tab}-link textarea, #${tab}-link input`)?.select(), 200);
  return {__type__: 'update', value: url.href, visible: true};
}"""


def base() -> str:
    """The address that people open on a Hugging Face Space; "" elsewhere: the page knows its own."""
    space = os.environ.get("SPACE_ID")
    return f"https://huggingface.co/spaces/{space}" if space else ""


def build_copy(words: Words, tab: Tab, language: gr.Dropdown) -> gr.Textbox:
    """A button that copies a link to the tab as it stands. Returns where it is shown, not yet rendered."""
    copy = words.put(gr.Button(size="sm", elem_id=f"{tab.id}-copy", min_width=100), value="copy_link")
    link = gr.Textbox(
        visible=False, interactive=False, lines=1, elem_id=f"{tab.id}-link", render=False, buttons=["copy"]
    )
    words.put(link, label="link_shown", info="link_copied")
    known = {
        "tab": tab.id,
        "names": list(tab.fields),
        "defaults": [
            None if name in tab.missing({}, words.text) else default(field)
            for name, field in tab.fields.items()
        ],
        "base": base(),
        "result": ", ".join(f"#{tab.id}-result {shown}" for shown in (".sentence", ".card", "table")),
    }
    copy.click(None, [*tab.fields.values(), language], link, js=COPY % json.dumps(known), **LIGHT)
    return link


def default(field: Component) -> Any:
    """What a field holds at first, whoever opens the page."""
    value = getattr(field, "value", None)
    return value or "" if isinstance(field, gr.Textbox) else value


def restored(tabs: Sequence[Tab], query: Mapping[str, str], text: Text) -> list[Any]:
    """What an address asks for: the tab, then for every tab its fields and whether it is to run at once.

    What the address does not say, or says wrongly, stays as it is.
    """
    chosen = query.get("tab")
    named = any(tab.id == chosen for tab in tabs)
    updates: dict[Component, Any] = {}
    for tab in tabs:
        own = query if tab.id == chosen else {}
        said = {**tab.missing(own, text), **own}
        for name, field in tab.fields.items():
            # what stands there already is not sent: it would overwrite what is being typed
            if name in said and said[name] != getattr(field, "value", None):
                updates[field] = read(field, said[name])
            updates.setdefault(field, gr.skip())
        updates[tab.go] = "go" if tab.id == chosen and query.get("run") == "1" else gr.skip()
    return [gr.Tabs(selected=chosen) if named else gr.skip(), *updates.values()]


def outputs(selector: gr.Tabs, tabs: Sequence[Tab]) -> list[Component]:
    """The components of `restored`, in its order."""
    return [selector, *dict.fromkeys(part for tab in tabs for part in (*tab.fields.values(), tab.go))]


def read(field: Component, written: str) -> Any:
    """The value that a field can take from an address, or nothing to change."""
    if isinstance(field, gr.Slider | gr.Number):
        return _number(field, written)
    if isinstance(field, gr.Radio | gr.Dropdown):
        known = {str(value): value for _, value in field.choices}
        return known.get(written, gr.skip())
    return written[: LONGEST_PROMPT + 1]  # one more, so that it is said


def _number(field: gr.Slider | gr.Number, written: str) -> Any:
    try:
        value = float(written)
    except ValueError:
        return gr.skip()
    low = -float("inf") if field.minimum is None else field.minimum
    high = 2.0**53 if field.maximum is None else field.maximum
    if not low <= value <= high:
        return gr.skip()
    return int(value) if value.is_integer() else value
