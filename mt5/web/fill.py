"""The tab that fills masks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from mt5 import figures, infill
from mt5.engine import Engine
from mt5.errors import PromptError
from mt5.info import Info
from mt5.languages import LANGUAGES
from mt5.record import record
from mt5.results import Fill
from mt5.settings import Settings
from mt5.web import charts, chips, export, permalink
from mt5.web.attention import build_attention
from mt5.web.examples import build_examples, prompt_of
from mt5.web.faults import SAID, fault
from mt5.web.settings import build_settings, settings_of
from mt5.web.spoken import build_spoken, spoken_in
from mt5.web.tab import LIGHT, OFF, Shell, Tab, heavy, stoppable
from mt5.web.text import Text, text_of

FIRST = "La capitale de la France est <mask>."
LONGEST_TRAIL = 50

# run in the browser: a new run begins with nothing given; both end with how long drawing takes
FRESH = "(...values) => [...values.slice(0, 3), '', ...values.slice(4, -1), window.busyS ?? null]"
# writes the mask where the cursor is in the prompt
INSERT_MASK = """(prompt) => {
  const box = document.querySelector('#prompt textarea');
  const [start, end] = [box.selectionStart, box.selectionEnd];
  setTimeout(() => { box.focus(); box.setSelectionRange(start + 6, start + 6); }, 50);
  return box.value.slice(0, start) + '<mask>' + box.value.slice(end);
}"""


@dataclass(frozen=True, eq=False)  # told apart by identity: a page asks for a hash of its state
class Answer:
    """A result as it is shown: with what an export says of it, and the language of its sentence."""

    fill: Fill
    settings: Settings
    given: Sequence[Sequence[int]]
    info: Info
    spoken: str | None

    @property
    def record(self) -> dict[str, Any]:
        """For JSON."""
        return record(self.fill, self.info, self.settings, self.given)


@dataclass(frozen=True, eq=False)  # told apart by identity: a page asks for a hash of its state
class Choice:
    """A visitor wrote `piece` in place of `instead`. before, given: what stood there, for undoing it."""

    piece: str
    instead: str
    before: Answer
    given: str


def answered(answer: Answer, text: Text) -> str:
    """The filled sentence, plain, how sure the model was of all of it, and which language it is."""
    fill, endonyms = answer.fill, {language.code: language.endonym for language in LANGUAGES}
    spoken = endonyms.get(answer.spoken or "")
    numbers = (
        f"{text('log_prob')} {text.number(fill.log_prob, 3)}",
        f"{text('perplexity')} {text.number(fill.perplexity, 2)}",
        answer.info.name,
        *([text("language_detected", language=spoken)] if spoken else []),
    )
    return (
        f'<p class="filled" dir="auto" aria-live="polite">{chips.visible(fill.text)}</p>'
        f'<p class="hint">{chips.visible(" · ".join(numbers))}</p>'
    )


def candidates(fill: Fill | None, text: Text) -> str:
    """All results asked for, best first, as HTML."""
    if fill is None or not fill.candidates:
        return f'<p class="hint">{text.html("candidates_info")}</p>'
    rows = "".join(
        f"<li>{chips.visible(one.text)}"
        f" <small>{text.html('log_prob')} {text.number(one.log_prob, 2)}</small></li>"
        for one in fill.candidates
    )
    return f'<ol class="candidates">{rows}</ol>'


def followed(trail: Sequence[Choice], text: Text, given: str) -> list[Any]:
    """The choices of the visitor as the outputs: trail, its list, the button that undoes, given."""
    steps = "".join(
        "<li>"
        + chips.visible(
            text(
                "trail_step",
                token=figures.spelling(choice.piece),
                instead=figures.spelling(choice.instead),
            )
        )
        + "</li>"
        for choice in trail
    )
    listed = f'<h2>{text.html("trail")}</h2><ol class="trail">{steps}</ol>' if steps else ""
    return [tuple(trail), listed, gr.update(visible=bool(trail)), given]


def sentence(answer: Answer, text: Text) -> str:
    """The chips, with what explains them."""
    shown = chips.sentence(answer.fill, text, answer.spoken, forks=True)
    return f'{shown}{chips.legend(text)}<p class="hint">{text.html("chip_hint")}</p>'


def chart(fill: Fill, text: Text) -> dict[str, Any]:
    """The bars of surprise."""
    figure = figures.surprise(fill.tokens, title=text("surprise_title"), unit=text("bits"))
    return charts.shown(charts.drawn(figure, "surprise"))


def views(answer: Answer, text: Text, *, draw: bool) -> list[Any]:
    """A result as the outputs: answer, sentence, chips, chart, candidates, message."""
    return [
        answer,
        answered(answer, text),
        sentence(answer, text),
        chart(answer.fill, text) if draw else gr.skip(),
        candidates(answer.fill, text),
        "",
    ]


def streamed(
    engine: Engine,
    text: Text,
    prompt: str,
    spoken: str | None,
    settings: dict[str, Any],
    given: Sequence[Sequence[int]] = (),
    busy_s: object = None,
) -> Iterator[list[Any]]:
    """The outputs while the model writes, at last those of the whole; a fault stands above what was there."""
    try:
        chosen, info = Settings(**settings), engine.info
        for fill, show, draw in charts.paced(engine.stream(prompt, given=given, **settings), busy_s):
            answer = Answer(fill, chosen, given, info, spoken)
            yield views(answer, text, draw=draw) if show else [gr.skip()] * 6  # still a chance to stop
        yield views(answer, text, draw=True)
    except SAID as error:
        yield [*[gr.skip()] * 5, fault(error, prompt, text)]


def written(given: Sequence[Sequence[int]]) -> str:
    """Given tokens as an address says them: "12,7;4" are two of the first gap and one of the second."""
    return ";".join(",".join(map(str, ids)) for ids in given)


def read(given: object) -> tuple[tuple[int, ...], ...]:
    """The tokens of `written`; none when it is no such text."""
    try:
        lists = [ids.split(",") for ids in str(given or "").split(";") if ids]
        return tuple(tuple(int(id_) for id_ in ids) for ids in lists)
    except ValueError:
        return ()


def forked(answer: Answer, fork: object, given: str) -> tuple[str, Choice]:
    """What is given when the alternative of a chip was clicked, "gap,place,id", and the choice that it is."""
    try:
        mask, place, id_ = (int(number) for number in str(fork).split(","))
    except ValueError as error:
        raise PromptError(f"{fork!r} is no alternative.") from error
    ids = infill.forked(answer.fill, mask, place, id_)
    token = answer.fill.spans[mask].tokens[place]
    piece = next((other.piece for other in token.alternatives if other.id == id_), str(id_))
    return written(ids), Choice(piece, token.piece, answer, given)


def undone(trail: Sequence[Choice], text: Text) -> list[Any]:
    """The outputs of the state before the last choice."""
    if not trail:
        return [gr.skip()] * 10
    *rest, last = trail
    return [*views(last.before, text, draw=True), *followed(rest, text, last.given)]


SAVES = {
    "json": lambda answer: export.as_json(answer.record, "infilling"),
    "csv": lambda answer: export.as_csv(
        export.TOKEN_COLUMNS, export.token_rows(answer.record), answer.record, "infilling"
    ),
}


def build_nemo(shell: Shell, result: gr.State) -> None:
    """A button that saves what NeMo's evaluation script would print, and by which model it is."""
    models, file = shell.models, gr.Textbox(visible="hidden", elem_id="nemo-file")
    button = shell.words.put(gr.Button(size="sm", min_width=70, elem_id="fill-nemo"), value="save_nemo")

    def save(language: str, answer: Answer | None) -> str:
        if answer is None:
            gr.Info(text_of(language)("nothing_to_save"))
            return ""
        with models.engine() as engine:
            response = engine.nemo_response(answer.fill.prompt, answer.settings.max_new_tokens)
            own = record(answer.fill, engine.info, {"tokens_to_generate": answer.settings.max_new_tokens})
        source = {key: own[key] for key in ("model", "settings", "version")}
        return export.as_json(response | source, "nemo")

    made = button.click(save, [shell.language, result], file, **heavy(file))
    made.then(None, file, js=export.SAVE, **LIGHT)


