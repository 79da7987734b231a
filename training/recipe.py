"""What a training run does, and the network it starts from."""

from dataclasses import dataclass, replace

import torch

from mt5.config import LOWEST_FLOAT32, ModelConfig, StackConfig
from mt5.model import MT5, Attention
from mt5.relative import RelativeBias

BIAS_SLOPE = 0.1


@dataclass(frozen=True)
class Recipe:
    """What a run does.

    facts_first: share of the time in which only facts are seen; facts_after: their share of the packs from
    then on. many_gaps: share of sentences with a word in four masked. longest: characters of a sentence.
    language_exponent: a language is drawn with its number of sentences to this power. rows, source, target:
    a pack's rows and their lengths in ids; packs: how many make a step. validation: sentences a language
    that are asked for beside the log.
    """

    d_model: int = 256
    num_heads: int = 4
    d_kv: int = 64
    d_ff: int = 768
    encoder_layers: int = 4
    decoder_layers: int = 2
    rate: float = 2e-3
    embedding_rate: float = 2e-2
    warmup_steps: int = 100
    decay_from: float = 0.4
    last_rate: float = 0.02
    weight_decay: float = 0.01
    rows: int = 24
    source: int = 48
    target: int = 20
    packs: int = 1
    longest: int = 60
    language_exponent: float = 0.4
    many_gaps: float = 0.5
    dropout: float = 0.0
    validation: int = 20
    facts_first: float = 0.4
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
