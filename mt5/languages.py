"""The 24 languages of NVIDIA's model, and an example or more in each."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"


@dataclass(frozen=True)
class Language:
    """code: ISO 639-1. endonym: the language's own name for itself."""

    code: str
    endonym: str
    english: str


@dataclass(frozen=True)
class Example:
    """A prompt that the embedded model fills with one of `answers`; shows: what it is an example of."""

    language: str
    kind: str
    prompt: str
    answers: tuple[str, ...]
    shows: str


LANGUAGES = (
    Language("ja", "日本語", "Japanese"),
    Language("en", "English", "English"),
    Language("it", "Italiano", "Italian"),
    Language("lv", "Latviešu", "Latvian"),
    Language("ru", "Русский", "Russian"),
    Language("hu", "Magyar", "Hungarian"),
    Language("zh", "中文", "Chinese"),
    Language("pl", "Polski", "Polish"),
    Language("el", "Ελληνικά", "Greek"),
    Language("de", "Deutsch", "German"),
    Language("cs", "Čeština", "Czech"),
    Language("ko", "한국어", "Korean"),
    Language("hi", "हिन्दी", "Hindi"),
    Language("no", "Norsk", "Norwegian"),
    Language("da", "Dansk", "Danish"),
    Language("sk", "Slovenčina", "Slovak"),
    Language("fr", "Français", "French"),
    Language("pt", "Português", "Portuguese"),
    Language("lt", "Lietuvių", "Lithuanian"),
    Language("es", "Español", "Spanish"),
    Language("nl", "Nederlands", "Dutch"),
    Language("sv", "Svenska", "Swedish"),
    Language("ro", "Română", "Romanian"),
    Language("fi", "Suomi", "Finnish"),
)


@cache
def examples() -> tuple[Example, ...]:
    """The examples of assets/examples.json, language by language in the order of LANGUAGES."""
    rows = json.loads((ASSETS / "examples.json").read_text(encoding="utf-8"))
    found = [Example(**(row | {"answers": tuple(row["answers"])})) for row in rows]
    order = [language.code for language in LANGUAGES]
    return tuple(sorted(found, key=lambda example: order.index(example.language)))
