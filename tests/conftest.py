"""What several test files share."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

# threads that wait asleep: spinning ones cost minutes where other work shares the two cores
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import mt5

if TYPE_CHECKING:
    from mt5.engine import Engine
    from tests.browser.driving import Server

ROOT = Path(__file__).resolve().parent.parent

# no deadline: a slow machine is not a fault of the code under test
hypothesis.settings.register_profile("default", deadline=None, print_blob=True)
hypothesis.settings.load_profile("default")


@pytest.fixture(scope="session")
def embedded() -> Iterator["Engine"]:
    """The embedded model in float32, opened once for all tests."""
    with mt5.open(ROOT / "assets" / "model", dtype="float32") as engine:
        yield engine


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Server"]:
    """The page on an engine without a model, served by another process, which must not fail."""
    from tests.browser.driving import Server

    server = Server(tmp_path_factory.mktemp("page") / "log", "-m", "tests.fake_page")
    yield server
    server.close()
    assert "Traceback" not in server.log.read_text()


@pytest.fixture
def nothing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The test runs in a folder of its own; what a hostile file would run leaves `marker` there."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not list(tmp_path.rglob("marker"))
