"""What a fault leaves of what was shown before it: nothing."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import gradio as gr
import pytest

from mt5.web import export
from mt5.web.page import build_page
from mt5.web.text import text_of
from tests.fake_engine import FakeEngine

ENGLISH = text_of("en")


@pytest.fixture(scope="module")
def page() -> Iterator[gr.Blocks]:
    """The page, whose builder opens event loops that Gradio leaves open: they are closed here."""
    loops: list[asyncio.AbstractEventLoop] = []

    def noted() -> asyncio.AbstractEventLoop:
        loops.append(asyncio.DefaultEventLoopPolicy().new_event_loop())
        return loops[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", noted)
        built = build_page(FakeEngine())
    yield built
    asyncio.set_event_loop(None)
    for loop in loops:
        loop.close()
    assert loops


def test_how_long_drawing_takes_comes_from_the_browser_as_a_number(page: gr.Blocks) -> None:
    runs = [
        one
        for one in page.fns.values()
        if one.fn and one.fn.__module__ == "mt5.web.fill" and one.fn.__name__ in ("run", "fork")
    ]
    assert len(runs) >= 2 and {one.inputs[-1].preprocess(0.04) for one in runs} == {0.04}


def asked_for(page: gr.Blocks, tab: str, *values: object) -> list[object]:
    """The last outputs of a tab's main button."""
    [run] = {
        one.fn
        for one in page.fns.values()
        if one.fn and one.fn.__qualname__ == "build.<locals>.run" and one.fn.__module__ == f"mt5.web.{tab}"
    }
    outputs = run("en", *values)
    return outputs if isinstance(outputs, list) else list(outputs)[-1]


@pytest.mark.parametrize(
    ("tab", "values"),
    [
        ("score", ("no gap", "x", "auto")),
        ("score", ("a <mask>", "x\ny", "auto")),
        ("sweep", ("a <mask>", "auto")),
        ("corrupt", ("a <mask>", "auto", 0.15, 3, 0)),
        ("languages", ("nothing", "greedy", 1, 1, 1, 1, 1, 1, 1, 0)),
        ("batch", (None,)),
        ("lesson", (1, "no gap", "", "")),
    ],
)
def test_a_fault_empties_the_result_of_every_tab(
    page: gr.Blocks, tab: str, values: tuple[object, ...]
) -> None:
    shown = asked_for(page, tab, *values)
    assert any('class="fault"' in part for part in shown if isinstance(part, str))
    assert gr.skip() not in shown and not any("<table" in str(part) for part in shown)


def test_a_broken_file_empties_the_table_of_the_one_before(page: gr.Blocks, tmp_path: Path) -> None:
    broken = tmp_path / "x.csv"
    broken.write_text("nothing\n")
    state, table, message = asked_for(page, "batch", str(broken), "greedy", 1, 1, 1, 1, 1, 1, 1, 0)
    assert (state, table) == (None, export.nothing(ENGLISH, "batch_empty")) and "fault" in message
