"""The page without a browser: what is shown, and what is said."""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator

import pytest

from mt5.errors import PromptError, RankError
from mt5.languages import LANGUAGES, examples
from mt5.results import Fill, Span, Token
from mt5.settings import Settings
from mt5.web import charts, chips, corrupt, firsts, fork, lesson, score, sweep
from mt5.web.answer import Answer, candidates, streamed, views
from mt5.web.detection import detect
from mt5.web.faults import fault
from mt5.web.languages import asked, meanings
from mt5.web.languages import views as languages_views
from mt5.web.settings import settings_of
from mt5.web.text import TEXTS, escape, languages, preferred, text_of
from tests.fake_engine import FakeEngine

ENGLISH = text_of("en")
HOSTILE = "<img src=x onerror=alert(1)> ${alert(1)} {{value}} `x` \\ <mask>"
GREEDY = {"strategy": "greedy", "max_new_tokens": 16, "num_alternatives": 5}


def filled(prompt: str, *pieces: str) -> Fill:
    *_, result = FakeEngine(pieces).stream(prompt)
    return result


def answer(prompt: str, *pieces: str) -> Answer:
    *_, last = streamed(FakeEngine(pieces), ENGLISH, prompt, None, GREEDY)
    return last[0]


def test_hostile_text_holds_neither_markup_nor_template() -> None:
    assert not re.search(r"[<>${}`\\]", escape(HOSTILE))


def test_a_hostile_prompt_and_a_hostile_token_are_shown_as_they_are() -> None:
    html = chips.sentence(filled(HOSTILE, "<script>", "${x}"), ENGLISH, forks=True)
    assert "<img" not in html and "<script" not in html and "$" not in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_hostile_text_is_harmless_in_every_other_view() -> None:
    engine, bare = FakeEngine(("<b>", "${x}")), HOSTILE.replace("<mask>", "")
    scored = score.scored(engine, HOSTILE, "<img src=y> ${z}", "auto")
    swept = sweep.Answer(engine.sweep(bare), engine.info, None)
    cut = corrupt.corrupted(engine, bare, "auto", density=0.3, mean_span=2, seed=1)
    shown = [*score.views(scored, ENGLISH), *sweep.views(swept, ENGLISH), *corrupt.views(cut, ENGLISH)]
    html = "".join(part for part in shown if isinstance(part, str))
    assert "<img" not in html and "<b>" not in html and "$" not in html


def test_characters_that_cannot_be_seen_are_spelt_out() -> None:
    assert chips.visible("a\u202eb\u200b") == (
        'a<span class="unseen">U+202E</span>b<span class="unseen">U+200B</span>'
    )


@pytest.mark.parametrize("text", ["👩\u200d👩\u200d👧", "क्\u200dष", "می\u200cخواهم"])
def test_what_joins_letters_or_parts_of_an_emoji_does_its_work(text: str) -> None:
    assert chips.visible(text) == text


@pytest.mark.parametrize(
    "text",
    ["li\u200dve", "ли\u200dво", "日\u200c本", "\u200cअ", "क\u200d\u200dष", "a\u061cb", "a\U000e0041b"],
)
def test_what_joins_nothing_is_spelt_out(text: str) -> None:
    assert 'class="unseen"' in chips.visible(text)


def test_every_chip_opens_the_alternatives_that_belong_to_it() -> None:
    html = chips.sentence(filled("a <mask> b <mask>.", "▁x", "y"), ENGLISH)
    opened, panels = re.findall(r'aria-controls="([^"]+)"', html), re.findall(r'<div [^>]*id="([^"]+)"', html)
    assert opened == panels and len(set(opened)) == 4


def test_two_sentences_on_one_page_share_no_ids() -> None:
    answer = score.scored(FakeEngine(), "a <mask>.", "x", "auto")
    ids = re.findall(r' id="([^"]+)"', score.views(answer, ENGLISH)[1])
    assert max(Counter(ids).values()) == 1


def test_a_mask_that_was_never_written_is_marked() -> None:
    result = Fill("a <mask>.", "a .", "", (Span(0, "", missing=True),))
    assert ENGLISH("missing") in chips.sentence(result, ENGLISH)


def test_a_chip_prints_its_probability() -> None:
    token = Token(0, "▁x", math.log(0.0312))
    html = chips.sentence(Fill("<mask>", "x", "", (Span(0, "x", (token,)),)), ENGLISH)
    assert "3.12%" in html


def test_a_scored_chip_prints_its_rank() -> None:
    html = chips.sentence(FakeEngine().score("a <mask>.", ["x"]), ENGLISH)
    assert "rank 7" in html


