"""Stands before the page: no body too large or too slow, nobody too often, and says how the model is."""

import asyncio
import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LARGEST_BODY = 1_200_000  # bytes: a file of 1 MB and what is around it
BODY_S = 20.0
SESSION = re.compile(rb'"session_hash"\s*:\s*"([^"]{1,64})"')
NOSNIFF = (b"x-content-type-options", b"nosniff")
REMEMBERED = 10_000  # addresses and sessions


class Buckets:
    """Lets each key do `burst` things at once and `rate` more every second."""

    def __init__(self, burst: float, rate: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.burst, self.rate, self.clock = burst, rate, clock
        self._left: OrderedDict[Any, tuple[float, float]] = OrderedDict()

    def take(self, key: Any) -> bool:
        """Whether `key` may do one more thing now."""
        now = self.clock()
        left, since = self._left.pop(key, (self.burst, now))
        left = min(self.burst, left + (now - since) * self.rate)
        self._left[key] = (left - 1 if left >= 1 else left, now)
        if len(self._left) > REMEMBERED:
            self._left.popitem(last=False)
        return left >= 1


class Guard:
    """Passes on what it lets through. health: the state of the model and what a person should know."""

    def __init__(self, app: App, health: Callable[[], tuple[str, str]]) -> None:
        self.app, self.health = app, health
        # a class shares an address; a session is one browser tab, whose page asks several things at a click
        self.addresses, self.sessions = Buckets(600, 60), Buckets(60, 6)

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"] == "/health":
            state, message = self.health()
            return await _answer(
                send, 200 if state in ("ready", "reduced") else 503, {"state": state, "message": message}
            )
        if scope["method"] != "POST":
            return await self.app(_without_page(scope), receive, _sniffless(send))
        if not self.addresses.take(address(scope)):
            return await _refuse(send, 429, "Too many requests from this address. Wait a little.")
        try:
            async with asyncio.timeout(BODY_S):
                body = await _body(scope, receive)
        except TimeoutError:
            return await _refuse(send, 408, f"The request took longer than {BODY_S:.0f} s to arrive.")
        if body is None:
            return await _refuse(send, 413, f"The request is larger than {LARGEST_BODY:,} bytes.")
        found = SESSION.search(body)
        if found and not self.sessions.take(found[1]):
            return await _refuse(send, 429, "Too many requests from this page. Wait a little.")
        return await self.app(scope, _again(body, receive), _sniffless(send))


def guarding(health: Callable[[], tuple[str, str]]) -> list[tuple[Any, ...]]:
    """The guard as FastAPI takes it: class, arguments, keywords."""
    return [(Guard, (), {"health": health})]


def address(scope: Message) -> str:
    """Who asks; behind the proxy of a Space, the last hop that it names, which nobody else can write."""
    if os.environ.get("SPACE_ID"):
        for name, value in scope["headers"]:
            if name == b"x-forwarded-for":
                return value.decode("latin-1").rpartition(",")[2].strip()
    return str((scope.get("client") or ("",))[0])


def _without_page(scope: Message) -> Message:
    """Without `page`, by which gradio looks for pages that are not there, and fails."""
    kept = [part for part in scope.get("query_string", b"").split(b"&") if not part.startswith(b"page=")]
    return {**scope, "query_string": b"&".join(kept)}


async def _body(scope: Message, receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large; what is too large is not read."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > LARGEST_BODY:
        return None
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        part = message.get("body", b"")
        parts.append(part)
        size, more = size + len(part), message.get("more_body", False)
        if size > LARGEST_BODY:
            return None
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    first = True

    async def replay() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay


def _sniffless(send: Send) -> Send:
    async def marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), NOSNIFF]}
        await send(message)

    return marked


async def _refuse(send: Send, status: int, detail: str) -> None:
    await _answer(send, status, {"detail": detail})


async def _answer(send: Send, status: int, content: dict[str, str]) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close"), NOSNIFF]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
