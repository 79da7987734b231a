"""What a decoder might have written."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Written:
    """Ids, of log-probabilities 0, −1, −2, …, with one alternative each."""

    ids: tuple[int, ...]
    truncated: frozenset[int] = frozenset()

    @property
    def log_probs(self) -> tuple[float, ...]:
        return tuple(-float(place) for place in range(len(self.ids)))

    @property
    def alternatives(self) -> tuple[tuple[tuple[int, float], ...], ...]:
        return (((2, -9.0),),) * len(self.ids)
