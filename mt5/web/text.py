"""The words of the page, in the reader's language."""

import html
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from babel import Locale
from babel.numbers import format_decimal, format_percent

TEXTS = Path(__file__).resolve().parents[2] / "assets" / "text"
FALLBACK = "en"
# gr.HTML reads its value as a template: what opens a placeholder there is spelt as a character reference
TEMPLATE = str.maketrans({sign: f"&#{ord(sign)};" for sign in "${}`\\"})


def escape(text: str) -> str:
    """Text for gr.HTML in which nothing acts as markup or as a template."""
    return html.escape(text).translate(TEMPLATE)


@dataclass(frozen=True)
class Text:
    """The words of one language: `text("fill")`, `text("queue", place=3)`."""

    language: str
    entries: dict[str, str]

    def __call__(self, key: str, **values: str) -> str:
        return self.entries[key].format(**values) if values else self.entries[key]

    @property
    def locale(self) -> Locale:
        return Locale.parse({"no": "nb"}.get(self.language, self.language))

    def percent(self, probability: float) -> str:
        """In the reader's way, with as many digits as a small share needs."""
        shape = "#,##0 %" if probability >= 0.995 else "#,##0.0 %" if probability >= 0.0995 else "#,##0.00 %"
        return format_percent(probability, shape.replace(" ", "\u00a0"), locale=self.locale)

    def number(self, value: float, digits: int = 1) -> str:
        return format_decimal(value, "#,##0" + ("." + "0" * digits if digits else ""), locale=self.locale)


@cache
def text_of(language: str) -> Text:
    """The text of a page language; English for a code that has none."""
    path = TEXTS / f"{language}.json"
    if language not in languages():
        return text_of(FALLBACK)
    return Text(language, json.loads(path.read_text(encoding="utf-8")))


@cache
def languages() -> frozenset[str]:
    """Codes of the languages that the page speaks."""
    return frozenset(path.stem for path in TEXTS.glob("*.json"))
