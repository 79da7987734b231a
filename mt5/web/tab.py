"""What every tab is built on."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr
from gradio.components import Component
from gradio.events import Dependency

from mt5.web.models import Models
from mt5.web.text import Text
from mt5.web.words import Words

LIGHT = {"queue": False, "show_progress": "hidden", "show_progress_on": [], "api_visibility": "private"}
"""Events that need no model.

None says where its progress is shown, or every output would have a status, tabs and accordions among them;
the browser writes all of these at each step of a fill, and copies for each what is inside it.
"""
NOTED = {**LIGHT, "queue": True, "concurrency_limit": None}
"""The same for those that may raise a note in a corner of the page, which the queue brings."""
AT_ONCE = 16  # requests that the engine sees together, so that it can answer them in one batch

# run in the browser, at once: a button can be pressed only while there is something to stop
ON = "() => ({__type__: 'update', interactive: true})"
OFF = "() => ({__type__: 'update', interactive: false})"


@dataclass(frozen=True)
class Shell:
    """models: who answers. words: what the page says. language: of the page, every handler's first input."""

    models: Models
    words: Words
    language: gr.Dropdown

    def redrawn(self, show: Callable[..., Any], state: gr.State, outputs: Sequence[Component]) -> None:
        """Show a result again, in the new language of the page: show(language, result) gives the outputs."""
        self.language.change(show, [self.language, state], outputs, **LIGHT)


@dataclass(frozen=True)
class Tab:
    """What an address says of a tab.

    fields: parameter → component. go: a change of it runs the tab. missing: what an address leaves out that
    is not as at first.
    """

    id: str
    fields: dict[str, Component]
    go: gr.Textbox
    missing: Callable[[Mapping[str, str], Text], dict[str, str]] = lambda query, text: {}


def heavy(status: Component, group: str = "model", limit: int = AT_ONCE) -> dict[str, Any]:
    """Options of events that wait for their turn; the place in the queue is shown on `status`."""
    return {
        "concurrency_id": group,
        "concurrency_limit": limit,
        "api_visibility": "private",
        "show_progress": "minimal",
        "show_progress_on": status,
    }


def stoppable(
    after: Dependency | Sequence[Any],
    handler: Callable[..., Any],
    inputs: Any,
    outputs: Any,
    stop: gr.Button,
    **options: Any,
) -> Dependency:
    """An event that `stop` can end, and that alone lets `stop` be pressed. after: an event, or triggers."""
    listen = after.then if isinstance(after, Dependency) else partial(gr.on, after)
    listen(None, None, stop, js=ON, **LIGHT)
    run = listen(handler, inputs, outputs, trigger_mode="always_last", **options)
    run.then(None, None, stop, js=OFF, **LIGHT)
    return run
