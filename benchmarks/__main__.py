"""Measure all contenders, interleaved, and write the README's tables: `make bench` (SHORT=1 is quicker)."""

import argparse
import importlib
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks.contenders import CONTENDERS, Contender, Texts
from benchmarks.growth import draw
from benchmarks.models import Measured, bytes_per_token, measured
from mt5.languages import LANGUAGES, examples
from mt5.threads import allowed

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".bench"
TOKENS = 16
WARM_S = 2.0
"""How long a contender warms up."""
BEGIN, END = "<!-- speed: written by make bench -->", "<!-- end of speed -->"


def sources(count: int, length: int) -> list[list[int]]:
    generator = random.Random(1)
    return [[generator.randrange(1_000, 16_000) for _ in range(length)] for _ in range(count)]


def interleaved(work: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each; every round runs all of them in turn, after each has warmed up."""
    for one in work.values():
        began = time.perf_counter()
        one()
        # caches, and what is compiled or recorded once it is used
        while time.perf_counter() - began < WARM_S:
            one()
    took: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        for name, one in work.items():
            took[name].append(_timed(one))
    return {name: statistics.median(times) for name, times in took.items()}


def bandwidth() -> float:
    """Bytes a second that are read when a large tensor is summed."""
    numbers = torch.ones(64 << 20)
    numbers.sum()
    return numbers.nbytes / min(_timed(numbers.sum) for _ in range(7))


def _timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def prompts() -> list[str]:
    """The first example of every language."""
    firsts = {example.language: example.prompt for example in reversed(examples())}
    return [firsts[language.code] for language in LANGUAGES]


def errors(model: Measured, contenders: dict[str, Contender]) -> dict[str, float]:
    """Mean error of a token's log-probability against transformers in float32, over what that writes: for the
    example prompts to the end, for random ones 8 tokens."""
    reference = contenders["transformers float32"]
    if model.name == "embedded":
        asked = Texts(model.path).read(prompts())
        targets = [_ended(reference.fill([prompt])[0][1]) for prompt in prompts()]
    else:
        asked = sources(8, 16)
        targets = [reference.generate([source], 8)[0][0] for source in asked]
    right = [reference.score(source, target) for source, target in zip(asked, targets, strict=True)]
    found = {}
    for name, contender in contenders.items():
        off = [
            abs(a - b)
            for source, target, values in zip(asked, targets, right, strict=True)
            for a, b in zip(contender.score(source, target), values, strict=True)
        ]
        found[name] = statistics.mean(off)
    for name in ("ours float32", "CTranslate2 float32"):
        if found[name] > 1e-3:
            sys.exit(f"{model.name}: {name} computes something else than transformers: {found[name]:.4f}")
    return found


def _ended(ids: list[int]) -> list[int]:
    return ids[: ids.index(1) + 1] if 1 in ids else ids


def costs(model: Measured, name: str, threads: int) -> tuple[float, float]:
    """Seconds to load, and the most MB that it took beyond what the imports take, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "--load", model.name, name, str(threads)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    took, grew = json.loads(done.stdout.splitlines()[-1])
    return took, grew


def load(model: str, name: str, threads: int) -> None:
    """The other side of `costs`."""
    for module in ("ctranslate2", "transformers", "mt5"):
        importlib.import_module(module)
    path = measured(model, FOLDER).path
    before = _status("VmRSS")
    began = time.perf_counter()
    contender = CONTENDERS[name](path, FOLDER, threads)
    took = time.perf_counter() - began
    contender.generate(sources(1, 16), 2)
    print(json.dumps([took, _status("VmHWM") - before]))


def _status(name: str) -> float:
    """A line of Linux's account of this process, in MB; ru_maxrss would count the parent's, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def table(model: Measured, threads: int, rounds: int, lengths: Sequence[int]) -> list[str]:
    """Lines of a table: a contender each."""
    contenders = {name: make(model.path, FOLDER, threads) for name, make in CONTENDERS.items()}
    torch.set_num_threads(threads)
    off, limit = errors(model, contenders), bandwidth()
    cells = [(length, batch) for length in lengths for batch in (1, 8, 24)]
    took = {}
    for length, batch in cells:
        asked = sources(batch, length)
        work = {name: partial(one.generate, asked, TOKENS) for name, one in contenders.items()}
        took[length, batch] = interleaved(work, rounds)
    heads = [f"{length} in, batch {batch}" for length, batch in cells]
    lines = [
        f"**{model.name}**, {threads} {'threads' if threads > 1 else 'thread'}, "
        f"{limit / 1e9:.1f} GB/s. Milliseconds for {TOKENS} tokens a prompt (tokens/s):",
        "",
        f"| | {' | '.join(heads)} | share of the limit | mean error | load s | MB |",
        f"|---|{'---:|' * (len(heads) + 4)}",
    ]
    for name, contender in contenders.items():
        times = [took[cell][name] for cell in cells]
        speeds = [
            f"{1e3 * t:.0f} ({TOKENS * batch / t:,.0f})" for t, (_, batch) in zip(times, cells, strict=True)
        ]
        share = bytes_per_token(model.path, contender.bits) * TOKENS / times[0] / limit
        seconds, grew = costs(model, name, threads)
        lines.append(
            f"| {name} | {' | '.join(speeds)} | {share:.0%} | {off[name]:.4f} | {seconds:.1f} | {grew:,.0f} |"
        )
    if model.name == "embedded":
        lines += ["", *job(contenders, rounds)]
    return lines


def job(contenders: dict[str, Contender], rounds: int) -> list[str]:
    """The 24 example prompts, each contender by its own rules when to stop."""
    asked = prompts()

    def one_by_one(contender: Contender) -> None:
        for prompt in asked:
            contender.fill([prompt])

    alone = interleaved({n: partial(one_by_one, c) for n, c in contenders.items()}, rounds)
    batched = interleaved({n: partial(c.fill, asked) for n, c in contenders.items()}, rounds)
    return [
        "24 example prompts filled, milliseconds in all:",
        "",
        "| | one by one | in one batch |",
        "|---|---:|---:|",
        *(f"| {name} | {1e3 * alone[name]:.0f} | {1e3 * batched[name]:.0f} |" for name in contenders),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="fewer rounds, no mt5-base, no long prompts")
    parser.add_argument("--only", metavar="PART", help="one part again, such as mt5-small-2 or growth")
    parser.add_argument("--load", nargs=3, metavar=("MODEL", "CONTENDER", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load[0], options.load[1], int(options.load[2]))
        return
    parts = FOLDER / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    models = ("embedded", "mt5-small", "mt5-base")
    kinds = {f"{name}-{threads}": (name, threads) for name in models for threads in sorted({1, allowed()})}
    kinds["growth"] = "growth", 0
    if options.only and options.only not in kinds:
        parser.error(f"--only {options.only}: choose {', '.join(kinds)}")
    long = {part for part, (name, _) in kinds.items() if name in ("mt5-base", "growth")}
    for part, (name, threads) in kinds.items():
        if part == options.only or (options.only is None and not (options.short and part in long)):
            lines = growth() if name == "growth" else measure(name, threads, short=options.short)
            (parts / f"{part}.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
            print("\n".join(lines), flush=True)
    files = [parts / f"{part}.md" for part in kinds]
    written = [file.read_text("utf-8") for file in files if file.exists()]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    before, rest = readme.split(BEGIN, 1)
    text = "\n".join([BEGIN, "", *written, END])
    (ROOT / "README.md").write_text(before + text + rest.split(END, 1)[1], encoding="utf-8")


def measure(name: str, threads: int, *, short: bool) -> list[str]:
    rounds = (7 if short else 15) if name == "embedded" else 3
    return table(measured(name, FOLDER), threads, rounds, (16,) if short else (16, 128))


def growth() -> list[str]:
    draw(ROOT / "docs" / "growth.svg", FOLDER)
    return ["![Milliseconds as prompt, batch and model grow](docs/growth.svg)"]


if __name__ == "__main__":
    main()
