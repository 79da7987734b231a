"""A page that is asked what it must not do (rows I1 to I16, N1 to N10, L5 to L7, P1, P5 and P6)."""

import json
import os
import re
import signal
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from mt5.web import guard, line, quota
from mt5.web.quota import Quota
from tests.browser.driving import Server
from tests.served import JSON, Visitor, started

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = started(tmp_path_factory.mktemp("hostile"))
    yield server
    server.close()


@pytest.fixture
def visitor(server: Server) -> Iterator[Visitor]:
    visitor = Visitor(server)
    yield visitor
    until(visitor.healthy)
    visitor.client.close()


def until(true: Callable[[], bool], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("megabytes", [10, 60])
def test_i1_a_prompt_of_many_megabytes_is_refused_at_once_and_kept_nowhere(
    visitor: Visitor, megabytes: int
) -> None:
    before, body = visitor.rss, json.dumps({"data": ["a" * (megabytes << 20)]})
    began = time.monotonic()
    answer = visitor.post("/gradio_api/call/fill", content=body)
    assert answer.status_code == 413 and time.monotonic() - began <= 1
    assert visitor.rss - before < 100 << 20


def test_i2_a_prompt_of_4001_characters_is_refused_in_words_before_the_model_works(visitor: Visitor) -> None:
    before = visitor.server.tokens
    kind, data = visitor.call("fill", "<mask>" + "a" * 3995)
    assert kind == "error" and "4,001 characters" in json.dumps(data) and "4,000" in json.dumps(data)
    assert visitor.server.tokens == before


@pytest.mark.parametrize(
    "data",
    [["no gap"], [""], [None], [{"prompt": "x"}], [["a <mask>"]], [7]],
    ids=repr,
)
def test_i3_what_is_no_prompt_is_refused_in_words_without_a_traceback(
    visitor: Visitor, data: list[object]
) -> None:
    kind, answer = visitor.call("fill", *data)
    assert kind == "error" and any(
        word in json.dumps(answer) for word in ("<mask>", "empty", "expected text")
    )
    assert "Traceback" not in json.dumps(answer) and 'File "' not in json.dumps(answer)


@pytest.mark.parametrize("data", [[], ["a", "b", "c", "d", "e"], ["a <mask>"] * 40, {"a": 1}, None], ids=repr)
def test_i3_too_few_or_too_many_fields_leave_no_traceback(visitor: Visitor, data: object) -> None:
    joined = visitor.post("/gradio_api/call/fill", json={"data": data})
    text = joined.text
    if joined.status_code == 200:
        text = visitor.get(f"/gradio_api/call/fill/{joined.json()['event_id']}").text
        assert "event: error" in text
    assert joined.status_code in (200, 422)
    assert "Traceback" not in text and 'File "' not in text and "event: complete" not in text


@pytest.mark.parametrize("prompt", ["a\ud800 <mask>", "a\0 <mask>", "\udfff<mask>"])
def test_i6_half_a_character_is_refused_and_the_stream_survives(visitor: Visitor, prompt: str) -> None:
    kind, answer = visitor.call("fill", prompt)
    assert kind == "refused" or (kind == "error" and "U+" in json.dumps(answer))
    assert visitor.call("fill", "half <mask>")[0] == "complete"


def test_i12_what_has_no_number_is_null_in_strict_json(visitor: Visitor) -> None:
    kind, [data] = visitor.call("fill", "unlikely <mask>")
    assert kind == "complete" and data["spans"][0]["log_prob"] is None
    assert data["spans"][0]["tokens"][0]["log_prob"] is None


@pytest.mark.parametrize("where", ["/gradio_api/call/fill", "/gradio_api/queue/join", "/gradio_api/run/fill"])
def test_i16_json_nested_a_hundred_thousand_deep_is_refused(visitor: Visitor, where: str) -> None:
    body = '{"data":' + "[" * 100_000 + "]" * 100_000 + "}"
    answer = visitor.post(where, content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 403, 422)


ELSEWHERE = [
    "/etc/passwd",
    "../../../../etc/passwd",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "....//....//etc/passwd",
    "/proc/self/environ",
    "/proc/self/cmdline",
    str(ROOT / "app.py"),
    str(ROOT / "mt5" / "engine.py"),
    "app.py",
    "file:///etc/passwd",
    "http://localhost/",
    "C:\\Windows\\win.ini",
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_n1_no_file_of_the_machine_is_served(visitor: Visitor, path: str) -> None:
    for start in ("/gradio_api/file=", "/file=", "/static/", "/assets/", "/gradio_api/stream/"):
        answer = visitor.get(start + path)
        assert answer.status_code in (307, 400, 403, 404, 405), (start, answer.status_code)
        assert "root:" not in answer.text and "import argparse" not in answer.text


def test_n2_a_file_that_is_an_address_is_never_fetched(visitor: Visitor) -> None:
    hits: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.settimeout(0.2)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    listener.accept()[0].close()
                    hits.append("hit")
                except TimeoutError:
                    pass

        thread = threading.Thread(target=listen)
        thread.start()
        batch = next(d for d in visitor.config["dependencies"] if file_input(visitor, d))
        hosts = ["127.0.0.1", "localhost", "0x7f000001", "2130706433", "[::ffff:127.0.0.1]", "127.1"]
        forged = [{"path": "/etc/passwd"}, {"path": str(ROOT / "app.py")}]
        forged += [
            {"path": f"http://{host}:{port}/x.csv", "url": f"http://{host}:{port}/x.csv"} for host in hosts
        ]
        for file in forged:
            meta = {**file, "meta": {"_type": "gradio.FileData"}, "orig_name": "x.csv"}
            values = [meta if is_file(visitor, id_) else None for id_ in batch["inputs"]]
            session = uuid.uuid4().hex[:12]
            body = {"data": values, "fn_index": batch["id"], "session_hash": session}
            if visitor.post("/gradio_api/queue/join", json=body).status_code == 200:
                with visitor.listening(session) as messages:
                    last = next(m for m in messages if m["msg"] == "process_completed")
                assert "root:" not in json.dumps(last) and "argparse" not in json.dumps(last)
        over.set()
        thread.join()
    assert hits == []


def is_file(visitor: Visitor, id_: int) -> bool:
    return any(part["id"] == id_ and part["type"] == "file" for part in visitor.config["components"])


def file_input(visitor: Visitor, dependency: dict[str, list[int]]) -> bool:
    return any(is_file(visitor, id_) for id_ in dependency["inputs"])


def test_n3_files_that_are_too_large_or_too_many_are_refused(visitor: Visitor) -> None:
    def upload(files: object) -> int:
        return visitor.post("/gradio_api/upload", files=files).status_code

    assert upload({"files": ("x.csv", b"x" * (1_100_000))}) in (400, 413)
    assert upload([("files", (f"{n}.csv", b"x")) for n in range(1_001)]) in (400, 413)
    answer = visitor.post(
        "/gradio_api/upload", data={"field": "x" * (60 << 20)}, files={"files": ("x", b"x")}
    )
    assert answer.status_code == 413
    assert upload({"files": ("x.csv", b"prompt\na <mask>\n")}) == 200


def test_n4_the_oldest_uploads_make_room_for_new_ones(tmp_path: Path) -> None:
    quota = Quota(tmp_path, most=1_000, look=100)
    for number in range(50):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "x").write_bytes(b"x" * 100)
        os.utime(folder / "x", (number, number))
        quota.add(100)
        assert sum(path.stat().st_size for path in tmp_path.rglob("x")) <= 1_000
    kept = sorted(int(path.parent.name) for path in tmp_path.rglob("x"))
    assert kept == list(range(50 - len(kept), 50)) and kept


def test_n4_uploads_to_the_page_never_take_more_than_their_quota(visitor: Visitor) -> None:
    uploads = visitor.server.log.parent / "uploads"
    for number in range(20):
        file = ("x.csv", os.urandom(1_000_000))  # of a different hash each, or it is kept once
        assert visitor.post("/gradio_api/upload", files={"files": file}).status_code == 200, number
    until(lambda: sum(path.stat().st_size for path in uploads.rglob("*") if path.is_file()) <= 8 << 20)
    assert quota.MOST == 500 << 20  # on the page as it is served


def test_n5_three_hundred_bodies_that_never_end_are_closed_and_hinder_nobody(visitor: Visitor) -> None:
    host, port = visitor.url.removeprefix("http://").split(":")
    half = b"POST /gradio_api/call/fill HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    held = []
    try:
        for _ in range(300):
            one = socket.create_connection((host, int(port)))
            one.sendall(half)
            held.append(one)
        began = time.monotonic()
        assert visitor.get("/").status_code == 200 and time.monotonic() - began <= 1
        for one in held:
            one.settimeout(20)
            assert b" 408 " in one.recv(4_096)[:20]
    finally:
        for one in held:
            one.close()
    assert visitor.healthy()


def test_n6_another_site_may_not_read_a_page_on_this_machine(visitor: Visitor) -> None:
    answer = visitor.get("/config", headers={"origin": "https://evil.example"})
    assert "access-control-allow-origin" not in answer.headers
    assert "set-cookie" not in answer.headers


def test_n7_an_uploaded_page_is_saved_and_not_shown(visitor: Visitor) -> None:
    page = b"<script>alert(1)</script>"
    for name, kind in (("x.html", "text/html"), ("x.svg", "image/svg+xml")):
        answer = visitor.post("/gradio_api/upload", files={"files": (name, page, kind)})
        [path] = answer.json()
        shown = visitor.get(f"/gradio_api/file={path}")
        assert shown.headers["x-content-type-options"] == "nosniff"
        assert shown.status_code >= 400 or "attachment" in shown.headers.get("content-disposition", "")


def rpc(visitor: Visitor, method: str, **params: object) -> httpx.Response:
    accepted = {"accept": "application/json, text/event-stream"}
    body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return visitor.client.post("/gradio_api/mcp/", json=body, headers=accepted)


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("no_such_tool", {}),
        ("hostile_fill", {"prompt": "boom-canary-7c1 <mask>"}),
        ("hostile_fill", {"prompt": "/etc/passwd"}),
        ("hostile_fill", {"prompt": 7}),
    ],
    ids=range(4),
)
def test_n8_a_tool_that_fails_tells_no_detail(
    visitor: Visitor, tool: str, arguments: dict[str, object]
) -> None:
    listed = rpc(visitor, "tools/list").text
    name = next((n for n in re.findall(r'"name":\s*"(\w+)"', listed) if n.endswith("fill")), tool)
    text = rpc(visitor, "tools/call", name=name if tool != "no_such_tool" else tool, arguments=arguments).text
    assert "Traceback" not in text and "root:" not in text and 'File "' not in text
    assert "tensor of" not in text


