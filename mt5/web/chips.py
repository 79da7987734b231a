"""Tokens as buttons, coloured by their probability, each with its alternatives."""

import math
import re
from collections.abc import Sequence

from mt5.figures import COLOURS, LEAST, joined, spelling, step
from mt5.infill import Fill, Token
from mt5.web.text import Text, escape

MASK = "<mask>"
# characters that cannot be seen, or that turn the direction of what follows
UNSEEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)

# runs in the browser: opening a chip, and moving between chips with the arrow keys
SCRIPT = """
const chips = () => [...element.querySelectorAll('.chip')];
const choose = (chip) => {
  const open = chip.getAttribute('aria-expanded') !== 'true';
  for (const other of chips()) other.setAttribute('aria-expanded', String(open && other === chip));
  for (const panel of element.querySelectorAll('.alternatives'))
    panel.hidden = !(open && panel.id === chip.getAttribute('aria-controls'));
};
element.addEventListener('click', (event) => {
  const chip = event.target.closest('.chip');
  if (chip) choose(chip);
});
element.addEventListener('keydown', (event) => {
  const chip = event.target.closest('.chip');
  if (!chip) return;
  const all = chips(), here = all.indexOf(chip);
  const next = {ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: all.length - 1}[event.key];
  if (event.key === 'Escape' && chip.getAttribute('aria-expanded') === 'true') choose(chip);
  if (next === undefined) return;
  event.preventDefault();
  all[Math.min(Math.max(next, 0), all.length - 1)].focus();
});
"""


def visible(text: str) -> str:
    """Escaped text in which characters that cannot be seen are spelt out."""
    parts, end = [], 0
    for match in UNSEEN.finditer(text):
        parts += [escape(text[end : match.start()]), f'<span class="unseen">U+{ord(match[0]):04X}</span>']
        end = match.end()
    return "".join([*parts, escape(text[end:])])


def sentence(fill: Fill, text: Text, language: str | None = None) -> str:
    """The sentence with its gaps filled by chips, the legend, and the alternatives of each chip."""
    parts = fill.prompt.split(MASK)
    shown, panels = [visible(parts[0])], []
    for span, part in zip(fill.spans, parts[1:], strict=True):
        chips = joined(span.tokens)
        for number, (piece, tokens) in enumerate(chips):
            name = f"token-{span.mask}-{number}"
            shown.append(_chip(piece, tokens, name, text))
            panels.append(_alternatives(piece, tokens, name, text))
        if not chips:
            label = text("missing") if span.missing else text("mask_shown")
            shown.append(f'<span class="gap">{escape(label)}</span>')
        if span.truncated:
            shown.append(f'<span class="gap" title="{escape(text("truncated"))}">…</span>')
        shown.append(visible(part))
    lang = f' lang="{escape(language)}"' if language else ""
    return (
        f'<p class="sentence" dir="auto"{lang}>{"".join(shown)}</p>{legend(text)}'
        f'<p class="hint">{escape(text("chip_hint"))}</p>{"".join(panels)}'
    )


def _chip(piece: str, tokens: Sequence[Token], name: str, text: Text) -> str:
    probability = math.exp(sum(token.log_prob for token in tokens))
    percent = text.percent(probability)
    return (
        f'<button type="button" class="chip step-{step(probability)}" aria-expanded="false"'
        f' aria-controls="{name}">'
        f"<bdi>{visible(spelling(piece))}</bdi><small>{escape(percent)}</small></button>"
    )


def _alternatives(piece: str, tokens: Sequence[Token], name: str, text: Text) -> str:
    token = tokens[0]
    rows = [(token.piece, math.exp(token.log_prob), True)]
    rows += [(other.piece, math.exp(other.log_prob), False) for other in token.alternatives]
    body = "".join(
        f'<tr{" class=taken" if taken else ""}><th scope="row"><bdi>{visible(spelling(name_))}</bdi></th>'
        f"<td>{escape(text.percent(probability))}</td>"
        f'<td class="bar"><span class="step-{step(probability)}" style="width:{100 * probability:.1f}%">'
        "</span></td></tr>"
        for name_, probability, taken in sorted(rows, key=lambda row: -row[1])
    )
    heading = text("alternatives_of", token="\0").split("\0")
    title = f"{escape(heading[0])}<bdi>{visible(spelling(piece))}</bdi>{escape(heading[1])}"
    bits = text("bits_line", bits=text.number(max(0.0, sum(t.surprise for t in tokens))))
    return (
        f'<div class="alternatives" id="{name}" role="region" aria-label="{escape(text("alternatives"))}"'
        " hidden>"
        f"<table><caption>{title} · {escape(bits)}</caption>"
        f'<thead><tr><th scope="col">{escape(text("token"))}</th>'
        f'<th scope="col">{escape(text("probability"))}</th>'
        f"<td></td></tr></thead><tbody>{body}</tbody></table></div>"
    )


def legend(text: Text) -> str:
    """The colours and what they stand for."""
    steps = "".join(f'<span class="step-{number}"></span>' for number in range(1, len(COLOURS) + 1))
    low, high = escape(text.percent(LEAST)), escape(text.percent(1))
    scale = f'<span class="scale" aria-hidden="true">{steps}</span>'
    return f'<p class="legend"><span>{low}</span>{scale}<span>{high}</span></p>'
