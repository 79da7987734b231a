"""The facts about a network that its weights alone do not tell."""

from dataclasses import dataclass
from typing import Literal

from mt5.errors import CheckpointError

Norm = Literal["rms", "layer"]
Positions = Literal["relative", "absolute"]
Activation = Literal["gelu_tanh", "gelu", "relu", "silu"]

LOWEST_FLOAT32 = -3.4028234663852886e38
"""The score that T5 gives to masked keys; NeMo uses -10000."""


@dataclass(frozen=True)
class StackConfig:
    """One stack of layers, the encoder or the decoder.

    d_kv: width of one head. d_ff: inner width of the feed-forward.
    activation: "gelu_tanh" is the tanh approximation, "gelu" the exact form with erf.
    gated: the feed-forward multiplies two branches, one of them activated (Shazeer 2020).
    score_scale: factor on query · key, 1 in T5 and d_kv ** -0.5 in NeMo.
    num_buckets, max_distance: of relative positions (Raffel et al. 2020, §2.1).
    relative_bias_times_layer: layer n, counted from 1, adds n × bias (NeMo's query-key layer scaling).
    relative_bias_per_layer: every layer has a table of its own (umT5).
    """

    num_layers: int
    num_heads: int
    d_kv: int
    d_ff: int
    norm: Norm
    norm_eps: float
    positions: Positions
    activation: Activation
    gated: bool
    linear_bias: bool
    score_scale: float
    num_buckets: int = 32
    max_distance: int = 128
    relative_bias_times_layer: bool = False
    relative_bias_per_layer: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """An encoder–decoder, as its checkpoint describes it.

    vocab_size: ids that can be predicted. padded_vocab_size: rows of the embedding; the ids between
    the two exist only so that the rows divide evenly over shards, and their probability is zero.
    head_scale: factor on the decoder's output before the head, d_model ** -0.5 in T5 with a tied head.
    masked_score: what an attention score is replaced by where the key is masked.
    pad_masks_target: a pad id in the target is masked as a key and as a query, and so is a query of the
    source (NeMo); otherwise only keys of the source are masked (T5).
    max_positions: rows of the table of absolute positions, None with relative ones.
    start_id: what the decoder starts from. source_eos: whether the source ends in eos_id.
    """

    d_model: int
    vocab_size: int
    padded_vocab_size: int
    encoder: StackConfig
    decoder: StackConfig
    tied_head: bool
    head_bias: bool
    masked_score: float
    pad_masks_target: bool
    max_positions: int | None
    start_id: int
    pad_id: int
    eos_id: int
    source_eos: bool
    head_scale: float = 1.0
    shared_embeddings: bool = True

    def check(self) -> None:
        """Raise CheckpointError, naming every fault, unless the sizes can be those of a real network."""
        faults = []

        def within(name: str, value: int, largest: int) -> None:
            if not isinstance(value, int) or not 1 <= value <= largest:
                faults.append(f"{name} is {value!r}, expected 1 to {largest:,}")

        within("d_model", self.d_model, 65_536)
        within("vocab_size", self.vocab_size, 4_000_000)
        within("padded_vocab_size", self.padded_vocab_size, 4_000_000)
        if self.max_positions is not None:
            within("max_positions", self.max_positions, 1_000_000)
        for side, stack in (("encoder", self.encoder), ("decoder", self.decoder)):
            within(f"{side} num_layers", stack.num_layers, 512)
            within(f"{side} num_heads", stack.num_heads, 1_024)
            within(f"{side} d_kv", stack.d_kv, 4_096)
            within(f"{side} d_ff", stack.d_ff, 1_048_576)
            within(f"{side} num_buckets", stack.num_buckets, 65_536)
            within(f"{side} max_distance", stack.max_distance, 1_000_000)
            if not stack.norm_eps >= 0:
                faults.append(f"{side} norm_eps is {stack.norm_eps!r}, expected 0 or more")
        if not faults and self.padded_vocab_size < self.vocab_size:
            faults.append(
                f"vocab_size {self.vocab_size:,} exceeds the {self.padded_vocab_size:,} embedding rows"
            )
        for name in ("start_id", "pad_id", "eos_id"):
            if not faults and not 0 <= getattr(self, name) < self.vocab_size:
                faults.append(
                    f"{name} is {getattr(self, name)}, outside the vocabulary of {self.vocab_size:,}"
                )
        if self.encoder.positions != self.decoder.positions:
            faults.append("encoder and decoder differ in their kind of positions")
        if (self.encoder.positions == "absolute") != (self.max_positions is not None):
            faults.append("max_positions must be given with absolute positions, and only then")
        if faults:
            raise CheckpointError("The configuration is impossible: " + "; ".join(faults) + ".")
