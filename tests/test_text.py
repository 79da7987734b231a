"""The words of the page in every language it speaks: complete, plain, and its own."""

import ast
import json
import re
import unicodedata
from collections.abc import Iterator
from fnmatch import fnmatchcase
from string import Formatter

import pytest

from mt5.web.settings import FIELDS
from mt5.web.text import FALLBACK, TEXTS, languages, written

ENGLISH = written(FALLBACK)
WEB = TEXTS.parents[1] / "mt5" / "web"
OTHERS = [language for language in languages() if language != FALLBACK]
ALIKE = {
    "<mask>", "Beam search", "Beams", "bits", "Cross-attention", "Link", "Model", "{number} parameters",
    "Prompt", "Sampling", "Stop", "surprise {bits} bits", "Surprise", "Token", "Tokens", "Top-k", "Top-p",
}  # fmt: skip
"""What may be spelt in another language as in English."""
MARKERS = re.compile(r"<mask>|<extra_id_\d>")
QUOTED = [
    ("notice", "about"),
    ("candidates_info", "results"),
    ("settings_info", "tab_fill"),
    ("settings_info", "tab_languages"),
    ("settings_info", "tab_batch"),
    ("batch_settings", "tab_fill"),
    ("about_api", "use_api"),
]
"""A text, and the label of the page that it names."""

every = pytest.mark.parametrize("language", languages())
other = pytest.mark.parametrize("language", OTHERS)


def strings(source: str) -> Iterator[str]:
    """Every string of a program; of one that is put together, its fixed parts, with * between them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.JoinedStr):
            fixed = (part.value if isinstance(part, ast.Constant) else "*" for part in node.values)
            yield "".join(map(str, fixed))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def placeholders(text: str) -> list[str]:
    return sorted(name for _, name, _, _ in Formatter().parse(text) if name is not None)


@other
def test_a_language_has_the_keys_of_english_in_their_order(language: str) -> None:
    assert list(written(language)) == list(ENGLISH)


def test_every_text_is_said_somewhere() -> None:
    said = {found for path in WEB.rglob("*.py") for found in strings(path.read_text(encoding="utf-8"))}
    said |= {f"{field}_info" for field in FIELDS}
    made = [found for found in said if re.fullmatch(r"\w+\*\w*", found)]
    said |= {key for key in ENGLISH for one in made if fnmatchcase(key, one)}
    assert set(ENGLISH) - said == set()


@every
def test_no_key_stands_twice(language: str) -> None:
    pairs = json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8"), object_pairs_hook=list)
    assert len(pairs) == len(dict(pairs))


@other
def test_a_text_has_the_placeholders_and_markers_of_the_english_one(language: str) -> None:
    for key, text in written(language).items():
        assert placeholders(text) == placeholders(ENGLISH[key]), key
        assert sorted(MARKERS.findall(text)) == sorted(MARKERS.findall(ENGLISH[key])), key


@every
def test_a_text_has_neither_markup_nor_what_a_template_would_read(language: str) -> None:
    for key, text in written(language).items():
        assert not re.search(r"[<>&`$\\]|\*\*|\]\(", MARKERS.sub("", text)), key


@every
def test_a_text_is_said_in_one_line_of_visible_characters(language: str) -> None:
    for key, text in written(language).items():
        assert text and text == text.strip(), key
        assert not any(unicodedata.category(sign) in {"Cc", "Cf", "Co", "Cn"} for sign in text), key


@every
def test_texts_are_composed_as_unicode_prefers(language: str) -> None:
    for key, text in written(language).items():
        assert unicodedata.is_normalized("NFC", text), key


@other
def test_a_text_is_not_left_in_english(language: str) -> None:
    left = {key: text for key, text in written(language).items() if text == ENGLISH[key]}
    assert set(left.values()) <= ALIKE, left


@every
@pytest.mark.parametrize(("key", "label"), QUOTED)
def test_a_text_that_names_a_label_spells_it_as_the_page_does(language: str, key: str, label: str) -> None:
    texts = written(language)
    assert texts[label] in texts[key]


@every
def test_a_pair_of_the_lesson_differs_around_one_gap(language: str) -> None:
    texts = written(language)
    for step in (4, 5, 7):
        pair = texts[f"lesson_{step}_prompt"], texts[f"lesson_{step}_second"]
        assert [sentence.count("<mask>") for sentence in pair] == [1, 1]
        assert pair[0] != pair[1]
