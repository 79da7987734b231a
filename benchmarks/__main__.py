"""Measure all contenders, interleaved, and write the README's tables: `make bench` (SHORT=1 is quicker)."""

import argparse
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.contenders import CONTENDERS, Contender
from benchmarks.growth import draw
from benchmarks.models import Measured, bytes_per_token, measured
from mt5 import infill
from mt5.checkpoint import open_checkpoint
from mt5.codec import Codec
from mt5.languages import LANGUAGES, examples
from mt5.threads import allowed

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".bench"
TOKENS = 16
BEGIN, END = "<!-- speed: written by make bench -->", "<!-- end of speed -->"


def sources(count: int, length: int) -> list[list[int]]:
    generator = random.Random(1)
    return [[generator.randrange(1_000, 16_000) for _ in range(length)] for _ in range(count)]


def interleaved(work: dict[str, Callable[[int], object]], rounds: int) -> dict[str, float]:
    """Median seconds of each; every round runs all of them in turn."""
    for one in work.values():
        one(0)
    took: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(1, rounds + 1):
        for name, one in work.items():
            began = time.perf_counter()
            one(turn)
            took[name].append(time.perf_counter() - began)
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


def example_pairs() -> tuple[list[str], list[list[int]]]:
    """The first example of every language, and its ids."""
    firsts = {example.language: example.prompt for example in reversed(examples())}
    prompts = [firsts[language.code] for language in LANGUAGES]
    checkpoint = open_checkpoint(measured("embedded", FOLDER).path)
    codec = Codec(checkpoint.tokenizer, checkpoint.config)
    return prompts, [codec.source(infill.parse(prompt)) for prompt in prompts]


def errors(model: Measured, contenders: dict[str, Contender]) -> dict[str, float]:
    """Mean error of a token's log-probability against transformers in float32, over what that writes."""
    asked = example_pairs()[1] if model.name == "embedded" else sources(8, 16)
    reference = contenders["transformers float32"]
    targets = [reference.generate([source], 8)[0] for source in asked]
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


def costs(model: Measured, name: str, threads: int) -> tuple[float, float]:
    """Seconds to load, and the most MB that it took beyond what the imports take, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "--load", model.name, name, str(threads)]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    took, grew = json.loads(done.stdout.splitlines()[-1])
    return took, grew


def load(model: str, name: str, threads: int) -> None:
    """The other side of `costs`."""
    import ctranslate2  # noqa: F401
    import transformers  # noqa: F401

    import mt5  # noqa: F401

    before = _status("VmRSS")
    began = time.perf_counter()
    contender = CONTENDERS[name](measured(model, FOLDER).path, FOLDER, threads)
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
        work = {
            name: (lambda turn, one=one, asked=asked: one.generate(asked, TOKENS))
            for name, one in contenders.items()
        }
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
    prompts, ids = example_pairs()

    def one_by_one(contender: Contender, turn: int) -> None:
        for source, prompt in zip(ids, prompts, strict=True):
            contender.fill([source], [prompt], turn)

    alone = interleaved({n: (lambda t, c=c: one_by_one(c, t)) for n, c in contenders.items()}, rounds)
    batched = interleaved(
        {n: (lambda t, c=c: c.fill(ids, prompts, t + rounds + 1)) for n, c in contenders.items()}, rounds
    )
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
    parser.add_argument("--load", nargs=3, metavar=("MODEL", "CONTENDER", "THREADS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.load:
        load(options.load[0], options.load[1], int(options.load[2]))
        return
    FOLDER.mkdir(exist_ok=True)
    names = ["embedded", "mt5-small"] + ([] if options.short else ["mt5-base"])
    lines: list[str] = []
    for name in names:
        for threads in sorted({1, allowed()}):
            rounds = 3 if name != "embedded" else 7 if options.short else 15
            lengths = (16,) if options.short else (16, 128)
            lines += [*table(measured(name, FOLDER), threads, rounds, lengths), ""]
            print("\n".join(lines[-20:]), flush=True)
    if not options.short:
        draw(ROOT / "docs" / "growth.svg", FOLDER)
        lines += ["![Milliseconds as prompt, batch and model grow](docs/growth.svg)", ""]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    text = "\n".join([BEGIN, "", *lines, END])
    (FOLDER / "speed.md").write_text(text + "\n", encoding="utf-8")
    if BEGIN in readme:
        before, rest = readme.split(BEGIN, 1)
        (ROOT / "README.md").write_text(before + text + rest.split(END, 1)[1], encoding="utf-8")


if __name__ == "__main__":
    main()
