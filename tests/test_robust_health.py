"""A model that no longer answers is told by health (row N9), whether or not anybody asks it."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

import mt5
from mt5 import scheduler
from mt5.web import canary
from mt5.web.models import Models
from tests.hostile import HF

PROMPT = "a <mask>."


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[Models]:
    monkeypatch.setattr(scheduler, "STEP_S", 0.2)
    monkeypatch.setattr(scheduler, "ROW_S", 0.0)
    monkeypatch.setattr(canary, "EVERY_S", 0.1)
    with mt5.open(str(HF)) as engine:
        yield Models(engine)


@pytest.fixture
def jammed(models: Models, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """The network takes no step before the event is set."""
    with models.engine() as engine:
        network = engine.network
    freed, step = threading.Event(), network.generate

    def generate(*asked: object) -> Iterator[object]:
        freed.wait(20)
        yield from step(*asked)

    monkeypatch.setattr(network, "generate", generate)
    yield freed
    freed.set()


def soon(true: Callable[[], bool], within_s: float = 2.0) -> None:
    end = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_n9_a_model_that_hangs_over_a_request_is_told_until_it_goes_on(
    models: Models, jammed: threading.Event
) -> None:
    with models.engine() as engine:
        asking = threading.Thread(target=engine.fill, args=(PROMPT,))
        asking.start()
        assert engine.health.state == "ready"  # a step may take its time
        soon(lambda: models.health()[0] == "failed")
        jammed.set()
        asking.join()
        soon(lambda: models.health()[0] == "ready")


def test_n9_a_model_that_hangs_is_told_though_nobody_asks(models: Models, jammed: threading.Event) -> None:
    soon(lambda: models.health()[0] == "failed")
    jammed.set()
    soon(lambda: models.health()[0] == "ready")


def test_n9_a_model_that_fails_over_whatever_it_is_asked_is_told(
    models: Models, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*asked: object) -> Iterator[object]:
        raise RuntimeError("CUDA error")
        yield

    with models.engine() as engine, monkeypatch.context() as patched:
        patched.setattr(engine.network, "generate", broken)
        soon(lambda: models.health()[0] == "failed")
    soon(lambda: models.health()[0] == "ready")
    assert "CUDA" not in caplog.text and "RuntimeError" in caplog.text


def test_n9_a_model_that_answers_stays_ready(models: Models, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "STEP_S", 5.0)  # a slow machine is not a fault of the model
    for _ in range(20):
        assert models.health() == ("ready", "")
        time.sleep(0.02)
