"""The page's endpoints, as programs and language models call them: a server, and a client of each kind."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.browser.driving import PARIS, Server

ROOT = Path(__file__).resolve().parent.parent
NAMES = {"fill", "score", "sweep", "corrupt", "languages", "info"}

pytestmark = [pytest.mark.slow, pytest.mark.browser]  # they start a server


def client(server: Server, program: str) -> Any:
    """What a program with `client`, in a process of its own since gradio's client leaves threads, prints."""
    whole = (
        "import json\nfrom gradio_client import Client\n"
        f"client = Client({server.url!r}, verbose=False)\n{program}"
    )
    done = subprocess.run(
        [sys.executable, "-c", whole], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_python_client_gets_the_json_of_every_endpoint(server: Server) -> None:
    got = client(
        server,
        f"""
ask = client.predict
print(json.dumps({{
    "fill": ask({PARIS!r}, strategy="sample", seed=7, api_name="/fill"),
    "score": ask({PARIS!r}, ["Lyon"], api_name="/score"),
    "sweep": ask("Paris est grand.", api_name="/sweep"),
    "corrupt": ask("Paris est une ville.", density=0.3, api_name="/corrupt"),
    "languages": ask("day", api_name="/languages"),
    "info": ask(api_name="/info"),
}}))""",
    )
    filled = got["fill"]
    assert set(filled) >= {"prompt", "completion", "masked_input", "text", "spans", "model", "settings"}
    assert filled["completion"]["text"] == "Paris" and filled["text"] == "La capitale de la France est Paris."
    token = filled["spans"][0]["tokens"][0]
    assert (
        set(token) >= {"id", "piece", "log_prob", "alternatives"} and token["alternatives"][0][0] == "▁Lyon"
    )
    assert filled["settings"]["seed"] == 7 and len(filled["model"]["sha256"]) == 64
    assert got["score"]["spans"][0]["tokens"][0]["rank"] == 7
    assert [word["word"] for word in got["sweep"]["words"]] == ["Paris", "est", "grand"]
    assert got["corrupt"]["settings"] == {"density": 0.3, "mean_span": 3.0, "seed": 0}
    assert len(got["languages"]["languages"]) == 24
    assert got["info"]["name"] == "fake" and "path" not in got["info"]


def test_what_a_client_can_mend_is_told_and_the_next_request_is_answered(server: Server) -> None:
    got = client(
        server,
        f"""
def told(*given, **named):
    try:
        client.predict(*given, **named)
    except Exception as fault:
        return str(fault)
wrong = [
    told("no gap", api_name="/fill"),
    told("<mask>" * 101, api_name="/fill"),
    told("x" * 4_001 + "<mask>", api_name="/fill"),
    told(["a <mask>"], api_name="/fill"),
    told(None, api_name="/fill"),
    told({PARIS!r}, temperature=1e9, api_name="/fill"),
    told({PARIS!r}, num_beams=10**6, api_name="/fill"),
    told({PARIS!r}, seed=-1, api_name="/fill"),
    told({PARIS!r}, top_k="x", api_name="/fill"),
    told({PARIS!r}, [], api_name="/score"),
    told({PARIS!r}, "Lyon", api_name="/score"),
    told("a <mask>", api_name="/sweep"),
    told("a b c", density=7, api_name="/corrupt"),
    told("../../etc/passwd", api_name="/languages"),
]
print(json.dumps([wrong, client.predict({PARIS!r}, api_name="/fill")["text"]]))""",
    )
    wrong, text = got
    assert text == "La capitale de la France est Paris."
    assert [message for message in wrong if not message or "Traceback" in message] == []
    words = ["<mask>", "100", "4,000", "list", "NoneType", "temperature", "num_beams", "seed", "top_k"]
    assert [word for word, message in zip(words, wrong, strict=False) if word not in message] == []


async def tools(server: Server) -> tuple[Any, Any]:
    from mcp import ClientSession
    from mcp.client.streamable_http import streamablehttp_client

    async with (
        streamablehttp_client(f"{server.url}gradio_api/mcp/") as (read, write, _),
        ClientSession(read, write) as session,
    ):
        await session.initialize()
        listed = await session.list_tools()
        filled = await session.call_tool("fill", {"prompt": PARIS, "num_alternatives": 2})
        return listed.tools, filled


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_language_model_finds_tools_with_descriptions_and_gets_the_same_json(server: Server) -> None:
    listed, filled = asyncio.run(tools(server))
    named = {tool.name: tool for tool in listed}
    assert set(named) == NAMES
    for tool in listed:
        assert len(tool.description) > 40
        properties = tool.inputSchema["properties"].values()
        assert all(one.get("description") for one in properties), tool.name
    assert not filled.isError
    record = json.loads(filled.content[0].text)
    assert record["completion"]["text"] == "Paris" and record["settings"]["num_alternatives"] == 2
