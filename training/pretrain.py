"""Pre-train the embedded model: python -m training.pretrain --minutes 120 --corpus DIR"""

import argparse
import os
import random
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mt5.config import LOWEST_FLOAT32, ModelConfig, StackConfig
from mt5.model import MT5, Attention, RelativeBias
from mt5.tokenizer import Tokenizer
from training.data import Example, batches, fact_examples, read_facts, renown, split_facts, text_examples

SPIECE = Path(__file__).resolve().parent.parent / "assets" / "model" / "spiece.model"
OUT = Path.home() / ".cache" / "mt5-training"
SOURCES, TARGETS = (16, 24, 32, 40), (8, 16)
BIAS_SLOPE = 0.1


@dataclass(frozen=True)
class Recipe:
    """What a run does. facts_first: share of the time in which only facts are seen; facts_after: their
    share of the batches from then on. tokens: ids per batch, source and target together, padding included."""

    d_model: int = 256
    num_heads: int = 4
    d_kv: int = 64
    d_ff: int = 512
    encoder_layers: int = 5
    decoder_layers: int = 2
    rate: float = 2e-3
    embedding_rate: float = 5e-3
    warmup_steps: int = 150
    decay_from: float = 0.2
    last_rate: float = 0.02
    weight_decay: float = 0.01
    tokens: int = 2_400
    facts_first: float = 0.3
    facts_after: float = 0.4
    average: float = 0.998
    seed: int = 0


def model_config(recipe: Recipe, vocab_size: int) -> ModelConfig:
    """mT5's facts, but for the scales of scores and head, folded into weights at export."""
    encoder = StackConfig(
        num_layers=recipe.encoder_layers,
        num_heads=recipe.num_heads,
        d_kv=recipe.d_kv,
        d_ff=recipe.d_ff,
        norm="rms",
        norm_eps=1e-6,
        positions="relative",
        activation="gelu_tanh",
        gated=True,
        linear_bias=False,
        score_scale=recipe.d_kv**-0.5,
    )
    return ModelConfig(
        d_model=recipe.d_model,
        vocab_size=vocab_size,
        padded_vocab_size=vocab_size,
        encoder=encoder,
        decoder=replace(encoder, num_layers=recipe.decoder_layers),
        tied_head=True,
        head_bias=False,
        masked_score=LOWEST_FLOAT32,
        pad_masks_target=False,
        max_positions=None,
        start_id=0,
        pad_id=0,
        eos_id=1,
        source_eos=True,
        head_scale=recipe.d_model**-0.5,
    )


@torch.no_grad()
def initialise(model: MT5, generator: torch.Generator) -> None:
    """Weights from which facts are learnt at once on little data.

    Embeddings start so wide (1) that a token stays itself through the layers: narrow ones are drowned by the
    first attention in their neighbours' mean. Scores are scaled, so queries start as wide as keys;
    cross-attention starts with equal queries and keys, so that a sentinel finds itself; the relative bias
    starts falling with distance, by a slope per head.
    """
    model.reset_parameters(generator)
    for module in model.modules():
        if isinstance(module, Attention):
            width = module.query.weight.shape[1]
            module.query.weight.copy_(
                torch.randn(module.query.weight.shape, generator=generator) * width**-0.5
            )
            module.output.weight.mul_(0.5)
        elif isinstance(module, RelativeBias):
            half = module.num_buckets // 2 if module.bidirectional else module.num_buckets
            slopes = BIAS_SLOPE * 2.0 ** -torch.arange(module.weight.shape[1])
            distance = torch.arange(module.num_buckets) % half
            module.weight.copy_(-distance.unsqueeze(1) * slopes)
    for layer in model.decoder.layers:
        layer.cross_attention.query.weight.copy_(layer.cross_attention.key.weight)
        layer.feed_forward.down.weight.mul_(0.5)
    for layer in model.encoder.layers:
        layer.feed_forward.down.weight.mul_(0.5)


