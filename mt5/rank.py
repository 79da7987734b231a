"""One rank of a tensor-parallel engine: it joins the others, loads its part of a checkpoint, and obeys."""

import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client
from threading import Lock, Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mt5.checkpoint import open_checkpoint
from mt5.errors import CheckpointError, PromptError
from mt5.exchange import ORDERED, Exchange
from mt5.network import Network
from mt5.parallel import Shard

BEAT_S = 1.0
JOIN_S = 12.0
COLLECTIVE_S = 60.0
"""Ranks are at most a few operations apart: who waits so long for the others waits in vain."""


@dataclass(frozen=True)
class Plan:
    """What ranks load, and where they meet.

    meeting: where they find each other: a file on this machine, else a name on the engine's board. stamp: of
    the checkpoint, as the engine saw it. threads: of each rank, None for torch's choice. drill: called with
    rank and event ("start", "joined", "loaded", "step"), so that tests can make a rank fail.
    """

    path: str
    dtype: torch.dtype
    device: str
    size: int
    meeting: str
    stamp: tuple[tuple[int, int], ...]
    threads: int | None = None
    drill: Callable[[int, str], None] | None = None


@dataclass(frozen=True)
class Facts:
    """What a rank says of itself when it is ready. memory: bytes that it alone takes; load_s: seconds."""

    pid: int
    memory: int
    load_s: float


@dataclass
class Tally:
    """Collectives of a rank, and the seconds that it spent in them."""

    collectives: int = 0
    waited_s: float = 0.0


