"""NeMo Megatron's T5 and mT5 archives: tensor-parallel shards and names.

The published example is nemo_megatron_mt5_3b_bf16_tp2.nemo, written by NeMo 1.10.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt5.checkpoint import torchfile
from mt5.checkpoint.archive import Archive
from mt5.checkpoint.nemo_config import CONFIG, MAX_CONFIG, model_config, padded_rows, read_config, unsupported
from mt5.checkpoint.weights import Joined, Lazy, Unfused, listed, same
from mt5.config import ModelConfig, StackConfig
from mt5.errors import CheckpointError
from mt5.tokenizer import Tokenizer

WEIGHTS = "model_weights.ckpt"
MAX_TOKENIZER = 64 << 20
RANK = re.compile(r"(?:mp_rank_(\d{2,})|tp_rank_(\d{2,})_pp_rank_(\d{3,}))/" + re.escape(WEIGHTS))

# which dimension a tensor is cut along; those not named here are on every rank in full
CUT = (
    (re.compile(r"\.word_embeddings\.weight$"), 0),
    (re.compile(r"\.(query_key_value|query|key_value|dense_h_to_4h(_2)?)\.(weight|bias)$"), 0),
    (re.compile(r"\.(dense|dense_4h_to_h)\.weight$"), 1),
    (re.compile(r"\.tokens_head\.(weight|bias)$"), 0),
)


def cut_dimension(name: str) -> int | None:
    """Along which dimension NeMo cuts a tensor over ranks, None where every rank holds it whole."""
    return next((dim for pattern, dim in CUT if pattern.search(name)), None)


def join(ranks: list[dict[str, Lazy]], label: str) -> dict[str, Lazy]:
    """The whole tensors of an archive, by NeMo's names. CheckpointError when the ranks do not agree."""
    first, faults = ranks[0], []
    for number, rank in enumerate(ranks[1:], 1):
        odd = [name for name in {**first, **rank} if name not in first or name not in rank]
        odd += [
            f"{name}, {list(rank[name].shape)} here and {list(first[name].shape)} there"
            for name in first
            if name in rank and rank[name].shape != first[name].shape
        ]
        if odd:
            faults.append(f"rank {number} differs from rank 0 in {listed(odd)}")
    if faults:
        raise CheckpointError(f"{label}: {'; '.join(faults)}.")
    joined: dict[str, Lazy] = {}
    for name, tensor in first.items():
        dim = cut_dimension(name)
        if dim is None:
            for number, rank in enumerate(ranks[1:], 1):
                if not same(tensor, rank[name]):
                    raise CheckpointError(
                        f"{label}: {name} should be the same on every rank; rank {number} differs."
                    )
            joined[name] = tensor
        else:
            joined[name] = Joined(tuple(rank[name] for rank in ranks), dim) if len(ranks) > 1 else tensor
    return joined


TOP = "enc_dec_model."
PARTS = {
    "input_layernorm": "self_attention_norm",
    "self_attention.dense": "self_attention.output",
    "inter_attention.query": "cross_attention.query",
    "inter_attention.dense": "cross_attention.output",
    "mlp.dense_4h_to_h": "feed_forward.down",
}
LAYER = re.compile(r"enc_dec_model\.(encoder|decoder)\.model\.layers\.(\d+)\.(.+)\.(weight|bias)")


def rename(weights: Mapping[str, Lazy], config: ModelConfig) -> dict[str, Lazy]:
    """NeMo's tensors under the network's names, fused projections taken apart."""
    result: dict[str, Lazy] = {}
    for full_name, tensor in weights.items():
        # NeMo 1.11 never writes `module.`, other versions' wrappers may
        name = full_name.removeprefix(TOP).removeprefix("module.")
        if match := LAYER.fullmatch(name):
            side, number, part, leaf = match.groups()
            stack = config.encoder if side == "encoder" else config.decoder
            for own, value in _layer_part(part, tensor, side, stack):
                result[f"{side}.layers.{number}.{own}.{leaf}"] = value
        else:
            for own in _top_level(name, config):
                result[own] = tensor
    return result


def _layer_part(part: str, tensor: Lazy, side: str, stack: StackConfig) -> list[tuple[str, Lazy]]:
    if part == "self_attention.query_key_value":
        names = ("query", "key", "value")
        return [(f"self_attention.{name}", Unfused(tensor, stack.d_kv, n, 3)) for n, name in enumerate(names)]
    if part == "inter_attention.key_value":
        return [
            (f"cross_attention.{name}", Unfused(tensor, stack.d_kv, n, 2))
            for n, name in enumerate(("key", "value"))
        ]
    if part == "mlp.dense_h_to_4h":
        return [("feed_forward.gate" if stack.gated else "feed_forward.up", tensor)]
    if part == "mlp.dense_h_to_4h_2":
        return [("feed_forward.up", tensor)]
    if part == "post_attention_layernorm":
        return [("cross_attention_norm" if side == "decoder" else "feed_forward_norm", tensor)]
    if part == "post_inter_attention_layernorm":
        return [("feed_forward_norm", tensor)]
    return [(PARTS.get(part, part), tensor)]