def test_n8_a_tool_call_of_five_megabytes_is_refused(visitor: Visitor) -> None:
    assert rpc(visitor, "tools/call", name="fill", arguments={"prompt": "a" * (5 << 20)}).status_code == 413


@pytest.mark.parametrize(
    "asked", ["bytes=999999999-", "bytes=" + ",".join(["0-1"] * 500), "bytes=5-1", "bytes=x"]
)
def test_n10_odd_ranges_take_no_time(visitor: Visitor, asked: str) -> None:
    [path] = visitor.post("/gradio_api/upload", files={"files": ("x.csv", b"x" * 900_000)}).json()
    took_s = []
    for _ in range(3):
        began = time.monotonic()
        answer = visitor.get(f"/gradio_api/file={path}", headers={"range": asked})
        took_s.append(time.monotonic() - began)
        assert answer.status_code < 500
    assert min(took_s) < 0.1


def test_l5_one_tab_has_two_requests_at_once(visitor: Visitor) -> None:
    statuses = [visitor.join("slow <mask>", "flooding-tab").status_code for _ in range(4)]
    assert statuses == [200, 200, 429, 429]
    assert visitor.healthy()
    # nobody listens to them
    until(lambda: visitor.join("a <mask>.", "flooding-tab").status_code == 200)


