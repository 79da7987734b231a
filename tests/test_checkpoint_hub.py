"""Repository ids, against a server on this machine that plays the hub."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

from mt5.checkpoint import open_checkpoint
from mt5.errors import CheckpointError

DATA = Path(__file__).parent / "data"
HF = DATA / "hf_tiny_mt5"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(BaseHTTPRequestHandler):
    """What huggingface_hub asks of a hub: facts about a repository, its files, and the files themselves."""

    repositories: ClassVar[dict[str, dict[str, bytes]]] = {}
    asked: ClassVar[list[str]] = []

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        for name, files in self.repositories.items():
            if path.startswith(f"/api/models/{name}/tree/"):
                listed = [
                    {"type": "file", "path": file, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                    for file, data in files.items()
                ]
                return self.send(200, json.dumps(listed).encode())
            if path.startswith(f"/api/models/{name}"):
                facts = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": file} for file in files]}
                return self.send(200, json.dumps(facts).encode())
            if path.startswith(f"/{name}/resolve/{COMMIT}/") and path.rsplit("/", 1)[1] in files:
                data = files[path.rsplit("/", 1)[1]]
                return self.send(
                    200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', **{"X-Repo-Commit": COMMIT}
                )
        return self.send(404, b"{}", **{"X-Error-Code": "RepoNotFound"})

    def send(self, status, data, **headers):
        self.send_response(status)
        for name, value in {
            "Content-Length": str(len(data)),
            "Content-Type": "application/json",
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, *message):
        """Keep the test's output clean."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(Hub, "repositories", {})
    monkeypatch.setattr(Hub, "asked", [])
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def files_of(folder, *extra):
    return {path.name: path.read_bytes() for path in folder.iterdir()} | dict(extra)


def test_a_repository_is_downloaded_once_and_without_what_is_not_needed(hub):
    Hub.repositories["owner/tiny"] = files_of(HF, ("tf_model.h5", b"x"), ("pytorch_model.bin", b"x"))
    checkpoint = open_checkpoint("owner/tiny")
    assert checkpoint.name == "owner/tiny"
    assert checkpoint.config == open_checkpoint(HF).config
    assert [file.name for file in checkpoint.files] == ["model.safetensors"]
    assert not [path for path in Hub.asked if path.endswith((".h5", ".bin"))]
    Hub.asked.clear()
    open_checkpoint("owner/tiny")
    assert not [path for path in Hub.asked if path.endswith("safetensors")]


def test_a_downloaded_repository_opens_without_the_hub(hub, monkeypatch):
    Hub.repositories["owner/tiny"] = files_of(HF)
    open_checkpoint("owner/tiny")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert open_checkpoint("owner/tiny").format == "huggingface"


def test_the_only_archive_of_a_repository_is_opened(hub):
    Hub.repositories["owner/nemo"] = {
        "tiny.nemo": (DATA / "nemo_tiny_tp2.nemo").read_bytes(),
        "README.md": b"x",
    }
    assert open_checkpoint("owner/nemo").format == "nemo"


def test_one_of_several_archives_is_chosen_by_name(hub):
    data = (DATA / "nemo_tiny_tp2.nemo").read_bytes()
    Hub.repositories["owner/nemo"] = {"a.nemo": data, "b.nemo": data}
    with pytest.raises(CheckpointError, match=r"Choose one: owner/nemo/a.nemo, owner/nemo/b.nemo"):
        open_checkpoint("owner/nemo")
    assert open_checkpoint("owner/nemo/b.nemo").tensor_parallel == 2
    with pytest.raises(CheckpointError, match=r"holds no c.nemo"):
        open_checkpoint("owner/nemo/c.nemo")


def test_a_repository_that_is_no_checkpoint_is_named(hub):
    Hub.repositories["owner/data"] = {"README.md": b"x"}
    with pytest.raises(CheckpointError, match=r"no config.json and no .nemo"):
        open_checkpoint("owner/data")


def test_an_unknown_repository_and_an_unreachable_hub_say_what_to_do(hub, monkeypatch):
    with pytest.raises(CheckpointError, match="no such repository on the hub"):
        open_checkpoint("owner/unknown")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"the hub cannot be reached.*pass its folder"):
        open_checkpoint("owner/unknown")
