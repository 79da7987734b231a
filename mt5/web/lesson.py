"""The tab that walks a class through seven steps."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from mt5 import figures
from mt5.results import Filled
from mt5.web import charts, chips, corrupt, permalink
from mt5.web.faults import SAID, fault
from mt5.web.firsts import LONGEST_PASTE
from mt5.web.spoken import spoken_in
from mt5.web.tab import LIGHT, Shell, Tab, heavy
from mt5.web.text import Text, escape, languages, text_of

if TYPE_CHECKING:
    from mt5.engine import Engine

STEPS = 7
GUESSED, SECOND, TRAINED = (1, 2, 3), (4, 5, 7), 6


@dataclass(frozen=True)
class Asked:
    """What a step is about: prompts, and the visitor's guess."""

    step: int
    prompt: str
    second: str
    guess: str


def guessed(engine: "Engine", asked: Asked, text: Text) -> tuple[str, Any]:
    """Step 1: nothing but the guess is kept."""
    if not asked.guess.strip():
        return f'<p class="fault" role="alert">{text.html("lesson_first_guess")}</p>', None
    return f'<p class="verdict">{text.html("lesson_1_said", guess=asked.guess.strip())}</p>', None


def revealed(engine: "Engine", asked: Asked, text: Text) -> tuple[str, Any]:
    """Step 2: the model's words, and how likely it finds the guess."""
    fill = engine.fill(asked.prompt, num_alternatives=10)
    cards = [card(text("lesson_model"), fill, text, "lesson-model")]
    if asked.guess.strip():
        score = engine.score(asked.prompt, [asked.guess.strip()] * len(fill.spans), num_alternatives=10)
        cards.insert(0, card(text("lesson_you"), score, text, "lesson-you"))
    return f'<div class="pair">{"".join(cards)}</div>{chips.legend(text)}', None


def measured(engine: "Engine", asked: Asked, text: Text) -> tuple[str, Any]:
    """Step 3: the same as bars of surprise."""
    shown, _ = revealed(engine, asked, text)
    fill = engine.fill(asked.prompt)
    guess = asked.guess.strip()
    said = charts.said("score_title", text)
    if not guess:
        return shown, charts.drawn(figures.surprise(fill.tokens, **said), "surprise")
    own = engine.score(asked.prompt, [guess] * len(fill.spans))
    names = (text("lesson_you"), text("lesson_model"))
    figure = figures.comparison(own, fill, names=names, **said)
    return shown, charts.drawn(figure, "surprise")


def compared(engine: "Engine", asked: Asked, text: Text) -> tuple[str, Any]:
    """Steps 4, 5 and 7: two prompts in one batch, side by side, each with its alternatives."""
    fills = engine.fill([asked.prompt, asked.second], num_alternatives=10)
    cards = "".join(
        card(text("sentence") + f" {text.number(number, 0)}", fill, text, f"lesson-{number}", opened=True)
        for number, fill in enumerate(fills, 1)
    )
    return f'<div class="pair">{cards}</div>{chips.legend(text)}', None


def trained(engine: "Engine", asked: Asked, text: Text) -> tuple[str, Any]:
    """Step 6: a sentence cut up as in training."""
    answer = corrupt.corrupted(engine, asked.prompt, None, density=0.2, mean_span=2, seed=len(asked.prompt))
    return corrupt.views(answer, text)[1], None


DO: dict[int, Callable[["Engine", Asked, Text], tuple[str, Any]]] = {
    1: guessed, 2: revealed, 3: measured, 4: compared, 5: compared, 6: trained, 7: compared,
}  # fmt: skip


def card(title: str, filled: Filled, text: Text, name: str, *, opened: bool = False) -> str:
    """A sentence with its chips. opened: with the alternatives of the first one that is more than a space."""
    said = text("probability_of", percent=text.percent(math.exp(filled.log_prob)))
    spoken = spoken_in(None, filled.prompt)
    shown = chips.sentence(filled, text, spoken, name=name, opened=opened)
    return (
        f'<section class="card"><h2>{escape(title)}</h2><p class="hint">{escape(said)}</p>{shown}</section>'
    )


def prompts(step: int, text: Text) -> tuple[str, str]:
    """The sentences that a step begins with; "" where it needs no second."""
    if step == TRAINED:
        return text("lesson_6_sentence"), ""
    first = 1 if step in GUESSED else step
    return text(f"lesson_{first}_prompt"), text(f"lesson_{step}_second") if step in SECOND else ""


def told(step: int, text: Text) -> str:
    """What a step explains and asks."""
    number = {"step": text.number(step, 0), "all": text.number(STEPS, 0)}
    return (
        f'<p class="hint">{text.html("lesson_step", **number)}</p><h2>{text.html(f"lesson_{step}")}</h2>'
        f'<p class="told">{text.html(f"lesson_{step}_text")}</p>'
    )


def question(step: int, text: Text) -> str:
    """What a class may talk about."""
    title = f"<strong>{text.html('lesson_question')}</strong>"
    return f'<p class="question">{title} {text.html(f"lesson_{step}_ask")}</p>'


