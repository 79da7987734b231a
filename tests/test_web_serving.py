"""How the page is served: its settings, its guard, and the model that answers."""

import asyncio
import inspect
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest

from mt5.errors import CheckpointError, PromptError
from mt5.web.guard import BODY_S, LARGEST_BODY, Buckets, Guard
from mt5.web.models import Models, OtherModelError, allowed
from mt5.web.serving import serving
from tests.fake_engine import FakeEngine
from tests.served import printed

ROOT = Path(__file__).resolve().parent.parent


def test_every_launch_option_exists_in_this_gradio() -> None:
    options = serving(Models(FakeEngine()))
    assert set(options) <= set(inspect.signature(gr.Blocks.launch).parameters)


def test_the_page_is_served_without_what_a_visitor_must_not_have() -> None:
    options = serving(Models(FakeEngine()))
    for name in ("share", "show_error", "run_history", "enable_monitoring", "ssr_mode"):
        assert options[name] is False
    assert options["strict_cors"] and options["max_file_size"] == "1mb"
    assert options["state_session_capacity"] == 500
    assert (
        options["blocked_paths"] == [str(ROOT)] and "allowed_paths" not in options and "auth" not in options
    )
    hidden = ("docs_url", "redoc_url", "openapi_url")
    assert all(options["app_kwargs"][name] is None for name in hidden) and options["app_kwargs"]["middleware"]


@pytest.mark.slow
def test_the_page_reports_nothing_and_its_queue_is_bounded() -> None:
    program = (
        "from mt5.web.page import build_page\nfrom tests.fake_engine import FakeEngine\n"
        "page = build_page(FakeEngine())\nqueue = page._queue\n"
        "print(page.analytics_enabled, page.delete_cache, page.api_open)\n"
        "print(queue.max_size, queue.live_updates, queue.update_intervals, queue.default_concurrency_limit)\n"
        "shown = [fn.api_name for fn in page.fns.values() if fn.api_visibility != 'private']\n"
        "print(*sorted(shown))\n"
        "private = [fn for fn in page.fns.values() if fn.fn and fn.api_visibility == 'private']\n"
        "print(len(private) > 20, {len(fn.show_progress_on) for fn in private})\n"
    )
    assert printed(program) == [
        "False (600, 1800) False",
        "256 False 5 1",
        "corrupt fill info languages score sweep",
        "True {0, 1}",  # where a status is written, the browser copies all that is inside
    ]


@pytest.mark.slow
def test_one_server_is_made_for_a_page_and_that_when_it_is_launched() -> None:
    program = (
        "from gradio.routes import App\nmade, create = [], App.create_app\n"
        "App.create_app = staticmethod(lambda *given, **named: made.append(1) or create(*given, **named))\n"
        "from mt5.web.models import Models\nfrom mt5.web.page import build_page, serving\n"
        "from tests.fake_engine import FakeEngine\nmodels = Models(FakeEngine())\npage = build_page(models)\n"
        "print(len(made))\npage.launch(**serving(models))\nprint(len(made))\npage.close()\n"
    )
    counts = [line for line in printed(program) if line.isdigit()]
    assert counts == ["0", "1"]


@pytest.mark.slow
def test_gradio_is_imported_without_parsing_its_own_source() -> None:
    program = (
        "import ast, inspect\nparsed, parse, file_of = [], ast.parse, inspect.getfile\n"
        "ast.parse = lambda *given, **named: parsed.append(given[0]) or parse(*given, **named)\n"
        "from mt5.web.patches import import_gradio\nimport_gradio()\nimport gradio\n"
        "print(sum('EVENTS = [' in source for source in parsed), inspect.getfile is file_of)\n"
        "print(gradio.Textbox(value='a').value, callable(gradio.Textbox.change))\n"
    )
    assert printed(program) == ["0 True", "a True"]


def test_a_bucket_lets_a_burst_through_and_then_so_many_a_second() -> None:
    now = [0.0]
    bucket = Buckets(3, 2, lambda: now[0])
    assert [bucket.take("a") for _ in range(4)] == [True, True, True, False]
    assert bucket.take("b")
    now[0] = 0.5
    assert bucket.take("a") and not bucket.take("a")
    now[0] = 100
    assert [bucket.take("a") for _ in range(4)] == [True, True, True, False]


class Asked:
    """A request to a guard, and what came of it. parts: of the body, as they arrive."""

    def __init__(
        self, *parts: bytes, path: str = "/x", declared: int | None = None, ready: bool = True
    ) -> None:
        self.parts, self.passed, self.sent = list(parts), b"", []
        headers = [(b"content-length", str(declared).encode())] if declared is not None else []
        scope = {"type": "http", "method": "POST" if parts else "GET", "path": path, "headers": headers}
        self.scope = scope | {"client": ("1.2.3.4", 5)}
        self.guard = Guard(self.app, lambda: ("ready" if ready else "restarting", "wait"))

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            self.passed = (await receive())["body"]
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive(self) -> dict[str, Any]:
        if not self.parts:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": self.parts.pop(0), "more_body": bool(self.parts)}

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def status(self) -> int:
        asyncio.run(self.guard(self.scope, self.receive, self.send))
        return self.sent[0]["status"]


def test_a_body_is_passed_on_whole() -> None:
    asked = Asked(b"ab", b"c")
    assert asked.status() == 200 and asked.passed == b"abc"
    assert (b"x-content-type-options", b"nosniff") in asked.sent[0]["headers"]


