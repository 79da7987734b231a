"""Stands before the page: no body too large or too slow, nobody too often, and says how the model is."""

import asyncio
import json
import os
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import nullcontext
from typing import Any
from urllib.parse import parse_qs

from mt5.web.line import Line, session_of
from mt5.web.memory import Returned
from mt5.web.quota import Quota

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

LARGEST_BODY = 1_200_000  # bytes: a file of 1 MB and what is around it
BODY_S, RETRY_S = 20.0, 30
LONGEST_SESSION = 64  # characters; the page's own have a dozen
EVENT = re.compile(rb'"event_id"\s*:\s*"(\w{1,64})"')
JOIN = re.compile(r"/(queue/join|call/(v2/)?\w+)/?$")
CALLED = re.compile(r"/call/(?:v2/)?\w+/(\w+)$")
TOOLS = (b"x-gradio-user", b"mcp")
"""Gradio asks on behalf of all who use the tools in one session, which is then no browser tab."""
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
        self.line, self.quota, self.memory = Line(), Quota(), Returned()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if scope["path"] == "/health":
            state, message = self._health(scope)
            return await _answer(
                send, 200 if state in ("ready", "reduced") else 503, {"state": state, "message": message}
            )
        if scope["method"] != "POST":
            with self._listening(scope):
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
        session = _session(body)
        if len(session) > LONGEST_SESSION:
            return await _refuse(send, 400, f"A session has at most {LONGEST_SESSION} characters.")
        tab = "" if TOOLS in scope["headers"] else session
        if tab and not self.sessions.take(tab):
            return await _refuse(send, 429, "Too many requests from this page. Wait a little.")
        queue = _queue(scope)
        if queue is None or not JOIN.search(scope["path"]):
            await self.app(scope, _again(body, receive), _sniffless(send))
            if scope["path"].endswith("/upload"):
                await asyncio.to_thread(self.quota.add, len(body))
            return
        async with self.line.place(queue, tab, address(scope)) as refusal:
            if refusal:
                return await _refuse(send, *refusal)
            answer = _Kept(send)
            await self.app(scope, _again(body, receive), _sniffless(answer))
            if answer.event_id:
                joined = session or session_of(queue, answer.event_id)
                self.line.joined(queue, joined, address(scope))
                self.memory.now_and_then()

    def _health(self, scope: Message) -> tuple[str, str]:
        queue = _queue(scope)
        if queue is not None and queue.stopped:
            return "failed", "The queue has stopped. Start the page again."
        return self.health()

    def _listening(self, scope: Message) -> Any:
        """A context in which a session counts as listened to, when this request is how to listen."""
        queue, path = _queue(scope), scope["path"]
        if queue is None:
            return nullcontext()
        if path.endswith("/queue/data"):
            asked = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("session_hash", [""])
            return self.line.listening(asked[0])
        if found := CALLED.search(path):
            return self.line.listening(session_of(queue, found[1]))
        return nullcontext()


def _session(body: bytes) -> str:
    """The session that a body names, read as the page's server reads it; "" when it names none."""
    try:
        named = json.loads(body)["session_hash"]
    except (ValueError, LookupError, TypeError, RecursionError):
        return ""
    return named if isinstance(named, str) else ""


class _Kept:
    """Passes an answer on and keeps the event id that it tells."""

    def __init__(self, send: Send) -> None:
        self.send, self.event_id = send, ""

    async def __call__(self, message: Message) -> None:
        if found := EVENT.search(message.get("body", b"")[:200]):
            self.event_id = found[1].decode("latin-1")
        await self.send(message)


def _queue(scope: Message) -> Any:
    """Gradio's queue; None before the page is there."""
    app = scope.get("app")
    return app.get_blocks()._queue if hasattr(app, "get_blocks") else None


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
    """Without `page`, by which gradio looks for pages that are not there, and several ranges: it fails."""
    kept = [part for part in scope.get("query_string", b"").split(b"&") if not part.startswith(b"page=")]
    headers = [(name, value) for name, value in scope["headers"] if name != b"range" or b"," not in value]
    return {**scope, "query_string": b"&".join(kept), "headers": headers}


async def _body(scope: Message, receive: Receive) -> bytes | None:
    """The whole body, or None when it is too large; what is too large is not read."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > LARGEST_BODY:
        return None
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] != "http.request":  # the sender is gone, and what came is not all
            return None
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
    headers += [(b"retry-after", b"%d" % RETRY_S)] if status in (429, 503) else []
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": json.dumps(content).encode()})
