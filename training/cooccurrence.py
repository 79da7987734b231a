"""First embeddings, from text: pieces that have the same neighbours start alike (Levy et al. 2015)."""

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mt5.tokenizer import Tokenizer
from training.data import read_lines
from training.vocabulary import LANGUAGES

LINES = 30_000
"""Sentences counted of each language."""
LONGEST = 160
WINDOW = 2
SMOOTHING = 0.75
KEPT = 0.7
"""Share of co-occurrence in an embedding, the rest is chance: pieces need to be told apart as well."""


def sentences(corpus: Path, tokenizer: Tokenizer, rng: random.Random) -> Iterator[list[int]]:
    """Ids of some sentences of every language."""
    for language in LANGUAGES:
        lines = read_lines(corpus, language, longest=LONGEST)
        for line in rng.sample(lines, min(LINES, len(lines))):
            yield tokenizer.encode(line)


def count(lines: Iterable[list[int]], vocab_size: int) -> Tensor:
    """How often a piece has another within the window, near ones counting more: [piece, context], float32.

    Contexts before and after count alike, so the matrix is symmetric.
    """
    ids = np.concatenate([np.asarray([*line, *[-1] * WINDOW]) for line in lines])
    counts = np.zeros(vocab_size * vocab_size, dtype=np.float32)
    for distance in range(1, WINDOW + 1):
        left, right = ids[:-distance], ids[distance:]
        both = (left >= 0) & (right >= 0)
        keys, times = np.unique(left[both] * vocab_size + right[both], return_counts=True)
        counts[keys] += times / distance
    matrix = torch.from_numpy(counts.reshape(vocab_size, vocab_size))
    return matrix + matrix.T


def embeddings(counts: Tensor, width: int, generator: torch.Generator) -> Tensor:
    """Rows of about unit variance for every piece, [piece, width]; pieces never seen get chance alone.

    counts: symmetric, [piece, context]; overwritten. The rows come from the positive pointwise mutual
    information by a randomised singular value decomposition (Halko et al. 2011).
    """
    total = counts.sum(1)
    context = total**SMOOTHING / (total**SMOOTHING).sum()
    counts /= total.clamp(min=1)[:, None]
    counts /= context.clamp(min=1e-12)
    information = counts.log_().clamp_(min=0)
    basis = torch.randn(len(counts), width + 32, generator=generator)
    for _ in range(4):
        basis = torch.linalg.qr(information @ (information.T @ basis)).Q
    _, values, right = torch.linalg.svd(basis.T @ information, full_matrices=False)
    found = (information @ right[:width].T) / values[:width] ** 0.75
    chance = torch.randn(len(counts), width, generator=generator)
    norm = found.norm(dim=1, keepdim=True)
    rows = KEPT**0.5 * found / norm.clamp(min=1e-6) * width**0.5 + (1 - KEPT) ** 0.5 * chance
    return torch.where((total[:, None] > 20) & (norm > 0), rows, chance)


def table(corpus: Path, tokenizer: Tokenizer, width: int, seed: int) -> Tensor:
    """The embeddings that a run starts with, [piece, width].

    Takes half a minute and some 4 GB with 16,384 pieces.
    """
    counts = count(sentences(corpus, tokenizer, random.Random(seed)), tokenizer.vocab_size)
    return embeddings(counts, width, torch.Generator().manual_seed(seed))