def test_half_a_body_whose_sender_is_gone_is_not_passed_on() -> None:
    asked = Asked(b"ab", b"c")

    async def gone() -> dict[str, Any]:
        return await asked.receive() if len(asked.parts) > 1 else {"type": "http.disconnect"}

    asyncio.run(asked.guard(asked.scope, gone, asked.send))
    assert asked.passed == b""


def test_a_body_that_is_too_large_is_refused_whether_it_says_so_or_not() -> None:
    assert Asked(b"x", declared=LARGEST_BODY + 1).status() == 413
    assert Asked(*[b"x" * 100_000] * 20).status() == 413
    assert Asked(b"x", declared=LARGEST_BODY).status() == 200


def test_a_body_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mt5.web.guard.BODY_S", 0.05)
    asked = Asked(b"x", b"y")
    asked.parts = [b"x"]
    asked.receive = lambda: asyncio.sleep(60)  # type: ignore[method-assign]
    assert asked.status() == 408 and BODY_S == 20


def test_one_session_that_floods_is_refused_and_others_are_not() -> None:
    asked = Asked(b'{"session_hash": "one"}')
    statuses = []
    for _ in range(80):
        asked.parts = [b'{"session_hash": "one"}']
        asked.sent = []
        statuses.append(asked.status())
    assert statuses.count(200) == 60 and statuses[-1] == 429
    asked.parts, asked.sent = [b'{"session_hash": "two"}'], []
    assert asked.status() == 200


def test_health_is_that_of_the_model() -> None:
    assert Asked(path="/health").status() == 200
    assert Asked(path="/health", ready=False).status() == 503


def test_models_are_listed_by_name_and_path() -> None:
    assert allowed("small=google/mt5-small, /models/x.nemo,\n") == {
        "small": "google/mt5-small",
        "/models/x.nemo": "/models/x.nemo",
    }
    assert allowed("") == {}


class Shelf:
    """Opens engines when it is told to."""

    def __init__(self) -> None:
        self.may_open, self.opened = threading.Event(), []

    def __call__(self, path: str) -> FakeEngine:
        assert self.may_open.wait(10)
        if path == "broken":
            raise CheckpointError("broken: no such checkpoint.")
        if path == "large":
            raise RuntimeError("not enough memory")
        self.opened.append(FakeEngine(name=path))
        return self.opened[-1]


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def models(shelf: Shelf) -> Iterator[Models]:
    yield Models(FakeEngine(name="first"), {name: name for name in ("second", "broken", "large")}, shelf)
    shelf.may_open.set()


def until(said: Any) -> None:
    end = time.monotonic() + 10
    while not said() and time.monotonic() < end:
        time.sleep(0.01)
    assert said()


def test_the_old_model_answers_until_the_new_one_is_there(models: Models, shelf: Shelf) -> None:
    models.choose("second")
    assert models.loading == "second" and models.info.name == "first"
    shelf.may_open.set()
    until(lambda: models.info.name == "second")
    assert models.chosen == "second" and models.loading is None


def test_the_old_model_is_closed_when_its_last_request_is_answered(models: Models, shelf: Shelf) -> None:
    shelf.may_open.set()
    with models.engine() as first:
        models.choose("second")
        until(lambda: models.info.name == "second")
        assert not first.closed
        with models.engine() as second:
            assert second.info.name == "second"
    assert first.closed and not second.closed


def test_what_a_model_wrote_is_not_asked_of_another(models: Models, shelf: Shelf) -> None:
    shelf.may_open.set()
    first = models.info
    with models.engine(first) as engine:
        assert engine.info == first
    models.choose("second")
    until(lambda: models.info.name == "second")
    with pytest.raises(OtherModelError, match="by first; another model answers now"), models.engine(first):
        pass
    with models.engine(models.info) as engine:
        assert engine.info.name == "second"


@pytest.mark.parametrize(("name", "told"), [("broken", "no such checkpoint"), ("large", "RuntimeError")])
def test_a_model_that_cannot_be_opened_leaves_the_old_one(
    models: Models, shelf: Shelf, caplog: pytest.LogCaptureFixture, name: str, told: str
) -> None:
    shelf.may_open.set()
    models.choose(name)
    until(lambda: models.failed == name)
    assert models.info.name == "first" and models.loading is None
    assert told in caplog.text
    models.choose("second")
    until(lambda: models.info.name == "second")


@pytest.mark.parametrize("name", ["/etc/passwd", "google/mt5-small", "", None, ["second"]])
def test_a_path_from_the_page_is_never_opened(models: Models, shelf: Shelf, name: object) -> None:
    with pytest.raises(PromptError, match="not on the list"):
        models.choose(name)
    assert models.loading is None


def test_the_model_that_was_there_first_can_be_had_back(models: Models) -> None:
    assert list(models.choices) == ["first", "second", "broken", "large"] and models.chosen == "first"


@pytest.mark.parametrize(("models", "offline"), [("", "1"), ("x=someone/somewhere", "None")])
def test_the_environment_is_quiet_and_offline_once_models_are_local(models: str, offline: str) -> None:
    program = """
import os, app, mt5
def opened(*given, **named):
    names = ("ENABLED", "CACHE_FREQUENCY", "MAX_EVENTS")
    quiet = [os.environ.get(f"GRADIO_ANALYTICS_{name}") for name in names]
    print(os.environ.get("HF_HUB_OFFLINE"), *quiet)
    raise mt5.CheckpointError("told")
mt5.open = opened
app.main()"""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=environment | {"MT5_MODELS": models},
    )
    assert done.returncode == 2 and done.stderr == "Error: told\n"
    assert done.stdout.split() == [offline, "False", "1000000", "200"]