@dataclass(frozen=True)
class CountedShard(Shard):
    """A shard that keeps count of its collectives; small ones go by way of `exchange` where there is one."""

    tally: Tally = field(default_factory=Tally)
    exchange: Exchange | None = None

    def sum(self, x: Tensor) -> Tensor:
        near = self.exchange is not None and self.exchange.has_room(x)
        return self._counted(self.exchange.sum if near else super().sum, x)

    def gather(self, x: Tensor) -> Tensor:
        near = self.exchange is not None and self.exchange.has_room(x)
        return self._counted(self.exchange.gather if near else super().gather, x)

    def _counted(self, collective: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        began = time.perf_counter()
        result = collective(x)
        self.tally.collectives += 1
        self.tally.waited_s += time.perf_counter() - began
        return result


@dataclass(frozen=True)
class Desk:
    """Where the engine listens, and the secret by which it and its ranks know each other.

    An address of host and port has the next port for the board on which ranks find each other.
    """

    address: str | tuple[str, int]
    key: bytes


class Rank:
    """A rank at work. Every message to the engine is a tuple that begins with its kind."""

    def __init__(self, number: int, desk: Desk) -> None:
        self.number, self.desk = number, desk
        self.tally = Tally()
        self.running: dict[int, Iterator[Any]] = {}
        self._sending = Lock()

    def run(self, path: str | None = None) -> None:
        """Serve until the engine goes away, and end the process: a rank cannot join a second time.

        path: of the checkpoint on this machine, where it is not that on the engine's.
        """
        try:
            self.connection = Client(self.desk.address, authkey=self.desk.key)
            self.send("hello", self.number, os.getpid())
            plan: Plan = self.connection.recv()
        except (EOFError, OSError, AuthenticationError) as fault:
            print(f"rank {self.number}: no engine at {self.desk.address} ({fault})", file=sys.stderr)
            os._exit(1)
        self.drill = plan.drill or (lambda rank, event: None)
        Thread(target=self._beat, daemon=True).start()
        try:
            self.drill(self.number, "start")
            network = self._load(plan, path or plan.path, self._join(plan))
            while True:
                self._obey(network, self.connection.recv())
        except EOFError:  # the engine gave this group up, or died
            os._exit(1)
        except CheckpointError as fault:
            self.send("refused", str(fault))
        except BaseException as fault:
            self.send("fault", described(fault))
        os._exit(1)

    def send(self, *message: Any) -> None:
        try:
            with self._sending:
                self.connection.send(message)
        except OSError:
            os._exit(1)  # the engine is gone

    def _beat(self) -> None:
        while True:
            time.sleep(BEAT_S)
            self.send("beat")

    def _join(self, plan: Plan) -> CountedShard:
        if plan.threads:
            torch.set_num_threads(plan.threads)
        backend = "nccl" if plan.device == "cuda" else "gloo"
        if plan.device == "cuda":
            torch.cuda.set_device(self.number % torch.cuda.device_count())
        patience = timedelta(seconds=JOIN_S)
        if isinstance(self.desk.address, str):
            store = dist.FileStore(plan.meeting, plan.size)
        else:
            host, port = self.desk.address
            board = dist.TCPStore(host, port + 1, is_master=False, timeout=patience)
            store = dist.PrefixStore(plan.meeting, board)
        dist.init_process_group(
            backend, store=store, rank=self.number, world_size=plan.size, timeout=patience
        )
        group = dist.new_group(range(plan.size), timeout=timedelta(seconds=COLLECTIVE_S))
        exchange = None
        if isinstance(self.desk.address, str) and plan.device == "cpu" and ORDERED:
            # gloo takes a millisecond where this takes some microseconds
            exchange = Exchange(plan.meeting + "-memory", self.number, plan.size, COLLECTIVE_S)
        self.send("joined")
        self.drill(self.number, "joined")
        return CountedShard(self.number, plan.size, group, self.tally, exchange)

    def _load(self, plan: Plan, path: str, shard: CountedShard) -> Network:
        began = time.perf_counter()
        checkpoint = open_checkpoint(path)
        if path == plan.path and checkpoint.stamp != plan.stamp:
            raise CheckpointError(f"{path} was changed since it was opened. Open it again.")
        device = torch.device(plan.device)
        said = began

        def progress(share: float) -> None:
            nonlocal said
            if time.perf_counter() - said > 0.2:
                said = time.perf_counter()
                self.send("progress", share)

        model = checkpoint.load(
            dtype=plan.dtype, device=device, shard=shard, in_place=True, progress=progress
        )
        load_s = time.perf_counter() - began
        self.drill(self.number, "loaded")
        self.send("ready", Facts(os.getpid(), memory(), load_s))
        return Network(model, device)

    def _obey(self, network: Network, command: tuple[Any, ...]) -> None:
        match command:
            case "call", int(request), str(method), arguments, options:
                self._answer(
                    request, lambda: self._called(request, getattr(network, method), arguments, options)
                )
            case "next", int(request), value:
                self._answer(request, lambda: self._step(request, value))
            case "drop", int(request):
                self.running.pop(request, None)
            case ("end",):
                os._exit(0)

    def _called(
        self, request: int, method: Callable[..., Any], arguments: tuple[Any, ...], options: dict[str, Any]
    ) -> Any:
        result = method(*arguments, **options)
        if not isinstance(result, Iterator):
            self.drill(self.number, "step")
            return result
        self.running[request] = result
        return self._step(request, None)

    def _step(self, request: int, value: Any) -> Any:
        self.drill(self.number, "step")
        running = self.running[request]
        return next(running) if value is None else running.send(value)

    def _answer(self, request: int, work: Callable[[], Any]) -> None:
        """Work, and say how it went: every rank does, but only the first sends what came of it."""
        began, waited, counted = time.perf_counter(), self.tally.waited_s, self.tally.collectives
        try:
            value = work()
            outcome = ("value", value if self.number == 0 else None)
        except StopIteration:
            outcome = ("end", None)
        except PromptError as fault:  # every rank finds the same fault
            outcome = ("refused", str(fault))
        if outcome[0] != "value":
            self.running.pop(request, None)
        busy = time.perf_counter() - began - (self.tally.waited_s - waited)
        self.send("answer", request, *outcome, busy, self.tally.collectives - counted)


def memory() -> int:
    """Bytes that this process takes, what it shares counted in parts; 0 where the system does not tell."""
    try:
        with open("/proc/self/smaps_rollup") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


def described(fault: BaseException) -> str:
    """A fault for the log: where it was, and what the system said; never what the user typed."""
    frames = traceback.extract_tb(fault.__traceback__)
    places = " < ".join(
        f"{frame.name} ({os.path.basename(frame.filename)}:{frame.lineno})" for frame in frames[::-1]
    )
    words = str(fault).splitlines()[:1] if isinstance(fault, RuntimeError | OSError | MemoryError) else []
    return f"{': '.join([type(fault).__name__, *words])} in {places}"
