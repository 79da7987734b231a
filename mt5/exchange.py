"""Memory that the ranks of one machine share: what one writes, the others see some microseconds later."""

import mmap
import os
import platform
import time
from pathlib import Path

import torch
from torch import Tensor

ROOM = 1 << 18
"""Bytes that a rank can show at a time."""
SIZES = 2 * ROOM
"""A counter holds its turn times this, and the bytes shown, so that ranks which disagree find out."""
LINE = 64
"""Bytes that processors pass on as one; every rank's counter has them for itself."""
SPIN_S, NAP_S = 2e-3, 1e-4
"""A rank looks without rest for so long, then it naps between two looks."""
ORDERED = platform.machine() in ("x86_64", "AMD64")
"""Whether every processor sees another's writes in their order, on which this relies."""


class Exchange:
    """Ranks show each other tensors, all in the same order and of the same sizes.

    There are two places, used in turn: a rank that writes the next but one tensor has seen that all others
    wrote the next, and so have read the one whose place it takes.
    """

    def __init__(self, path: str | Path, rank: int, size: int, timeout_s: float) -> None:
        """path: a file that all ranks name alike, and that is new."""
        self.rank, self.size, self.timeout_s = rank, size, timeout_s
        counters = 2 * LINE * size
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(file, counters + 2 * size * ROOM)
            self._pages = mmap.mmap(file, counters + 2 * size * ROOM)
        finally:
            os.close(file)
        self._counters = memoryview(self._pages)[:counters].cast("q")
        places = torch.frombuffer(self._pages, dtype=torch.uint8, offset=counters)
        self._places = places.view(2, size, ROOM)
        self._turn = 0

    def has_room(self, x: Tensor) -> bool:
        return 0 < x.nbytes <= ROOM

    def sum(self, x: Tensor) -> Tensor:
        """The sum of every rank's `x`, in place; the same number on every rank."""
        first, *others = self._shown(x)
        x.copy_(first)
        for other in others:
            x += other
        return x

    def gather(self, x: Tensor) -> Tensor:
        """Every rank's `x`, stacked in the order of the ranks: [size, *x.shape]."""
        return self._shown(x).clone()

    def _shown(self, x: Tensor) -> Tensor:
        """Every rank's `x`, where it lies until the next but one is shown: [size, *x.shape]."""
        self._turn += 1
        side, shown = self._turn % 2, self._turn * SIZES + x.nbytes
        place = self._places[side, :, : x.nbytes]
        place[self.rank].copy_(x.reshape(-1).view(torch.uint8))
        self._counters[self._counter(side, self.rank)] = shown
        for other in range(self.size):
            self._wait(other, self._counter(side, other), shown)
        return place.view(x.dtype).view(self.size, *x.shape)

    def _counter(self, side: int, rank: int) -> int:
        return (side * self.size + rank) * LINE // 8

    def _wait(self, other: int, counter: int, shown: int) -> None:
        counters, turn = self._counters, shown // SIZES
        if counters[counter] // SIZES < turn:
            began = time.monotonic()
            while counters[counter] // SIZES < turn:
                waited = time.monotonic() - began
                if waited > self.timeout_s:
                    raise RuntimeError(f"rank {other} was waited for {self.timeout_s:.0f} s")
                if waited > SPIN_S:
                    time.sleep(NAP_S)
                else:
                    os.sched_yield()
        if counters[counter] != shown:
            sizes = shown % SIZES, counters[counter] % SIZES
            raise RuntimeError(f"ranks {self.rank} and {other} show {sizes[0]} and {sizes[1]} bytes")
