"""Examples for pre-training: sentences with gaps as people make them, facts, and T5's span corruption."""

import hashlib
import json
import lzma
import math
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

from mt5 import infill
from mt5.tokenizer import Tokenizer
from training.recipe import Recipe
from training.vocabulary import LANGUAGES

WITHOUT_SPACES = ("ja", "zh")
WORD = re.compile(r"\w(?:[\w'’-]*\w)?[\u0900-\u097f]*")  # Devanagari's vowel signs are not \w
HELD_OUT = 10
"""One in so many facts with a second template is kept for evaluation."""
KNOWN = 0.3
"""A lesson whose answer costs fewer nats than this is known: it is repeated in one pass of a few only."""
REPEATED = 0.25
OTHER_WORDS = 0.05
MOST_GAPS = 6
UNNUMBERED = -1
PHRASES = Path(__file__).with_name("phrases.json")


@dataclass(frozen=True)
class Fact:
    """A templated sentence; span: where its object stands, [start, end) in characters."""

    language: str
    relation: str
    subject: str
    object: str
    template: str
    text: str
    span: tuple[int, int]

    @property
    def prompt(self) -> str:
        start, end = self.span
        return f"{self.text[:start]}<mask>{self.text[end:]}"


@dataclass(frozen=True)
class Phrase:
    """An everyday sentence; shows: what it is an example of; gaps: where words are to be filled in."""

    language: str
    kind: str
    shows: str
    text: str
    gaps: tuple[tuple[int, int], ...]

    @property
    def prompt(self) -> str:
        return (
            "".join(
                f"{self.text[before:start]}<mask>"
                for before, (start, _) in zip((0, *(end for _, end in self.gaps)), self.gaps, strict=False)
            )
            + self.text[self.gaps[-1][1] :]
        )


@dataclass(frozen=True)
class Lesson:
    """A sentence to be learnt by heart, with the gaps whose words are to be said."""

    language: str
    text: str
    gaps: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Example:
    """Ids of the encoder's input, ending in eos, and of the decoder's target: sentinel, span, …, eos."""

    source: list[int]
    target: list[int]


def read_facts(corpus: Path) -> list[Fact]:
    with lzma.open(corpus / "facts.jsonl.xz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return [
        Fact(
            row["lang"],
            row["relation"],
            row["subject"],
            row["object"],
            row["template_id"],
            row["text_with_object"],
            tuple(row["object_span"]),
        )
        for row in rows
    ]


def split_facts(facts: Sequence[Fact]) -> tuple[list[Fact], list[Fact]]:
    """Facts to train on and facts held out: a held-out fact is also trained on, through another template.

    A sentence that another fact's sentence repeats is never held out. The split depends on the facts alone.
    """
    templates: dict[tuple[str, str, str, str], list[Fact]] = defaultdict(list)
    sentences: dict[str, int] = defaultdict(int)
    for fact in facts:
        templates[fact.language, fact.relation, fact.subject, fact.object].append(fact)
        sentences[fact.text] += 1
    held: list[Fact] = []
    for same in templates.values():
        chosen = [
            fact for fact in same if sentences[fact.text] == 1 and stable_hash(fact.text) % HELD_OUT == 0
        ]
        held += chosen[: len({fact.template for fact in same}) - 1]
    left_out = {id(fact) for fact in held}
    return [fact for fact in facts if id(fact) not in left_out], held