@pytest.mark.parametrize("log_prob", [-math.inf, math.nan])
def test_a_probability_that_is_no_number_is_not_available(log_prob: float) -> None:
    token = Token(0, "▁x", log_prob)
    one = Answer(Fill("<mask>", "x", "", (Span(0, "x", (token,)),)), Settings(), (), FakeEngine().info, None)
    assert ENGLISH("not_available") in "".join(map(str, views(one, ENGLISH)))
    assert json.loads(json.dumps(one.record, allow_nan=False))["log_prob"] is None


@pytest.mark.parametrize(
    ("language", "shown"),
    [("en", "12.5%"), ("de", "12,5\u00a0%"), ("fr", "12,5\u00a0%"), ("ja", "12.5%"), ("hi", "12.5%")],
)
def test_percentages_are_written_in_the_readers_way(language: str, shown: str) -> None:
    assert text_of(language).percent(0.125) == shown


def test_a_tiny_share_is_less_than_something_and_a_huge_number_is_said_in_words() -> None:
    assert ENGLISH.percent(1e-9) == "<\u00a00.01%"
    assert ENGLISH.number(3.14e14) == "314 trillion"
    assert ENGLISH.number(6.4e303) == "6.4\u00a0×\u00a010³⁰³"
    assert text_of("ru").number(3e8) == "300 миллионов"
    assert ENGLISH.number(-0.0004, 3) == "0.000" and ENGLISH.number(-0.4) == "−0.4"


@pytest.mark.parametrize("language", languages())
def test_every_number_is_written_in_every_language(language: str) -> None:
    text = text_of(language)
    for exponent in range(-9, 309, 3):
        assert re.search(r"\d", text.number(9.8 * 10.0 ** min(exponent, 307)))
    assert {text.percent(share)[-1] for share in (0.0, 0.001, 0.5, 0.997, 1.0)} == {"%"}
    assert re.fullmatch(r"1\W?\w{2}", text.size(1, "megabyte"))
    assert text.notation.separators[0] == text.number(0.5)[1]


def test_an_unknown_page_language_falls_back_to_english() -> None:
    assert text_of("../../etc/passwd") is ENGLISH and text_of(None) is ENGLISH


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        (None, "en"),
        ("tlh", "en"),
        ("en-GB,en;q=0.9", "en"),
        ("tlh,en;q=x", "en"),
        ("q=,;;;," * 500, "en"),
    ],
)
def test_the_page_speaks_what_the_browser_likes_best(accepted: str | None, language: str) -> None:
    assert preferred(accepted) == language


def test_the_page_speaks_norwegian_to_both_kinds_of_it() -> None:
    likes = {preferred(accepted) for accepted in ("nb-NO,nb;q=0.9", "nn", "no")}
    assert likes == ({"no"} if "no" in languages() else {"en"})


def test_the_files_of_text_are_those_of_the_24_languages() -> None:
    assert {path.stem for path in TEXTS.iterdir()} <= {language.code for language in LANGUAGES}


def test_every_meaning_is_asked_and_named_in_every_language() -> None:
    for name, said in meanings().items():
        assert list(said) == [language.code for language in LANGUAGES]
        assert all(prompt.count("<mask>") == 1 and expected for prompt, expected in said.values())
        assert f"meaning_{name}" in ENGLISH.entries


@pytest.mark.parametrize(
    ("sentence", "language"),
    [
        ("La capitale de la France est <mask>.", "fr"),
        ("Die Hauptstadt von Frankreich ist <mask>.", "de"),
        ("フランスの首都は<mask>です。", "ja"),
        ("法国的首都是<mask>。", "zh"),
        ("프랑스의 수도는 <mask>입니다.", "ko"),
        ("Столица Франции — <mask>.", "ru"),
        ("Η πρωτεύουσα της Γαλλίας είναι το <mask>.", "el"),
        ("फ्रांस की राजधानी <mask> है।", "hi"),
        ("<mask>", None),
        ("", None),
    ],
)
def test_the_language_of_a_sentence_is_guessed(sentence: str, language: str | None) -> None:
    assert detect(sentence) == language


def test_nearly_every_example_is_known_by_its_language() -> None:
    right = sum(detect(example.prompt) == example.language for example in examples())
    assert right >= 0.95 * len(examples())


