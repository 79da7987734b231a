"""How to decode."""

from dataclasses import dataclass
from typing import Literal

from mt5.errors import PromptError


@dataclass(frozen=True)
class Settings:
    """How to decode. PromptError names what is out of range.

    num_beams: beams kept (beam). num_return: results per prompt (beam: n best, sample: n draws).
    temperature, top_k (0: off), top_p (1: off), seed: of sampling.
    max_new_tokens: at most so many tokens for each mask. num_alternatives: other candidates per token.
    guided: give the sentinels instead of predicting them, so that every mask gets exactly one span.
    """

    strategy: Literal["greedy", "beam", "sample"] = "greedy"
    num_beams: int = 4
    num_return: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_new_tokens: int = 16
    num_alternatives: int = 5
    guided: bool = True

    def __post_init__(self) -> None:
        faults = []
        if self.strategy not in ("greedy", "beam", "sample"):
            faults.append(f"strategy is {self.strategy!r}, expected greedy, beam or sample")
        for name, low, high in _WHOLE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                faults.append(f"{name} is {value!r}, expected a whole number from {low} to {high}")
        for name, low, high in _REAL:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                faults.append(f"{name} is {value!r}, expected a number from {low} to {high}")
        if not isinstance(self.guided, bool):
            faults.append(f"guided is {self.guided!r}, expected true or false")
        if not faults and self.strategy == "greedy" and self.num_return > 1:
            faults.append("greedy has one result; choose beam or sample, or num_return 1")
        if not faults and self.strategy == "beam" and self.num_return > self.num_beams:
            faults.append(f"num_return {self.num_return} exceeds num_beams {self.num_beams}")
        if faults:
            raise PromptError("Settings: " + "; ".join(faults) + ".")


_WHOLE = (
    ("num_beams", 1, 32),
    ("num_return", 1, 32),
    ("top_k", 0, 1_000),
    ("seed", 0, 2**63 - 1),
    ("max_new_tokens", 1, 256),
    ("num_alternatives", 0, 20),
)
_REAL = (("temperature", 0.01, 100), ("top_p", 0.001, 1))
