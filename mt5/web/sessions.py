"""What the server keeps of a browser tab."""

from collections import ChainMap
from copy import copy
from typing import Any


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


def left() -> bool:
    """Whether whoever asked for what this thread works on has gone, or wants no more of it."""
    from gradio.context import LocalContext

    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event_id is None:  # nobody waits in the queue for it
        return False
    running = [event for events in blocks._queue.active_jobs for event in events or ()]
    return not any(event._id == event_id and event.alive for event in running)
