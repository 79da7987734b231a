"""The words of the page, in the reader's language."""

import html
import json
import math
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from babel import Locale
from babel.numbers import format_compact_decimal, format_decimal, format_percent
from babel.units import format_unit

from mt5.figures import Notation
from mt5.languages import LANGUAGES

TEXTS = Path(__file__).resolve().parents[2] / "assets" / "text"
FALLBACK = "en"
LEAST_SHOWN = 1e-4  # a smaller share is "less than" it
LARGEST_NAMED = 1e15  # a larger number is a power of ten
RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
# gr.HTML reads its value as a template: what opens a placeholder there is spelt as a character reference
TEMPLATE = str.maketrans({sign: f"&#{ord(sign)};" for sign in "${}`\\"})
NORWEGIAN = {"nb": "no", "nn": "no"}


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

    def html(self, key: str, **values: str) -> str:
        """The same for gr.HTML; the values are escaped with it."""
        return escape(self(key, **values))

    @property
    def locale(self) -> Locale:
        return Locale.parse({"no": "nb"}.get(self.language, self.language))

    def percent(self, probability: float) -> str:
        """In the reader's way, with as many digits as a small share needs."""
        if not math.isfinite(probability):
            return self("not_available")
        if 0 <= probability < LEAST_SHOWN:
            return f"<\u00a0{self.percent(LEAST_SHOWN)}"
        digits = "" if probability >= 0.995 else ".0" if probability >= 0.0995 else ".00"
        whole = self.locale.percent_formats[None].pattern  # such as "#,##0 %"
        shape = re.sub(r"0(?=\s?%)", f"0{digits}", whole)
        return format_percent(probability, shape, locale=self.locale)

    def number(self, value: float, digits: int = 1) -> str:
        """In the reader's way; from a million on, in words."""
        if not math.isfinite(value):
            return self("not_available")
        if abs(value) >= LARGEST_NAMED:
            exponent = math.floor(math.log10(abs(value)))
            return f"{self.number(value / 10.0**exponent)}\u00a0×\u00a010{str(exponent).translate(RAISED)}"
        if abs(value) >= 1e6:
            formats = self.locale.compact_decimal_formats
            kind: Literal["long", "short"] = "long" if "long" in formats else "short"
            # as a whole number: a float's plural is that of 1.0, never that of 1
            return format_compact_decimal(int(value), format_type=kind, fraction_digits=1, locale=self.locale)
        shape = "#,##0" + ("." + "0" * digits if digits else "")
        rounded = round(value, digits) + 0.0  # never "−0"
        return format_decimal(rounded, shape, locale=self.locale).replace("-", "−")

    def size(self, value: float, unit: Literal["megabyte", "gigabyte"], digits: int = 0) -> str:
        """Of memory or a file, in the reader's way."""
        written = format_unit(self.number(value, digits), f"digital-{unit}", "short", locale=self.locale)
        return re.sub("[Bb]yte$", "B", written)  # "Mbyte" where Babel knows no shorter

    @property
    def notation(self) -> Notation:
        """How figures write numbers."""
        symbols = self.locale.number_symbols["latn"]
        return Notation(self.number, self.percent, symbols["decimal"] + symbols["group"])


@cache
def text_of(language: object) -> Text:
    """The text of a page language; English for a code that has none."""
    if language not in languages():
        return text_of(FALLBACK)
    return Text(str(language), {**written(FALLBACK), **written(str(language))})


def written(language: str) -> dict[str, str]:
    """The entries of a language's file."""
    return json.loads((TEXTS / f"{language}.json").read_text(encoding="utf-8"))


@cache
def languages() -> tuple[str, ...]:
    """Codes of the languages that the page speaks, in the order of LANGUAGES."""
    there = {path.stem for path in TEXTS.glob("*.json")}
    return tuple(language.code for language in LANGUAGES if language.code in there)


def preferred(accepted: str | None) -> str:
    """The page language that a browser's Accept-Language header likes best; English when it likes none."""
    wanted = []
    for place, item in enumerate((accepted or "").lower().split(",")[:32]):
        name, _, quality = item.strip().partition(";q=")
        code = name.partition("-")[0]
        try:
            wanted.append((-float(quality or 1), place, NORWEGIAN.get(code, code)))
        except ValueError:
            continue
    return next((code for _, _, code in sorted(wanted) if code in languages()), FALLBACK)
