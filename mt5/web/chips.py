"""Tokens and words as buttons, coloured by their probability, each with what else the model thought of."""

import math
import re
from collections.abc import Sequence

from mt5.figures import COLOURS, LEAST, SPACE, joined, spelling, step
from mt5.results import Filled, Span, Sweep, SweepWord, Token
from mt5.web.text import Text, escape

MASK = "<mask>"
# letters of scripts that joiners shape, and the parts of an emoji
SHAPED = "\u0600-\u06ff\u0750-\u077f\u0900-\u0dff"
EMOJI = "\u2600-\u27bf\ufe0f\U0001f000-\U0001faff"
# characters that cannot be seen, or that turn the direction of what follows; joiners where they join nothing
UNSEEN = re.compile(
    "[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff"
    "\U000e0000-\U000e007f]"
    f"|(?<![{SHAPED}{EMOJI}])[\u200c\u200d]|[\u200c\u200d](?![{SHAPED}{EMOJI}])"
)

CLOSING = re.compile(r"▁?(</s>|<extra_id_\d+>)")

# runs in the browser: opening a chip, moving between chips, taking an alternative; a chip that is written
# anew while it has the focus keeps it
SCRIPT = """
const chips = () => [...element.querySelectorAll('.chip')];
let here = null;
const choose = (chip) => {
  const open = chip.getAttribute('aria-expanded') !== 'true';
  for (const other of chips()) other.setAttribute('aria-expanded', String(open && other === chip));
  for (const panel of element.querySelectorAll('.alternatives'))
    panel.hidden = !(open && panel.id === chip.getAttribute('aria-controls'));
};
element.addEventListener('click', (event) => {
  const chip = event.target.closest('.chip');
  const fork = event.target.closest('[data-fork]');
  if (chip) choose(chip);
  if (fork) trigger('select', {fork: fork.dataset.fork});
});
element.addEventListener('focusin', (event) => {
  const panel = event.target.closest('.alternatives');
  const chip = panel ? element.querySelector(`[aria-controls="${panel.id}"]`) : event.target.closest('.chip');
  here = chip ? chips().indexOf(chip) : null;
});
element.addEventListener('focusout', (event) => { if (event.relatedTarget) here = null; });
new MutationObserver(() => {
  if (here !== null && document.activeElement === document.body)
    chips()[Math.min(here, chips().length - 1)]?.focus({preventScroll: true});
}).observe(element, {childList: true, subtree: true});
element.addEventListener('keydown', (event) => {
  const panel = event.target.closest('.alternatives');
  const chip = panel ? element.querySelector(`[aria-controls="${panel.id}"]`) : event.target.closest('.chip');
  if (!chip) return;
  if (event.key === 'Escape' && chip.getAttribute('aria-expanded') === 'true') { choose(chip); chip.focus(); }
  if (panel) return;
  const all = chips(), place = all.indexOf(chip);
  const next = {ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: all.length - 1}[event.key];
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


def sentence(
    filled: Filled,
    text: Text,
    language: str | None = None,
    *,
    name: str = "fill",
    forks: bool = False,
    opened: bool = False,
) -> str:
    """The sentence with its gaps filled by chips, and the alternatives of each chip.

    name: begins the ids of the elements, so that two sentences can stand on one page. forks: alternatives
    can be taken; their button tells gap, place in it, and id. opened: the first chip that is more than a
    space shows its alternatives from the start.
    """
    parts = filled.prompt.split(MASK)
    shown, panels = [visible(parts[0])], []
    for span, part in zip(filled.spans, parts[1:], strict=True):
        chips, place = joined(span.tokens), 0
        for piece, tokens in chips:
            id_ = f"{name}-{span.mask}-{place}"
            open_, opened = opened and piece != SPACE, opened and piece == SPACE
            shown.append(_chip(piece, tokens, id_, text, open_))
            fork = f"{span.mask},{place}" if forks else None
            panels.append(_alternatives(piece, tokens, id_, text, fork, open_))
            place += len(tokens)
        if not chips:
            label = text("missing") if span.missing else text("mask_shown")
            shown.append(f'<span class="gap">{escape(label)}</span>')
        if span.truncated:
            shown.append(f'<span class="gap" title="{text.html("truncated")}">…</span>')
        shown.append(visible(part))
    return f'<p class="sentence" dir="auto"{_lang(language)}>{"".join(shown)}</p>{"".join(panels)}'


def swept(sweep: Sweep, text: Text, language: str | None = None) -> str:
    """The sentence with every word as a chip, and what the model would have written in its place."""
    shown, panels, end = [], [], 0
    for number, word in enumerate(sweep.words):
        probability = math.exp(word.score.log_prob)
        shown += [
            visible(sweep.text[end : word.start]),
            _button(visible(word.word), text.percent(probability), probability, f"sweep-{number}"),
        ]
        panels.append(_word(word, text, f"sweep-{number}"))
        end = word.end
    shown.append(visible(sweep.text[end:]))
    return f'<p class="sentence" dir="auto"{_lang(language)}>{"".join(shown)}</p>{"".join(panels)}'


def named(piece: str, text: Text) -> str:
    """A piece as it is written on its chip; one that ends a gap is called so."""
    return f"⏹ {text('end_marker')}" if CLOSING.fullmatch(piece) else spelling(piece)


def legend(text: Text) -> str:
    """The colours and what they stand for."""
    steps = "".join(f'<span class="step-{number}"></span>' for number in range(1, len(COLOURS) + 1))
    low, high = escape(text.percent(LEAST)), escape(text.percent(1))
    scale = f'<span class="scale" role="img" aria-label="{text.html("legend")}">{steps}</span>'
    return f'<p class="legend"><span>{low}</span>{scale}<span>{high}</span></p>'


def bar(probability: float) -> str:
    """A cell with a bar as long as a probability."""
    width = f"width:{100 * probability:.1f}%"
    return f'<td class="bar"><span class="step-{step(probability)}" style="{width}"></span></td>'


def _lang(language: str | None) -> str:
    return f' lang="{escape(language)}"' if language else ""


def _button(label: str, numbers: str, probability: float, id_: str, open_: bool = False) -> str:
    return (
        f'<button type="button" class="chip step-{step(probability)}" aria-expanded="{str(open_).lower()}"'
        f' aria-controls="{id_}"><bdi>{label}</bdi><small>{escape(numbers)}</small></button>'
    )


def _chip(piece: str, tokens: Sequence[Token], id_: str, text: Text, open_: bool) -> str:
    probability = math.exp(sum(token.log_prob for token in tokens))
    numbers = text.percent(probability)
    if tokens[0].rank is not None:
        numbers += f" · {text('rank', rank=text.number(max(token.rank or 1 for token in tokens), 0))}"
    return _button(visible(spelling(piece)), numbers, probability, id_, open_)


def _alternatives(
    piece: str, tokens: Sequence[Token], id_: str, text: Text, fork: str | None, open_: bool
) -> str:
    token = tokens[0]
    rows = [(token.log_prob, token.piece, None)]
    rows += [(other.log_prob, other.piece, other.id) for other in token.alternatives]
    rows.sort(key=lambda row: -row[0])
    body = "".join(_row(name, math.exp(value), other, text, fork) for value, name, other in rows)
    heading = text("alternatives_of", token="\0").split("\0")
    title = f"{escape(heading[0])}<bdi>{visible(spelling(piece))}</bdi>{escape(heading[-1])}"
    bits = sum(token.surprise for token in tokens)
    return _panel(f"{title} · {_bits(bits, text)}", body, id_, text, open_)


def _row(piece: str, probability: float, other: int | None, text: Text, fork: str | None) -> str:
    label = f"<bdi>{visible(named(piece, text))}</bdi>"
    if fork and other is not None:
        what = text.html("take", token=named(piece, text))
        label = f'<button type="button" data-fork="{fork},{other}" title="{what}">{label}</button>'
    taken = ' class="taken"' if other is None else ""
    percent = escape(text.percent(probability))
    return f'<tr{taken}><th scope="row">{label}</th><td>{percent}</td>{bar(probability)}</tr>'


def _word(word: SweepWord, text: Text, id_: str) -> str:
    rows = "".join(
        f'<tr{taken}><th scope="row"><bdi>{visible(span.text)}</bdi><small>{text.html(label)}</small></th>'
        f"<td>{escape(text.percent(math.exp(span.log_prob)))}</td>{bar(math.exp(span.log_prob))}</tr>"
        for span, label, taken in _both(word)
    )
    return _panel(
        f"<bdi>{visible(word.word)}</bdi> · {_bits(-word.score.log_prob / math.log(2), text)}",
        rows,
        id_,
        text,
    )


def _both(word: SweepWord) -> list[tuple[Span, str, str]]:
    own = (word.score, "sweep_word", ' class="taken"')
    return [own, (word.fill, "sweep_model", "")]


def _bits(bits: float, text: Text) -> str:
    return text.html("bits_line", bits=text.number(max(0.0, bits)))


def _panel(title: str, rows: str, id_: str, text: Text, open_: bool = False) -> str:
    name, hidden = text.html("alternatives"), "" if open_ else " hidden"
    return (
        f'<div class="alternatives" id="{id_}" role="region" aria-label="{name}"{hidden}>'
        f"<table><caption>{title}</caption>"
        f'<thead><tr><th scope="col">{text.html("token")}</th><th scope="col">{text.html("probability")}</th>'
        f"<td></td></tr></thead><tbody>{rows}</tbody></table></div>"
    )
