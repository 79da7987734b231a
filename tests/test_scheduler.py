"""Tasks of many threads, on a network that waits to be let on, step by step."""

import gc
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mt5 import scheduler
from mt5.errors import RankError
from mt5.scheduler import Scheduler

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_S = 10.0


@dataclass(frozen=True)
class Count:
    """Counts to `steps`, one a step; its states are the numbers."""

    name: str
    steps: int = 3
    group: str = ""
    rows: int = 1
    source: tuple[int, ...] = ()

    def ended(self, state: int) -> bool:
        return state == self.steps

    def size(self, answer: int) -> int:
        return answer

    def run(self, network: "Gate", tasks: Sequence["Count"]):
        network.batches.append([task.name for task in tasks])
        dropped: set[int] = set()
        for number in range(1, max(task.steps for task in tasks) + 1):
            network.step()
            dropped |= set((yield [min(number, task.steps) for task in tasks]) or ())
            network.dropped = {tasks[one].name for one in dropped}
            if len(dropped) == len(tasks):
                return


@dataclass
class Gate:
    """A network whose steps are let through one by one, all of them when it is open."""

    open: bool = True
    batches: list[list[str]] = field(default_factory=list)
    steps: int = 0
    dropped: set[str] = field(default_factory=set)
    fault: Exception | None = None

    def __post_init__(self) -> None:
        self.passes, self.arrived = threading.Semaphore(0), threading.Semaphore(0)

    def step(self) -> None:
        self.arrived.release()
        if not self.open:
            assert self.passes.acquire(timeout=PATIENCE_S)
        if self.fault:
            raise self.fault
        self.steps += 1

    def wait_for_a_step(self) -> None:
        assert self.arrived.acquire(timeout=PATIENCE_S)

    def let_all_through(self) -> None:
        self.open = True
        self.passes.release(100)


@dataclass
class Asking:
    """A thread that asks; `answer` waits for it."""

    work: object

    def __post_init__(self) -> None:
        self.found, self.fault = None, None
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        try:
            self.found = self.work()
        except BaseException as fault:
            self.fault = fault

    def answer(self):
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()
        if self.fault:
            raise self.fault
        return self.found


def waiting(tasks: Scheduler, count: int) -> None:
    """Return when so many jobs wait."""
    deadline = threading.Event()
    for _ in range(1_000):
        if len(tasks._waiting) == count:
            return
        deadline.wait(0.005)
    raise AssertionError(f"{len(tasks._waiting)} jobs wait, expected {count}")


def busy(gate: Gate, tasks: Scheduler) -> Asking:
    """A question that keeps the network busy until it is let on."""
    first = Asking(lambda: tasks.answers([Count("first", 1)]))
    gate.wait_for_a_step()
    return first


def test_an_answer_is_the_last_state_and_a_stream_has_them_all() -> None:
    tasks = Scheduler(Gate())
    assert tasks.answers([Count("a", 3), Count("b", 5)]) == [3, 5]
    assert list(tasks.follow(Count("c", 4))) == [1, 2, 3, 4]


def test_what_is_asked_while_the_network_is_busy_is_answered_together() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    first = busy(gate, tasks)
    others = [
        Asking(lambda name=name: tasks.answers([Count(name, len(name))])) for name in ("a", "bb", "ccc")
    ]
    waiting(tasks, 3)
    gate.let_all_through()
    assert [one.answer() for one in (first, *others)] == [[1], [1], [2], [3]]
    assert gate.batches[0] == ["first"] and sorted(gate.batches[1]) == ["a", "bb", "ccc"]


def test_the_long_stand_with_the_long_in_a_batch_and_each_gets_its_own_answer() -> None:
    gate = Gate()
    tasks = Scheduler(gate)
    asked = [
        Count("long", 4, source=(1,) * 9),
        Count("short", 2, source=(1,)),
        Count("like it", 3, source=(2,) * 8),
    ]
    assert tasks.answers(asked) == [4, 2, 3]
    assert gate.batches == [["short", "like it", "long"]]


def test_what_does_not_go_together_takes_turns_the_oldest_first() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    first = busy(gate, tasks)
    asked = [
        Count("b", group="other"), Count("c"), Count("d", group="other"), Count("e", rows=scheduler.ROWS),
        Count("f", rows=2 * scheduler.ROWS),
    ]  # fmt: skip
    rest = Asking(lambda: tasks.answers(asked))
    waiting(tasks, 5)
    gate.let_all_through()
    first.answer()
    assert rest.answer() == [3] * 5
    assert gate.batches == [["first"], ["b", "d"], ["c"], ["e"], ["f"]]


