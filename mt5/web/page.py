"""The page, and how it is served."""

from pathlib import Path
from typing import Any

import gradio as gr

from mt5.engine import Engine
from mt5.web import fill
from mt5.web.text import Text, escape, text_of

ROOT = Path(__file__).resolve().parents[2]
TITLE = "mT5 span infilling"
EMBEDDED = ROOT / "assets" / "model"
# Latin first, then the scripts of the other languages; every one is the reader's own font
FONTS = (
    "system-ui", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR",
    "Noto Sans Devanagari",
    "Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "sans-serif",
)  # fmt: skip
HEAD = '<meta name="referrer" content="no-referrer">'
SETUP = "() => { document.documentElement.lang = 'en'; }"


def model_line(engine: Engine, text: Text) -> str:
    """Which model answers, in a line of HTML."""
    info = engine.info
    own = Path(info.path).resolve() != EMBEDDED
    facts = [
        f"<strong>{escape(info.name)}</strong>",
        escape(text("parameters", number=text.number(info.parameters / 1e6))),
        escape(info.dtype),
        escape(text("tensor_parallel", number=text.number(info.tensor_parallel, 0))),
        escape(text("own_model" if own else "embedded_model")),
    ]
    return f'<p class="model">{" · ".join(facts)}</p>'


def build_page(engine: Engine) -> gr.Blocks:
    """The whole page on an engine."""
    text = text_of("en")
    with gr.Blocks(title=TITLE, delete_cache=(600, 1800), analytics_enabled=False, fill_width=True) as page:
        notice = f'<p class="notice">{escape(text("notice"))}</p>'
        gr.HTML(f"<h1>{escape(TITLE)}</h1>{notice}{model_line(engine, text)}", elem_id="header")
        fill.build(engine, text)
        with gr.Accordion(text("about"), open=False, elem_id="about"):
            gr.HTML(about(text))
    # refuses more than a class and some slack; the slow rate keeps a flood from evicting who waits
    page.queue(max_size=256, status_update_rate=5, default_concurrency_limit=1, api_open=False)
    return page


def about(text: Text) -> str:
    """What the model is, what it cannot do, and whose it is."""
    paragraphs = (
        "about_task",
        "about_model",
        "about_limits",
        "about_embedded",
        "about_licence",
        "about_privacy",
    )
    return "".join(f"<p>{escape(text(key))}</p>" for key in paragraphs)


def theme() -> gr.themes.Base:
    """Gradio's own, with the reader's fonts, and a contrast of 4.5 to 1 at least."""
    return gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace"), primary_hue="blue").set(
        block_info_text_color="*neutral_600",
        block_label_text_color="*neutral_700",
        block_title_text_color="*neutral_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_cancel_background_fill="#b91c1c",
        button_cancel_background_fill_hover="#991b1b",
        button_cancel_background_fill_dark="#b91c1c",
    )


def serving() -> dict[str, Any]:
    """Options of `launch`: nothing loaded from elsewhere, nothing kept, no faults shown."""
    return {
        "theme": theme(),
        "css_paths": ROOT / "assets" / "style.css",
        "head": HEAD,
        "js": SETUP,
        "share": False,
        "show_error": False,
        "quiet": True,
        "prevent_thread_lock": True,
        "run_history": False,
        "enable_monitoring": False,
        "strict_cors": True,
        "max_file_size": "1mb",
        "state_session_capacity": 500,
        "ssr_mode": False,
        "footer_links": ["api"],
        "blocked_paths": [str(ROOT)],
        "app_kwargs": {"docs_url": None, "redoc_url": None, "openapi_url": None},
    }
