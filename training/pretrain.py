"""Pre-train the embedded model: python -m training.pretrain --minutes 120 --corpus DIR"""

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from mt5.model import MT5
from mt5.tokenizer import Tokenizer
from training import cooccurrence
from training.data import (
    UNNUMBERED,
    Lessons,
    lessons_of,
    masked,
    read_facts,
    read_lines,
    read_phrases,
    split_facts,
    text_examples,
)
from training.evaluate import word_gaps
from training.packing import IGNORED, Pack, hidden, nats, packs, stacked
from training.recipe import Recipe, initialise, model_config
from training.vocabulary import LANGUAGES

SPIECE = Path(__file__).resolve().parent.parent / "assets" / "model" / "spiece.model"
OUT = Path.home() / ".cache" / "mt5-training"
LONGEST_STEP_S = 5.0
"""A step that took longer counts as this much: the process was stopped, or its code compiled."""
AVERAGE_EVERY = 5
SAVE_EVERY_S = 60.0


def rate_at(progress: float, step: int, recipe: Recipe) -> float:
    """Factor on the learning rate: warm-up by steps, then level, then falling with the time used."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    fall = max(0.0, progress - recipe.decay_from) / (1 - recipe.decay_from)
    return warm * (1 - (1 - recipe.last_rate) * min(fall, 1.0))


class Training:
    """A run: the model, its running average, the optimiser, and how far it is."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        self.recipe, self.device, self.step, self.seconds = recipe, device, 0, 0.0
        self.nats: Callable[..., Tensor] = nats
        self.model = MT5(model_config(recipe, tokenizer.vocab_size))
        initialise(self.model, torch.Generator().manual_seed(recipe.seed))
        self.model.to(device)
        self.average = deepcopy(self.model).requires_grad_(False)
        tables = [p for n, p in self.model.named_parameters() if n.startswith("embedding.")]
        plain = [p for n, p in self.model.named_parameters() if p.dim() == 1 or "relative_bias" in n]
        chosen = {id(p) for p in tables + plain}
        matrices = [p for p in self.model.parameters() if id(p) not in chosen]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": matrices, "base": recipe.rate, "weight_decay": recipe.weight_decay},
                # epsilon: a word that is absent for long gets only the softmax's tiny push, the same for all
                # such words; scaled up to a full step it would make their embeddings alike
                {"params": tables, "base": recipe.embedding_rate, "weight_decay": 0.0, "eps": 3e-6},
                {"params": plain, "base": recipe.rate, "weight_decay": 0.0},
            ],
            lr=recipe.rate,
            betas=(0.9, 0.98),
            fused=True,
        )

    @property
    def device_name(self) -> str:
        """The machine that trains, in words."""
        if self.device.type == "cuda":
            return f"one {torch.cuda.get_device_name(self.device)}"
        return f"{len(os.sched_getaffinity(0))} processor cores"

    def compile(self) -> None:
        """Compile the network and its loss when the first step comes; packs must then be of one shape."""
        for module in self.model.modules():
            getattr(module, "epsilon", None)  # made on first use, which the compiler cannot follow
        self.nats = torch.compile(nats, dynamic=False, fullgraph=True)

    @torch.no_grad()
    def embed(self, table: Tensor) -> None:
        """Start from these embeddings, [piece, d_model]."""
        self.model.embedding.weight.copy_(table)
        self.average.embedding.weight.copy_(table)

    def update(self, pack: Pack, progress: float, pieces: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One step; returns the loss in nats per id, and in nats per example, both still on the device."""
        factor = rate_at(progress, self.step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        pack = pack.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            each = self.nats(self.model, pack, pieces, self.recipe.dropout)
        loss = each.sum() / (pack.labels != IGNORED).sum()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            keep = min(self.recipe.average, self.step / (self.step + 10)) ** AVERAGE_EVERY
            ours, theirs = list(self.average.parameters()), [p.detach() for p in self.model.parameters()]
            torch._foreach_lerp_(ours, theirs, 1 - keep)
        per_example = torch.zeros(len(pack.keys), device=self.device)
        per_example.index_add_(0, pack.owners.flatten(), each.detach().flatten())
        return loss.detach(), per_example

    @torch.no_grad()
    def validate(self, coming: Sequence[Pack], sentinel: int) -> tuple[float, float]:
        """What the running average makes of gaps kept out: nats per id, and how often it has the first id."""
        total, ids, right, gaps = 0.0, 0, 0, 0
        for pack in (each.to(self.device) for each in coming):
            total += float(nats(self.average, pack, None).sum())
            ids += int((pack.labels != IGNORED).sum())
            first = pack.inputs == sentinel
            best = self.average.logits(hidden(self.average, pack)[first]).argmax(-1)
            right += int((best == pack.labels[first]).sum())
            gaps += int(first.sum())
        return total / ids, right / gaps

    def save(self, path: Path) -> None:
        """Write everything to resume from, under another name first so that a crash leaves the old file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "device": self.device_name,
            "seconds": self.seconds,
        }
        torch.save(state, part)
        part.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a saved state, with the rates of this recipe."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        bases = [group["base"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, base in zip(self.optimizer.param_groups, bases, strict=True):
            group["base"] = base
        self.step, self.seconds = state["step"], state["seconds"]


