"""mT5 span infilling: fill the masks of a prompt and see the log-probability of every token."""

from typing import TYPE_CHECKING, Any

from mt5.errors import CheckpointError, PromptError, RankError

if TYPE_CHECKING:
    from mt5.engine import Engine
    from mt5.opening import open

__version__ = "0.1.0"
__all__ = ["CheckpointError", "Engine", "PromptError", "RankError", "__version__", "open"]


def __getattr__(name: str) -> Any:
    # torch is imported on first use, so that `python -m mt5 --help` answers at once
    if name == "Engine":
        from mt5.engine import Engine

        return Engine
    if name == "open":
        from mt5.opening import open

        return open
    raise AttributeError(f"module 'mt5' has no attribute {name!r}")
