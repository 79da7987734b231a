"""Who waits in Gradio's queue: fair shares of it, and no work for those who have gone."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

SESSION_AT_ONCE = 2  # requests of one browser tab
ADDRESS_SHARE = 0.5  # of the queue: a class shares an address
HELD_S = 10.0
"""So long a request of an address that has its share waits for room."""
LISTEN_S = 30.0
"""A request whose answer nobody has come for by then is dropped."""
REMEMBERED = 10_000  # sessions


class Line:
    """What the guard knows of those who wait: their addresses, and which of them listen."""

    def __init__(self) -> None:
        # session → its address, and how many had joined when it last did
        self._known: OrderedDict[str, tuple[str, int]] = OrderedDict()
        self._joined = 0
        self._coming: list[tuple[str, str]] = []  # session and address of who was let in and has not joined
        self._listening: Counter[str] = Counter()
        self._dropping: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def place(self, queue: Any, session: str, address: str) -> AsyncIterator[tuple[int, str] | None]:
        """Hold a place for a request while it joins; status and text when there is none.

        session: of a browser tab; empty for a request that is none's.
        """
        refusal = await self._refusal(queue, session, address)
        if refusal:
            yield refusal
            return
        self._coming.append((session, address))
        try:
            yield None
        finally:
            self._coming.remove((session, address))

    async def _refusal(self, queue: Any, session: str, address: str) -> tuple[int, str] | None:
        if session and self._held(queue, 0).count(session) >= SESSION_AT_ONCE:
            return 429, f"This page has {SESSION_AT_ONCE} requests running. Wait until one is done."
        end, most = time.monotonic() + HELD_S, (queue.max_size or 256) * ADDRESS_SHARE
        while len(queue) + len(self._coming) < (queue.max_size or 256):
            if self._held(queue, 1).count(address) < most:
                return None
            if time.monotonic() > end:
                break
            await asyncio.sleep(0.2)
        return 503, f"Many are waiting: {len(queue)} requests. Try again in half a minute."

    def _held(self, queue: Any, which: int) -> list[str]:
        """Of every request that waits, runs or is about to join: its session (0) or its address (1)."""
        sessions = [event.session_hash for event in events(queue)]
        known = [(session, self._known.get(session, ("", 0))[0]) for session in sessions]
        return [one[which] for one in (*known, *self._coming)]

    def joined(self, queue: Any, session: str, address: str) -> None:
        """Remember a session that has joined, and look later whether anyone listens."""
        self._joined += 1
        self._known[session] = address, self._joined
        self._known.move_to_end(session)
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        task = asyncio.get_running_loop().create_task(self._drop(queue, session, self._joined))
        self._dropping.add(task)
        task.add_done_callback(self._dropping.discard)

    @contextmanager
    def listening(self, session: str) -> Iterator[None]:
        """Somebody listens to the answers of a session."""
        self._listening[session] += 1
        try:
            yield
        finally:
            self._listening[session] -= 1
            if not self._listening[session]:
                del self._listening[session]

    async def _drop(self, queue: Any, session: str, joined: int) -> None:
        await asyncio.sleep(LISTEN_S)
        _, last = self._known.get(session, ("", joined))
        if not self._listening[session] and last == joined:  # who has joined again has time to listen again
            await queue.clean_events(session_hash=session)
            queue.pending_messages_per_session.pop(session, None)
            queue.pending_event_ids_session.pop(session, None)


def events(queue: Any) -> Iterator[Any]:
    """All that wait or run, of a queue of gradio 6.31."""
    for waiting in queue.event_queue_per_concurrency_id.values():
        yield from waiting.queue
    yield from running(queue)


def running(queue: Any) -> Iterator[Any]:
    """All that run."""
    for together in queue.active_jobs:
        yield from (event for event in together or () if event.alive)


def session_of(queue: Any, event_id: str) -> str:
    """The session of an event; its own id when it has ended."""
    event = queue.event_ids_to_events.get(event_id)
    return event.session_hash if event else event_id


def left() -> bool:
    """Whether whoever asked for what this thread works on has gone, or wants no more of it."""
    from gradio.context import LocalContext

    blocks, event_id = LocalContext.blocks.get(None), LocalContext.event_id.get(None)
    if blocks is None or event_id is None:  # nobody waits in the queue for it
        return False
    return not any(event._id == event_id for event in running(blocks._queue))