def loss_of(model: MT5, batch: list[Example], device: torch.device) -> Tensor:
    """Mean cross-entropy over the target's ids, in nats."""
    source, target = bucket_of(batch)
    ids = torch.zeros(len(batch), source, dtype=torch.long)
    labels = torch.full((len(batch), target), -100)
    inputs = torch.zeros(len(batch), target, dtype=torch.long)
    for row, example in enumerate(batch):
        ids[row, : len(example.source)] = torch.tensor(example.source)
        labels[row, : len(example.target)] = torch.tensor(example.target)
        inputs[row, 1 : len(example.target)] = torch.tensor(example.target[:-1])
    mask = torch.arange(source) < torch.tensor([[len(example.source)] for example in batch])
    ids, labels, inputs, mask = (tensor.to(device) for tensor in (ids, labels, inputs, mask))
    cache = model.start(model.encode(ids, mask), mask)
    wanted = labels != -100
    logits = model.logits(model.decode(inputs, cache)[wanted])
    return F.cross_entropy(logits.float(), labels[wanted])


def bucket_of(batch: list[Example]) -> tuple[int, int]:
    """The lengths to which a batch's sources and targets are padded."""
    longest_source = max(len(example.source) for example in batch)
    longest_target = max(len(example.target) for example in batch)
    return next(s for s in SOURCES if s >= longest_source), next(t for t in TARGETS if t >= longest_target)


def rate_at(progress: float, step: int, recipe: Recipe) -> float:
    """Factor on the learning rate: warm-up by steps, then level, then falling with the time used."""
    warm = min(1.0, (step + 1) / recipe.warmup_steps)
    fall = max(0.0, progress - recipe.decay_from) / (1 - recipe.decay_from)
    return warm * (1 - (1 - recipe.last_rate) * min(fall, 1.0))


def stream(
    corpus: Path, tokenizer: Tokenizer, rng: random.Random, mixed: bool, recipe: Recipe
) -> Iterator[list[Example]]:
    """Batches of facts, and when `mixed` of text besides."""
    train, _ = split_facts(read_facts(corpus))
    sizes = {"tokens": recipe.tokens, "sources": SOURCES, "targets": TARGETS}
    facts = batches(fact_examples(train, renown(corpus, train), tokenizer, rng), **sizes)
    if not mixed:
        yield from facts
    texts = batches(text_examples(corpus, tokenizer, rng), **sizes)
    while True:
        yield next(facts if rng.random() < recipe.facts_after else texts)


class Training:
    """A run: the model, its running average, the optimiser, and how far it is."""

    def __init__(self, recipe: Recipe, tokenizer: Tokenizer, device: torch.device) -> None:
        self.recipe, self.device, self.step, self.seconds = recipe, device, 0, 0.0
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
                {"params": tables, "base": recipe.embedding_rate, "weight_decay": 0.0, "eps": 1e-6},
                {"params": plain, "base": recipe.rate, "weight_decay": 0.0},
            ],
            lr=recipe.rate,
            betas=(0.9, 0.98),
            fused=True,
        )

    def update(self, batch: list[Example], progress: float) -> float:
        """One step; returns the loss in nats per id."""
        factor = rate_at(progress, self.step, self.recipe)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base"] * factor
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = loss_of(self.model, batch, self.device)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        keep = min(self.recipe.average, self.step / (self.step + 10))
        torch._foreach_lerp_(
            list(self.average.values()), [p.detach() for p in self.model.parameters()], 1 - keep
        )
        return float(loss.detach())

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
        """Go on from a saved state."""
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]


def run(training: Training, corpus: Path, tokenizer: Tokenizer, *, minutes: float, out: Path) -> None:
    """Train until `minutes` have been spent in all, earlier sittings included; a line a minute in log.txt."""
    recipe, budget = training.recipe, minutes * 60
    rng = random.Random(recipe.seed + training.step)
    mixed = training.seconds >= recipe.facts_first * budget
    source = stream(corpus, tokenizer, rng, mixed, recipe)
    began, said, losses = time.monotonic() - training.seconds, 0.0, []
    while training.seconds < budget:
        if not mixed and training.seconds >= recipe.facts_first * budget:
            mixed, source = True, stream(corpus, tokenizer, rng, True, recipe)
        [batch] = islice(source, 1)
        losses.append(training.update(batch, training.seconds / budget))
        training.seconds = time.monotonic() - began
        if training.seconds - said >= 60 or training.seconds >= budget:
            said = training.seconds
            line = f"{said / 60:6.1f} min  step {training.step:6d}  loss {sum(losses) / len(losses):.3f}"
            print(line, flush=True)
            with (out / "log.txt").open("a") as log:
                log.write(line + "\n")
            losses = []
            training.save(out / "state.pt")


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
    run(training, options.corpus, tokenizer, minutes=options.minutes, out=options.out)


if __name__ == "__main__":
    main()
