import os
import subprocess
import sys
from pathlib import Path

import pytest

from mt5.infill import parse
from mt5.languages import LANGUAGES, Example, Language, examples

ROOT = Path(__file__).resolve().parent.parent


def test_there_are_24_languages_in_the_order_of_the_published_model() -> None:
    codes = " ".join(language.code for language in LANGUAGES)
    assert codes == "ja en it lv ru hu zh pl el de cs ko hi no da sk fr pt lt es nl sv ro fi"
    assert len({language.endonym for language in LANGUAGES}) == 24


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda language: language.code)
def test_a_language_has_examples_and_none_of_them_twice(language: Language) -> None:
    own = [example for example in examples() if example.language == language.code]
    assert len(own) >= 6
    assert len({example.prompt for example in own}) == len(own)


def test_the_french_examples_begin_with_the_capital_of_france() -> None:
    first = next(example for example in examples() if example.language == "fr")
    assert (first.prompt, first.answers) == ("La capitale de la France est <mask>.", ("Paris",))


def test_examples_come_language_by_language_in_order() -> None:
    codes = [example.language for example in examples()]
    assert list(dict.fromkeys(codes)) == [language.code for language in LANGUAGES]
    assert codes == [language.code for language in LANGUAGES for code in codes if code == language.code]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.prompt)
def test_an_example_has_a_mask_or_two_and_answers(example: Example) -> None:
    masked = parse(example.prompt)
    assert masked.masks in (1, 2)
    assert example.answers
    assert all(answer == answer.strip() != "" for answer in example.answers)
    assert example.shows.endswith(".")


def test_examples_are_found_from_any_folder(tmp_path: Path) -> None:
    program = "from mt5.languages import examples; print(len(examples()))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert int(done.stdout) == len(examples())