def test_the_same_question_is_answered_once() -> None:
    gate = Gate()
    tasks = Scheduler(gate)
    assert list(tasks.follow(Count("a"))) == list(tasks.follow(Count("a"))) == [1, 2, 3]
    assert tasks.answers([Count("a"), Count("a")]) == [3, 3]
    assert gate.batches == [["a"]]
    tasks.answers([Count("a")], known=False)
    assert gate.batches == [["a"], ["a"]]


def test_who_asks_what_is_being_answered_sees_it_from_its_beginning() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    one = tasks.follow(Count("a"))
    gate.passes.release(2)
    assert [next(one), next(one)] == [1, 2]
    other = Asking(lambda: list(tasks.follow(Count("a"))))
    gate.let_all_through()
    assert other.answer() == [1, 2, 3] and list(one) == [3]
    assert gate.batches == [["a"]]


def test_the_least_recently_asked_is_forgotten(monkeypatch) -> None:
    monkeypatch.setattr(scheduler, "KNOWN", 2)
    gate = Gate()
    tasks = Scheduler(gate)
    for name in "abacab":
        tasks.answers([Count(name)])
    assert gate.batches == [["a"], ["b"], ["c"], ["b"]]


def test_an_answer_of_very_many_tokens_is_not_kept() -> None:
    gate = Gate()
    tasks = Scheduler(gate)
    for _ in range(2):
        assert tasks.answers([Count("a", scheduler.LARGEST + 1)]) == [scheduler.LARGEST + 1]
    assert len(gate.batches) == 2


def test_of_a_long_answer_only_the_end_is_seen_again() -> None:
    tasks = Scheduler(Gate())
    long = Count("a", scheduler.REPLAYED + 1)
    assert tasks.answers([long]) == [long.steps]
    assert list(tasks.follow(long)) == [long.steps]


def test_when_nobody_follows_any_more_no_further_step_is_taken() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    stream = tasks.follow(Count("a", 50))
    gate.passes.release(2)
    assert [next(stream), next(stream)] == [1, 2]
    gate.wait_for_a_step()
    stream.close()
    gate.let_all_through()
    assert tasks.answers([Count("b")]) == [3]
    assert gate.steps <= 3 + 3 and gate.batches == [["a"], ["b"]]
    assert tasks.answers([Count("a", 50)]) == [50]  # half an answer was not kept


def test_a_stream_that_is_closed_leaves_the_others_of_its_batch_alone() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    first = busy(gate, tasks)
    streams = [tasks.follow(Count("a", 9)), tasks.follow(Count("b", 9))]
    begun = [Asking(lambda stream=stream: next(stream)) for stream in streams]
    waiting(tasks, 2)
    gate.passes.release(2)
    first.answer()
    assert [one.answer() for one in begun] == [1, 1]
    streams[0].close()
    gate.let_all_through()
    assert list(streams[1]) == list(range(2, 10))
    assert gate.dropped == {"a"}


def test_what_nobody_waits_for_any_more_is_never_begun() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    first = busy(gate, tasks)
    stream = tasks.follow(Count("a"))
    begun = Asking(lambda: next(stream, "left"))
    waiting(tasks, 1)
    with tasks._lock:
        tasks._waiting[0].followers -= 1  # as when its stream is closed while it waits
    gate.let_all_through()
    first.answer()
    with pytest.raises(RuntimeError, match="nobody waits"):
        begun.answer()
    assert gate.batches == [["first"]]


def test_a_stream_that_is_never_read_asks_nothing() -> None:
    gate = Gate()
    tasks = Scheduler(gate)
    tasks.follow(Count("a"))
    assert tasks.answers([Count("b")]) == [3] and gate.batches == [["b"]]


def test_a_stream_that_is_thrown_away_is_closed() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    gate.passes.release(1)
    next(tasks.follow(Count("a", 50)))
    gc.collect()
    gate.let_all_through()
    tasks.answers([Count("b")])
    assert gate.steps <= 2 + 3


def test_a_fault_reaches_all_who_wait_and_the_next_question_is_answered() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    first = busy(gate, tasks)
    others = [Asking(lambda name=name: tasks.answers([Count(name)])) for name in "ab"]
    waiting(tasks, 2)
    gate.passes.release(1)
    first.answer()
    gate.fault = ValueError("broken")
    gate.let_all_through()
    for one in others:
        with pytest.raises(ValueError, match="broken"):
            one.answer()
    gate.fault = None
    assert tasks.answers([Count("a")]) == [3]


def test_closing_ends_the_wait_within_a_step() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    running = Asking(lambda: tasks.answers([Count("a", 50)]))
    gate.wait_for_a_step()
    later = Asking(lambda: tasks.answers([Count("b", group="other")]))
    waiting(tasks, 1)
    tasks.close()
    with pytest.raises(RuntimeError, match="the engine is closed"):
        later.answer()
    gate.let_all_through()
    tasks.wait(PATIENCE_S)
    for asking in (running.answer, lambda: tasks.answers([Count("c")])):
        with pytest.raises(RuntimeError, match="the engine is closed"):
            asking()
    assert gate.steps == 1


