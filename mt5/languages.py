"""The 24 languages of NVIDIA's model, and an example or more in each."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Language:
    """code: ISO 639-1. endonym: the language's own name for itself. script: ISO 15924, left to right all."""

    code: str
    endonym: str
    english: str
    script: str


@dataclass(frozen=True)
class Example:
    """A prompt that the embedded model fills with one of `answers`; shows: what it is an example of."""

    language: str
    kind: str
    prompt: str
    answers: tuple[str, ...]
    shows: str


LANGUAGES = (
    Language("ja", "日本語", "Japanese", "Jpan"),
    Language("en", "English", "English", "Latn"),
    Language("it", "Italiano", "Italian", "Latn"),
    Language("lv", "Latviešu", "Latvian", "Latn"),
    Language("ru", "Русский", "Russian", "Cyrl"),
    Language("hu", "Magyar", "Hungarian", "Latn"),
    Language("zh", "中文", "Chinese", "Hans"),
    Language("pl", "Polski", "Polish", "Latn"),
    Language("el", "Ελληνικά", "Greek", "Grek"),
    Language("de", "Deutsch", "German", "Latn"),
    Language("cs", "Čeština", "Czech", "Latn"),
    Language("ko", "한국어", "Korean", "Kore"),
    Language("hi", "हिन्दी", "Hindi", "Deva"),
    Language("no", "Norsk", "Norwegian", "Latn"),
    Language("da", "Dansk", "Danish", "Latn"),
    Language("sk", "Slovenčina", "Slovak", "Latn"),
    Language("fr", "Français", "French", "Latn"),
    Language("pt", "Português", "Portuguese", "Latn"),
    Language("lt", "Lietuvių", "Lithuanian", "Latn"),
    Language("es", "Español", "Spanish", "Latn"),
    Language("nl", "Nederlands", "Dutch", "Latn"),
    Language("sv", "Svenska", "Swedish", "Latn"),
    Language("ro", "Română", "Romanian", "Latn"),
    Language("fi", "Suomi", "Finnish", "Latn"),
)


@cache
def examples() -> tuple[Example, ...]:
    """The examples of assets/examples.json, language by language in the order of LANGUAGES."""
    rows = json.loads((ASSETS / "examples.json").read_text(encoding="utf-8"))
    found = [Example(**(row | {"answers": tuple(row["answers"])})) for row in rows]
    order = [language.code for language in LANGUAGES]
    return tuple(sorted(found, key=lambda example: order.index(example.language)))
