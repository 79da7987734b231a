"""What can be asked of a network, and what can be asked together."""

from collections.abc import Generator, Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mt5.network import Network, Scored
from mt5.rules import Row, Rules
from mt5.settings import Settings

LIKE_LENGTH = 64
"""Sources that share a batch differ by fewer tokens than this, since padding costs."""


class Task(Hashable, Protocol):
    """A question that has one answer, reached in one state or several."""

    @property
    def group(self) -> Hashable:
        """What tasks have in common that can share a batch."""

    @property
    def rows(self) -> int:
        """How much of a batch it takes."""

    @property
    def source(self) -> Sequence[int]:
        """What is read; in a batch the long stand with the long."""

    def ended(self, state: Any) -> bool:
        """Whether a state is the answer, though others of the batch go on."""

    def size(self, answer: Any) -> int:
        """How much memory an answer takes, in tokens."""

    def run(
        self, network: Network, tasks: Sequence[Any]
    ) -> Generator[Sequence[Any], Iterable[int] | None, None]:
        """Answer tasks of this group together: after every step a state of each.

        Tasks whose numbers are sent are not worked on any more.
        """


@dataclass(frozen=True)
class Decoding:
    """Decode a prompt; a state is a list of rows, see generate.decode."""

    source: tuple[int, ...]
    rules: Rules
    settings: Settings

    @property
    def group(self) -> Hashable:
        begun = len(self.rules.start().pending)
        return replace(self.settings, seed=0), begun, len(self.source) // LIKE_LENGTH

    @property
    def rows(self) -> int:
        return self.settings.num_beams if self.settings.strategy == "beam" else self.settings.num_return

    def ended(self, state: Sequence[Row]) -> bool:
        # better beams may still come
        return self.settings.strategy != "beam" and all(row.finished for row in state)

    def size(self, answer: Sequence[Row]) -> int:
        return sum(len(row.hypothesis.ids) for row in answer)

    def run(
        self, network: Network, tasks: Sequence["Decoding"]
    ) -> Generator[list[list[Row]], Iterable[int] | None, None]:
        return network.generate(
            [task.source for task in tasks],
            [task.rules for task in tasks],
            [task.settings for task in tasks],
        )


@dataclass(frozen=True)
class Scoring:
    """Score a target after a source; see Network.score."""

    source: tuple[int, ...]
    target: tuple[int, ...]
    candidates: int

    rows = 1

    @property
    def group(self) -> Hashable:
        return self.candidates, len(self.source) // LIKE_LENGTH

    def ended(self, state: Scored) -> bool:
        return True

    def size(self, answer: Scored) -> int:
        return len(self.target)

    def run(self, network: Network, tasks: Sequence["Scoring"]) -> Generator[list[Scored], object, None]:
        sources, targets = [task.source for task in tasks], [task.target for task in tasks]
        yield network.score(sources, targets, candidates=self.candidates)


@dataclass(frozen=True)
class Attending:
    """Find the cross-attention of a target to a source; see Network.attention."""

    source: tuple[int, ...]
    target: tuple[int, ...]

    rows = 1

    @property
    def group(self) -> Hashable:
        return self

    def ended(self, state: object) -> bool:
        return True

    def size(self, answer: Sequence[object]) -> int:
        return len(answer) * len(self.target) * len(self.source)

    def run(
        self, network: Network, tasks: Sequence["Attending"]
    ) -> Generator[list[list[list[list[float]]]], object, None]:
        yield [network.attention(task.source, task.target) for task in tasks]
