"""Ways in which a rank fails, to be handed to ranks as `Plan.drill`. Runs in the ranks."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt5.rank import CountedShard


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def throw() -> None:
    raise RuntimeError("the drill's own fault")


def run_out_of_memory() -> None:
    raise MemoryError("the drill's own shortage")


def change_shapes() -> None:
    add = CountedShard.sum
    CountedShard.sum = lambda self, x: add(self, x[..., :1].contiguous())


def never_join() -> None:
    time.sleep(600)


def dawdle() -> None:
    time.sleep(0.3)


def look_for_the_page() -> None:
    page = {"gradio", "plotly", "mt5.web", "mt5.engine", "mt5.figures"} & set(sys.modules)
    assert not page, f"a rank imported {page}"


COUNTS: dict[str, int] = {}


@dataclass(frozen=True)
class Drill:
    """Something that goes wrong on a rank, when an event comes for the `at`-th time in that process.

    log: a file with a line, the time, for each time that it went wrong; at most `times` in all.
    """

    does: Any
    log: Path
    rank: int = 1
    event: str = "step"
    at: int = 1
    times: int = 1

    def __call__(self, rank: int, event: str) -> None:
        if (rank, event) != (self.rank, self.event):
            return
        seen = COUNTS[self.event] = COUNTS.get(self.event, 0) + 1
        done = self.log.read_text().count("\n") if self.log.exists() else 0
        if seen >= self.at and done < self.times:
            with self.log.open("a") as file:
                file.write(f"{time.time()}\n")
            self.does()
