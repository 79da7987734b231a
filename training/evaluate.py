"""Measure a model in every language: python -m training.evaluate assets/model --corpus DIR"""

import argparse
import json
import math
import random
import re
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from string import Template

import mt5
from mt5 import infill
from mt5.engine import Engine
from mt5.tokenizer import MASK
from training.baselines import Counts
from training.data import HELD_OUT, read_facts, split_facts, stable_hash
from training.vocabulary import LANGUAGES

BINS = 15
CALIBRATED = 6
"""Words of a sentence that are asked for, each alone, to see what confidence means."""
DRAWS = 100
FREE_PROMPTS = 50
BATCH = 50
REPORT = Path(__file__).with_name("figures.md")
LOW = ("bits_per_byte", "calibration_error", "by_chance", "empty", "repeating")
"""Figures that are better when they are low."""


@dataclass(frozen=True)
class Gap:
    """A sentence with one gap, and what stood there."""

    before: str
    answer: str
    after: str

    @property
    def prompt(self) -> str:
        return f"{self.before}{MASK}{self.after}"

    @property
    def text(self) -> str:
        return f"{self.before}{self.answer}{self.after}"


@dataclass(frozen=True)
class Figures:
    """What is measured in one language; shares from 0 to 1.

    facts: held-out facts whose greedy fill is exactly right. first, first_of_5: the first token of one masked
    word is the likeliest, or among the five likeliest; token, token_of_5: the same of all its tokens, the
    earlier ones given. word: the greedy fill is exactly the word. bits_per_byte: of the word and its end.
    calibration_error: expected, of the first token of up to CALIBRATED words a sentence; by_chance: what it
    would be if every confidence were true. empty, repeating: shares of greedy fills.
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
    by_chance: float
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


def word_gaps(corpus: Path, language: str, each: int = 1) -> list[Gap]:
    """Gaps of one word in the validation text, up to so many a sentence, the first chosen by its hash."""
    gaps = []
    for text in (corpus / "valid" / f"{language}.txt").read_text(encoding="utf-8").splitlines():
        spans, chosen = infill.words(text), stable_hash(text)
        for number in range(min(each, len(spans))):
            start, end = spans[(chosen + number) % len(spans)]
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
    guesses: dict[int, Guess] = {}
    order = sorted(range(len(gaps)), key=lambda number: len(gaps[number].text))
    for first in range(0, len(gaps), BATCH):
        numbers = order[first : first + BATCH]
        batch = [gaps[number] for number in numbers]
        sources = [[*tokenizer.encode_masked((gap.before, gap.after)), tokenizer.eos_id] for gap in batch]
        targets = [
            [
                tokenizer.sentinels[0],
                *tokenizer.encode_answer(gap.before, gap.answer, first=True),
                tokenizer.eos_id,
            ]
            for gap in batch
        ]
        scores = engine.network.score(sources, targets, candidates=1)
        for number, scored in zip(numbers, scores, strict=True):
            [(_, best)] = scored.candidates[1]
            guesses[number] = Guess(
                math.exp(best), scored.ranks[1:-1], -sum(scored.log_probs[1:]) / math.log(2)
            )
    return [guesses[number] for number in range(len(gaps))]


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


def by_chance(guesses: Sequence[Guess], rng: random.Random) -> float:
    """The calibration error that these confidences have on average if each is true: few gaps are not none."""
    draws = (
        [replace(each, ranks=(1 if rng.random() < each.confidence else 2,)) for each in guesses]
        for _ in range(DRAWS)
    )
    return mean([calibration_error(drawn) for drawn in draws])


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


def measure(engine: Engine, corpus: Path, language: str, facts: Sequence[Gap]) -> tuple[list[Guess], Figures]:
    """Measure one language; the guesses at its validation words as well, several a sentence."""
    gaps = word_gaps(corpus, language)
    guesses, written = guess(engine, gaps), fill(engine, [gap.prompt for gap in gaps])
    several = guess(engine, word_gaps(corpus, language, CALIBRATED))
    filled_facts = fill(engine, [gap.prompt for gap in facts])
    ranks = [rank for each in guesses for rank in each.ranks]
    counts = Counts(corpus, language, [(gap.before, gap.after) for gap in gaps])
    frequent = hits(engine, gaps, [counts.frequent] * len(gaps))
    counted = hits(engine, gaps, [counts.ranked(gap.before, gap.after) for gap in gaps])
    return several, Figures(
        facts=mean([text == gap.answer for text, gap in zip(filled_facts, facts, strict=True)]),
        first=mean([each.ranks[0] == 1 for each in guesses]),
        first_of_5=mean([each.ranks[0] <= 5 for each in guesses]),
        token=mean([rank == 1 for rank in ranks]),
        token_of_5=mean([rank <= 5 for rank in ranks]),
        word=mean([text == gap.answer for text, gap in zip(written, gaps, strict=True)]),
        bits_per_byte=sum(each.bits for each in guesses) / sum(len(gap.answer.encode()) for gap in gaps),
        calibration_error=calibration_error(several),
        by_chance=by_chance(several, random.Random(0)),
        empty=mean([not text for text in written[:FREE_PROMPTS]]),
        repeating=mean([repeats(text) for text in written[:FREE_PROMPTS]]),
        frequent=frequent[0],
        frequent_of_5=frequent[1],
        counts=counted[0],
        counts_of_5=counted[1],
    )


def table(results: dict[str, Figures]) -> str:
    """The figures as Markdown, in per cent, with their mean and that of the worst language in each column."""
    columns = [field.name for field in fields(Figures)]
    rows = {code: asdict(row) for code, row in results.items()}
    values = {name: [row[name] for row in rows.values()] for name in columns}
    rows["**mean**"] = {name: mean(values[name]) for name in columns}
    rows["**worst**"] = {name: max(values[name]) if name in LOW else min(values[name]) for name in columns}
    lines = ["| language | " + " | ".join(name.replace("_", " ") for name in columns) + " |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for label, row in rows.items():
        cells = [f"{row[n]:.2f}" if n == "bits_per_byte" else f"{100 * row[n]:.0f}" for n in columns]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def reliability(guesses: Sequence[Guess]) -> str:
    """How often the first token is right when the model says so with a confidence, as Markdown."""
    lines = ["| confidence | gaps | said on average | right |", "|---|---|---|---|"]
    for number, group in enumerate(binned(guesses, 10)):
        if group:
            said, right = mean([g.confidence for g in group]), mean([g.ranks[0] == 1 for g in group])
            lines.append(
                f"| {10 * number}–{10 * number + 10} % | {len(group):,} | {said:.0%} | {right:.0%} |"
            )
    return "\n".join(lines)


def report(results: dict[str, Figures], guesses: Sequence[Guess], facts: int) -> str:
    """The section of the model card on what was measured."""
    return Template(REPORT.read_text(encoding="utf-8")).substitute(
        table=table(results),
        reliability=reliability(guesses),
        error=f"{100 * calibration_error(guesses):.1f}",
        gaps=f"{len(guesses):,}",
        facts=f"{facts:,}",
        held_out=HELD_OUT,
        calibrated=CALIBRATED,
    )


def in_card(card: str, section: str) -> str:
    """The model card with its section "Figures" replaced. ValueError when it has none."""
    found = re.search(r"^## Figures\n.*?(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError('The model card has no section "## Figures". Export the model again.')
    return f"{card[: found.start()]}## Figures\n\n{section.strip()}\n\n{card[found.end() :]}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--corpus", type=Path, default=Path("../shared/corpus"), help="see training/README.md"
    )
    parser.add_argument("--languages", nargs="+", choices=LANGUAGES, default=LANGUAGES)
    parser.add_argument("--json", type=Path, help="file to write the figures to as well")
    parser.add_argument(
        "--card", action="store_true", help="write the figures into the checkpoint's README.md as well"
    )
    options = parser.parse_args()
    facts = fact_gaps(options.corpus)
    results: dict[str, Figures] = {}
    guesses: list[Guess] = []
    with mt5.open(options.checkpoint, dtype="float32", device="cpu") as engine:
        for code in options.languages:
            own, results[code] = measure(engine, options.corpus, code, facts[code])
            guesses += own
            print(
                code, json.dumps({k: round(v, 3) for k, v in asdict(results[code]).items()}), file=sys.stderr
            )
    section = report(results, guesses, sum(len(facts[code]) for code in options.languages))
    print(section)
    if options.json:
        options.json.write_text(
            json.dumps({code: asdict(row) for code, row in results.items()}, indent=1) + "\n"
        )
    if options.card:
        card = options.checkpoint / "README.md"
        card.write_text(in_card(card.read_text(encoding="utf-8"), section), encoding="utf-8")


if __name__ == "__main__":
    main()
