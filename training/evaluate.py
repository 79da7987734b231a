"""Measure a model in every language: python -m training.evaluate assets/model --corpus DIR"""

import argparse
import json
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path

import mt5
from mt5 import infill
from mt5.engine import Engine
from mt5.tokenizer import MASK
from training.data import HELD_OUT, WITHOUT_SPACES, WORD, read_facts, read_lines, split_facts, stable_hash
from training.vocabulary import LANGUAGES

BINS = 15
FREE_PROMPTS = 50
BATCH = 50


@dataclass(frozen=True)
class Gap:
    """A sentence with one gap, and what stood there."""

    before: str
    answer: str
    after: str

    @property
    def prompt(self) -> str:
        return f"{self.before}{MASK}{self.after}"


@dataclass(frozen=True)
class Figures:
    """What is measured in one language; shares from 0 to 1.

    facts: held-out facts whose greedy fill is exactly right. first, first_of_5: the first token of one masked
    word is the likeliest, or among the five likeliest; token, token_of_5: the same of all its tokens, the
    earlier ones given. word: the greedy fill is exactly the word. bits_per_byte: of the word and its end.
    calibration_error: expected, of the first token. empty, repeating: shares of greedy fills.
    frequent, frequent_of_5, counts, counts_of_5: first and first_of_5 of the baselines.
    """

    facts: float
    first: float
    first_of_5: float
    token: float
    token_of_5: float
    word: float
    bits_per_byte: float
    calibration_error: float
    empty: float
    repeating: float
    frequent: float
    frequent_of_5: float
    counts: float
    counts_of_5: float


@dataclass(frozen=True)
class Guess:
    """What a model thinks of a gap: its best first token's probability, the rank of each token of the answer
    (1 = likeliest), and the code length in bits of the answer with its end."""

    confidence: float
    ranks: tuple[int, ...]
    bits: float


def word_gaps(corpus: Path, language: str) -> list[Gap]:
    """One gap per sentence of the validation text: a word chosen by the sentence's hash."""
    gaps = []
    for text in (corpus / "valid" / f"{language}.txt").read_text(encoding="utf-8").splitlines():
        if spans := infill.words(text):
            start, end = spans[stable_hash(text) % len(spans)]
            gaps.append(Gap(text[:start], text[start:end], text[end:]))
    return gaps


def fact_gaps(corpus: Path) -> dict[str, list[Gap]]:
    """The held-out facts by language, their object the gap."""
    gaps = defaultdict(list)
    for fact in split_facts(read_facts(corpus))[1]:
        start, end = fact.span
        gaps[fact.language].append(Gap(fact.text[:start], fact.text[start:end], fact.text[end:]))
    return gaps


def guess(engine: Engine, gaps: Sequence[Gap]) -> list[Guess]:
    """Teacher forcing of every gap's answer."""
    tokenizer = engine.tokenizer
    guesses = []
    for first in range(0, len(gaps), BATCH):
        batch = gaps[first : first + BATCH]
        sources = [[*tokenizer.encode_masked((gap.before, gap.after)), tokenizer.eos_id] for gap in batch]
        targets = [
            [
                tokenizer.sentinels[0],
                *tokenizer.encode_answer(gap.before, gap.answer, first=True),
                tokenizer.eos_id,
            ]
            for gap in batch
        ]
        for scored in engine.network.score(sources, targets, candidates=1):
            [(_, best)] = scored.candidates[1]
            guesses.append(
                Guess(math.exp(best), scored.ranks[1:-1], -sum(scored.log_probs[1:]) / math.log(2))
            )
    return guesses


def fill(engine: Engine, prompts: Sequence[str]) -> list[str]:
    """What greedy decoding writes into the first gap of each prompt."""
    texts = []
    for first in range(0, len(prompts), BATCH):
        results = engine.fill(list(prompts[first : first + BATCH]), num_alternatives=0)
        texts += [result.spans[0].text.strip() for result in results]
    return texts


def calibration_error(guesses: Sequence[Guess], bins: int = BINS) -> float:
    """Expected calibration error of the first token, over bins of equal width (Guo et al. 2017)."""
    return sum(
        abs(sum(g.confidence - (g.ranks[0] == 1) for g in group)) for group in binned(guesses, bins)
    ) / len(guesses)


def binned(guesses: Sequence[Guess], bins: int = BINS) -> list[list[Guess]]:
    """The guesses by their confidence, in bins of equal width."""
    groups: list[list[Guess]] = [[] for _ in range(bins)]
    for each in guesses:
        groups[min(int(each.confidence * bins), bins - 1)].append(each)
    return groups


def repeats(text: str) -> bool:
    """Whether a word stands twice in a row, or anything of up to four characters four times."""
    words = text.split()
    if any(a == b for a, b in pairwise(words)):
        return True
    return any(
        text[place : place + size] * 4 == text[place : place + 4 * size]
        for size in range(1, 5)
        for place in range(len(text) - 4 * size + 1)
        if not text[place : place + size].isdigit()
    )