def test_draining_answers_what_was_asked_and_refuses_what_is_new() -> None:
    gate = Gate(open=False)
    tasks = Scheduler(gate)
    running = Asking(lambda: tasks.answers([Count("a")]))
    gate.wait_for_a_step()
    draining = Asking(lambda: tasks.drain(PATIENCE_S))
    while not tasks.draining:
        draining.thread.join(0.005)
    with pytest.raises(RankError, match="shut down"):
        tasks.answers([Count("b")])
    gate.let_all_through()
    draining.answer()
    assert running.answer() == [3]


def test_one_thread_does_all_the_work_and_ends_when_it_is_closed() -> None:
    tasks, seen = Scheduler(Gate()), set()
    before = set(threading.enumerate())
    for number in range(3):
        tasks.answers([Count(str(number))])
        tasks.wait(PATIENCE_S)
        seen |= set(threading.enumerate()) - before
    assert len(seen) == 1
    tasks.close()
    [thread] = seen
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_the_thread_ends_after_a_while_and_another_takes_its_place(monkeypatch) -> None:
    monkeypatch.setattr(scheduler, "IDLE_S", 0.01)
    tasks = Scheduler(Gate())
    before = set(threading.enumerate())
    for number in range(2):
        assert tasks.answers([Count(str(number))]) == [3]
        for thread in set(threading.enumerate()) - before:
            thread.join(PATIENCE_S)
            assert not thread.is_alive()


PROGRAM = """
import os, threading, time
from mt5.scheduler import Scheduler
from tests.test_scheduler import Count, Gate
tasks = Scheduler(Gate())
tasks.answers([Count("first")])
"""
LATER = """
def later():
    time.sleep(0.3)
    found = [tasks.answers([Count(str(n))])[0] for n in range(3)]
    os.write(1, f"{found}\\n".encode())
for _ in range(2):
    threading.Thread(target=later).start()
"""
CHILD = """
child = os.fork()
os.write(1, f"{tasks.answers([Count('in both')])}\\n".encode())
if child:
    os.waitpid(child, 0)
"""
AMID_FORK = """
tasks.network.open = False
threading.Thread(target=lambda: tasks.answers([Count("in both")])).start()
tasks.network.arrived.acquire()
tasks.network.arrived.acquire()
child = os.fork()
tasks.network.let_all_through()
os.write(1, f"{tasks.answers([Count('in both')])}\\n".encode())
if child:
    os.waitpid(child, 0)
"""
FREED = """
class Heavy(Gate):
    def __del__(self):
        time.sleep(0.3)
        os.write(1, b"freed\\n")
heavy = Scheduler(Heavy())
heavy.answers([Count("first")])
heavy.close()
del heavy
"""
AMID = """
tasks.network.open = False
stream = tasks.follow(Count("never asked for again"))
threading.Timer(0.3, tasks.network.let_all_through).start()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("what", "said"),
    [
        (LATER, "[3, 3, 3]\n" * 2),
        (CHILD, "[3]\n" * 2),
        (AMID_FORK, "[3]\n" * 2),
        (AMID, ""),
        (FREED, "freed\n"),
    ],
    ids=[
        "the main thread has ended",
        "a fork",
        "a fork amid a step",
        "a step that nobody waits for",
        "weights are freed",
    ],
)
def test_answers_come_and_the_process_ends_after(what: str, said: str) -> None:
    command = [sys.executable, "-W", "ignore", "-c", PROGRAM + what]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_who_closes_from_the_working_thread_does_not_wait_for_itself() -> None:
    tasks = Scheduler(Gate())
    took = []

    def step() -> None:
        began = time.monotonic()
        tasks.close()
        tasks.wait(PATIENCE_S)
        took.append(time.monotonic() - began)

    tasks.network.step = step
    with pytest.raises(RuntimeError, match="closed"):
        tasks.answers([Count("a")])
    assert took and took[0] < PATIENCE_S / 2


def test_a_crowd_that_comes_and_goes_gets_its_own_answers() -> None:
    tasks = Scheduler(Gate())

    def visit(number: int) -> list[int]:
        found = []
        for turn in range(20):
            steps = 1 + (number * 7 + turn) % 9
            stream = tasks.follow(Count(f"{number % 5}-{turn % 3}", steps, group=str(turn % 2)))
            if turn % 4 == 3:
                next(stream)
                stream.close()
                continue
            found.append(list(stream) == list(range(1, steps + 1)))
        return found

    crowd = [Asking(lambda number=number: visit(number)) for number in range(40)]
    assert all(all(one.answer()) for one in crowd)
    tasks.wait(PATIENCE_S)  # what was left is ended at the next step
    assert not tasks._current and len(tasks._known) <= scheduler.KNOWN
