"""Pre-train the embedded model: python -m training.pretrain --minutes 120 --corpus DIR"""

import argparse
import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mt5.model import MT5
from mt5.tokenizer import Tokenizer
from training import cooccurrence
from training.data import (
    UNNUMBERED,
    Lessons,
    lessons_of,
    read_facts,
    read_phrases,
    split_facts,
    text_examples,
)
from training.packing import IGNORED, Pack, hidden, packs
from training.recipe import Recipe, initialise, model_config

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
        self.hidden: Callable[[MT5, Pack], Tensor] = hidden
        self.model = MT5(model_config(recipe, tokenizer.vocab_size)).to(device)
        initialise(self.model, torch.Generator().manual_seed(recipe.seed))
        self.average = {name: weight.detach().clone() for name, weight in self.model.named_parameters()}
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

    @torch.no_grad()
    def embed(self, table: Tensor) -> None:
        """Start from these embeddings, [piece, d_model]."""
        self.model.embedding.weight.copy_(table)
        self.average["embedding.weight"].copy_(table)

    def losses(self, pack: Pack, pieces: Tensor | None) -> tuple[Tensor, Tensor]:
        """Cross-entropy in nats of every wanted id, [wanted], and the place of its example, [wanted].

        pieces: the ids among which the model has to choose, in order; None is the whole vocabulary.
        """
        wanted = pack.labels != IGNORED
        states, labels = self.hidden(self.model, pack)[wanted], pack.labels[wanted]
        if pieces is None:
            logits = self.model.logits(states)
        else:
            logits = F.linear(states * self.model.config.head_scale, self.model.embedding.weight[pieces])
            labels = torch.searchsorted(pieces, labels)
        return F.cross_entropy(logits.float(), labels, reduction="none"), pack.owners[wanted]

    def update(self, pack: Pack, progress: float, pieces: Tensor | None = None) -> tuple[float, list[float]]:
        """One step; returns the loss in nats per id, and in nats per example."""
        factor = rate_at(progress, self.step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            each, owners = self.losses(pack.to(self.device), pieces)
        loss = each.mean()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.step % AVERAGE_EVERY == 0:
            keep = min(self.recipe.average, self.step / (self.step + 10)) ** AVERAGE_EVERY
            torch._foreach_lerp_(
                list(self.average.values()), [p.detach() for p in self.model.parameters()], 1 - keep
            )
        per_example = torch.zeros(len(pack.keys), device=self.device).index_add(0, owners, each.detach())
        return float(loss.detach()), per_example.tolist()

    def save(self, path: Path) -> None:
        """Write everything to resume from, under another name first so that a crash leaves the old file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        torch.save(state, part)
        part.replace(path)

    def restore(self, path: Path) -> None:
        """Go on from a saved state, with the rates of this recipe."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        bases = [group["base"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        for group, base in zip(self.optimizer.param_groups, bases, strict=True):
            group["base"] = base
        self.step, self.seconds = state["step"], state["seconds"]


def stream(
    facts: Iterator[Pack], texts: Iterator[Pack], training: Training, budget: float, rng: random.Random
) -> Iterator[Pack]:
    """Facts alone for their share of the budget of seconds, then mixed with text."""
    recipe = training.recipe
    while True:
        alone = training.seconds < recipe.facts_first * budget
        yield next(facts if alone or rng.random() < recipe.facts_after else texts)


def run(training: Training, corpus: Path, tokenizer: Tokenizer, *, minutes: float, out: Path) -> None:
    """Train until `minutes` have been spent in all, earlier sittings included; a line a minute in log.txt.

    A step in which the process was stopped counts for at most LONGEST_STEP_S.
    """
    recipe, budget = training.recipe, minutes * 60
    rng = random.Random(recipe.seed + training.step)
    train, _ = split_facts(read_facts(corpus))
    lessons = Lessons(lessons_of(train, read_phrases()), tokenizer, rng)
    pieces = torch.tensor(lessons.pieces(), device=training.device)
    sizes = {"rows": recipe.rows, "source": recipe.source, "target": recipe.target}
    facts, texts = packs(iter(lessons), **sizes), packs(text_examples(corpus, tokenizer, rng), **sizes)
    said, before = training.seconds, time.monotonic()
    losses: dict[str, list[float]] = {"facts": [], "text": []}
    for pack in stream(facts, texts, training, budget, rng):
        alone = training.seconds < recipe.facts_first * budget
        loss, per_example = training.update(pack, training.seconds / budget, pieces if alone else None)
        lessons.hear(pack.keys, per_example)
        losses["text" if max(pack.keys) == UNNUMBERED else "facts"].append(loss)
        now = time.monotonic()
        training.seconds += min(now - before, LONGEST_STEP_S)
        before = now
        if training.seconds - said >= SAVE_EVERY_S or training.seconds >= budget:
            said = training.seconds
            means = [f"{name} {sum(each) / len(each):.3f}" for name, each in losses.items() if each]
            line = (
                f"{said / 60:6.1f} min  step {training.step:6d}  loss of {', of '.join(means)}"
                f"  known {lessons.known():.0%}"
            )
            print(line, flush=True)
            with (out / "log.txt").open("a") as log:
                log.write(line + "\n")
            losses = {name: [] for name in losses}
            training.save(out / "state.pt")
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
    for name, value in asdict(Recipe()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    options = parser.parse_args()
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    data = options.vocabulary.read_bytes()
    tokenizer = Tokenizer.huggingface(data)
    recipe = Recipe(**{name: getattr(options, name) for name in asdict(Recipe())})
    training = Training(recipe, tokenizer, torch.device(options.device))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "spiece.model").write_bytes(data)
    if (options.out / "state.pt").exists():
        training.restore(options.out / "state.pt")
    else:
        training.embed(cooccurrence.table(options.corpus, tokenizer, recipe.d_model, recipe.seed))
    if options.compile:
        training.hidden = torch.compile(hidden, dynamic=False)
    run(training, options.corpus, tokenizer, minutes=options.minutes, out=options.out)


if __name__ == "__main__":
    main()
