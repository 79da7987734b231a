"""The ranks of a tensor-parallel engine, used as one network, and watched.

The engine's process is never a rank. When a rank dies, hangs or fails, all are ended and started again, and
what was asked is asked once more. Run as a module, this is a rank on another machine, under torchrun.
"""

import argparse
import logging
import os
import secrets
import shutil
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, Listener
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Condition, Thread
from typing import Any

import torch.distributed as dist

from mt5.errors import CheckpointError, RankError
from mt5.group import Group, GroupError
from mt5.info import Health
from mt5.network import Scored
from mt5.nursery import Nursery
from mt5.rank import JOIN_S, Desk, Facts, Plan, Rank
from mt5.rules import Row, Rules
from mt5.settings import Settings

READY_S = 600.0
CRASHES, WINDOW_S = 3, 60.0
KEY = "MT5_RANKS_KEY"
log = logging.getLogger(__name__)


class Ranks:
    """Processes that hold a network together, with the methods of `network.Network`; watched and restarted.

    Raises CheckpointError when the checkpoint cannot be loaded, and RankError when ranks fail twice over the
    same request, cannot be started, or are being ended.
    """

    def __init__(
        self,
        plan: Plan,
        *,
        nursery: Nursery | None = None,
        listen: tuple[str, int] | None = None,
        key: bytes | None = None,
        progress: Callable[[float], None] = lambda share: None,
    ) -> None:
        """plan: its meeting is chosen here. nursery: one that was started already. listen, key: for ranks on
        other machines, which come by themselves and know the key; None starts them here."""
        self.plan, self.progress, self.local = plan, progress, listen is None
        self._folder = Path(tempfile.mkdtemp(prefix="mt5-ranks-"))
        self.desk = Desk(listen or str(self._folder / "desk"), key or secrets.token_bytes(32))
        self._changed = Condition()
        self._state, self._message, self._group = "restarting", "", None
        self._crashes: deque[float] = deque(maxlen=CRASHES)
        self._well = "ready", ""  # what becomes of the state when all is well
        self._meetings = 0
        self._arrivals: SimpleQueue[tuple[int, Connection]] = SimpleQueue()
        try:
            self._listener = Listener(self.desk.address, backlog=64, authkey=self.desk.key)
            self._board = None if listen is None else _board(listen)
        except OSError as fault:
            shutil.rmtree(self._folder, ignore_errors=True)
            raise CheckpointError(
                f"{self.desk.address} cannot be listened at, perhaps it is taken ({fault})."
            ) from fault
        Thread(target=self._receive, daemon=True, name="ranks-desk").start()
        self._nursery = nursery or Nursery() if self.local else None
        try:
            self._begin()
        except GroupError as fault:
            self.close()
            raise RankError(f"{plan.size} ranks could not be started: {fault}.") from fault
        except BaseException:
            self.close()
            raise

    @property
    def health(self) -> Health:
        return Health(self._state, self.plan.size, self._message)

    @property
    def facts(self) -> list[Facts]:
        """What each rank said when it was ready."""
        group = self._ready()
        return [group.facts[rank] for rank in sorted(group.facts)]

    @property
    def collectives(self) -> list[int]:
        """Collectives of each rank in answering what was asked so far."""
        return list(self._ready().collectives)

    def generate(
        self,
        sources: Sequence[Sequence[int]],
        rules: Sequence[Rules],
        settings: Settings | Sequence[Settings],
    ) -> Generator[list[list[Row]], Iterable[int] | None, None]:
        """See Network.generate. After a restart it goes on where it was, for the same seed draws the same."""
        done: list[Iterable[int] | None] = []  # what was sent in after each step, None for nothing
        for last in (False, True):
            group = self._ready()
            steps = group.run("generate", sources, rules, settings)
            try:
                state = next(steps)
                for sent in done:
                    state = steps.send(sent)
                while True:
                    done.append((yield state))
                    state = steps.send(done[-1])
            except StopIteration:
                return
            except GroupError as fault:
                self._refuse(fault, last)
            finally:
                steps.close()

    def score(
        self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], *, candidates: int = 0
    ) -> list[Scored]:
        """See Network.score."""
        return self._ask("score", sources, targets, candidates=candidates)

    def attention(self, source: Sequence[int], target: Sequence[int]) -> list[list[list[float]]]:
        """See Network.attention."""
        return self._ask("attention", source, target)

    def close(self) -> None:
        """End the ranks."""
        with self._changed:
            if self._state == "closed":
                return
            group, self._group = self._group, None
            self._become("closed", "The model was shut down.")
        if group:
            group.dismiss()
            group.fail(GroupError("the engine was closed"))
            group.close()
        with suppress(OSError), socket.socket(_family(self.desk.address)) as knock:
            knock.connect(self.desk.address)  # wakes the thread that waits for arrivals
        self._listener.close()
        if self._nursery:
            self._nursery.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        for last in (False, True):
            try:
                return self._ready().ask(method, *arguments, **options)
            except GroupError as fault:
                self._refuse(fault, last)

    def _refuse(self, fault: GroupError, last: bool) -> None:
        if last:
            raise RankError(
                "The model's processes failed twice over this. Try again, or something shorter."
            ) from fault

    def _ready(self) -> Group:
        """The ranks, when they are there; RankError when they will not be."""
        with self._changed:
            if not self._changed.wait_for(self._settled, READY_S):
                raise RankError("The model's processes are still starting. Try again in a minute.")
            if self._group is None:
                raise RankError(self._message)
            return self._group

    def _settled(self) -> bool:
        # who asked hears of a fault before the thread that starts the group again does
        return self._state != "restarting" and (self._group is None or self._group.fault is None)

    def _become(self, state: str, message: str) -> None:
        with self._changed:
            self._state, self._message = state, message
            self._changed.notify_all()

    def _receive(self) -> None:
        """Let ranks in, as long as the desk is open."""
        while self._state != "closed":
            try:
                connection = self._listener.accept()
                _, number, _ = connection.recv()
            except (OSError, EOFError, AuthenticationError):
                continue
            self._arrivals.put((number, connection))

    def _begin(self) -> None:
        """Start a group and wait until it is ready."""
        began = time.monotonic()
        while not self._arrivals.empty():  # of ranks whose group is gone
            self._arrivals.get()[1].close()
        plan, size = self.plan, self.plan.size
        self._meetings += 1  # every start has one of its own, and does not find what the last one left
        plan = replace(plan, meeting=str(self._folder / f"meeting-{self._meetings}"))
        if self._nursery:
            self._nursery.fork(size, self.desk)
        came: dict[int, Connection] = {}
        patience = JOIN_S if self.local else READY_S
        while len(came) < size:
            try:
                number, connection = self._arrivals.get(timeout=max(0.0, began + patience - time.monotonic()))
            except Empty:
                absent = sorted(set(range(size)) - set(came))
                raise GroupError(
                    f"rank {', '.join(map(str, absent))} did not come in {patience:.0f} s"
                ) from None
            came = {rank: other for rank, other in came.items() if not other.poll()} | {number: connection}
        group = Group([came[rank] for rank in range(size)], self.progress, self._recover)
        try:
            group.start(plan)
        except BaseException:
            group.close()
            raise
        with self._changed:
            self._group = group
            self._become(*self._well)

    def _recover(self, group: Group) -> None:
        """Start again after a fault; runs in the thread that heard of it."""
        with self._changed:
            if group is not self._group or self._state == "closed":
                return
            self._group = None
            self._become("restarting", "A process of the model failed; it is being started again.")
        fault = group.fault
        while True:
            self._crashes.append(time.monotonic())
            log.error("%s (exit statuses %s)", fault, self._end(group))
            if len(self._crashes) == CRASHES and self._crashes[-1] - self._crashes[0] < WINDOW_S:
                if self.plan.size == 1 or not self.local:
                    self._become("failed", "The model's processes keep failing. Whoever runs this must look.")
                    return
                self.plan = replace(self.plan, size=1, threads=None)
                self._crashes.clear()
                self._well = (
                    "reduced",
                    "The model's processes kept failing; it now runs in a single one.",
                )
                log.error("%d failures in %.0f s: falling back to one process", CRASHES, WINDOW_S)
            try:
                self._begin()
                return
            except CheckpointError as found:
                self._end(group)
                self._become("failed", str(found))
                return
            except GroupError as found:
                fault = found
            if self._state == "closed":
                return

    def _end(self, group: Group) -> list[int]:
        """End what is left of a group; returns the exit statuses, where they can be known."""
        group.close()
        if self._nursery is None:
            return []
        try:
            return self._nursery.end()
        except (GroupError, OSError, EOFError):
            self._nursery.process.kill()  # and with it its ranks
            self._nursery.close()
            self._nursery = Nursery()
            return []


