"""Choose examples that a model answers: python -m training.examples assets/model --corpus DIR --out FILE"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import mt5
from mt5.engine import Engine
from training.data import Fact, Phrase, read_facts, read_lines, read_phrases
from training.vocabulary import LANGUAGES

FIRST = ("La capitale de la France est <mask>.", "Paris")
"""The page's first prompt and its answer."""
WANTED = ("fact", "fact", "sequence", "opposite", "phrase", "proverb", "grammar", "two masks")
"""The kinds of a language's examples; one that the model cannot answer is left out."""
LEAST = 6
"""So many examples has a language at least, the rest of any kind."""
RELATIONS = {
    "capital": ("fact", "A capital city."),
    "currency": ("fact", "The currency of a country."),
    "official_language": ("fact", "The official language of a country."),
    "country_continent": ("fact", "The continent of a country."),
    "city_continent": ("fact", "The continent of a city."),
    "months": ("sequence", "The month that comes next."),
    "weekdays": ("sequence", "The day of the week that comes next."),
    "numbers": ("sequence", "The number that comes next."),
    "opposite": ("opposite", "A word of opposite meaning."),
    "colour": ("opposite", "The colour of a thing."),
}
BEST_KNOWN = 15
"""So many facts of a relation are tried, those first whose subject the text names most often."""
LONGEST = 70


@dataclass(frozen=True)
class Candidate:
    """A prompt that may become an example, with the answer that it promises."""

    kind: str
    shows: str
    prompt: str
    answer: str


def candidates(
    language: str, facts: Sequence[Fact], phrases: Sequence[Phrase], text: str
) -> Iterator[Candidate]:
    """What may become an example of a language, the best known first within a kind.

    text: some text of the language, for telling what is well known.
    """
    if language == "fr":
        yield Candidate(*RELATIONS["capital"], *FIRST)
    for relation, (kind, shows) in RELATIONS.items():
        own = [fact for fact in facts if (fact.language, fact.relation) == (language, relation)]
        own.sort(key=lambda fact: (-text.count(fact.subject), len(fact.text)))
        for fact in own[:BEST_KNOWN]:
            yield Candidate(kind, shows, fact.prompt, fact.object)
    for phrase in phrases:
        if phrase.language == language:
            answer = " ".join(phrase.text[start:end] for start, end in phrase.gaps)
            yield Candidate(phrase.kind, phrase.shows, phrase.prompt, answer)


def chosen(tried: Sequence[tuple[Candidate, str]]) -> list[Candidate]:
    """The examples among candidates and what was filled in: as promised, each showing something else."""
    right = [each for each, filled in tried if filled == each.answer and len(each.prompt) <= LONGEST]
    result: list[Candidate] = []
    for kind in (*WANTED, *[None] * LEAST):
        if kind is None and len(result) >= LEAST:
            break
        shown = {each.shows for each in result}
        new = (each for each in right if each.shows not in shown and kind in (None, each.kind))
        result += [each for each in [next(new, None)] if each is not None]
    return result


def rows(engine: Engine, corpus: Path) -> list[dict[str, object]]:
    """The rows of examples.json."""
    facts, phrases = read_facts(corpus), read_phrases()
    found: list[dict[str, object]] = []
    for language in LANGUAGES:
        text = "\n".join(read_lines(corpus, language, 60)[:20_000])
        offered = list(candidates(language, facts, phrases, text))
        fills = engine.fill([each.prompt for each in offered], num_alternatives=0)
        own = chosen([(each, fill.completion) for each, fill in zip(offered, fills, strict=True)])
        print(f"{language}: {len(own)} of {', '.join(dict.fromkeys(each.kind for each in own))}")
        for each in own:
            found.append(
                {
                    "language": language,
                    "kind": each.kind,
                    "prompt": each.prompt,
                    "answers": [each.answer],
                    "shows": each.shows,
                }
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument(
        "--corpus", type=Path, default=Path("../shared/corpus"), help="see training/README.md"
    )
    parser.add_argument("--out", type=Path, required=True, help="examples.json to write")
    options = parser.parse_args()
    with mt5.open(options.checkpoint, dtype="float32", device="cpu") as engine:
        found = rows(engine, options.corpus)
    lines = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in found)
    options.out.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
