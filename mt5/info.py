"""Facts about a loaded engine, and how it is."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

from mt5 import __version__
from mt5.config import ModelConfig


@dataclass(frozen=True)
class Health:
    """How the model is.

    state: whether requests are answered; "reduced" is in fewer processes than were asked for. size: of these.
    message: what a person should know, empty when nothing.
    """

    state: Literal["ready", "reduced", "restarting", "failed", "draining", "closed"]
    size: int
    message: str = ""


@dataclass(frozen=True)
class Info:
    """Facts about a loaded engine.

    format: "huggingface", "nemo" or "mt5-infilling". dtype: of the weights in memory; stored_dtype: in the
    checkpoint. stored_tensor_parallel: shards in the checkpoint. vocabulary: ids that can be predicted,
    padded_vocabulary: rows of the embedding. load_s: seconds that loading took. rank_memory: bytes that each
    rank takes, in their order; empty for a network in this process. digest: finds `sha256`.
    """

    name: str
    path: str
    format: str
    parameters: int
    dtype: str
    stored_dtype: str
    device: str
    tensor_parallel: int
    stored_tensor_parallel: int
    vocabulary: int
    padded_vocabulary: int
    load_s: float
    rank_memory: tuple[int, ...]
    config: ModelConfig
    digest: Callable[[], str] = field(repr=False, compare=False)

    @cached_property
    def sha256(self) -> str:
        """Of the files with the weights; found on first use, since that reads all of them."""
        return self.digest()

    def facts(self) -> dict[str, Any]:
        """Everything as plain values, with `sha256` and this program's version."""
        facts = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "digest"}
        return facts | {"sha256": self.sha256, "config": asdict(self.config), "version": __version__}