def _top_level(name: str, config: ModelConfig) -> list[str]:
    """The network's names for a tensor outside the layers; none for a second copy of shared embeddings."""
    if name.startswith("decoder_embedding."):
        if config.shared_embeddings:
            return []
        return ["decoder_positions.weight" if "position" in name else "decoder_embedding.weight"]
    names = {
        "encoder_embedding.word_embeddings.weight": "embedding.weight",
        "encoder_embedding.position_embeddings.weight": "positions.weight",
        "tokens_head.weight": "head.weight",
        "tokens_head.bias": "head.bias",
    }
    if match := re.fullmatch(
        r"enc_dec_model\.(encoder|decoder)\.model\.final_layernorm\.(weight|bias)", name
    ):
        return [f"{match[1]}.final_norm.{match[2]}"]
    if match := re.fullmatch(
        r"(?:enc_dec_model\.)?(encoder|decoder)_relative_position_embedding\.relative_position_embedding\.weight",
        name,
    ):
        return [f"{match[1]}.relative_bias.weight"]
    return [names.get(name, name)]


@dataclass(frozen=True)
class NemoArchive:
    """What an archive holds. settings: as written. weights: whole tensors by NeMo's names."""

    archive: Archive
    settings: dict[str, Any]
    tokenizer: Tokenizer
    tokenizer_name: str
    tensor_parallel: int
    weights: dict[str, Lazy]
    config: ModelConfig
    files: tuple[Path, ...]


def open_nemo(path: Path) -> NemoArchive:
    """Read an archive's configuration and index its tensors; no weights are read yet."""
    archive, label = Archive(path), str(path)
    if CONFIG not in archive.members:
        raise CheckpointError(f"{label}: no {CONFIG} inside. Is it a NeMo archive, and whole?")
    settings = read_config(archive.read(CONFIG, MAX_CONFIG), f"{label}: {CONFIG}")
    faults = unsupported(settings)
    if faults:
        raise CheckpointError(f"{label}: not supported: {'; '.join(faults)}.")
    tokenizer_name = str(settings["tokenizer"].get("model") or "").removeprefix("nemo:")
    if tokenizer_name not in archive.members:
        raise CheckpointError(
            f"{label}: the tokenizer {tokenizer_name!r} named in {CONFIG} is not in the archive."
        )
    count = settings["tokenizer"].get("num_sentinel_tokens")
    tokenizer = Tokenizer.nemo(
        archive.read(tokenizer_name, MAX_TOKENIZER),
        sentinels=100 if count is None else _sentinels(count, label),
    )
    names = _rank_members(archive, settings)
    weights = join([torchfile.tensors(archive.members[name], f"{label}: {name}") for name in names], label)
    words = weights.get("enc_dec_model.encoder_embedding.word_embeddings.weight") or weights.get(
        "enc_dec_model.module.encoder_embedding.word_embeddings.weight"
    )
    if words is None:
        raise CheckpointError(
            f"{label}: no word embeddings among the weights. Is it an encoder-decoder of NeMo's?"
        )
    tied = not any(name.endswith("tokens_head.weight") for name in weights)
    expected = padded_rows(settings, tokenizer.vocab_size, len(names))
    if words.shape[0] != expected:
        raise CheckpointError(
            f"{label}: the embeddings have {words.shape[0]:,} rows, but {tokenizer.vocab_size:,} tokens on "
            f"{len(names)} ranks need {expected:,}. Does the tokenizer belong to these weights?"
        )
    config = model_config(settings, tokenizer, words.shape[0], tied_head=tied, label=label)
    files = tuple(path / name for name in names) if path.is_dir() else (path,)
    return NemoArchive(archive, settings, tokenizer, tokenizer_name, len(names), weights, config, files)


def is_weights(member: str) -> bool:
    return member == WEIGHTS or RANK.fullmatch(member) is not None


def weights_member(rank: int, ranks: int) -> str:
    """Where NeMo puts the weights of one of so many ranks."""
    return WEIGHTS if ranks == 1 else f"mp_rank_{rank:02d}/{WEIGHTS}"


def _sentinels(count: Any, label: str) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 10_000:
        raise CheckpointError(f"{label}: num_sentinel_tokens is {count!r}, expected 1 to 10,000.")
    return count


def _rank_members(archive: Archive, settings: Mapping[str, Any]) -> list[str]:
    """The members that hold weights, rank by rank."""
    found: dict[int, str] = {}
    for name in archive.members:
        match = RANK.fullmatch(name)
        if not match:
            continue
        if match[3] and int(match[3]):
            raise CheckpointError(f"{archive.path}: not supported: pipeline stages ({name}).")
        rank = int(match[1] or match[2])
        if rank in found:
            raise CheckpointError(f"{archive.path}: rank {rank} occurs twice ({found[rank]}, {name}).")
        found[rank] = name
    if WEIGHTS in archive.members:
        if found:
            raise CheckpointError(
                f"{archive.path}: {WEIGHTS} and {next(iter(found.values()))}: which of them counts?"
            )
        found[0] = WEIGHTS
    expected = settings.get("tensor_model_parallel_size") or 1
    if isinstance(expected, bool) or not isinstance(expected, int) or not 1 <= expected <= 1024:
        raise CheckpointError(
            f"{archive.path}: tensor_model_parallel_size is {expected!r}, expected 1 to 1024."
        )
    missing = [rank for rank in range(expected) if rank not in found]
    extra = [rank for rank in found if rank >= expected]
    if missing or extra:
        what = [
            f"rank {', '.join(map(str, ranks))} {word}"
            for ranks, word in ((missing, "missing"), (extra, "too many"))
            if ranks
        ]
        raise CheckpointError(
            f"{archive.path}: {CONFIG} says {expected} ranks; {' and '.join(what)}. Download it again."
        )
    return [found[rank] for rank in range(expected)]
