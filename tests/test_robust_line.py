"""Who waits in the queue (rows L3, L5 and L7 of the table of faults)."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from mt5.web import line
from mt5.web.line import Line


class Queue:
    """Gradio's queue as the line sees it: what waits, and what runs."""

    max_size = 8

    def __init__(self, *sessions: str) -> None:
        self.waiting = [self.event(session) for session in sessions]
        self.event_queue_per_concurrency_id = {"model": SimpleNamespace(queue=self.waiting)}
        self.active_jobs: list[list[Any] | None] = [None]
        self.pending_messages_per_session = dict.fromkeys(sessions)
        self.pending_event_ids_session = dict.fromkeys(sessions)

    @staticmethod
    def event(session: str) -> SimpleNamespace:
        return SimpleNamespace(session_hash=session, alive=True)

    def __len__(self) -> int:
        return len(self.waiting)

    async def clean_events(self, session_hash: str) -> None:
        self.waiting[:] = [event for event in self.waiting if event.session_hash != session_hash]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "HELD_S", 0.05)
    monkeypatch.setattr(line, "LISTEN_S", 0.05)


async def joined(queue: Queue, *addresses: str) -> Line:
    own = Line()
    for event, address in zip(queue.waiting, addresses, strict=True):
        own.joined(queue, event.session_hash, address)
    return own


def refusal(queue: Queue, addresses: tuple[str, ...], session: str, address: str) -> int:
    async def ask() -> int:
        async with (await joined(queue, *addresses)).place(queue, session, address) as found:
            return found[0] if found else 200

    return asyncio.run(ask())


def test_l3_when_all_places_are_taken_the_next_is_asked_to_come_again() -> None:
    assert refusal(Queue(*"abcdefgh"), tuple("12345678"), "i", "9") == 503
    assert refusal(Queue(*"abcdefg"), tuple("1234567"), "i", "9") == 200


def test_l5_one_address_has_half_of_the_places_and_others_still_get_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(line, "LISTEN_S", 60)
    queue, addresses = Queue(*"abcd"), ("1",) * 4
    assert refusal(queue, addresses, "e", "1") == 503
    assert refusal(queue, addresses, "e", "2") == 200


def test_l5_an_address_with_its_share_gets_in_once_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    # those before it are dropped while it waits, for nobody listens to them
    monkeypatch.setattr(line, "HELD_S", 5)
    assert refusal(Queue(*"abcd"), ("1",) * 4, "e", "1") == 200


def test_l5_one_tab_has_two_requests() -> None:
    queue = Queue("a", "b")
    queue.active_jobs = [[Queue.event("a")], None]
    assert refusal(queue, ("1", "1"), "a", "1") == 429
    assert refusal(queue, ("1", "1"), "b", "1") == 200


def test_l5_requests_that_come_at_the_same_moment_do_not_pass_each_other() -> None:
    async def ask() -> list[int]:
        own, queue, told = Line(), Queue(), []

        async def one() -> None:
            async with own.place(queue, "a", "1") as found:
                told.append(found[0] if found else 200)
                await asyncio.sleep(0.01)  # as long as joining takes

        await asyncio.gather(*(one() for _ in range(4)))
        return told

    assert sorted(asyncio.run(ask())) == [200, 200, 429, 429]


def test_l7_what_nobody_listens_to_is_dropped_and_what_is_listened_to_stays() -> None:
    async def wait() -> Queue:
        queue = Queue("heard", "left")
        own = await joined(queue, "1", "1")
        with own.listening("heard"):
            await asyncio.sleep(0.2)
        return queue

    queue = asyncio.run(wait())
    assert [event.session_hash for event in queue.waiting] == ["heard"]
    assert list(queue.pending_messages_per_session) == ["heard"]


def test_l7_who_asks_again_in_a_tab_has_time_to_listen_again() -> None:
    async def wait() -> Queue:
        queue, own = Queue("a"), Line()
        for _ in range(3):
            own.joined(queue, "a", "1")
            await asyncio.sleep(0.03)
        return queue

    assert len(asyncio.run(wait())) == 1
