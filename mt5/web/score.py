"""The tab that scores a person's own words."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from mt5 import figures
from mt5.info import Info
from mt5.record import record
from mt5.results import Filled, Score, finite
from mt5.tokenizer import MASK
from mt5.web import charts, chips, export, firsts
from mt5.web.faults import SAID, explained, fault
from mt5.web.spoken import build_spoken, spoken_in
from mt5.web.tab import Shell, Tab, heavy
from mt5.web.text import Text, escape, text_of

if TYPE_CHECKING:
    from mt5.engine import Engine

COLUMNS = ("who", "mask", "token", "id", "piece", "log_prob", "rank", "prompt", "text")
ALTERNATIVES = 5
CLOSE = 1e-3  # log-probabilities so near are the same words, computed in another order


@dataclass(frozen=True, eq=False)  # told apart by identity: a page asks for a hash of its state
class Answer:
    """The person's words and the model's, both scored."""

    yours: Score
    models: Score
    info: Info
    spoken: str | None

    @property
    def record(self) -> dict[str, Any]:
        """Both, for JSON."""
        settings = {"answers": [span.text for span in self.yours.spans], "num_alternatives": ALTERNATIVES}
        own = record(self.models, self.info, settings)
        written = {key: own[key] for key in ("text", "log_prob", "perplexity", "spans")}
        return record(self.yours, self.info, settings) | {"model_writes": written}


def scored(engine: "Engine", prompt: str, answers: str, chosen: object) -> Answer:
    """Score the lines, one for each gap, and what the model writes itself."""
    fill = engine.fill(prompt)
    lines = answers.strip("\n").split("\n")
    yours, models = engine.score([prompt, prompt], [lines, fill.spans], num_alternatives=ALTERNATIVES)
    return Answer(yours, models, engine.info, spoken_in(chosen, prompt))


def views(answer: Answer | None, text: Text) -> list[Any]:
    """A result as the outputs: answer, comparison, chart, message."""
    if answer is None:
        return [None, export.nothing(text, "score_empty"), charts.shown(None), ""]
    halves = ((answer.yours, "score_yours", "yours"), (answer.models, "score_model", "models"))
    cards = "".join(
        f'<section class="card"><h2>{text.html(title)}</h2>{_numbers(score, text)}'
        f"{chips.sentence(score, text, answer.spoken, name=f'score-{name}')}</section>"
        for score, title, name in halves
    )
    verdict = f'<p class="verdict">{escape(compared(answer, text))}</p>'
    hint = f'{chips.legend(text)}<p class="hint">{text.html("rank_info")}</p>'
    shown = f'{verdict}<div class="pair">{cards}</div>{hint}'
    return [answer, shown, chart(answer, text), ""]


def compared(answer: Answer, text: Text) -> str:
    """Whose words the model finds likelier, and how many times."""
    difference = answer.models.log_prob - answer.yours.log_prob
    if abs(difference) < CLOSE:
        return text("score_same")
    times = math.exp(min(abs(difference), 700))
    number = text.number(times, 0 if times >= 10 else 1)
    return text("score_likelier" if difference > 0 else "score_likelier_yours", times=number)


def chart(answer: Answer, text: Text) -> dict[str, Any]:
    """Two bars for each gap."""
    names = (text("score_yours"), text("score_model"))
    said = charts.said("score_title", text)
    figure = figures.comparison(answer.yours, answer.models, names=names, **said)
    return charts.shown(charts.drawn(figure, "score-surprise"))


def rows(answer: Answer) -> Iterable[tuple[Any, ...]]:
    """A row per token, for COLUMNS."""
    for who, score in (("you", answer.yours), ("model", answer.models)):
        for span in score.spans:
            for number, token in enumerate(span.tokens, 1):
                said = (token.id, token.piece, finite(token.log_prob), token.rank)
                yield (who, span.mask + 1, number, *said, score.prompt, score.text)


def mistaken(error: Exception, prompt: object, answers: object, text: Text) -> list[Any]:
    """A fault as the outputs: nothing else is left."""
    masks, lines = str(prompt).count(MASK), len(str(answers).strip("\n").split("\n"))
    known = explained(prompt, text, whole=False)
    if known is None and masks != lines:
        known = text("fault_answers", masks=text.number(masks, 0), answers=text.number(lines, 0))
    return [*views(None, text)[:-1], fault(error, prompt, text, known)]


def _numbers(score: Filled, text: Text) -> str:
    said = (
        text("probability_of", percent=text.percent(math.exp(score.log_prob))),
        f"{text('log_prob')} {text.number(score.log_prob, 3)}",
        f"{text('perplexity')} {text.number(score.perplexity, 2)}",
    )
    return f'<p class="hint">{escape(" · ".join(said))}</p>'


def build(shell: Shell) -> Tab:
    """Lay the tab out and say what its buttons do."""
    put, models = shell.words.put, shell.models

    def run(language: str, prompt: str, answers: str, chosen: str) -> list[Any]:
        text = text_of(language)
        try:
            with models.engine() as engine:
                return views(scored(engine, prompt, answers, chosen), text)
        except SAID as error:
            return mistaken(error, prompt, answers, text)

    def show(language: str, answer: Answer | None) -> list[Any]:
        return views(answer, text_of(language))

    put(gr.HTML(elem_classes="intro"), value=lambda text: f"<p>{text.html('score_intro')}</p>")
    with gr.Row(elem_classes="ask"):
        prompt = firsts.build_first(shell, firsts.gapped, elem_id="score-prompt", scale=3, min_width=280)
        put(prompt, label="prompt", info="prompt_info")
        answers = firsts.build_first(shell, firsts.guess, elem_id="answers", scale=2, min_width=200)
        put(answers, label="answers", info="answers_info")
        chosen = build_spoken(shell.words, "score-language")
    start = put(gr.Button(variant="primary", elem_id="score"), value="score")
    message = gr.HTML(elem_classes="status")
    with gr.Column(elem_id="score-result", elem_classes="result"):
        empty = export.nothing(shell.words.text, "score_empty")
        shown = gr.HTML(empty, elem_id="score-chips", js_on_load=chips.SCRIPT)
        bars = charts.build_plot(shell.words, "score-surprise")
    answer, go = gr.State(), gr.Textbox(visible="hidden")
    tab = Tab(
        "score",
        {"q": prompt, "a": answers, "lang": chosen},
        go,
        firsts.missing(q=firsts.gapped, a=firsts.guess),
    )
    export.build_downloads(shell, tab, answer, COLUMNS, rows)
    outputs = [answer, shown, bars, message]
    inputs = [shell.language, prompt, answers, chosen]
    gr.on([start.click, go.change], run, inputs, outputs, trigger_mode="always_last", **heavy(message))
    shell.redrawn(show, answer, outputs)
    return tab
