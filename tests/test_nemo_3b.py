"""The published size, from an archive of random weights: memory, loading time, speed. See `make test-3b`."""

import os
import statistics
import subprocess
import threading
import time
from pathlib import Path

import pytest
import torch

import mt5
from tests.rank_engine import MARK, marked

ARCHIVE = Path(os.environ.get("MT5_3B", "nemo_3b_random.nemo"))
PEAK, LOADING, SHARE = 7.5e9, 2.0, 0.6
READ_PER_TOKEN = 3.74e9
"""Bytes that a token needs: the decoder's weights and the head, without cross-attention's keys and values."""
PROMPT = "La capitale de la France est <mask>."

pytestmark = [
    pytest.mark.nemo_3b,
    pytest.mark.skipif(not ARCHIVE.exists(), reason=f"no {ARCHIVE}: make test-3b"),
]


class Peak:
    """The most memory that this process and its ranks take together, shared pages counted once, in bytes."""

    def __init__(self, mark):
        self.mark, self.bytes, self.stopped = mark, 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *exception):
        self.stopped.set()
        self.thread.join()

    def watch(self):
        while not self.stopped.wait(0.2):
            self.bytes = max(self.bytes, sum(map(share, [os.getpid(), *marked(self.mark)])))


def share(pid):
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) << 10 for line in lines if line.startswith("Pss:"))


def cat_s():
    began = time.perf_counter()
    subprocess.run(f"cat '{ARCHIVE}' > /dev/null", shell=True, check=True)
    return time.perf_counter() - began


def forget():
    """Drop the archive's pages, so that reading it means reading the disk."""
    with ARCHIVE.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def bandwidth():
    """Bytes a second that this machine reads from memory with all its threads: the best of several sums."""
    numbers, best = torch.ones(1 << 28), 0.0
    for _ in range(5):
        began = time.perf_counter()
        numbers.sum()
        best = max(best, numbers.nbytes / (time.perf_counter() - began))
    return best


def tokens_per_second(engine):
    source = engine.tokenizer.encode("La capitale de la France")
    speeds = []
    for round_ in range(3):
        began = time.perf_counter()
        engine.generate(source, max_new_tokens=2 + round_, stop=False)
        between = time.perf_counter()
        engine.generate(source, max_new_tokens=18 + round_, stop=False)
        speeds.append(16 / (time.perf_counter() - between - (between - began)))
    return statistics.median(speeds)


@pytest.mark.parametrize("size", [1, 2])
def test_the_published_size_opens_in_its_memory_and_time_and_answers(size, monkeypatch, record_property):
    monkeypatch.setenv(MARK, f"3b-{size}")
    forget()
    cold = cat_s()
    forget()
    with Peak(f"3b-{size}") as peak, mt5.open(ARCHIVE, tensor_parallel=size, dtype="bfloat16") as engine:
        loaded = engine.info.load_s
        speed = tokens_per_second(engine)
        assert len(engine.fill(PROMPT).spans) == 1
    limit = bandwidth() / READ_PER_TOKEN
    print(
        f"\nTP {size}: loaded in {loaded:.1f} s (cat {cold:.1f} s), peak {peak.bytes / 1e9:.2f} GB, "
        f"{speed:.2f} tokens/s, {speed / limit:.0%} of the limit of {limit:.2f}"
    )
    assert peak.bytes <= PEAK
    assert loaded <= LOADING * cold
    assert speed >= SHARE * limit
