"""What is otherwise than Gradio 6.31 made it, each for a fault or a cost that its options do not reach.

A start without what Gradio does for its developers, or does several times; little kept of a browser tab;
faults in the log without a visitor's words; and a run that is stopped without looking like one that failed.
"""

import inspect
import sys
import traceback
from collections import ChainMap
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from types import SimpleNamespace
from typing import Any


def import_gradio() -> None:
    """Import Gradio in two thirds of the time: it would parse every component's source to write type stubs.

    It writes none for a class whose file is unknown (`create_or_modify_pyi` in gradio.component_meta).
    """
    file_of = inspect.getfile

    def getfile(asked: Any) -> str:
        if isinstance(asked, type) and asked.__module__.startswith("gradio."):
            raise OSError(f"{asked}: no stub is wanted")
        return file_of(asked)

    inspect.getfile = getfile
    try:
        import gradio  # noqa: F401 - for those who import it later
    finally:
        inspect.getfile = file_of


@contextmanager
def no_server_yet() -> Iterator[None]:
    """Lay a page out without the server that Gradio makes three times meanwhile: `launch` makes its own."""
    from gradio.routes import App

    applications: Any = App
    create_app = applications.create_app
    applications.create_app = staticmethod(lambda *_, **options: None)
    try:
        yield
    finally:
        applications.create_app = create_app


def keep_little() -> None:
    """Let Gradio keep no description of every component for every tab, which only its deep links need.

    On a page of this size that took half a megabyte a tab and a fortieth of a second of its first request,
    some of every later one, and held what the tab was asked last.
    """
    from gradio.state_holder import SessionState

    def begin(self: Any, blocks: Any) -> None:
        own = copy(blocks.default_config)
        # what handlers change of a component lies above what all tabs share
        own.blocks, own.fns = ChainMap({}, blocks.default_config.blocks), blocks.default_config.fns
        own.config_for_block = _undescribed
        self.blocks_config = own
        self.config_values, self.state_data, self._state_ttl = {}, {}, {}
        self.is_closed, self.STATE_TTL_WHEN_CLOSED = False, 600  # seconds for a tab that comes back

    hooks: Any = SessionState
    hooks.__init__ = begin


def _undescribed(*_: Any) -> dict[str, Any]:
    return {}


def keep_words_out() -> None:
    """Let Gradio's queue, routes and tools log where and of what kind a fault is, without its words."""
    from gradio import queueing, route_utils, routes

    quiet: Any = SimpleNamespace(print_exc=logged)
    for module in (queueing, routes, route_utils):
        module.traceback = quiet


def logged() -> None:
    """Write the fault that is being handled, and what caused it, to standard error."""
    fault = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
    while fault is not None:
        kind = f"{type(fault).__module__}.{type(fault).__qualname__}"
        rows = traceback.format_tb(fault.__traceback__)
        print(f"Traceback of {kind} (its words are left out):", *rows, sep="\n", file=sys.stderr, flush=True)
        fault = fault.__cause__


def stop_quietly() -> None:
    """Let a run that was stopped end with no new values, where Gradio sends no list of values at all.

    If that reached the browser after the answer to the cancelling itself, it failed there for want of the
    list, and Gradio wrote a red "Error" where the progress was.
    """
    from gradio.server_messages import ProcessCompletedMessage

    messages: Any = ProcessCompletedMessage

    def completed(self: Any, **fields: Any) -> None:
        output = fields["output"] or ({"data": []} if fields["success"] else {})
        super(ProcessCompletedMessage, self).__init__(**{**fields, "output": output})

    messages.__init__ = completed
