"""A page that is served, and a visitor who writes to it without a browser."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.browser.driving import ROOT, Server

JSON = {"content-type": "application/json"}
DEFAULTS = ("", "greedy", 4, 1, 1.0, 0, 1.0, 0, 16, 5, True)
"""What the endpoint `fill` takes."""


class Visitor:
    """Writes to a page as a program does."""

    def __init__(self, server: Server) -> None:
        self.server, self.url = server, server.url.rstrip("/")
        self.client = httpx.Client(base_url=self.url, timeout=30, trust_env=False)
        self.config = self.get("/config").json()

    @property
    def rss(self) -> int:
        """Bytes that the server holds in memory."""
        status = Path(f"/proc/{self.server.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) << 10

    def get(self, path: str, **options: Any) -> httpx.Response:
        return self.client.get(path, **options)

    def post(self, path: str, **options: Any) -> httpx.Response:
        return self.client.post(path, **options)

    def call(self, endpoint: str, *data: Any) -> tuple[str, Any]:
        """What an endpoint answers: "complete" or "error", and its data; ("refused", status) before that."""
        given = [*data, *DEFAULTS[len(data) :]] if data else []
        joined = self.post(f"/gradio_api/call/{endpoint}", content=json.dumps({"data": given}), headers=JSON)
        if joined.status_code != 200:
            return "refused", joined.status_code
        return self.answer(endpoint, joined.json()["event_id"])

    def answer(self, endpoint: str, event_id: str) -> tuple[str, Any]:
        text = self.get(f"/gradio_api/call/{endpoint}/{event_id}").text
        kind, data = "", ""
        for row in text.splitlines():
            kind = row.removeprefix("event: ") if row.startswith("event: ") else kind
            data = row.removeprefix("data: ") if row.startswith("data: ") else data
        return kind, strict(data)

    def healthy(self) -> bool:
        """Whether an ordinary request is answered."""
        kind, data = self.call("fill", "a <mask>.")
        return kind == "complete" and data[0]["text"] == "a Paris."

    def join(self, prompt: str, session: str | None = None) -> httpx.Response:
        """Ask for a filled prompt as the page does."""
        return self.post(
            "/gradio_api/queue/join", json=self.request(prompt, session or uuid.uuid4().hex[:12])
        )

    def request(self, prompt: str, session: str) -> dict[str, Any]:
        """What the page sends when Fill is clicked."""
        box = next(part["id"] for part in self._parts.values() if part["props"].get("elem_id") == "prompt")
        tab = next(d for d in self.config["dependencies"] if d["api_name"] == "run" and box in d["inputs"])
        values = [self._parts[id_]["props"].get("value") for id_ in tab["inputs"]]
        values[tab["inputs"].index(box)] = prompt
        return {"data": values, "fn_index": tab["id"], "session_hash": session}

    def completed(self, session: str) -> list[Any]:
        """The outputs of what a session asked for, once they are there."""
        with self.listening(session) as messages:
            last = next(message for message in messages if message["msg"] == "process_completed")
        assert last["success"]
        return last["output"]["data"]

    def press(self, elem_id: str, session: str) -> list[Any]:
        """What a button whose handler needs the page's language and what the server keeps answers with."""
        button = next(id_ for id_, part in self._parts.items() if part["props"].get("elem_id") == elem_id)
        tab = next(d for d in self.config["dependencies"] if [button, "click"] in d["targets"])
        body = {"data": ["en", None], "fn_index": tab["id"], "session_hash": session}
        assert self.post("/gradio_api/queue/join", json=body).status_code == 200
        return self.completed(session)

    @property
    def _parts(self) -> dict[int, Any]:
        return {part["id"]: part for part in self.config["components"]}

    @contextmanager
    def listening(self, session: str) -> Iterator[Iterator[dict[str, Any]]]:
        """The messages of a session."""
        path = f"/gradio_api/queue/data?session_hash={session}"
        with self.client.stream("GET", path) as stream:
            rows = (row.removeprefix("data: ") for row in stream.iter_lines() if row.startswith("data: "))
            yield (strict(row) for row in rows)


def printed(program: str) -> list[str]:
    """The lines that a program writes, run by a Python of its own: Gradio leaves event loops open."""
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.splitlines()


def strict(text: str) -> Any:
    """JSON as the standard has it: without NaN and infinities."""

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse) if text else None


def started(folder: Path, *, short: bool = True) -> Server:
    """The hostile page; short: with short deadlines, for one visitor after the other."""
    own = {"GRADIO_TEMP_DIR": str(folder / "uploads"), **({"SHORT": "1"} if short else {})}
    before = dict(os.environ)
    os.environ |= own
    try:
        return Server(folder / "log", "-m", "tests.hostile_page")
    finally:
        os.environ.clear()
        os.environ |= before
