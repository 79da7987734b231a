"""How many threads this process may use, and how many are the quickest."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
ROUNDS, ENOUGH_S = 6, 0.03
"""A number of threads is tried so often, but not once more when it took so long already."""
WORTH = 0.95
"""More threads must take at most this share of the time of fewer, since others want cores too."""


def allowed(cgroup: Path = CGROUP) -> int:
    """Cores that this process may use: by its affinity, its container's share and OMP_NUM_THREADS."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # only Linux has it
        cores = os.cpu_count() or 1
    limits = [cores, _share(cgroup)]
    with suppress(ValueError):
        limits.append(int(os.environ.get("OMP_NUM_THREADS", cores)))
    return max(1, min(limits))


def _share(cgroup: Path) -> int:
    """Whole cores that a container may keep busy, at least 1; many without a limit."""
    with suppress(OSError, ValueError):
        quota, period = (cgroup / "cpu.max").read_text().split()
        return max(1, int(quota) // int(period))
    with suppress(OSError, ValueError):
        quota = int((cgroup / "cpu" / "cpu.cfs_quota_us").read_text())
        period = int((cgroup / "cpu" / "cpu.cfs_period_us").read_text())
        if quota > 0:
            return max(1, quota // period)
    return 1 << 10


def choose(work: Callable[[], object], most: int) -> int:
    """Set torch to the number of threads with which `work` is done soonest, from 1 to `most`; returns it."""
    numbers = sorted({most, *(1 << power for power in range(most.bit_length()) if 1 << power <= most)})
    best, soonest = 1, float("inf")
    for number in numbers:
        torch.set_num_threads(number)
        took = _shortest(work)
        if took < WORTH * soonest:
            best, soonest = number, took
    torch.set_num_threads(best)
    return best


def _shortest(work: Callable[[], object]) -> float:
    began, shortest = time.perf_counter(), float("inf")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        work()
        shortest = min(shortest, time.perf_counter() - start)
        if time.perf_counter() - began > ENOUGH_S:
            break
    return shortest
