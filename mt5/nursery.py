"""The process from which ranks are forked: single-threaded, with torch imported and nothing of the page.

A rank is there at once and shares torch's memory with the others, and dies when this process does.
"""

import ctypes
import os
import signal
import subprocess
import sys
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from mt5.group import GroupError
from mt5.rank import Desk, Rank

WATCH_S = 0.5
START_S, ANSWER_S = 60.0, 5.0
PR_SET_PDEATHSIG = 1


class Nursery:
    """The process that forks ranks on this machine. It gets ready while others do something else."""

    def __init__(self) -> None:
        self.connection, theirs = Pipe()
        environment = os.environ | {"OPENBLAS_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "mt5.nursery", str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the engine, which ends its ranks in order
            env=environment | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])},
        )
        theirs.close()
        self._awake = False

    def fork(self, size: int, desk: Desk) -> list[int]:
        """Start ranks; returns their process ids. The first time waits until torch is imported there."""
        if not self._awake:
            self._receive(START_S)
            self._awake = True
        return self._ask(("fork", size, desk))

    def end(self) -> list[int]:
        """Kill all ranks; returns their exit statuses, negative for a signal."""
        return self._ask("end")

    def close(self) -> None:
        """End it, and with it all ranks."""
        self.connection.close()
        try:
            self.process.wait(3 if self._awake else 0)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _ask(self, command: object) -> list[int]:
        self.connection.send(command)
        return self._receive(ANSWER_S)

    def _receive(self, timeout_s: float) -> Any:
        if not self.connection.poll(timeout_s):
            raise GroupError("the process that starts ranks does not answer")
        return self.connection.recv()


def main() -> None:
    """Fork and end ranks as told through the descriptor given, until whoever started this is gone."""
    engine, parent = Connection(int(sys.argv[1])), os.getppid()
    children: dict[int, int | None] = {}
    try:
        engine.send("ready")
        while os.getppid() == parent:
            reap(children)
            if not engine.poll(WATCH_S):
                continue
            match engine.recv():
                case "fork", int(size), Desk() as desk:
                    children = {fork(number, desk, engine): None for number in range(size)}
                    engine.send(list(children))
                case "end":
                    end(children)
                    engine.send(list(children.values()))
    except (EOFError, OSError):
        pass
    end(children)


def fork(number: int, desk: Desk, engine: Connection) -> int:
    """Start a rank; returns its process id."""
    nursery = os.getpid()
    child = os.fork()
    if child:
        return child
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != nursery:  # it died before the signal was asked for
        os._exit(1)
    engine.close()
    Rank(number, desk).run()
    os._exit(1)


def reap(children: dict[int, int | None], options: int = os.WNOHANG) -> None:
    """Note the exit status of every child that ended: negative for a signal."""
    for child, status in children.items():
        if status is None:
            pid, raw = os.waitpid(child, options)
            if pid:
                children[child] = os.waitstatus_to_exitcode(raw)


def end(children: dict[int, int | None]) -> None:
    """Kill every child that is left, stopped ones as well."""
    reap(children)
    for child, status in children.items():
        if status is None:
            os.kill(child, signal.SIGKILL)
    reap(children, 0)


if __name__ == "__main__":
    main()