def stable_hash(text: str) -> int:
    """A number from a text, the same in every process."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def read_lines(corpus: Path, language: str, longest: int) -> list[str]:
    """The lines of a language of at most so many characters, half as many in Japanese and Chinese."""
    with lzma.open(corpus / f"{language}.txt.xz", "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    return [line for line in lines if len(line) <= (longest // 2 if language in WITHOUT_SPACES else longest)]


def words(text: str, language: str) -> list[tuple[int, int]]:
    """Spans of the words."""
    if language in WITHOUT_SPACES:
        return infill.words(text)
    return [match.span() for match in WORD.finditer(text)]


def gaps(spans: Sequence[tuple[int, int]], rng: random.Random) -> list[tuple[int, int]]:
    """One or two gaps of one word or a few, as people make them."""
    count = 2 if len(spans) >= 5 and rng.random() < 0.2 else 1
    chosen: list[tuple[int, int]] = []
    for _ in range(count):
        length = min(1 if rng.random() < 0.85 else rng.randint(2, 3), len(spans))
        first = rng.randrange(len(spans) - length + 1)
        gap = (spans[first][0], spans[first + length - 1][1])
        if all(gap[1] < a or b < gap[0] for a, b in chosen):
            chosen.append(gap)
    return sorted(chosen)


def masked(text: str, chosen: Sequence[tuple[int, int]], tokenizer: Tokenizer) -> Example:
    """The example in which these gaps of a text are to be filled."""
    edges = [0, *(edge for gap in chosen for edge in gap), len(text)]
    parts = [text[edges[n] : edges[n + 1]] for n in range(0, len(edges), 2)]
    target: list[int] = []
    for number, (start, end) in enumerate(chosen):
        target.append(tokenizer.sentinels[number])
        target += tokenizer.encode_answer(parts[number], text[start:end], first=number == 0)
    return Example([*tokenizer.encode_masked(parts), tokenizer.eos_id], [*target, tokenizer.eos_id])


def read_phrases() -> list[Phrase]:
    """The everyday phrases of phrases.json."""
    themes = json.loads(PHRASES.read_text(encoding="utf-8"))
    return [
        Phrase(language, theme["kind"], theme["shows"], *unbracketed(sentence))
        for theme in themes
        for language, sentences in theme["sentences"].items()
        for sentence in sentences
    ]


def unbracketed(sentence: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """A sentence without the brackets around its gaps, and where these stand, [start, end) in characters."""
    text, chosen = "", []
    for part in re.split(r"(\[.+?\])", sentence):
        plain = part.strip("[]")
        if plain != part:
            chosen.append((len(text), len(text) + len(plain)))
        text += plain
    return text, tuple(chosen)


def lessons_of(facts: Sequence[Fact], phrases: Sequence[Phrase]) -> list[Lesson]:
    """Facts with their object to be said, phrases with all their gaps at once and with each alone."""
    return [Lesson(fact.language, fact.text, (fact.span,)) for fact in facts] + [
        Lesson(phrase.language, phrase.text, gaps)
        for phrase in phrases
        for gaps in dict.fromkeys([phrase.gaps, *((gap,) for gap in phrase.gaps)])
    ]


class Lessons:
    """Examples without end, of what is known already less often; now and then another word is masked.

    heard: what a lesson's answer cost when it was last seen, in nats, one a lesson; infinite before.
    """

    def __init__(self, lessons: Sequence[Lesson], tokenizer: Tokenizer, rng: random.Random) -> None:
        self.lessons, self.tokenizer, self.rng = lessons, tokenizer, rng
        self.examples = [masked(lesson.text, lesson.gaps, tokenizer) for lesson in lessons]
        self.heard = [math.inf] * len(lessons)

    def __iter__(self) -> Iterator[tuple[int, Example]]:
        """Examples with the number of their lesson, UNNUMBERED where it is another word that is masked."""
        while True:
            for number in self.rng.sample(range(len(self.lessons)), len(self.lessons)):
                if self.heard[number] < KNOWN and self.rng.random() > REPEATED:
                    continue
                lesson = self.lessons[number]
                if self.rng.random() >= OTHER_WORDS:
                    yield number, self.examples[number]
                elif spans := words(lesson.text, lesson.language):
                    yield UNNUMBERED, masked(lesson.text, gaps(spans, self.rng), self.tokenizer)

    def hear(self, numbers: Sequence[int], losses: Sequence[float]) -> None:
        """Note what the answers of these lessons cost just now."""
        for number, loss in zip(numbers, losses, strict=True):
            if number != UNNUMBERED:
                self.heard[number] = loss

    def known(self) -> float:
        """The share of the lessons that are known."""
        return sum(loss < KNOWN for loss in self.heard) / len(self.heard)

    def pieces(self) -> list[int]:
        """Every id that the lessons hold, in order, and the sentinels that their gaps may need."""
        ids = {id_ for example in self.examples for id_ in (*example.source, *example.target)}
        return sorted(ids | set(self.tokenizer.sentinels[:MOST_GAPS]))


def text_examples(
    lines: dict[str, list[str]], tokenizer: Tokenizer, rng: random.Random, recipe: Recipe
) -> Iterator[tuple[int, Example]]:
    """Sentences without end, UNNUMBERED, a language drawn with its number of lines to a power below one.

    A share of them have a word in four as gaps, a longer lesson for the same reading; the others one gap or
    two as people make them.
    """
    weights = list(accumulate(len(lines[language]) ** recipe.language_exponent for language in LANGUAGES))
    while True:
        [language] = rng.choices(LANGUAGES, cum_weights=weights)
        text = rng.choice(lines[language])
        if spans := words(text, language):
            chosen = many_gaps(spans, rng) if rng.random() < recipe.many_gaps else gaps(spans, rng)
            yield UNNUMBERED, masked(text, chosen, tokenizer)


def many_gaps(spans: Sequence[tuple[int, int]], rng: random.Random) -> list[tuple[int, int]]:
    """A word in four a gap, none touching another."""
    chosen: list[tuple[int, int]] = []
    for place in sorted(rng.sample(range(len(spans)), min(max(1, round(len(spans) / 4)), MOST_GAPS))):
        if not chosen or chosen[-1][1] < spans[place][0]:
            chosen.append(spans[place])
    return chosen
