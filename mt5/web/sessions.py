"""What the server keeps of a browser tab."""

from copy import copy
from typing import Any


def keep_little() -> None:
    """Let Gradio keep no description of every component for every tab, which only its deep links need.

    On a page of this size that took half a megabyte a tab and a fortieth of a second of its first request,
    and held what the tab was asked last.
    """
    from gradio.state_holder import SessionState

    def begin(self: Any, blocks: Any) -> None:
        self.blocks_config = copy(blocks.default_config)
        self.config_values, self.state_data, self._state_ttl = {}, {}, {}
        self.is_closed, self.STATE_TTL_WHEN_CLOSED = False, 600  # seconds for a tab that comes back

    def nothing(self: Any, *_: Any) -> None:
        """A description that is not kept is not brought up to date."""

    hooks: Any = SessionState
    hooks.__init__, hooks._update_config, hooks._update_value_in_config = begin, nothing, nothing
