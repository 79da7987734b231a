"""Tasks of many threads, answered by one network in batches; what was answered lately is known."""

import atexit
import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from typing import Any
from weakref import WeakSet

from mt5.errors import RankError
from mt5.network import Network
from mt5.tasks import Task

ROWS = 64
"""Rows of a batch: more of them take memory, and are no quicker each."""
KNOWN = 256
"""Answers that are kept."""
LARGEST = 1_000
"""Tokens of an answer that is kept."""
REPLAYED = 128
"""States of an answer that are kept, so that who asks again sees it come about again."""
IDLE_S, EXIT_S = 5.0, 10.0
"""How long the thread stays when there is nothing to do; how long the interpreter waits for its end."""
STEP_S, ROW_S = 60.0, 10.0
"""A step that takes longer than this, and so much more for each row of its batch, will not end."""


class Job:
    """A task, and its states as they come; all who ask the same follow the same job."""

    def __init__(self, task: Task, lock: threading.RLock) -> None:
        self.task, self.group = task, (type(task), task.group)
        self.states: deque[Any] = deque(maxlen=REPLAYED)
        self.count = self.followers = 0
        self.done = False
        self.fault: BaseException | None = None
        self.changed, self.ended = threading.Condition(lock), threading.Condition(lock)

    def add(self, state: Any) -> None:
        self.states.append(state)
        self.count += 1
        self.changed.notify_all()

    def end(self, fault: BaseException | None = None) -> None:
        self.done, self.fault = True, fault
        self.changed.notify_all()
        self.ended.notify_all()


