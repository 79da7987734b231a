"""How the page is served: its looks, its limits, and nothing loaded from elsewhere."""

from pathlib import Path
from typing import Any

import gradio as gr

from mt5.web.charts import WATCH
from mt5.web.guard import guarding
from mt5.web.health import ASK_AGAIN
from mt5.web.memory import keep_together
from mt5.web.models import Models
from mt5.web.patches import keep_little, keep_words_out, stop_quietly

ROOT = Path(__file__).resolve().parents[2]
# Latin first, then the scripts of the other languages; every one is the reader's own font
FONTS = (
    "system-ui", "Noto Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR",
    "Noto Sans Devanagari",
    "Hiragino Sans", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic", "Nirmala UI", "sans-serif",
)  # fmt: skip
# what style.css cannot reach: on paper the theme is light, whatever it is on the screen; a phone is narrow
HEAD = f"""<meta name="referrer" content="no-referrer">
<script>{ASK_AGAIN}</script>
<style>
@media print {{ body, gradio-app {{ background: #fff !important; }} }}
@media (max-width: 640px) {{
  .main.fillable {{ padding-inline: .9rem !important; }}
  footer .divider {{ display: none !important; }}
}}
</style>"""
# runs in the browser: pictures in the footer say what the words beside them say
SILENCE = """
const silence = () => {
  const images = document.querySelectorAll('footer img');
  for (const image of images) image.alt = '';
  if (!images.length) setTimeout(silence, 200);
};
silence();
"""
# runs in the browser: Ctrl or ⌘ with Enter presses a tab's own button from any of its fields
ENTER = """
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
  const button = event.target.closest('.tabitem')?.querySelector('button.primary');
  if (button) { event.preventDefault(); event.stopPropagation(); button.click(); }
}, true);
"""
SETUP = f"() => {{ document.documentElement.lang = 'en'; {WATCH} {SILENCE} {ENTER} }}"


def theme() -> gr.themes.Base:
    """Gradio's own, with the reader's fonts, and a contrast of 4.5 to 1 at least."""
    return gr.themes.Default(font=FONTS, font_mono=("ui-monospace", "monospace"), primary_hue="blue").set(
        body_background_fill="*neutral_50",
        block_radius="0.9rem",
        block_border_color="*neutral_200",
        button_large_radius="0.7rem",
        button_small_radius="0.5rem",
        button_secondary_background_fill="white",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_600",
        button_border_width="1px",
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


def serving(models: Models) -> dict[str, Any]:
    """Options of `launch`: nothing loaded from elsewhere, nothing kept, no faults shown, and a guard."""
    keep_words_out()
    keep_little()
    stop_quietly()
    keep_together()
    hidden = {"docs_url": None, "redoc_url": None, "openapi_url": None}
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
        "mcp_server": True,
        "footer_links": ["api", "settings"],
        "blocked_paths": [str(ROOT)],
        "app_kwargs": {**hidden, "middleware": guarding(models.health)},
    }
