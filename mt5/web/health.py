"""A line that says so when the model's processes fail or its queue is full, past the queue."""

import gradio as gr

from mt5.web.text import Text
from mt5.web.words import Words

STATES = ("restarting", "reduced", "failed")
# runs in the browser: often while something runs, now and then otherwise
WATCH = """
const look = async () => {
  try {
    const answer = await fetch(new URL('health', document.baseURI), {cache: 'no-store'});
    const {state} = await answer.json();
    for (const line of element.querySelectorAll('[data-state]')) line.hidden = line.dataset.state !== state;
  } catch { /* the page itself says when the server is gone */ }
  setTimeout(look, document.querySelector('button.stop:not([disabled])') ? 1000 : 15000);
};
look();
"""
# runs in the browser before all else: who finds the queue full is told so, and asks again until there is
# room, Stop is pressed, or ten minutes are over
ASK_AGAIN = """
{
  const fetched = window.fetch, waiting = new Set();
  const say = () => {
    for (const line of document.querySelectorAll('#health [data-full]')) line.hidden = !waiting.size;
  };
  const pause = (seconds) => new Promise((wake) => {
    const end = (again) => { clearTimeout(timer); waiting.delete(end); say(); wake(again); };
    const timer = setTimeout(end, 1000 * seconds, true);
    waiting.add(end);
    say();
  });
  window.fetch = async (where, ...how) => {
    for (const end = Date.now() + 600_000;;) {
      const answer = await fetched(where, ...how);
      if (answer.status !== 503 || !/\\/queue\\/join(\\?|$)/.test(where)) return answer;
      // not all of them at the same moment
      const seconds = Number(answer.headers.get('retry-after') || 30) * (1 + Math.random() / 5);
      if (Date.now() > end || !await pause(seconds)) return answer;
    }
  };
  document.addEventListener('click', ({target}) => {
    if (target.closest?.('button.stop')) for (const end of [...waiting]) end(false);
  }, true);
}
"""


def build_health(words: Words) -> None:
    """The line, empty as long as all is well."""
    words.put(gr.HTML(elem_id="health", js_on_load=WATCH), value=_lines)


def _lines(text: Text) -> str:
    kinds = [(f'data-state="{state}"', f"health_{state}") for state in STATES]
    return "".join(
        f'<p class="fault" role="alert" {kind} hidden>{text.html(said)}</p>'
        for kind, said in (*kinds, ("data-full", "health_full"))
    )
