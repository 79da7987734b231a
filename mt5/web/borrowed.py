"""Words that Gradio itself puts on the page, in the page's language instead of its own."""

import json

import gradio as gr

from mt5.web.text import Text, escape
from mt5.web.words import Words

KEYS = ("use_api", "settings", "drop_file", "queue_place", "working")
# runs in the browser: Gradio's words are written over whenever it writes them
SAY = r"""
const worded = (node) => node.nodeType === Node.TEXT_NODE && node.data.trim();
const texts = (parent) => [...(parent?.childNodes ?? [])].filter(worded);
const write = (node, text) => { if (node && node.data !== text) node.data = text; };
const say = () => {
  const said = JSON.parse(element.querySelector('[data-said]').dataset.said);
  write(texts(document.querySelector('footer .show-api'))[0], `${said.use_api} `);
  write(texts(document.querySelector('footer .settings'))[0], `${said.settings} `);
  const upload = document.querySelector('#batch-file [data-testid=upload-text]');
  texts(upload).forEach((node, place) => write(node, place ? '' : said.drop_file));
  upload?.closest('button')?.setAttribute('aria-label', said.drop_file);
  for (const node of [...document.querySelectorAll('.progress-text')].flatMap(texts)) {
    const [queued, place, all] = /queue: (\d+)\/(\d+)/.exec(node.data) ?? [];
    if (queued) write(node, `${said.queue_place.replace('{place}', place).replace('{all}', all)} · `);
    if (node.data.startsWith('processing')) write(node, `${said.working} · `);
  }
};
let due = 0;  // at most once for each frame, before it is painted
const soon = () => { due ||= requestAnimationFrame(() => { due = 0; say(); }); };
new MutationObserver(soon).observe(document.body, {childList: true, subtree: true, characterData: true});
soon();
"""


def build_borrowed(words: Words) -> None:
    """What is to be said, out of sight, and what says it."""
    words.put(gr.HTML(js_on_load=SAY, elem_id="borrowed"), value=_said)


def _said(text: Text) -> str:
    return f'<span hidden data-said="{escape(json.dumps({key: text(key) for key in KEYS}))}"></span>'