@pytest.mark.parametrize(
    "written",
    [
        lambda body: f'{{"session_hash": "{uuid.uuid4().hex[:12]}", {body[1:]}',
        lambda body: body.replace('"session_hash"', '"session\\u005fhash"'),
    ],
    ids=["twice", "escaped"],
)
def test_l5_a_tab_is_known_however_its_name_is_written(
    visitor: Visitor, written: Callable[[str], str]
) -> None:
    def join() -> int:
        body = written(json.dumps(visitor.request("slow <mask>", "hidden-tab")))
        return visitor.post("/gradio_api/queue/join", content=body, headers=JSON).status_code

    until(lambda: visitor.join("a <mask>.", "hidden-tab").status_code == 200)
    until(lambda: (join(), join(), join())[-1] == 429)
    until(lambda: visitor.join("a <mask>.", "hidden-tab").status_code == 200)


def test_l5_a_session_with_a_long_name_is_refused(visitor: Visitor) -> None:
    assert visitor.join("a <mask>.", "x" * 65).status_code == 400


def test_l5_programs_that_use_the_tools_do_not_share_the_places_of_one_tab(visitor: Visitor) -> None:
    rpc(visitor, "tools/call", name="fill", arguments={"prompt": "a <mask>"})  # Gradio's own client is made
    with ThreadPoolExecutor(4) as programs:
        answers = programs.map(
            lambda number: rpc(
                visitor, "tools/call", name="fill", arguments={"prompt": f"steady {number} <mask>"}
            ),
            range(4),
        )
        texts = [answer.text for answer in answers]
    assert all("slow slow" in text and "429" not in text for text in texts)


