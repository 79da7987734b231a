"""What a longer prompt, a larger batch and a larger model cost, as a figure."""

import random
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.models import measured

if TYPE_CHECKING:
    from mt5.engine import Engine

TOKENS, WARM = 16, 30
"""Tokens that are written; calls before the first that counts, after which a network is recorded."""
LENGTHS, BATCHES = (16, 32, 64, 128, 256, 512), (1, 2, 4, 8, 16, 32, 64)
MODELS = ("embedded", "mt5-small", "mt5-base")
COLOURS = dict(zip(MODELS, ("#1f77b4", "#d95f02", "#1b9e77"), strict=True))
WIDTH, HEIGHT, LEFT, TOP = 320, 220, 56, 40


def draw(out: Path, folder: Path) -> None:
    """Two panels with logarithmic axes: milliseconds by length of the prompt, and by size of the batch."""
    import mt5

    lines: list[dict[str, list[tuple[int, float]]]] = [{}, {}]
    for name in MODELS:
        with mt5.open(measured(name, folder).path, dtype="int8") as engine:
            for _ in range(WARM):
                _asked(engine, 1, 16)
            lines[0][name] = [(n, _took(engine, 1, n)) for n in LENGTHS]
            lines[1][name] = [(n, _took(engine, n, 16)) for n in BATCHES]
    out.write_text(_svg(lines), encoding="utf-8")


def _took(engine: "Engine", batch: int, length: int) -> float:
    return statistics.median(_asked(engine, batch, length) for _ in range(4))


def _asked(engine: "Engine", batch: int, length: int) -> float:
    """Milliseconds."""
    generator = random.Random(1)
    asked = [[generator.randrange(1_000, 16_000) for _ in range(length)] for _ in range(batch)]
    began = time.perf_counter()
    engine.generate(asked, max_new_tokens=TOKENS, stop=False)
    return 1e3 * (time.perf_counter() - began)


def _svg(panels: list[dict[str, list[tuple[int, float]]]]) -> str:
    from math import log

    highest = max(ms for lines in panels for points in lines.values() for _, ms in points)
    lowest = min(ms for lines in panels for points in lines.values() for _, ms in points)

    def y(ms: float) -> float:
        return TOP + HEIGHT * (1 - log(ms / lowest) / log(highest / lowest))

    parts = []
    for number, (lines, title) in enumerate(
        zip(panels, ("tokens in the prompt, one prompt", "prompts of 16 tokens in a batch"), strict=True)
    ):
        left = LEFT + number * (WIDTH + LEFT + 24)
        ticks = [n for n, _ in next(iter(lines.values()))]

        def x(n: int, left: int = left, ticks: list[int] = ticks) -> float:
            return left + WIDTH * log(n / ticks[0]) / log(ticks[-1] / ticks[0])

        parts.append(
            f'<rect x="{left}" y="{TOP}" width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#999"/>'
        )
        parts.append(f'<text x="{left}" y="{TOP - 12}">ms for {TOKENS} tokens, by {title}</text>')
        parts += [
            f'<text x="{x(n):.0f}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{n}</text>' for n in ticks
        ]
        decade = 1
        while decade <= highest:
            if decade >= lowest:
                parts.append(
                    f'<text x="{left - 6}" y="{y(decade) + 4:.0f}" text-anchor="end">{decade:,}</text>'
                )
            decade *= 10
        for name, points in lines.items():
            path = " ".join(f"{x(n):.1f},{y(ms):.1f}" for n, ms in points)
            colour = COLOURS[name]
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
            above = y(points[2][1]) - 8  # where the lines are still far from each other
            parts.append(f'<text x="{left + 8}" y="{above:.0f}" fill="{colour}">{name} int8</text>')
    size = (2 * (WIDTH + LEFT + 24), HEIGHT + TOP + 32)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" '
    return head + 'font-family="sans-serif" font-size="12">\n' + "\n".join(parts) + "\n</svg>\n"