class Reading(IterableDataset[Pack]):
    """Packs without end: facts alone for their share of the time, then mixed with text.

    In the process that trains, facts that are known come less often; workers of a DataLoader do not hear what
    an answer cost, and read all facts alike.
    """

    def __init__(self, training: Training, corpus: Path, tokenizer: Tokenizer, budget: float) -> None:
        """budget: seconds of training in all."""
        self.training, self.tokenizer, self.budget = training, tokenizer, budget
        self.recipe = training.recipe
        self.train, _ = split_facts(read_facts(corpus))
        self.rng = random.Random(self.recipe.seed + training.step)
        self.lessons = Lessons(lessons_of(self.train, read_phrases()), tokenizer, self.rng)
        self.lines = {language: read_lines(corpus, language, self.recipe.longest) for language in LANGUAGES}

    @property
    def facts_alone(self) -> bool:
        return self.training.seconds < self.recipe.facts_first * self.budget

    def __iter__(self) -> Iterator[Pack]:
        recipe, worker = self.recipe, get_worker_info()
        if worker is not None:
            self.rng.seed(recipe.seed + self.training.step + 1 + worker.id)
            torch.set_num_threads(1)
        sizes = {"rows": recipe.rows, "source": recipe.source, "target": recipe.target}
        texts = text_examples(self.lines, self.tokenizer, self.rng, recipe)
        kinds = [packs(iter(self.lessons), **sizes), packs(texts, **sizes)]
        while True:
            share = 1.0 if self.facts_alone else recipe.facts_after
            yield stacked([next(kinds[self.rng.random() >= share]) for _ in range(recipe.packs)])


def validation(corpus: Path, tokenizer: Tokenizer, recipe: Recipe) -> list[Pack]:
    """A word of each of some sentences of the validation text masked."""
    gaps = [gap for language in LANGUAGES for gap in word_gaps(corpus, language)[: recipe.validation]]
    examples = [
        masked(gap.text, [(len(gap.before), len(gap.text) - len(gap.after))], tokenizer) for gap in gaps
    ]
    numbered = ((UNNUMBERED, example) for example in examples)
    return list(packs(numbered, rows=recipe.rows, source=recipe.source, target=recipe.target))


def run(
    training: Training, corpus: Path, tokenizer: Tokenizer, *, minutes: float, out: Path, workers: int = 0
) -> None:
    """Train until `minutes` have been spent in all, earlier sittings included; a line a minute in log.txt.

    A step in which the process was stopped counts for at most LONGEST_STEP_S. workers: processes that read.
    """
    budget = minutes * 60
    reading = Reading(training, corpus, tokenizer, budget)
    pieces = torch.tensor(reading.lessons.pieces(), device=training.device)
    kept_out = validation(corpus, tokenizer, training.recipe)
    coming = DataLoader(reading, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None)
    said, before, losses = training.seconds, time.monotonic(), []
    for pack in coming:
        progress = training.seconds / budget
        loss, per_example = training.update(pack, progress, pieces if reading.facts_alone else None)
        losses.append(loss)
        if not workers:
            reading.lessons.hear(pack.keys, per_example.tolist())
        now = time.monotonic()
        training.seconds += min(now - before, LONGEST_STEP_S)
        before = now
        if training.seconds - said >= SAVE_EVERY_S or training.seconds >= budget:
            said = training.seconds
            surprise, right = training.validate(kept_out, tokenizer.sentinels[0])
            line = (
                f"{said / 60:6.1f} min  step {training.step:6d}  loss {float(sum(losses)) / len(losses):.3f}"
                f"  kept out {surprise:.3f}, first right {right:.1%}"
            )
            line += "" if workers else f"  known {reading.lessons.known():.0%}"
            print(line, flush=True)
            with (out / "log.txt").open("a") as log:
                log.write(line + "\n")
            losses = []
            training.save(out / "state.pt")
            before = time.monotonic()
        if training.seconds >= budget:
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--minutes", type=float, required=True, help="time to spend in all, earlier sittings included"
    )
    parser.add_argument(
        "--corpus", type=Path, default=Path("../shared/corpus"), help="see training/README.md"
    )
    parser.add_argument(
        "--out", type=Path, default=OUT, help="folder for checkpoints and log; a state there is resumed"
    )
    parser.add_argument("--vocabulary", type=Path, default=SPIECE, help="spiece.model")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="compile the network first: a minute or two with a C++ compiler, then a third faster",
    )
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that read, for a GPU: one a processor core"
    )
    parser.add_argument(
        "--embeddings",
        choices=("cooccurrence", "chance"),
        default="cooccurrence",
        help="what a run starts from; chance will do for a long one",
    )
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    if options.workers and options.facts_first:
        parser.error("--workers reads facts and text together: add --facts-first 0")
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    data = options.vocabulary.read_bytes()
    tokenizer = Tokenizer.huggingface(data)
    recipe = Recipe(**{name: getattr(options, name) for name in asdict(Recipe())})
    training = Training(recipe, tokenizer, torch.device(options.device))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "spiece.model").write_bytes(data)
    if (options.out / "state.pt").exists():
        training.restore(options.out / "state.pt")
    elif options.embeddings == "cooccurrence":
        training.embed(cooccurrence.table(options.corpus, tokenizer, recipe.d_model, recipe.seed))
    if options.compile:
        training.compile()
    run(
        training,
        options.corpus,
        tokenizer,
        minutes=options.minutes,
        out=options.out,
        workers=options.workers,
    )


if __name__ == "__main__":
    main()