def framed(step: object, text: Text) -> list[Any]:
    """The outputs for a step: told, prompt, second, guess, button, question, back, next; no sentence."""
    number = step if step in DO else 1
    return [
        told(number, text),
        gr.update(label=text("sentence") if number == TRAINED else text("prompt")),
        gr.update(visible=number in SECOND),
        gr.update(visible=number in GUESSED),
        gr.update(value=text(f"lesson_{number}_do")),
        question(number, text),
        gr.update(interactive=number > 1),
        gr.update(interactive=number < STEPS),
    ]


def translated(step: int, text: Text, prompt: str, second: str) -> list[str]:
    """The sentences of a step in another language, where they are still its own."""
    own = [prompts(step, text_of(language)) for language in languages()]
    first, other = prompts(step, text)
    firsts, seconds = {pair[0] for pair in own}, {pair[1] for pair in own}
    return [first if prompt in firsts else prompt, other if second in seconds else second]


def missing(query: Mapping[str, str], text: Text) -> dict[str, str]:
    """What an address of a step leaves out: the step's own sentences."""
    step = query.get("step", "1")
    first, second = prompts(int(step) if step in map(str, DO) else 1, text)
    return {"q": first, "second": second}


def build(shell: Shell) -> Tab:
    """Lay the tab out and say what its buttons do."""
    put, models, said = shell.words.put, shell.models, shell.words.text

    def run(language: str, step: int, prompt: str, second: str, guess: str) -> list[Any]:
        text = text_of(language)
        try:
            with models.engine() as engine:
                shown, chart = DO[step](engine, Asked(step, prompt, second, guess or ""), text)
            return [shown, charts.shown(chart), "", language]
        except SAID as error:
            return ["", charts.shown(None), fault(error, prompt, text, whole=step == TRAINED), language]

    def frame(language: str, step: int) -> list[Any]:
        return framed(step, text_of(language))

    def begin(language: str, step: int) -> list[Any]:
        return [*prompts(step, text_of(language)), "", charts.shown(None), ""]

    def translate(language: str, step: int, prompt: str, second: str, made: str) -> list[Any]:
        text = text_of(language)
        sentences = translated(step, text, prompt, second)
        # what is about other sentences goes; an address brings the language and the result at once
        other = made not in ("", language) and sentences != [prompt, second]
        kept = ["", charts.shown(None), ""] if other else [gr.skip()] * 3
        return [*framed(step, text), *sentences, *kept]

    put(gr.HTML(elem_classes="intro"), value=lambda text: f"<p>{text.html('lesson_intro')}</p>")
    step = gr.Radio(_choices(said), value=1, elem_id="lesson-steps")
    put(step, label="lesson_steps", choices=_choices)
    card_ = gr.HTML(told(1, said), elem_id="lesson-told")
    with gr.Row(elem_classes="ask"):
        prompt = gr.Textbox(
            prompts(1, said)[0], lines=2, max_length=LONGEST_PASTE, elem_id="lesson-prompt", min_width=280
        )
        put(prompt, label="prompt")
        second = gr.Textbox(
            lines=2, max_length=LONGEST_PASTE, visible=False, elem_id="lesson-second", min_width=280
        )
        put(second, label="lesson_second")
        guess = gr.Textbox(lines=2, max_length=LONGEST_PASTE, elem_id="guess", min_width=200)
        put(guess, label="lesson_guess", info="lesson_guess_info")
    start = gr.Button(said("lesson_1_do"), variant="primary", elem_id="lesson-do")
    message = gr.HTML(elem_classes="status")
    with gr.Column(elem_id="lesson-result", elem_classes="result"):
        shown = gr.HTML(elem_id="lesson-chips", js_on_load=chips.SCRIPT)
        bars = charts.build_plot(shell.words, "lesson-surprise")
    made = gr.State("")
    asks = gr.HTML(question(1, said), elem_id="lesson-question")
    with gr.Row(elem_classes="downloads"):
        back = put(
            gr.Button(size="sm", min_width=110, interactive=False, elem_id="lesson-back"), value="lesson_back"
        )
        next_ = put(gr.Button(size="sm", min_width=110, elem_id="lesson-next"), value="lesson_next")
        go = gr.Textbox(visible="hidden")
        fields = {"step": step, "q": prompt, "second": second, "guess": guess}
        tab = Tab("lesson", fields, go, missing)
        link = permalink.build_copy(shell.words, tab, shell.language)
    link.render()
    inputs = [shell.language, step, prompt, second, guess]
    frames = [card_, prompt, second, guess, start, asks, back, next_]
    gr.on([start.click, guess.submit, go.change], run, inputs, [shown, bars, message, made], **heavy(message))
    step.change(frame, [shell.language, step], frames, **LIGHT)
    sentences = [prompt, second, shown, bars, message]
    step.input(begin, inputs[:2], sentences, **LIGHT)
    for button, by in ((back, -1), (next_, 1)):
        turned = button.click(lambda step, by=by: min(max(step + by, 1), STEPS), step, step, **LIGHT)
        turned.then(begin, inputs[:2], sentences, **LIGHT)
    shell.language.change(translate, [*inputs[:4], made], [*frames, *sentences], **LIGHT)
    return tab


def _choices(text: Text) -> list[tuple[str, int]]:
    return [(f"{number}. {text(f'lesson_{number}')}", number) for number in range(1, STEPS + 1)]