class Counts:
    """A count model of a gap: the words seen between the same two neighbours on either side, then between
    the same one, then after the same one, then before it, then the most frequent words of the language."""

    def __init__(self, corpus: Path, language: str, gaps: Sequence[Gap]) -> None:
        self.language = language
        wanted = {context for gap in gaps for context in self.contexts(gap)}
        self.counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        self.all: Counter[str] = Counter()
        for line in read_lines(corpus, language, longest=10**9):
            words = self.words(line)
            self.all.update(words)
            padded = ["", "", *words, "", ""]
            for place, word in enumerate(words, 2):
                for context in self.around(padded[place - 2 : place], padded[place + 1 : place + 3]):
                    if context in wanted:
                        self.counts[context][word] += 1

    def words(self, text: str) -> list[str]:
        if self.language in WITHOUT_SPACES:
            return [text[a:b] for a, b in infill.words(text)]
        return WORD.findall(text)

    @staticmethod
    def around(left: Sequence[str], right: Sequence[str]) -> list[tuple[str, ...]]:
        """The contexts of a word between its neighbours, longest first."""
        return [("5", *left, *right), ("3", left[1], right[0]), ("after", left[1]), ("before", right[0])]

    def contexts(self, gap: Gap) -> list[tuple[str, ...]]:
        left, right = ["", "", *self.words(gap.before)], [*self.words(gap.after), "", ""]
        return self.around(left[-2:], right[:2])

    def ranked(self, gap: Gap) -> list[str]:
        """Candidates for the gap, best first."""
        found = [word for context in self.contexts(gap) for word, _ in self.counts[context].most_common(20)]
        return list(dict.fromkeys([*found, *self.frequent()]))

    def frequent(self) -> list[str]:
        return [word for word, _ in self.all.most_common(20)]


def hits(engine: Engine, gaps: Sequence[Gap], ranked: Sequence[Sequence[str]]) -> tuple[float, float]:
    """Shares of gaps whose first token begins the best candidate, or one of the five best beginnings."""

    def begin(gap: Gap, word: str) -> int:
        return engine.tokenizer.encode_answer(gap.before, word, first=True)[0]

    places = []
    for gap, words in zip(gaps, ranked, strict=True):
        tokens = list(dict.fromkeys(begin(gap, word) for word in words))
        answer = begin(gap, gap.answer)
        places.append(tokens.index(answer) if answer in tokens else len(tokens))
    return mean([place == 0 for place in places]), mean([place < 5 for place in places])


def mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def figures(engine: Engine, corpus: Path, language: str, facts: Sequence[Gap]) -> Figures:
    """Measure one language."""
    gaps = word_gaps(corpus, language)
    guesses, written = guess(engine, gaps), fill(engine, [gap.prompt for gap in gaps])
    filled_facts = fill(engine, [gap.prompt for gap in facts])
    ranks = [rank for each in guesses for rank in each.ranks]
    counts = Counts(corpus, language, gaps)
    frequent = hits(engine, gaps, [counts.frequent()] * len(gaps))
    counted = hits(engine, gaps, [counts.ranked(gap) for gap in gaps])
    return Figures(
        facts=mean([text == gap.answer for text, gap in zip(filled_facts, facts, strict=True)]),
        first=mean([each.ranks[0] == 1 for each in guesses]),
        first_of_5=mean([each.ranks[0] <= 5 for each in guesses]),
        token=mean([rank == 1 for rank in ranks]),
        token_of_5=mean([rank <= 5 for rank in ranks]),
        word=mean([text == gap.answer for text, gap in zip(written, gaps, strict=True)]),
        bits_per_byte=sum(each.bits for each in guesses) / sum(len(gap.answer.encode()) for gap in gaps),
        calibration_error=calibration_error(guesses),
        empty=mean([not text for text in written[:FREE_PROMPTS]]),
        repeating=mean([repeats(text) for text in written[:FREE_PROMPTS]]),
        frequent=frequent[0],
        frequent_of_5=frequent[1],
        counts=counted[0],
        counts_of_5=counted[1],
    )


def table(results: dict[str, Figures]) -> str:
    """The figures as Markdown, in per cent, with their mean and the worst language."""
    columns = [field.name for field in fields(Figures)]
    averages = {name: mean([getattr(row, name) for row in results.values()]) for name in columns}
    lines = ["| language | " + " | ".join(name.replace("_", " ") for name in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for label, row in [*((code, asdict(row)) for code, row in results.items()), ("**mean**", averages)]:
        cells = [f"{row[n]:.2f}" if n == "bits_per_byte" else f"{100 * row[n]:.0f}" for n in columns]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--corpus", type=Path, default=Path("../shared/corpus"), help="see training/README.md"
    )
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES)
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    options = parser.parse_args()
    facts = fact_gaps(options.corpus)
    with mt5.open(options.checkpoint, dtype="float32", device="cpu") as engine:
        results = {code: figures(engine, options.corpus, code, facts[code]) for code in options.languages}
    print(table(results))
    total = sum(map(len, facts.values()))
    print(f"\nFacts: one in {HELD_OUT} kept out of training by template, {total:,} in all.")
    if options.json:
        options.json.write_text(
            json.dumps({code: asdict(row) for code, row in results.items()}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
