"""Ranks in step: every one gets the same commands in the same order, and the first one's answers count."""

import logging
import time
from collections.abc import Callable, Generator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from queue import SimpleQueue
from threading import Condition, Lock, Thread
from typing import Any

from mt5.errors import CheckpointError, PromptError
from mt5.rank import JOIN_S, Facts, Plan

SILENT_S = 10.0
"""A rank that says nothing for so long is taken for dead; it says something every second."""
SLOW = 3.0
"""A rank that works so many times as long as the quickest is named in the log."""
log = logging.getLogger(__name__)


class GroupError(Exception):
    """A rank died, hangs or failed; its group is of no use any more."""


class Group:
    """Ranks in step. Its thread hears what they say; anyone may ask."""

    def __init__(
        self,
        connections: Sequence[Connection],
        progress: Callable[[float], None],
        failed: Callable[["Group"], None],
    ) -> None:
        self.connections, self.progress, self._failed = list(connections), progress, failed
        self.changed = Condition()
        self.joined: set[int] = set()
        self.facts: dict[int, Facts] = {}
        self.fault: Exception | None = None
        self.collectives: list[int] = [0] * len(self.connections)
        self.busy_s: list[float] = [0.0] * len(self.connections)
        self._waiting: dict[int, SimpleQueue[Any]] = {}
        self._next = 0
        self._compared = -60.0
        self._sending = Lock()
        self._thread = Thread(target=self._watch, daemon=True, name="ranks")

    def start(self, plan: Plan) -> None:
        """Give the ranks their plan and wait until all have loaded. Raises GroupError or CheckpointError."""
        self._tell(plan)
        self._thread.start()
        everyone = len(self.connections)
        with self.changed:
            if not self.changed.wait_for(lambda: self.fault or len(self.joined) == everyone, JOIN_S):
                absent = sorted(set(range(everyone)) - self.joined)
                self.fail(GroupError(f"rank {', '.join(map(str, absent))} did not join in {JOIN_S:.0f} s"))
            self.changed.wait_for(lambda: self.fault or len(self.facts) == everyone)
            if self.fault:
                raise self.fault

    def run(self, method: str, *arguments: Any, **options: Any) -> Generator[Any, Any, None]:
        """What a method of the network yields on the ranks, step by step; closing this stops them."""
        request, answers = self._register()
        going = True
        try:
            self._tell(("call", request, method, arguments, options))
            while True:
                kind, value = self._round(answers)
                if kind != "value":
                    going = False
                    return
                sent = yield value
                self._tell(("next", request, sent))
        finally:
            self._waiting.pop(request, None)
            if going and self.fault is None:
                self._tell(("drop", request))
            self._compare()

    def ask(self, method: str, *arguments: Any, **options: Any) -> Any:
        """What a method of the network returns on the first rank."""
        request, answers = self._register()
        try:
            self._tell(("call", request, method, arguments, options))
            return self._round(answers)[1]
        finally:
            self._waiting.pop(request, None)

    def dismiss(self) -> None:
        """Tell the ranks that they are not needed any more, so that nobody starts them again."""
        self._tell(("end",))

    def close(self) -> None:
        for connection in self.connections:
            connection.close()

    def _register(self) -> tuple[int, SimpleQueue[Any]]:
        with self.changed:
            if self.fault:
                raise self.fault
            self._next += 1
            self._waiting[self._next] = SimpleQueue()
            return self._next, self._waiting[self._next]

    def _tell(self, command: object) -> None:
        message = bytes(ForkingPickler.dumps(command))
        with self._sending:  # every rank gets all commands in the same order
            for connection in self.connections:
                try:
                    connection.send_bytes(message)
                except OSError:
                    return  # the thread that listens finds out, and says so to whoever waits

    def _round(self, answers: SimpleQueue[Any]) -> tuple[str, Any]:
        """One answer of every rank; the first's counts."""
        first = None
        for _ in self.connections:
            answer = answers.get()
            if isinstance(answer, Exception):
                raise answer
            rank, kind, value = answer
            first = (kind, value) if rank == 0 else first
        kind, value = first
        if kind == "refused":
            raise PromptError(value)
        return kind, value

    def _watch(self) -> None:
        heard = dict.fromkeys(self.connections, time.monotonic())
        while self.fault is None:
            ready = wait(self.connections, 0.5)
            for connection in ready:
                rank = self.connections.index(connection)
                try:
                    self._hear(rank, connection.recv())
                except (EOFError, OSError, TypeError) as fault:
                    if isinstance(fault, TypeError) and not connection.closed:
                        raise
                    # closed by another thread while it is read, a connection has no number: a TypeError
                    self.fail(GroupError(f"rank {rank} died"))
                    break
                heard[connection] = time.monotonic()
            silent = [
                rank
                for rank, connection in enumerate(self.connections)
                if time.monotonic() - heard[connection] > SILENT_S
            ]
            if silent and self.fault is None:
                self.fail(GroupError(f"rank {silent[0]} did not answer for {SILENT_S:.0f} s"))
        self._failed(self)

    def _compare(self) -> None:
        """Name a rank that is much slower than the others, once a minute at most."""
        quick, slow = min(self.busy_s), max(self.busy_s)
        if slow > SLOW * quick + 0.5 and time.monotonic() - self._compared > 60:
            self._compared = time.monotonic()
            log.warning(
                "rank %d worked %.1f s where another worked %.1f s; all wait for it",
                self.busy_s.index(slow), slow, quick,
            )  # fmt: skip
            self.busy_s = [0.0] * len(self.connections)

    def _hear(self, rank: int, message: tuple[Any, ...]) -> None:
        match message:
            case "answer", request, kind, value, busy_s, collectives:
                self.busy_s[rank] += busy_s
                self.collectives[rank] += collectives
                if answers := self._waiting.get(request):
                    answers.put((rank, kind, value))
            case "progress", share:
                self.progress(share)
            case ("joined",):
                self._note(lambda: self.joined.add(rank))
            case "ready", facts:
                self._note(lambda: self.facts.update({rank: facts}))
            case "refused", words:
                self.fail(CheckpointError(words))
            case "fault", words:
                self.fail(GroupError(f"rank {rank} failed: {words}"))

    def _note(self, change: Callable[[], object]) -> None:
        with self.changed:
            change()
            self.changed.notify_all()

    def fail(self, fault: Exception) -> None:
        """Every request ends with this fault; of several the first counts."""
        with self.changed:
            self.fault = self.fault or fault
            for answers in list(self._waiting.values()):
                answers.put(self.fault)
            self.changed.notify_all()
