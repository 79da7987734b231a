"""What a model has to beat: the most frequent words, and the words counted between the same neighbours."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from mt5 import infill
from training.data import WITHOUT_SPACES, WORD, read_lines

SENTENCES = 100_000
"""Sentences of training text that are counted of a language, at most."""
CANDIDATES = 20
EDGE = ""


class Counts:
    """A count model of a gap, over up to five words: those seen between the same two neighbours on either
    side, then between the same one, after the same one, before it, then the most frequent of the language."""

    def __init__(self, corpus: Path, language: str, gaps: Sequence[tuple[str, str]]) -> None:
        """gaps: what stands before and after each gap to be asked for; no other context is kept."""
        self.words: Callable[[str], list[str]] = icu_words if language in WITHOUT_SPACES else WORD.findall
        wanted = {context for before, after in gaps for context in self.contexts(before, after)}
        lefts = {context[1] for context in wanted if context[0] == "after"}
        rights = {context[1] for context in wanted if context[0] == "before"}
        self.counts: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
        total: Counter[str] = Counter()
        for line in read_lines(corpus, language, longest=10**9)[:SENTENCES]:
            words = self.words(line)
            total.update(words)
            padded = [EDGE, EDGE, *words, EDGE, EDGE]
            for place, word in enumerate(words, 2):
                if padded[place - 1] in lefts or padded[place + 1] in rights:
                    for context in around(padded[place - 2 : place], padded[place + 1 : place + 3]):
                        if context in wanted:
                            self.counts[context][word] += 1
        self.frequent = [word for word, _ in total.most_common(CANDIDATES)]

    def contexts(self, before: str, after: str) -> list[tuple[str, ...]]:
        left, right = [EDGE, EDGE, *self.words(before)], [*self.words(after), EDGE, EDGE]
        return around(left[-2:], right[:2])

    def ranked(self, before: str, after: str) -> list[str]:
        """Candidates for a gap, best first."""
        contexts = self.contexts(before, after)
        found = [word for context in contexts for word, _ in self.counts[context].most_common(CANDIDATES)]
        return list(dict.fromkeys([*found, *self.frequent]))


def icu_words(text: str) -> list[str]:
    """The words of a text in which no spaces part them."""
    return [text[start:end] for start, end in infill.words(text)]


def around(left: Sequence[str], right: Sequence[str]) -> list[tuple[str, ...]]:
    """The contexts of a word between two neighbours on either side, longest first."""
    return [("5", *left, *right), ("3", left[1], right[0]), ("after", left[1]), ("before", right[0])]