def _family(address: str | tuple[str, int]) -> socket.AddressFamily:
    return socket.AF_UNIX if isinstance(address, str) else socket.AF_INET


def _board(listen: tuple[str, int]) -> dist.TCPStore:
    """Where ranks on several machines write down how to reach them."""
    try:
        return dist.TCPStore(listen[0], listen[1] + 1, is_master=True, wait_for_workers=False)
    except RuntimeError as fault:
        raise OSError(f"port {listen[1] + 1}: {str(fault).splitlines()[0]}") from fault


def key_of(environment: Mapping[str, str]) -> bytes:
    """The secret that an engine and its ranks on other machines share. CheckpointError when it is not set."""
    if not (key := environment.get(KEY)):
        raise CheckpointError(
            f"{KEY} is not set. Ranks on other machines and their engine need the same secret in it: "
            "any long random text."
        )
    return key.encode()


def address_of(text: str) -> tuple[str, int]:
    """HOST:PORT taken apart. CheckpointError when it is not that."""
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise CheckpointError(f"{text!r}: expected HOST:PORT, such as 0.0.0.0:29600.")
    return host, int(port)


def main() -> None:
    """Be a rank of an engine elsewhere."""
    parser = argparse.ArgumentParser(
        prog="torchrun … -m mt5.ranks",
        description="One rank of an engine on another machine, under torchrun.",
    )
    parser.add_argument("--engine", required=True, metavar="HOST:PORT", help="where the engine listens")
    parser.add_argument("--checkpoint", help="its path on this machine, where it is not the engine's")
    options = parser.parse_args()
    try:
        desk = Desk(address_of(options.engine), key_of(os.environ))
    except CheckpointError as fault:
        sys.exit(f"Error: {fault}")
    if "RANK" not in os.environ:
        sys.exit("Error: RANK is not set. Start this with torchrun, which numbers the ranks.")
    Rank(int(os.environ["RANK"]), desk).run(options.checkpoint)


if __name__ == "__main__":
    main()
