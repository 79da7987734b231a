"""Tells the language of a sentence among the 24, by script and by common words; a guess, of use for fonts."""

import json
import math
import re
from functools import cache

from mt5.languages import ASSETS, examples

SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\u1100-\u11ff\uac00-\ud7af]")),
    ("zh", re.compile("[\u3400-\u9fff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("el", re.compile("[\u0370-\u03ff\u1f00-\u1fff]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
)
WORD = re.compile(r"[^\W\d_]+")
LETTERS = {
    "lv": "āēīūģķļņ", "hu": "őűöü", "pl": "ąćęłńśźż", "de": "äöüß", "cs": "ěřů", "no": "æøå", "da": "æøå",
    "sk": "ľĺŕôä", "fr": "èêàçùœîû", "pt": "ãõçâê", "lt": "ąčęėįšųūž", "es": "ñ¿¡", "sv": "åäö",
    "ro": "ăâîșț", "fi": "äö", "it": "àèìòù",
}  # fmt: skip
LETTER = 1.5  # what a letter counts for; a word from 0 to 6, the commoner the more


def detect(text: str) -> str | None:
    """The code of a sentence's language, or None where nothing tells."""
    for code, pattern in SCRIPTS:
        if pattern.search(text):
            return code
    bare = text.replace("<mask>", " ").lower()
    words, letters = WORD.findall(bare), set(bare)
    scores = {
        code: sum(ranks.get(word, 0) for word in words) + LETTER * len(letters & set(LETTERS.get(code, "")))
        for code, ranks in _known().items()
    }
    best = max(scores, key=lambda code: scores[code])
    return best if scores[best] > 0 else None


@cache
def _known() -> dict[str, dict[str, float]]:
    """Of each language, what its common words count for, and those of its examples."""
    listed = json.loads((ASSETS / "words.json").read_text(encoding="utf-8"))
    words = {code: common.split() for code, common in listed.items()}
    for example in examples():
        words.get(example.language, []).extend(WORD.findall(example.prompt.lower()))
    return {
        code: {word: max(1.0, math.log(400 / (rank + 1))) for rank, word in reversed(list(enumerate(common)))}
        for code, common in words.items()
    }
