"""Imports point down, and what is light stays light."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the bottom up. A part imports from lower lines only; `checkpoint` and `web` are folders.
LAYERS = (
    ("errors",),
    ("cache", "config", "exchange", "parallel", "quantized", "threads", "results", "rules", "settings"),
    ("relative",),
    ("tokenizer", "languages", "model", "info"),
    ("infill", "corruption", "generate", "fused", "traced"),
    ("figures", "batch", "network", "checkpoint"),
    ("rank", "codec", "record", "tasks"),
    ("group", "scheduler"),
    ("nursery",),
    ("ranks",),
    ("engine",),
    ("opening",),
    ("__init__",),
    ("web", "__main__"),
    ("app",),
)
LAYER = {part: height for height, parts in enumerate(LAYERS) for part in parts}

# Closer than the layers: decoding sees a step function, a figure sees results, a page sees an engine.
ONLY = {
    "generate": {"rules", "settings"},
    "figures": {"errors", "results"},
    "corruption": {"errors", "tokenizer"},
}
NEVER_BY_THE_PAGE = {"checkpoint", "model", "network", "parallel", "rank", "group", "nursery", "ranks"}
LIGHT = {
    "errors", "config", "languages", "settings", "rules", "results", "info", "tokenizer", "infill",
    "corruption", "batch", "record", "figures",
}  # fmt: skip


def modules() -> dict[str, Path]:
    """Name → file, of app.py and everything in mt5/: "mt5.checkpoint.nemo", or "mt5.web" for a folder."""
    found = {}
    for path in [*ROOT.glob("app.py"), *sorted((ROOT / "mt5").rglob("*.py"))]:
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(module: str, source: str, known: Mapping[str, object]) -> Iterator[str]:
    """Every module that `source` imports anywhere, with the name imported where that is a module itself."""
    package = module if known_package(module, known) else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in known:
                    yield inner
                elif inner != "mt5.__version__":  # a constant, set before anything is imported
                    yield base


def known_package(module: str, known: Mapping[str, object]) -> bool:
    return any(other.startswith(f"{module}.") for other in known)


def part(module: str) -> str:
    """The line of LAYERS that a module belongs to: "mt5.checkpoint.nemo" is of "checkpoint"."""
    names = module.split(".")
    if names[0] == "app":
        return "app"
    return names[1] if len(names) > 1 else "__init__"


def reversed_arrows(sources: Mapping[str, str]) -> list[str]:
    """What is wrong with the imports of these modules (name → source), a line for each."""
    faults = []
    for module, source in sources.items():
        lower = part(module)
        for target in imports(module, source, sources):
            if target.split(".")[0] in ("training", "benchmarks", "tests"):
                faults.append(f"{module} imports {target}: the product must not need it")
            elif target.split(".")[0] == "gradio" and lower not in ("web", "app"):
                faults.append(f"{module} imports gradio: only mt5/web and app.py may")
            if target.split(".")[0] not in ("mt5", "app") or part(target) == lower:
                continue
            if LAYER[part(target)] >= LAYER[lower]:
                faults.append(f"{module} imports {target}, which lies above it")
            elif part(target) not in ONLY.get(lower, LAYER):
                faults.append(f"{module} imports {target}: only {', '.join(sorted(ONLY[lower]))} may be")
            elif lower == "web" and part(target) in NEVER_BY_THE_PAGE:
                faults.append(f"{module} imports {target}: the page talks to the engine")
    return faults


def read_all() -> dict[str, str]:
    return {module: path.read_text(encoding="utf-8") for module, path in modules().items()}


def test_every_module_has_a_place_in_the_layers() -> None:
    assert {part(module) for module in modules()} - set(LAYER) == set()


def test_imports_point_down() -> None:
    assert reversed_arrows(read_all()) == []


def test_no_two_modules_import_each_other() -> None:
    sources = read_all()
    graph = {
        module: {target for target in imports(module, source, sources) if target in sources}
        for module, source in sources.items()
        if module != "mt5"  # its names are looked up when they are first used
    }
    order = list(TopologicalSorter(graph).static_order())  # raises CycleError with the cycle
    assert len(order) >= len(graph)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mt5.config", "from mt5.model import MT5"),
        ("mt5.tokenizer", "import mt5.engine"),
        ("mt5.generate", "def step():\n    from mt5 import tokenizer"),
        ("mt5.checkpoint.nemo", "from ..engine import Engine"),
        ("mt5.web.page", "from mt5.model import MT5"),
        ("mt5.engine", "import gradio as gr"),
        ("mt5.infill", "from training.data import Example"),
        ("mt5.engine", "from mt5 import open"),
    ],
)
def test_a_reversed_arrow_is_found(module: str, source: str) -> None:
    known = ["mt5", "mt5.model", "mt5.engine", "mt5.tokenizer", "mt5.checkpoint", "mt5.web"]
    assert len(reversed_arrows(dict.fromkeys(known, "") | {module: source})) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("mt5.engine", "from mt5 import __version__"),
        ("mt5.checkpoint.nemo", "from .weights import join\nfrom ..config import ModelConfig"),
        ("mt5.web.page", "import gradio\nfrom mt5 import __version__\nfrom mt5.engine import Engine"),
    ],
)
def test_an_arrow_down_is_fine(module: str, source: str) -> None:
    known = ["mt5", "mt5.config", "mt5.engine", "mt5.checkpoint", "mt5.checkpoint.weights", "mt5.web"]
    assert reversed_arrows(dict.fromkeys(known, "") | {module: source}) == []


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after `statement`."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True, timeout=120
    )
    return set(done.stdout.split())


def test_what_needs_no_torch_does_not_load_it() -> None:
    loaded = loaded_by("; ".join(f"import {module}" for module in sorted(modules()) if part(module) in LIGHT))
    assert loaded & {"torch", "gradio", "transformers"} == set()


def test_the_command_line_starts_without_torch_and_gradio() -> None:
    loaded = loaded_by("import mt5.__main__")
    assert loaded & {"torch", "gradio", "plotly", "numpy", "sentencepiece", "transformers"} == set()


@pytest.mark.slow
def test_the_library_does_not_load_the_page() -> None:
    loaded = loaded_by("import mt5.engine")
    assert "torch" in loaded
    assert loaded & {"gradio", "plotly", "transformers"} == set()
