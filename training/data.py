"""Examples for pre-training: sentences with gaps as people make them, facts, and T5's span corruption."""

import hashlib
import json
import lzma
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mt5.tokenizer import Tokenizer
from training.vocabulary import LANGUAGES

WITHOUT_SPACES = ("ja", "zh")
WORD = re.compile(r"\w(?:[\w'’-]*\w)?[\u0900-\u097f]*")  # Devanagari's vowel signs are not \w
HELD_OUT = 10
"""One in so many facts with a second template is kept for evaluation."""
LONGEST_LINE = 50
LANGUAGE_EXPONENT = 0.5
RELATION_EXPONENT = 0.5
RENOWN_EXPONENT = 0.5
RENOWN_CHARACTERS = 1_500_000


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


def read_lines(corpus: Path, language: str, longest: int = LONGEST_LINE) -> list[str]:
    """The lines of a language that are short enough to learn from in little time."""
    with lzma.open(corpus / f"{language}.txt.xz", "rt", encoding="utf-8") as file:
        lines = file.read().splitlines()
    return [line for line in lines if len(line) <= (longest // 2 if language in WITHOUT_SPACES else longest)]


def words(text: str, language: str, tokenizer: Tokenizer) -> list[tuple[int, int]]:
    """Spans of the words; where they are not separated by spaces, those of the pieces that hold letters."""
    if language not in WITHOUT_SPACES:
        return [match.span() for match in WORD.finditer(text)]
    return [(a, b) for a, b in tokenizer.spans(text) if any(c.isalnum() for c in text[a:b])]


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


def renown(corpus: Path, facts: Sequence[Fact]) -> list[float]:
    """How often the text of its language names each fact's subject, counted from 1, to a power below one.

    A part of the text is enough to tell France from Tuvalu.
    """
    texts: dict[str, str] = {}
    counts: dict[tuple[str, str], float] = {}
    for fact in facts:
        if fact.language not in texts:
            texts[fact.language] = "\n".join(read_lines(corpus, fact.language))[:RENOWN_CHARACTERS]
        key = fact.language, fact.subject
        if key not in counts:
            counts[key] = (1 + texts[fact.language].count(fact.subject)) ** RENOWN_EXPONENT
    return [counts[fact.language, fact.subject] for fact in facts]


def fact_examples(
    facts: Sequence[Fact], weights: Sequence[float], tokenizer: Tokenizer, rng: random.Random
) -> Iterator[Example]:
    """Facts without end, drawn by weight; mostly the object is masked, sometimes another word.

    Languages come alike often, a language's relations with their number of facts to a power below one, so
    that the few opposites are not lost among the capitals.
    """
    groups: dict[str, dict[str, list[tuple[Fact, float]]]] = defaultdict(lambda: defaultdict(list))
    for fact, weight in zip(facts, weights, strict=True):
        groups[fact.language][fact.relation].append((fact, weight))
    queues: dict[tuple[str, str], list[Fact]] = defaultdict(list)
    order = sorted(groups)
    while True:
        language = rng.choice(order)
        relations = groups[language]
        [relation] = rng.choices(
            list(relations), [len(same) ** RELATION_EXPONENT for same in relations.values()]
        )
        queue = queues[language, relation]
        if not queue:
            queue += rng.choices(*zip(*relations[relation], strict=True), k=len(relations[relation]))
        fact = queue.pop()
        if rng.random() < 0.85:
            yield masked(fact.text, [fact.span], tokenizer)
        elif spans := words(fact.text, language, tokenizer):
            yield masked(fact.text, gaps(spans, rng), tokenizer)


def text_examples(corpus: Path, tokenizer: Tokenizer, rng: random.Random) -> Iterator[Example]:
    """Sentences without end, a language drawn with its number of lines to a power below one."""
    lines = {language: read_lines(corpus, language) for language in LANGUAGES}
    weights = [len(lines[language]) ** LANGUAGE_EXPONENT for language in LANGUAGES]
    while True:
        [language] = rng.choices(LANGUAGES, weights)
        text = rng.choice(lines[language])
        if spans := words(text, language, tokenizer):
            yield masked(text, gaps(spans, rng), tokenizer)


def batches(
    examples: Iterator[Example], *, tokens: int, sources: Sequence[int], targets: Sequence[int]
) -> Iterator[list[Example]]:
    """Batches of about `tokens` ids in which lengths agree: a bucket per pair of source and target length.

    An example longer than the largest bucket is dropped. Few shapes keep the kernels' caches small.
    """
    waiting: dict[tuple[int, int], list[Example]] = defaultdict(list)
    for example in examples:
        source = next((size for size in sources if len(example.source) <= size), None)
        target = next((size for size in targets if len(example.target) <= size), None)
        if source is None or target is None:
            continue
        bucket = waiting[source, target]
        bucket.append(example)
        if len(bucket) * (source + target) >= tokens:
            yield bucket
            waiting[source, target] = []
