"""An engine on ranks that are drilled to fail."""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

import mt5
from mt5.engine import Engine
from mt5.rank import Plan
from mt5.ranks import Ranks

DATA = Path(__file__).parent / "data"
NEMO, HF = DATA / "nemo_tiny_tp2.nemo", DATA / "hf_tiny_mt5"
MARK = "MT5_TEST_RUN"


@contextmanager
def drilled(path: Path, drill=None, size: int = 2, dtype=torch.float32) -> Iterator[Engine]:
    """An engine like `mt5.open(path, tensor_parallel=size)`, its ranks drilled; leaves no process behind."""
    one = mt5.open(path, dtype="float32")
    files = [path] if path.is_file() else [path / "model.safetensors"]
    stamp = tuple((file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    plan = Plan(str(path), dtype, "cpu", size, "", stamp, threads=1, drill=drill)
    with nothing_left(), Engine(Ranks(plan), one.tokenizer, replace(one.info)) as engine:
        yield engine


@contextmanager
def nothing_left(within_s: float = 5.0) -> Iterator[None]:
    """Every process that starts inside is gone when it ends, or soon after."""
    mark = os.environ[MARK] = uuid.uuid4().hex
    try:
        yield
    finally:
        del os.environ[MARK]
        deadline = time.monotonic() + within_s
        while (left := marked(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not left, f"orphans: {left}"


def marked(mark: str) -> list[int]:
    """Processes that were started with this mark in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal() and int(folder.name) != os.getpid():
            try:
                environment = (folder / "environ").read_bytes()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if f"{MARK}={mark}".encode() in environment and state != "Z":
                found.append(int(folder.name))
    return found


def until(condition, timeout_s: float) -> float:
    """Wait for a condition; returns the seconds it took, and fails when it takes longer."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s"
        time.sleep(0.01)
    return time.monotonic() - began


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