def build(shell: Shell) -> Tab:
    """Lay the tab out and say what its buttons do."""
    put, models = shell.words.put, shell.models

    def run(language: str, prompt: str, chosen: str, given: str, *values: Any) -> Iterator[list[Any]]:
        *fields, busy_s = values
        text, spoken = text_of(language), spoken_in(chosen, prompt)
        with models.engine() as engine:
            for shown in streamed(engine, text, prompt, spoken, settings_of(fields), read(given), busy_s):
                yield [*shown, *followed((), text, given)]

    def fork(
        event: gr.EventData,
        language: str,
        answer: Answer,
        trail: tuple[Choice, ...],
        given: str,
        *values: Any,
    ):
        *fields, busy_s = values
        text, settings = text_of(language), settings_of(fields)
        given, choice = forked(answer, event.fork, given)
        trail = (*trail, choice)[-LONGEST_TRAIL:]
        with models.engine() as engine:
            fill = streamed(engine, text, answer.fill.prompt, answer.spoken, settings, read(given), busy_s)
            for shown in fill:
                yield [*shown, *followed(trail, text, given)]

    def undo(language: str, trail: tuple[Choice, ...]) -> list[Any]:
        return undone(trail, text_of(language))

    def show(language: str, answer: Answer | None, trail: tuple[Choice, ...], given: str) -> list[Any]:
        text = text_of(language)
        first = [None, export.nothing(text, "fill_empty"), "", charts.shown(None), candidates(None, text), ""]
        whole = first if answer is None else views(answer, text, draw=True)
        return [*whole, *followed(trail, text, given)]

    put(gr.HTML(elem_classes="intro"), value=lambda text: f"<p>{text.html('fill_intro')}</p>")
    with gr.Row(elem_classes="ask"):
        prompt = gr.Textbox(FIRST, lines=2, max_length=4000, elem_id="prompt", scale=5, min_width=280)
        put(prompt, label="prompt", info="prompt_info")
        chosen = build_spoken(shell.words, "fill-language")
    with gr.Row(elem_id="actions"):
        start = put(gr.Button(variant="primary", scale=4, elem_id="fill"), value="fill")
        mask = gr.Button("+ <mask>", scale=1, min_width=90, elem_id="insert-mask")
        stop = gr.Button(variant="stop", scale=1, min_width=90, interactive=False, elem_id="stop")
        put(stop, value="stop")
    message = gr.HTML(elem_id="message", elem_classes="status")
    with gr.Row(elem_id="fill-result", elem_classes="result"):
        with gr.Column(scale=1, min_width=300):
            filled = gr.HTML(export.nothing(shell.words.text, "fill_empty"), elem_id="filled")
            shown = gr.HTML(elem_id="chips", js_on_load=chips.SCRIPT)
            path = gr.HTML(elem_id="trail")
            back = put(gr.Button(size="sm", visible=False, elem_id="undo"), value="undo")
        with gr.Column(scale=1, min_width=300):
            bars = charts.build_plot(shell.words, "surprise")
            look = build_attention(shell)
    answer, trail = gr.State(), gr.State(())
    given, pace, go = (gr.Textbox(visible="hidden") for _ in range(3))
    downloads = gr.Row(elem_classes="downloads")
    with put(gr.Accordion(open=False, elem_id="all-candidates"), label="candidates"):
        others = gr.HTML(candidates(None, shell.words.text), elem_id="candidates")
    fields = build_settings(shell.words)
    example = build_examples(shell.words)

    tab = Tab("fill", {"q": prompt, "lang": chosen, "given": given, **fields}, go)
    with downloads:
        link = permalink.build_copy(shell.words, tab, shell.language)
        export.build_saves(shell, answer, "fill", SAVES)
        build_nemo(shell, answer)
    link.render()

    outputs = [answer, filled, shown, bars, others, message, trail, path, back, given]
    inputs = [shell.language, prompt, chosen, given, *fields.values(), pace]
    options = heavy(message)
    fresh = stoppable([start.click, prompt.submit], run, inputs, outputs, stop, js=FRESH, **options)
    linked = stoppable([go.change], run, inputs, outputs, stop, js=charts.PACE, **options)
    taken = example.select(prompt_of, None, [prompt, chosen], **LIGHT)
    chained = stoppable(taken, run, inputs, outputs, stop, js=FRESH, **options)
    forks = [shell.language, answer, trail, given, *fields.values(), pace]
    forking = stoppable([shown.select], fork, forks, outputs, stop, js=charts.PACE, **options)
    stop.click(None, None, stop, js=OFF, cancels=[fresh, linked, chained, forking], **LIGHT)
    back.click(undo, [shell.language, trail], outputs, **LIGHT)
    mask.click(None, prompt, prompt, js=INSERT_MASK, **LIGHT)
    shell.language.change(show, [shell.language, answer, trail, given], outputs, **LIGHT)
    look(answer)
    return tab
