"""What nobody may learn (rows P1, P3 and P5 of the table of faults), on the page as it is shipped.

P2 and P4 are in tests/browser, P6 is in test_robust_network.py.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mt5.web.text import languages, text_of
from tests.browser.driving import ROOT, Server, unused_port
from tests.served import Visitor, printed

pytestmark = pytest.mark.slow
CANARY = "canary5b1f0c"
# what python runs first: it notes every name that is looked up and every place that is connected to
WATCH = """
import os, sys
def note(event, found):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        place = found[1] if event == "socket.connect" else found[0]
        host = place[0] if isinstance(place, tuple) else place
        if str(host) not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "None") and "/" not in str(host):
            with open(os.environ["ASKED"], "a") as out: print(event, host, file=out)
sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("private")


@pytest.fixture(scope="module")
def watched(place: Path) -> dict[str, str]:
    """The environment of a process whose look-ups are noted, and that writes nowhere else."""
    (place / "sitecustomize.py").write_text(WATCH)
    return os.environ | {
        "PYTHONPATH": str(place),
        "ASKED": str(place / "asked"),
        "GRADIO_TEMP_DIR": str(place / "uploads"),
        "HF_HOME": str(place / "hub"),
        "TMPDIR": str(place),
        "TORCHINDUCTOR_CACHE_DIR": str(place / "inductor"),
    }


@pytest.fixture(scope="module")
def visitor(place: Path, watched: dict[str, str]) -> Iterator[Visitor]:
    before = dict(os.environ)
    os.environ |= watched
    try:
        server = Server(place / "log", str(ROOT / "app.py"), "--port", unused_port())
    finally:
        os.environ.clear()
        os.environ |= before
    visitor = Visitor(server)
    yield visitor
    visitor.client.close()
    server.close()


def holding(folder: Path) -> list[Path]:
    """Files in a folder that hold the canary."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if CANARY.encode() in path.read_bytes()]


def test_p1_a_prompt_is_in_no_log_file_or_cache_whatever_comes_of_it(visitor: Visitor, place: Path) -> None:
    asked = [
        ("fill", f"{CANARY} <mask>."),
        ("fill", f"{CANARY} without a gap"),
        ("fill", f"{CANARY}\0 <mask>"),
        ("fill", CANARY * 500),
        ("fill", f"{CANARY} <mask>", CANARY),
        ("score", f"{CANARY} <mask>", [CANARY, CANARY]),
        ("sweep", f"{CANARY} {CANARY}."),
        ("corrupt", f"{CANARY} and more", CANARY),
        ("languages", CANARY),
    ]
    for endpoint, *data in asked:
        content = json.dumps({"data": data})
        joined = visitor.post(f"/gradio_api/call/{endpoint}", content=content)
        if joined.status_code == 200:
            visitor.answer(endpoint, joined.json()["event_id"])
    for content in (f'{{"data": ["{CANARY}"', f'["{CANARY}"]', f'{{"data": "{CANARY}", "fn_index": 99999}}'):
        for path in (
            "/gradio_api/queue/join",
            "/gradio_api/call/fill",
            "/gradio_api/mcp/",
            "/gradio_api/reset",
        ):
            visitor.post(path, content=content, headers={"content-type": "application/json"})
    visitor.get(f"/?tab=fill&q={CANARY}&run=1")
    visitor.get(f"/{CANARY}/{CANARY}?x={CANARY}")
    assert visitor.call("fill", "La capitale de la France est <mask>.")[0] == "complete"
    assert holding(place) == []  # the log, the uploads and everything temporary


@pytest.mark.parametrize(
    "endpoint", ["/monitoring/summary", "/gradio_api/monitoring", "/docs", "/openapi.json"]
)
def test_p1_no_page_tells_what_others_asked(visitor: Visitor, endpoint: str) -> None:
    answer = visitor.get(endpoint)
    assert CANARY not in answer.text and answer.status_code in (401, 403, 404)


def test_p3_the_page_and_its_answers_look_up_no_other_machine(visitor: Visitor, place: Path) -> None:
    assert visitor.call("fill", "La capitale de la France est <mask>.")[0] == "complete"
    visitor.get("/")
    assert not (place / "asked").exists(), (place / "asked").read_text()


def test_p3_a_look_up_would_have_been_noted(place: Path, watched: dict[str, str]) -> None:
    program = "import socket\ntry: socket.getaddrinfo('elsewhere.invalid', 80)\nexcept OSError: pass"
    own = watched | {"ASKED": str(place / "asked-here")}
    subprocess.run([sys.executable, "-c", program], env=own, check=True)
    assert "elsewhere.invalid" in (place / "asked-here").read_text()


def test_p3_a_prompt_is_filled_where_there_is_no_network() -> None:
    command = [sys.executable, "-m", "mt5", "fill", "La capitale de la France est <mask>."]
    cut = ["unshare", "--user", "--map-root-user", "--net"]
    if subprocess.run([*cut, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this system lets nobody cut the network off")
    done = subprocess.run(
        [*cut, *command], cwd=ROOT, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0 and "Paris" in done.stdout


def test_p5_the_page_says_in_every_language_that_no_secrets_belong_there() -> None:
    said = {language: text_of(language)("about_privacy") for language in languages()}
    assert "secrets" in said["en"] and len(set(said.values())) == len(said) == 24


@pytest.mark.parametrize("button", ["fill-json", "fill-csv", "fill-nemo"])
def test_p5_an_export_is_no_file_on_the_server(visitor: Visitor, place: Path, button: str) -> None:
    before, session = set((place / "uploads").rglob("*")), f"saves-{button}"
    assert visitor.join("La capitale de la France est <mask>.", session).status_code == 200
    visitor.completed(session)
    [written] = visitor.press(button, session)
    assert "capitale" in json.loads(written)["content"]
    assert set((place / "uploads").rglob("*")) == before


def test_p5_what_a_closed_tab_was_answered_is_gone_within_half_an_hour(visitor: Visitor) -> None:
    program = (
        "from mt5.web.page import build_page, serving\nfrom mt5.web.models import Models\n"
        "from tests.fake_engine import FakeEngine\nmodels = Models(FakeEngine())\npage = build_page(models)\n"
        "serving(models)\nfrom gradio.state_holder import SessionState\n"
        "print(page.delete_cache[1], SessionState(page).STATE_TTL_WHEN_CLOSED)\n"
    )
    assert all(int(seconds) <= 1_800 for seconds in " ".join(printed(program)).split())
