"""What is said about a model's quality, on a corpus of a few lines and on guesses written by hand."""

import json
import lzma
import random
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mt5.engine import Engine
from training import evaluate
from training.baselines import Counts
from training.data import Fact, Phrase
from training.evaluate import (
    Figures,
    Gap,
    Guess,
    by_chance,
    calibration_error,
    in_card,
    measure,
    reliability,
    repeats,
    table,
)
from training.examples import LEAST, Candidate, candidates, chosen

LINES = ("We see the cat.", "We see the dog.", "You see the cat.", "We hear the sea.")
RIGHT, WRONG = Guess(0.9, (1,), 1.0), Guess(0.9, (2,), 1.0)
CARD = "# Card\n\n## Figures\n\nold\n\n## Sources\n\nall\n"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One language, one fact in many wordings."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "valid").mkdir()
    (folder / "valid" / "en.txt").write_text("We see the cat.\nYou hear the sea.\n", encoding="utf-8")
    with lzma.open(folder / "en.txt.xz", "wt", encoding="utf-8") as file:
        file.write("\n".join(LINES))
    with lzma.open(folder / "facts.jsonl.xz", "wt", encoding="utf-8") as file:
        for number in range(40):
            text = f"The capital of France is Paris{'!' * number}"
            row = {"lang": "en", "relation": "capital", "subject": "France", "object": "Paris"}
            row |= {"template_id": str(number), "text_with_object": text, "object_span": [25, 30]}
            file.write(json.dumps(row) + "\n")
    return folder


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    assert calibration_error([RIGHT] * 9 + [WRONG]) == pytest.approx(0)
    assert calibration_error([WRONG] * 10) == pytest.approx(0.9)


def test_calibration_by_chance_is_what_few_gaps_alone_bring() -> None:
    half = replace(RIGHT, confidence=0.5)
    few, many = (by_chance([half] * count, random.Random(0)) for count in (10, 1_000))
    assert few == pytest.approx(0.123, abs=0.03)  # of ten coins; the mean distance from one half
    assert many < 0.02


def test_reliability_sets_what_was_said_beside_what_was_right() -> None:
    rows = reliability([replace(RIGHT, confidence=0.95)] * 3 + [replace(WRONG, confidence=0.99), WRONG])
    assert rows.splitlines()[2:] == ["| 90–100 % | 5 | 95% | 60% |"]


@pytest.mark.parametrize(
    ("text", "expected"), [("la la", True), ("hahahaha", True), ("banana", False), ("10000", False)]
)
def test_repetition_is_told_from_words(text: str, expected: bool) -> None:
    assert repeats(text) is expected


def test_counts_prefer_the_longest_context(corpus: Path) -> None:
    gap = ("We see the ", ".")
    counts = Counts(corpus, "en", [gap])
    assert counts.ranked(*gap)[:2] == ["cat", "dog"]
    assert counts.frequent[0] == "the"


def test_counts_know_contexts_that_were_asked_for_and_fall_back_on_frequency(corpus: Path) -> None:
    counts = Counts(corpus, "en", [("", " see the cat.")])
    assert counts.ranked("", " see the cat.")[:2] == ["We", "You"]
    assert counts.ranked("They kiss ", " whale.") == counts.frequent


def test_one_language_is_measured(embedded: Engine, corpus: Path) -> None:
    gaps = [
        Gap("La capitale de la France est ", "Paris", "."),
        Gap("La capitale de la France est ", "Rome", "."),
    ]
    guesses, measured = measure(embedded, corpus, "en", gaps)
    assert measured.facts == 0.5
    assert len(guesses) == 8  # four words a sentence
    assert 0 <= measured.first <= measured.first_of_5 <= 1
    assert measured.counts_of_5 == 1  # the validation sentences are in this corpus


def test_the_table_ends_in_mean_and_worst() -> None:
    good = Figures(*[0.5] * 15)
    bad = replace(good, facts=0.25, empty=1.0, bits_per_byte=2.0)
    head, _, en, fr, mean, worst = table({"en": good, "fr": bad}).splitlines()
    assert head.startswith("| language | facts | first | first of 5 |")
    assert (en.split(" | ")[1], fr.split(" | ")[1]) == ("50", "25")
    assert mean.startswith("| **mean** | 38 | 50 ")
    assert (worst.split(" | ")[1], worst.split(" | ")[7], worst.split(" | ")[10]) == ("25", "2.00", "100")


def test_figures_replace_those_in_the_card() -> None:
    assert in_card(CARD, "new\n") == CARD.replace("old", "new")
    with pytest.raises(ValueError, match="Export the model again"):
        in_card("# Card\n", "new")


def test_the_command_writes_the_card(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedded: Engine
) -> None:
    (tmp_path / "README.md").write_text(CARD, encoding="utf-8")
    monkeypatch.setattr(evaluate.mt5, "open", lambda *_, **__: Borrowed(embedded))
    arguments = [str(tmp_path), "--corpus", str(corpus), "--languages", "en", "--card"]
    monkeypatch.setattr(sys, "argv", ["evaluate", *arguments, "--json", str(tmp_path / "figures.json")])
    evaluate.main()
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| en |" in card
    assert "old" not in card
    assert set(json.loads((tmp_path / "figures.json").read_text())) == {"en"}


def test_examples_are_answered_as_promised_and_each_shows_something_else() -> None:
    paris, rome, wrong = (
        Candidate("fact", "A capital.", f"{n} <mask>", n) for n in ("Paris", "Rome", "Oslo")
    )
    months = Candidate("sequence", "A month.", "May, <mask>", "June")
    tried = [(wrong, "Bergen"), (paris, "Paris"), (rome, "Rome"), (months, "June")]
    assert chosen(tried) == [paris, months]


def test_what_lacks_in_one_kind_is_made_up_in_another() -> None:
    facts = [Candidate("fact", f"{n}.", f"{n} <mask>", str(n)) for n in range(9)]
    assert chosen([(fact, fact.answer) for fact in facts]) == facts[:LEAST]


def test_the_best_known_subject_is_tried_first_and_paris_before_all() -> None:
    facts = [
        Fact("fr", "capital", subject, answer, "t", f"{prompt}{answer}.", (len(prompt), len(prompt + answer)))
        for subject, answer, prompt in (
            ("le Togo", "Lomé", "La capitale du Togo est "),
            ("l'Italie", "Rome", "La capitale de l'Italie est "),
        )
    ]
    phrase = Phrase("fr", "two masks", "Two masks.", "Un, deux.", ((0, 2), (4, 8)))
    found = list(candidates("fr", facts, [phrase], "J'aime l'Italie et l'Italie."))
    assert [each.answer for each in found] == ["Paris", "Rome", "Lomé", "Un deux"]
    assert found[-1].prompt == "<mask>, <mask>."


class Borrowed:
    """An engine that the with statement does not close."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def __enter__(self) -> Engine:
        return self.engine

    def __exit__(self, *_: object) -> None:
        pass