def test_settings_that_do_not_count_are_left_out() -> None:
    values = ("beam", 4.0, 2, 0.5, 7, 0.9, 3, 16, 5)
    assert settings_of(values) == {
        "strategy": "beam",
        "max_new_tokens": 16,
        "num_alternatives": 5,
        "num_beams": 4,
        "num_return": 2,
    }
    assert settings_of(("sample", *values[1:]))["seed"] == 3
    assert set(settings_of(("greedy", *values[1:]))) == set(GREEDY)


@pytest.mark.parametrize(
    ("written", "whole", "key"),
    [
        ("", False, "fault_empty"),
        ("  ", True, "fault_empty"),
        (None, False, "fault_empty"),
        ("no gap", False, "fault_no_mask"),
        ("a <mask>", True, "fault_has_mask"),
        ("x" * 4_001, False, "fault_long"),
        ("<mask>" * 101, False, "fault_masks"),
        ("a\ud800 <mask>", False, "fault_character"),
        ("a\0 <mask>", False, "fault_character"),
    ],
)
def test_a_common_fault_is_said_in_the_language_of_the_page(written: object, whole: bool, key: str) -> None:
    html = fault(PromptError("in English"), written, ENGLISH, whole=whole)
    assert escape(ENGLISH(key).split("{")[0]) in html and "in English" not in html


def test_a_fault_that_the_page_has_no_words_for_is_said_in_english() -> None:
    html = fault(RankError("Try again in 5 s."), "a <mask>", ENGLISH)
    assert 'lang="en">Try again in 5 s.' in html


@pytest.mark.parametrize("prompt", ["no gap", "", "<mask>" * 101])
def test_nothing_of_an_older_result_is_left_under_a_fault(prompt: str) -> None:
    [shown] = streamed(FakeEngine(), ENGLISH, prompt, None, GREEDY)
    assert "fault" in shown[-1] and shown[:-1] == views(None, ENGLISH)[:-1]


def test_what_was_written_until_a_fault_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, (whole,) = FakeEngine(), FakeEngine().fill(["a <mask>."])

    def stream(prompt: str, **options: object) -> Iterator[Fill]:
        yield whole
        raise RankError("Try again in 5 s.")

    monkeypatch.setattr(engine, "stream", stream)
    *_, last = streamed(engine, ENGLISH, "a <mask>.", None, GREEDY)
    assert last[0].fill is whole and "Try again" in last[-1]


def test_an_alternative_that_is_taken_is_written_and_the_model_goes_on() -> None:
    first = answer("a <mask>.", "▁x", "y")
    given, [choice] = fork.forked(first, "0,0,90", "", ())
    assert (given, choice.piece, choice.instead) == ("90", "▁Lyon", "▁x")
    *_, last = streamed(FakeEngine(("▁x", "y")), ENGLISH, "a <mask>.", None, GREEDY, fork.read(given))
    assert last[0].fill.text == "a Lyony." and last[0].record["given"] == [[90]]


@pytest.mark.parametrize("asked", ["", "0,0", "0,9,90", "-1,0,90", "0,0,7", "a,b,c", None, "0,0,90,1"])
def test_what_is_no_alternative_is_refused(asked: object) -> None:
    with pytest.raises(ValueError):
        fork.forked(answer("a <mask>.", "▁x"), asked, "", ())


def test_given_tokens_survive_an_address() -> None:
    assert fork.read(fork.written(((1, 2), (3,)))) == ((1, 2), (3,))
    assert fork.read("") == fork.read("x;y") == fork.read(None) == ()


def test_undoing_shows_what_was_there_before() -> None:
    first = answer("a <mask>.", "▁x", "y")
    _, trail = fork.forked(first, "0,0,90", "7", ())
    shown = fork.undone(trail, ENGLISH)
    assert shown[0] is first and shown[-1] == "7" and shown[6] == ()


def test_a_fill_of_several_results_lists_them() -> None:
    result = FakeEngine().fill("a <mask>.", strategy="beam", num_return=2)
    assert candidates(result, ENGLISH).count("<li>") == 2


def test_charts_wait_for_a_browser_that_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(number / 10 for number in range(1000))
    monkeypatch.setattr(charts.time, "monotonic", lambda: next(ticks))

    def drawn(busy_s: object) -> int:
        results: Iterator[Fill] = iter([filled("<mask>", "x")] * 100)
        return sum(draw for _, _, draw in charts.paced(results, busy_s))

    assert drawn(0.01) > drawn(None) > drawn(1.0) >= 2
    assert drawn(0.0) <= 10 / charts.REDRAW_S + 1
    assert drawn("x") == drawn(-1) == drawn(math.nan) == drawn(None)


