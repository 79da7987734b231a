"""Load on the page as it is shipped: `python -m tests.load [SCENARIO …]`; prints a row for each scenario.

The visitors run on the same machine as the page, which they slow down. Only this machine is asked.
"""

import asyncio
import json
import random
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

import mt5
from mt5.languages import examples
from tests.browser.driving import ROOT, Server, unused_port
from tests.served import Visitor

# the page closes a connection that is idle for 5 s, perhaps at the moment it is used again
ONE_REQUEST_EACH = httpx.Limits(max_connections=600, max_keepalive_connections=0)
SOON_AGAIN = httpx.Limits(max_connections=600, keepalive_expiry=2)
PROMPTS = [example.prompt for example in examples()]


@dataclass
class Counted:
    """What visitors met with. times_s: from the click to the whole answer."""

    times_s: list[float] = field(default_factory=list)
    errors: int = 0
    refused: int = 0

    def percentile(self, share: float) -> float:
        times = sorted(self.times_s)
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")


class Class:
    """Visitors of one page."""

    def __init__(self, visitor: Visitor) -> None:
        self.visitor, self.counted, self.rng = visitor, Counted(), random.Random(1)
        self.client = httpx.AsyncClient(base_url=visitor.url, timeout=120, trust_env=False, limits=SOON_AGAIN)

    async def fill(self, prompt: str, session: str | None = None) -> None:
        """One click on Fill, up to the last token, in a tab of its own unless a session is given."""
        body = self.visitor.request(prompt, session or uuid.uuid4().hex[:12])
        began = time.monotonic()
        try:
            joined = await self.client.post("/gradio_api/queue/join", json=body)
            if joined.status_code in (429, 503):
                self.counted.refused += 1
                return
            joined.raise_for_status()
            path = f"/gradio_api/queue/data?session_hash={body['session_hash']}"
            async with self.client.stream("GET", path) as stream:
                async for row in stream.aiter_lines():
                    if '"process_completed"' in row:
                        self.counted.errors += not json.loads(row.removeprefix("data: "))["success"]
                        break
            self.counted.times_s.append(time.monotonic() - began)
        except (httpx.HTTPError, ValueError):
            self.counted.errors += 1

    async def pupil(self, fills: int, start_s: float, think_s: float) -> None:
        await asyncio.sleep(self.rng.random() * start_s)
        for _ in range(fills):
            await self.fill(self.rng.choice(PROMPTS))
            await asyncio.sleep(think_s * self.rng.uniform(0.5, 1.5))

    async def learn(self, pupils: int, fills: int, start_s: float, think_s: float) -> None:
        await asyncio.gather(*(self.pupil(fills, start_s, think_s) for _ in range(pupils)))


async def pupils_50(room: Class) -> None:
    await room.learn(50, 6, 1, 0)


async def pupils_200(room: Class) -> None:
    await room.learn(200, 4, 2, 20)


async def sessions_2100(room: Class) -> None:
    """A long request waits while 2,100 others come, each of a new session; it is answered in the end."""
    victim = asyncio.create_task(room.fill(" ".join(["a <mask>"] * 60)))
    gate = asyncio.Semaphore(40)

    async def come(number: int) -> None:
        async with gate:
            body: dict[str, Any] = room.visitor.request(f"a {number} <mask>", uuid.uuid4().hex[:12])
            status = (await room.client.post("/gradio_api/queue/join", json=body)).status_code
            room.counted.refused += status in (429, 503)
            room.counted.errors += status not in (200, 429, 503)

    await asyncio.gather(*(come(number) for number in range(2_100)))
    await victim
    await asyncio.sleep(35)  # nobody has listened to the others
    for _ in range(5):
        await room.fill("La capitale de la France est <mask>.")


SCENARIOS = {"50 users": pupils_50, "200 users, 20 s think": pupils_200, "2,100 sessions": sessions_2100}


def served(names: list[str]) -> None:
    """Run scenarios against the page, each on a page of its own."""
    print(
        "|scenario|answered|errors|refused|p50 s|p95 s|RSS MB before → after|\n|---|---|---|---|---|---|---|"
    )
    for name in names:
        server = Server(Path(tempfile.mkdtemp()) / "log", str(ROOT / "app.py"), "--port", unused_port())
        try:
            asyncio.run(scenario(name, server))
        finally:
            server.close()


async def scenario(name: str, server: Server) -> None:
    visitor = Visitor(server)
    room = Class(visitor)
    await room.fill(PROMPTS[0])
    room.counted, before = Counted(), visitor.rss
    await SCENARIOS[name](room)
    counted, after = room.counted, visitor.rss
    await room.client.aclose()
    times = f"{counted.percentile(0.5):.1f}|{counted.percentile(0.95):.1f}"
    memory = f"{before >> 20} → {after >> 20}"
    answered = len(counted.times_s)
    print(f"|{name}|{answered}|{counted.errors}|{counted.refused}|{times}|{memory}|", flush=True)


def fills_1000() -> None:
    """Memory of an engine over a thousand different prompts, the first two hundred warming it up."""
    with mt5.open(ROOT / "assets" / "model") as engine:
        for number in range(1_200):
            if number == 200:
                before = _rss()
            engine.fill(f"{number} {PROMPTS[number % len(PROMPTS)]}")
        print(f"1,000 fills: resident memory {before >> 20} → {_rss() >> 20} MB", flush=True)


def _rss() -> int:
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) << 10


if __name__ == "__main__":
    chosen = sys.argv[1:] or [*SCENARIOS, "1,000 fills"]
    served([name for name in chosen if name in SCENARIOS])
    if "1,000 fills" in chosen:
        fills_1000()