class Scheduler:
    """A network that several threads use. One thread does the work, and stays a while when there is none.

    A new one would start without the threads and the scratch memory that the last one's products had.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._begin()

    def _begin(self) -> None:
        # reentrant: a stream that the garbage collector ends leaves its job wherever the collector runs
        self._lock = threading.RLock()
        self._waiting: list[Job] = []
        self._current: dict[Task, Job] = {}  # waiting or worked on
        self._known: OrderedDict[Task, Job] = OrderedDict()
        self._thread: threading.Thread | None = None
        self._arrived, self._finished = threading.Condition(self._lock), threading.Condition(self._lock)
        self._working = False
        self._refusal: Exception | None = None
        self._closed = False
        self._due: float | None = None  # when the step that is taken now should have ended

    @property
    def hangs(self) -> bool:
        """Whether what is worked on makes no progress."""
        due = self._due
        return due is not None and time.monotonic() > due

    def follow(self, task: Task) -> Iterator[Any]:
        """The states of a task as they come; when nobody follows it any more, no further step is taken."""
        [job] = self._join([task])
        seen = 0
        try:
            while True:
                with self._lock:
                    while job.count == seen and not job.done:
                        job.changed.wait()
                    if job.count == seen:
                        break
                    seen = max(seen, job.count - len(job.states))  # who is far behind misses some
                    state = job.states[seen - job.count]
                    seen += 1
                yield state
            if job.fault:
                raise job.fault
        finally:
            self._leave([job])

    def answers(self, tasks: Sequence[Task], *, known: bool = True) -> list[Any]:
        """The last state of each task. known: an answer that is known will do."""
        jobs = self._join(tasks, known=known)
        try:
            for job in jobs:
                with self._lock:
                    while not job.done:
                        job.ended.wait()  # who wants the end is not woken by every step
                if job.fault:
                    raise job.fault
            return [job.states[-1] for job in jobs]
        finally:
            self._leave(jobs)

    def drain(self, timeout_s: float) -> None:
        """Refuse what is new, and wait until everything else is answered."""
        with self._lock:
            self._refusal = self._refusal or RankError("The model is being shut down. Try again later.")
        self.wait(timeout_s)

    @property
    def draining(self) -> bool:
        return self._refusal is not None

    def close(self) -> None:
        """Answer no more, not even with the next step; who still waits gets a RuntimeError."""
        with self._lock:
            self._closed, self._refusal = True, _closed()
            for job in self._waiting:
                job.end(_closed())
            self._waiting.clear()
            self._current.clear()
            self._known.clear()
            self._arrived.notify()

    def wait(self, timeout_s: float) -> None:
        """Wait until there is nothing to do."""
        if threading.current_thread() is not self._thread:
            with self._lock:
                self._finished.wait_for(lambda: not (self._working or self._waiting), timeout_s)

    def _join(self, tasks: Sequence[Task], *, known: bool = True) -> list[Job]:
        with self._lock:
            if self._refusal:
                raise self._refusal
            jobs = [self._job(task, known) for task in tasks]
            for job in jobs:
                job.followers += 1
            if self._waiting:
                self._wake()
            return jobs

    def _wake(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            # a daemon, because the interpreter does not end before others; see `_unfinished` for its own end
            self._thread = threading.Thread(target=self._work, name="mt5", daemon=True)
            schedulers, threads = _unfinished()
            schedulers.add(self)
            self._thread.start()
            threads.add(self._thread)
        self._arrived.notify()

    def forked(self) -> None:
        """Begin anew in a process that was forked: the thread and the jobs are those of the other one."""
        refusal, closed = self._refusal, self._closed
        self._begin()
        self._refusal, self._closed = refusal, closed

    def _job(self, task: Task, known: bool) -> Job:
        if known and task in self._known:
            self._known.move_to_end(task)
            return self._known[task]
        if known and task in self._current:
            return self._current[task]
        job = Job(task, self._lock)
        self._waiting.append(job)
        if known:
            self._current[task] = job
        return job

    def _leave(self, jobs: Sequence[Job]) -> None:
        with self._lock:
            for job in jobs:
                job.followers -= 1

    def _work(self) -> None:
        while batch := self._next():
            fault = self._run(batch)
            with self._lock:
                for job in batch:
                    if not job.done:
                        self._end(job, fault)

    def _next(self) -> list[Job]:
        """The next batch, when there is one; [] ends the thread."""
        with self._lock:
            while not (batch := self._batch()):
                self._working = False
                self._finished.notify_all()
                if self._closed or not (self._arrived.wait(IDLE_S) or self._waiting):
                    self._thread = None
                    return []
            self._working = True
            return batch

    def _batch(self) -> list[Job]:
        """The job that has waited longest, and others that can share its batch."""
        for job in self._waiting:
            if not job.followers:
                self._end(job, _left())
        self._waiting = [job for job in self._waiting if not job.done]
        batch: list[Job] = []
        room = ROWS
        for job in self._waiting:
            if not batch or (job.group == batch[0].group and job.task.rows <= room):
                batch.append(job)
                room -= job.task.rows
        self._waiting = [job for job in self._waiting if job not in batch]
        return sorted(batch, key=lambda job: len(job.task.source))

    def _run(self, batch: Sequence[Job]) -> BaseException | None:
        """Work until every job of the batch has ended; returns what went wrong."""
        step_s = STEP_S + ROW_S * sum(job.task.rows for job in batch)
        left: set[int] | None = None
        try:
            with closing(batch[0].task.run(self.network, [job.task for job in batch])) as steps:
                while any(not job.done for job in batch):
                    self._due = time.monotonic() + step_s
                    left = self._publish(batch, steps.send(left or None))
        except StopIteration:
            return None
        except BaseException as fault:
            return fault
        finally:
            self._due = None
        return None

    def _publish(self, batch: Sequence[Job], states: Sequence[Any]) -> set[int]:
        """Hand a state to each job; returns the numbers of those that nobody waits for any more."""
        left = set()
        with self._lock:
            for number, (job, state) in enumerate(zip(batch, states, strict=True)):
                if job.done:
                    continue
                if self._closed or not job.followers:
                    left.add(number)
                    self._end(job, _closed() if self._closed else _left())
                    continue
                job.add(state)
                if job.task.ended(state):
                    self._end(job)
        return left

    def _end(self, job: Job, fault: BaseException | None = None) -> None:
        job.end(fault)
        if self._current.get(job.task) is not job:  # it was not to be known
            return
        del self._current[job.task]
        if fault is None and job.states and job.task.size(job.states[-1]) <= LARGEST:
            if job.count > REPLAYED:  # its beginning is gone
                job.states = deque([job.states[-1]])
            self._known[job.task] = job
            if len(self._known) > KNOWN:
                self._known.popitem(last=False)


@cache
def _unfinished() -> tuple[WeakSet[Scheduler], WeakSet[threading.Thread]]:
    """What may be at work, which the interpreter must not end amid a product or while weights are freed."""
    schedulers: WeakSet[Scheduler] = WeakSet()
    threads: WeakSet[threading.Thread] = WeakSet()

    def end() -> None:
        for scheduler in list(schedulers):
            scheduler.close()
        until = time.monotonic() + EXIT_S
        for thread in list(threads):
            thread.join(max(0, until - time.monotonic()))

    def forked() -> None:
        for scheduler in list(schedulers):
            scheduler.forked()

    atexit.register(end)
    if hasattr(os, "register_at_fork"):  # Windows has none, and no fork
        os.register_at_fork(after_in_child=forked)
    return schedulers, threads


def _closed() -> RuntimeError:
    return RuntimeError("the engine is closed")


def _left() -> RuntimeError:
    return RuntimeError("nobody waits for the answer any more")
