"""The page: all of it, on an engine."""

from typing import TYPE_CHECKING, Any

import gradio as gr

from mt5.web import batch, corrupt, fill, lesson, permalink, score, sweep
from mt5.web import languages as in_languages
from mt5.web.about import build_about
from mt5.web.api import build_api
from mt5.web.borrowed import build_borrowed
from mt5.web.header import build_header, build_model
from mt5.web.health import build_health
from mt5.web.models import Models
from mt5.web.patches import no_server_yet
from mt5.web.serving import serving
from mt5.web.settings import FIELDS
from mt5.web.tab import LIGHT, Shell, Tab
from mt5.web.text import FALLBACK, languages, preferred, text_of
from mt5.web.words import Words

if TYPE_CHECKING:
    from mt5.engine import Engine

__all__ = ["build_page", "serving"]

# run in the browser, which may keep nothing for a page in a frame: the language chosen on an earlier visit;
# the document's own language, and remembering it
REMEMBERED = "() => { try { return localStorage.getItem('mt5-page-language') ?? ''; } catch { return ''; } }"
SPEAK = """(language) => {
  document.documentElement.lang = language;
  document.title = document.querySelector('#title h1')?.innerText ?? document.title;
}"""
REMEMBER = "(language) => { try { localStorage.setItem('mt5-page-language', language); } catch {} }"


def build_page(engine: "Engine | Models") -> gr.Blocks:
    """The whole page on an engine, or on models among which visitors choose."""
    with no_server_yet():
        return _laid_out(engine)


def _laid_out(engine: "Engine | Models") -> gr.Blocks:
    models = engine if isinstance(engine, Models) else Models(engine)
    words = Words(text_of(FALLBACK))
    title = words.text("title")
    with gr.Blocks(title=title, delete_cache=(600, 1800), analytics_enabled=False, fill_width=True) as page:
        language, line = build_header(words, models)
        shell = Shell(models, words, language)
        build_health(words)
        build_model(shell, line)
        selector, tabs = build_tabs(shell)
        build_about(words)
        build_borrowed(words)
        build_api(models)
        speak(page, shell, selector, tabs)
    # refuses more than a class and some slack; the slow rate keeps a flood from evicting who waits
    page.queue(max_size=256, status_update_rate=5, default_concurrency_limit=1, api_open=False)
    return page


def build_tabs(shell: Shell) -> tuple[gr.Tabs, list[Tab]]:
    """Every tab, in the order of the page."""
    put = shell.words.put
    with gr.Tabs(selected="fill", elem_id="tabs", overflow_behavior="wrap") as selector:
        with put(gr.Tab(id="fill"), label="tab_fill"):
            filling = fill.build(shell)
        settings = {name: filling.fields[name] for name in FIELDS}
        with put(gr.Tab(id="score"), label="tab_score"):
            scoring = score.build(shell)
        with put(gr.Tab(id="sweep"), label="tab_sweep"):
            sweeping = sweep.build(shell)
        with put(gr.Tab(id="corrupt"), label="tab_corrupt"):
            corrupting = corrupt.build(shell)
        with put(gr.Tab(id="languages"), label="tab_languages"):
            asking = in_languages.build(shell, settings)
        with put(gr.Tab(id="batch"), label="tab_batch"):
            filing = batch.build(shell, settings)
        with put(gr.Tab(id="lesson"), label="tab_lesson"):
            teaching = lesson.build(shell)
    return selector, [filling, scoring, sweeping, corrupting, asking, filing, teaching]


def speak(page: gr.Blocks, shell: Shell, selector: gr.Tabs, tabs: list[Tab]) -> None:
    """Let the page speak the visitor's language, and restore what its address holds."""
    words, language, remembered = shell.words, shell.language, gr.Textbox(visible="hidden")

    def arrive(request: gr.Request, chosen: str) -> list[Any]:
        query = dict(request.query_params)
        wanted = (query.get("ui"), chosen, preferred(request.headers.get("accept-language")))
        spoken = next(code for code in (*wanted, FALLBACK) if code in languages())
        restored = permalink.restored(tabs, query, text_of(spoken))
        # at once, so that nobody sees the page in two languages
        said = [gr.skip()] * len(words.blocks) if spoken == FALLBACK else words.updates(spoken)
        return [spoken, *restored, *said]

    outputs = permalink.outputs(selector, tabs)
    arrived = page.load(arrive, remembered, [language, *outputs, *words.blocks], js=REMEMBERED, **LIGHT)
    chosen = language.input(words.updates, language, words.blocks, **LIGHT)
    for spoken in (arrived, chosen):
        spoken.then(None, language, js=SPEAK, **LIGHT)
    language.input(None, language, js=REMEMBER, **LIGHT)