def test_your_words_and_the_models_are_compared() -> None:
    engine = FakeEngine(("▁x",))
    worse = score.scored(engine, "a <mask>.", "y", "auto")
    assert score.compared(worse, ENGLISH) == ENGLISH("score_likelier", times="4.0")
    assert worse.record["model_writes"]["text"] == "a x." and worse.record["text"] == "a y."


def test_lines_and_gaps_must_agree() -> None:
    shown = score.mistaken(PromptError(""), "a <mask> <mask>", "one", ENGLISH)
    assert ENGLISH("fault_answers", masks="2", answers="1") in shown[-1]


def test_what_was_cut_out_is_told_span_by_span() -> None:
    text = "La capitale de la France est Paris, une grande ville au bord de la Seine."
    cut = corrupt.corrupted(FakeEngine(), text, "auto", density=0.4, mean_span=2, seed=2)
    parts, removed = cut.corruption.parts, cut.corruption.removed
    assert len(removed) == len(cut.fill.spans) == len(parts) - 1 > 1
    joined = "".join(part.strip() for pair in zip(parts, [*removed, ""], strict=True) for part in pair)
    assert joined.replace(" ", "") == text.replace(" ", "")


def test_a_marker_that_was_typed_is_text() -> None:
    text = "Was <extra_id_0> here at all, or was <extra_id_1> not?"
    cuts = [
        corrupt.corrupted(FakeEngine(), text, "auto", density=0.1, mean_span=1, seed=seed)
        for seed in range(9)
    ]
    shown = [corrupt.source(cut) for cut in cuts]
    assert any("&lt;extra_id_0&gt;" in source.partition('class="marker')[0] for source in shown)
    for source, cut in zip(shown, cuts, strict=True):
        assert source.count('class="marker') == len(cut.corruption.removed)
        assert "".join(cut.corruption.parts).count("<extra_id_") <= 2


def test_one_meaning_is_asked_in_24_languages_in_one_batch() -> None:
    answer = asked(FakeEngine(), "capital_france", {})
    assert sum(answer.expected) == sum(e == "Paris" for _, e in meanings()["capital_france"].values())
    assert languages_views(answer, ENGLISH)[1].count("<tr>") == 25
    assert [one["language"] for one in answer.record["languages"]][:2] == ["ja", "en"]


def test_an_unknown_meaning_is_refused() -> None:
    with pytest.raises(PromptError, match="capital_france"):
        asked(FakeEngine(), "life", {})


@pytest.mark.parametrize("step", lesson.DO)
def test_every_step_of_the_lesson_shows_something(step: int) -> None:
    first, second = lesson.prompts(step, ENGLISH)
    shown, _ = lesson.DO[step](FakeEngine(), lesson.Asked(step, first, second, "Lyon"), ENGLISH)
    assert shown and "fault" not in shown


def test_a_pair_shows_the_alternatives_of_its_first_chip_that_is_more_than_a_space() -> None:
    engine = FakeEngine(("▁", "▁x", "y"))
    asked = lesson.Asked(5, "a <mask>", "b <mask>", "")
    shown, _ = lesson.compared(engine, asked, ENGLISH)
    opened = re.findall(r'aria-expanded="true" aria-controls="([^"]+)"', shown)
    assert opened == ["lesson-1-0-1", "lesson-2-0-1"]
    assert re.findall(r'class="alternatives" id="([^"]+)"[^>]*(?<!hidden)>', shown) == opened


def test_every_tab_begins_with_a_sentence_in_every_language() -> None:
    for language in languages():
        text = text_of(language)
        assert firsts.gapped(text).count("<mask>") == 1 and "<mask>" not in firsts.whole(text)
        assert firsts.guess(text) not in firsts.whole(text)


def test_a_lesson_without_a_guess_asks_for_one() -> None:
    shown, _ = lesson.guessed(FakeEngine(), lesson.Asked(1, "a <mask>", "", " "), ENGLISH)
    assert ENGLISH("lesson_first_guess") in shown


def test_an_address_of_a_step_brings_the_steps_own_sentences() -> None:
    assert lesson.missing({"step": "4"}, ENGLISH)["second"] == ENGLISH("lesson_4_second")
    assert lesson.missing({"step": "99"}, ENGLISH)["q"] == ENGLISH("lesson_1_prompt")


def test_a_sentence_that_was_changed_is_not_translated() -> None:
    own = lesson.prompts(4, ENGLISH)
    assert lesson.translated(4, ENGLISH, "mine <mask>", own[1]) == ["mine <mask>", own[1]]
