"""What the README says is so."""

import ast
import doctest
import re
import shlex
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import mt5
from mt5.__main__ import app
from mt5.languages import LANGUAGES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
FRONT_MATTER, TEXT = README.removeprefix("---\n").split("\n---\n", 1)


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)


def commands() -> list[str]:
    """Each shell command of the README on one line, without its comment."""
    joined = "\n".join(blocks("sh")).replace("\\\n", " ")
    return [shlex.join(shlex.split(line, comments=True)) for line in joined.splitlines() if line.strip()]


def runnable() -> list[str]:
    """The commands of the command line that need nothing but the embedded model."""
    return [line for line in commands() if line.startswith("python -m mt5") and "/path/to" not in line]


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_front_matter_is_what_spaces_expects() -> None:
    front = yaml.safe_load(FRONT_MATTER)
    assert front["sdk"] == "gradio"
    assert front["sdk_version"] == pins("requirements.txt")["gradio"]
    assert (ROOT / front["app_file"]).is_file()
    assert front["license"] == "apache-2.0"
    assert len(front["short_description"]) <= 60
    assert isinstance(front["python_version"], str)


def test_front_matter_names_the_24_languages_as_text() -> None:
    # an unquoted no is false in YAML
    assert yaml.safe_load(FRONT_MATTER)["language"] == [language.code for language in LANGUAGES]


def test_the_text_names_every_language() -> None:
    assert [language.english for language in LANGUAGES if language.english not in TEXT] == []


def test_every_file_that_is_linked_exists() -> None:
    for page in (README, (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")):
        links = re.findall(r"\]\(([^)\s]+)\)", page) + re.findall(r'src="([^"]+)"', page)
        local = [link for link in links if not link.startswith(("https://", "#"))]
        assert [link for link in local if not (ROOT / link).is_file()] == []


def test_every_path_of_this_repository_in_the_text_exists() -> None:
    paths = re.findall(r"`((?:assets|mt5|tests|training|docs)/[\w./]*|app\.py|requirements\.txt)`", TEXT)
    assert len(paths) > 3
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_make_target_in_the_text_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    used = {line.split()[1] for line in commands() if line.startswith("make ")}
    assert used >= {"run", "test"}
    assert {target for target in used if f"\n{target}:" not in makefile} == set()


def test_every_option_of_make_run_in_the_text_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    used = set(re.findall(r"\b([A-Z]+)=", TEXT))
    assert used >= {"PORT", "CHECKPOINT", "DTYPE"}
    assert {option for option in used if f"\n{option} ?=" not in makefile} == set()


def test_requirements_are_pinned_exactly_and_installed() -> None:
    for name, wanted in (pins("requirements.txt") | pins("requirements-dev.txt")).items():
        # a build of PyTorch may add its own mark, such as +cpu
        assert version(name).split("+")[0] == wanted, name


def test_everything_that_is_imported_is_pinned() -> None:
    distributions = packages_distributions()
    files = [*ROOT.glob("app.py"), *(ROOT / "mt5").rglob("*.py"), *(ROOT / "training").rglob("*.py")]
    imported = {
        name.split(".")[0]
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    foreign = imported - sys.stdlib_module_names - {"app", "mt5", "training"}
    pinned = {name.lower().replace("_", "-") for name in pins("requirements.txt")}
    missing = {
        name
        for name in foreign
        if not {part.lower().replace("_", "-") for part in distributions.get(name, [name])} & pinned
    }
    assert missing == set()


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    newest = re.search(r"^## \[([^]]+)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None
    assert mt5.__version__ == project["version"] == newest[1]


def test_the_embedded_model_stays_small() -> None:
    files = [path for path in (ROOT / "assets" / "model").iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 24_000_000


@pytest.mark.slow
@pytest.mark.parametrize("command", runnable())
def test_a_command_of_the_readme_runs(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    arguments = shlex.split(command)[3:]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    assert result.output.strip()


@pytest.mark.slow
def test_the_python_of_the_readme_gives_what_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (session,) = blocks("python")
    test = doctest.DocTestParser().get_doctest(session, {}, "README.md", "README.md", 0)
    report: list[str] = []
    results = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    assert results.attempted > 8
    assert results.failed == 0, "".join(report)