def test_l6_a_tab_that_is_closed_stops_its_work(visitor: Visitor) -> None:
    session, before = uuid.uuid4().hex[:12], visitor.server.tokens
    assert visitor.join("slow <mask>", session).status_code == 200
    with visitor.listening(session) as messages:
        next(m for m in messages if m["msg"] == "process_starts")
        until(lambda: visitor.server.tokens > before)
    quiet(visitor)


def quiet(visitor: Visitor) -> None:
    """The engine writes no more."""

    def still() -> bool:
        before = visitor.server.tokens
        time.sleep(1.0)
        return visitor.server.tokens == before

    until(still, 25)


def test_l7_what_nobody_listens_to_is_dropped(visitor: Visitor) -> None:
    before = visitor.server.tokens
    assert visitor.join("slow <mask>").status_code == 200
    until(lambda: visitor.server.tokens > before)
    quiet(visitor)  # of its 300 tokens, 30 s long
    assert (line.LISTEN_S, guard.BODY_S) == (30, 20)  # on the page as it is served


def test_p1_no_prompt_is_in_a_log_or_an_answer_after_a_fault(visitor: Visitor) -> None:
    canary = "canary-5b1f0c"
    for prompt in (
        f"{canary} <mask>",
        f"boom {canary} <mask>",
        f"{canary} no gap",
        f"slow {canary}\0 <mask>",
    ):
        kind, data = visitor.call("fill", prompt)
        assert kind == "complete" or canary not in json.dumps(data)
    assert canary not in visitor.server.log.read_text()
    uploads = visitor.server.log.parent / "uploads"
    kept = [path for path in uploads.rglob("*") if path.is_file() and canary.encode() in path.read_bytes()]
    assert kept == []


def test_p5_and_p6_a_session_has_its_own_answers_only(visitor: Visitor) -> None:
    sessions = [uuid.uuid4().hex[:12] for _ in range(2)]
    texts = []
    for number, session in enumerate(sessions):
        visitor.join(f"own{number} <mask>.", session)
        with visitor.listening(session) as messages:
            texts.append(json.dumps(next(m for m in messages if m["msg"] == "process_completed")))
    assert "own0" in texts[0] and "own1" in texts[1]
    assert "own1" not in texts[0] and "own0" not in texts[1]
    for kind in ("json", "csv"):
        files = [saved(visitor, f"fill-{kind}", session) for session in sessions]
        assert "own0" in files[0] and "own1" in files[1]
        assert "own1" not in files[0] and "own0" not in files[1]


def saved(visitor: Visitor, button: str, session: str) -> str:
    """What a tab gets when it saves its result."""
    parts = {part["props"].get("elem_id"): part["id"] for part in visitor.config["components"]}
    click = next(d for d in visitor.config["dependencies"] if [parts[button], "click"] in d["targets"])
    body = {"data": ["en", None], "fn_index": click["id"], "session_hash": session}
    assert visitor.post("/gradio_api/queue/join", json=body).status_code == 200
    with visitor.listening(session) as messages:
        return json.dumps(next(m for m in messages if m["msg"] == "process_completed")["output"]["data"])


def test_n9_an_engine_that_is_dead_or_a_queue_that_has_stopped_is_told_by_health(tmp_path: Path) -> None:
    for number, sent in enumerate((signal.SIGUSR1, signal.SIGUSR2)):
        folder = tmp_path / str(number)
        folder.mkdir()
        server = started(folder)
        try:
            client = httpx.Client(base_url=server.url, timeout=10, trust_env=False)
            assert client.get("/health").status_code == 200
            server.process.send_signal(sent)
            until(lambda client=client: client.get("/health").status_code == 503, 2)
        finally:
            server.close()
