"""Many visitors of a page at once (rows L1 to L6, L8 and L9 of the table of faults), on no real engine.

The visitors run on the same machine as the page. Figures on the embedded model: `make load`. What of
these rows needs no clock is in test_robust_line.py and test_robust_network.py.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from statistics import median
from typing import Any

import httpx
import pytest

from tests.browser.driving import Server
from tests.load import ONE_REQUEST_EACH, Class
from tests.served import Visitor, started

pytestmark = [pytest.mark.slow, pytest.mark.nightly]  # waits and memory are those of a machine that is idle
AT_ONCE, PLACES = 16, 256


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = started(tmp_path_factory.mktemp("load"), short=False)
    yield server
    server.close()
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def visitor(server: Server) -> Iterator[Visitor]:
    visitor = Visitor(server)
    yield visitor
    assert visitor.healthy()
    visitor.client.close()


def lesson(visitor: Visitor, pupils: int, fills: int, start_s: float, think_s: float) -> Class:
    async def learn() -> Class:
        room = Class(visitor)
        await room.learn(pupils, fills, start_s, think_s)
        await room.client.aclose()
        return room

    return asyncio.run(learn())


def test_l1_fifty_pupils_who_never_pause_wait_two_seconds_at_most(visitor: Visitor) -> None:
    counted = lesson(visitor, 50, 4, 1, 0).counted
    assert (counted.errors, counted.refused, len(counted.times_s)) == (0, 0, 200)
    assert counted.percentile(0.95) <= 2
    assert visitor.rss <= 250 << 20


def test_l2_two_hundred_pupils_who_start_together_wait_three_seconds_at_most(visitor: Visitor) -> None:
    counted = lesson(visitor, 200, 2, 2, 20).counted
    assert (counted.errors, counted.refused, len(counted.times_s)) == (0, 0, 400)
    assert counted.percentile(0.95) <= 3


class Tabs:
    """Browser tabs that ask for something long and listen. addresses: of loopback, which they come from."""

    def __init__(self, visitor: Visitor, stack: AsyncExitStack, addresses: int) -> None:
        self.visitor, self.stack = visitor, stack
        self.clients = [
            httpx.AsyncClient(
                base_url=visitor.url,
                timeout=60,
                transport=httpx.AsyncHTTPTransport(
                    local_address=f"127.0.0.{number}", limits=ONE_REQUEST_EACH
                ),
            )
            for number in range(1, addresses + 1)
        ]

    async def join(self, prompt: str, client: int = 0) -> tuple[httpx.Response, str]:
        session = uuid.uuid4().hex[:12]
        body = self.visitor.request(prompt, session)
        return await self.clients[client].post("/gradio_api/queue/join", json=body), session

    async def listen(self, session: str, client: int = 0) -> httpx.Response:
        path = f"/gradio_api/queue/data?session_hash={session}"
        return await self.stack.enter_async_context(self.clients[client].stream("GET", path))

    async def open(self, count: int, client: int = 0) -> None:
        """So many tabs that are let in."""

        async def one() -> None:
            answer, session = await self.join("slow <mask>", client)
            assert answer.status_code == 200
            await self.listen(session, client)

        await asyncio.gather(*(one() for _ in range(count)))

    async def waiting(self) -> int:
        return (await self.clients[0].get("/gradio_api/queue/status")).json()["queue_size"]


@asynccontextmanager
async def tabs(visitor: Visitor, addresses: int = 1) -> AsyncIterator[Tabs]:
    async with AsyncExitStack() as stack:
        opened = Tabs(visitor, stack, addresses)
        yield opened
    for client in opened.clients:
        await client.aclose()


async def told(opened: Tabs, waiting: int, within_s: float) -> None:
    """So many wait, soon."""
    end = time.monotonic() + within_s
    while (found := await opened.waiting()) != waiting:
        assert time.monotonic() < end, found
        await asyncio.sleep(0.05)


def test_l3_who_comes_when_all_places_are_taken_is_told_so_at_once(visitor: Visitor) -> None:
    async def crowd() -> None:
        async with tabs(visitor, 4) as opened:
            for client, count in enumerate((AT_ONCE + 100, 100, PLACES - 200)):
                await opened.open(count, client)
            await told(opened, PLACES, 5)
            began = time.monotonic()
            answer, _ = await opened.join("a <mask>", 3)
            assert time.monotonic() - began <= 1
            assert answer.status_code == 503 and "256 requests" in answer.json()["detail"]
            assert int(answer.headers["retry-after"]) > 0
            await opened.stack.aclose()
            await told(opened, 0, 2)
            assert (await opened.join("a <mask>", 3))[0].status_code == 200

    asyncio.run(crowd())


def test_l5_a_flood_from_one_address_leaves_room_and_speed_to_others(visitor: Visitor) -> None:
    async def flood() -> None:
        async with tabs(visitor, 2) as opened:
            alone = [await wait_of(opened) for _ in range(9)]
            await opened.open(AT_ONCE - 2)  # the flood leaves two of the engine's places: others take turns
            flooding = asyncio.gather(*(opened.join("a <mask>") for _ in range(150)))
            beside = [await wait_of(opened) for _ in range(9)]
            assert {answer.status_code for answer, _ in await flooding} <= {200, 503}
            assert median(beside) <= 2 * max(median(alone), 0.05)

    asyncio.run(flood())


async def wait_of(opened: Tabs) -> float:
    """How long a visitor of the second address waits for an answer."""
    began = time.monotonic()
    _, session = await opened.join("a <mask>", 1)
    async with opened.clients[1].stream("GET", f"/gradio_api/queue/data?session_hash={session}") as stream:
        async for row in stream.aiter_lines():
            if '"process_completed"' in row:
                return time.monotonic() - began
    raise AssertionError("no answer")


def test_l6_a_hundred_tabs_that_are_closed_leave_nothing_to_do(visitor: Visitor) -> None:
    async def crowd() -> None:
        async with tabs(visitor) as opened:
            await opened.open(100)
            await told(opened, 100 - AT_ONCE, 5)
            await opened.stack.aclose()
            await told(opened, 0, 1)
            await asyncio.sleep(0.5)  # a step takes 0.1 s
            before = visitor.server.tokens
            await asyncio.sleep(1)
            assert visitor.server.tokens == before

    asyncio.run(crowd())


def come(visitor: Visitor, sessions: int) -> Class:
    """So many visitors, each of a new session, who ask and never listen."""

    async def all_of_them() -> Class:
        room, gate = Class(visitor), asyncio.Semaphore(40)

        async def one(number: int) -> None:
            async with gate:
                body = visitor.request(f"a {number} <mask>", uuid.uuid4().hex[:12])
                status = (await room.client.post("/gradio_api/queue/join", json=body)).status_code
                room.counted.refused += status in (429, 503)
                room.counted.errors += status not in (200, 429, 503)

        await asyncio.gather(*(one(number) for number in range(sessions)))
        await room.client.aclose()
        return room

    return asyncio.run(all_of_them())


def test_l4_two_thousand_sessions_do_not_stop_the_queue_nor_lose_who_waits(visitor: Visitor) -> None:
    assert visitor.healthy()
    before, session = visitor.rss, uuid.uuid4().hex[:12]
    assert visitor.join("slow <mask>", session).status_code == 200

    def listen() -> dict[str, Any]:
        with visitor.listening(session) as messages:
            return next(message for message in messages if message["msg"] == "process_completed")

    with ThreadPoolExecutor(1) as waiting:
        answer = waiting.submit(listen)  # a page reads what it is sent, as it comes
        assert come(visitor, 2_100).counted.errors == 0
        last = answer.result()
    assert last["success"] and "slow slow" in str(last["output"]["data"])
    assert visitor.healthy() and visitor.get("/health").status_code == 200
    assert visitor.rss - before < 50 << 20


def test_l9_a_thousand_fills_take_no_memory(visitor: Visitor) -> None:
    async def work() -> int:
        room = Class(visitor)
        for number in range(1_200):
            if number == 200:
                before = visitor.rss
            # a tab that asks more often at a stretch is told to wait
            await room.fill(f"{number} <mask>", f"diligent-{number // 50}")
        assert (room.counted.errors, room.counted.refused) == (0, 0)
        await room.client.aclose()
        return visitor.rss - before

    assert asyncio.run(work()) < 20 << 20


def test_l8_ten_thousand_sessions_leave_less_than_a_megabyte_a_thousand(visitor: Visitor) -> None:
    def held_after(sessions: int) -> int:
        assert come(visitor, sessions).counted.errors == 0
        time.sleep(32)  # until those who never listened are forgotten
        assert visitor.healthy()
        return visitor.rss

    warm = held_after(3_000)
    assert (held_after(7_000) - warm) / 7 < 1 << 20
