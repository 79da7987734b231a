"""NeMo Megatron's T5 and mT5 archives: configuration, tensor-parallel shards, names.

The published example is nemo_megatron_mt5_3b_bf16_tp2.nemo, written by NeMo 1.10.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mt5.checkpoint import torchfile
from mt5.checkpoint.archive import Archive
from mt5.checkpoint.weights import Joined, Lazy, Unfused, listed, same
from mt5.config import Activation, ModelConfig, StackConfig
from mt5.errors import CheckpointError
from mt5.tokenizer import Tokenizer

CONFIG = "model_config.yaml"
WEIGHTS = "model_weights.ckpt"
MAX_CONFIG = 256 << 10
MAX_TOKENIZER = 64 << 20
MAX_DEPTH = 20
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
RANK = re.compile(r"(?:mp_rank_(\d{2,})|tp_rank_(\d{2,})_pp_rank_(\d{3,}))/" + re.escape(WEIGHTS))
MASKED_SCORE = -10_000.0

# which dimension a tensor is cut along; those not named here are on every rank in full
CUT = (
    (re.compile(r"\.word_embeddings\.weight$"), 0),
    (re.compile(r"\.(query_key_value|query|key_value|dense_h_to_4h(_2)?)\.(weight|bias)$"), 0),
    (re.compile(r"\.(dense|dense_4h_to_h)\.weight$"), 1),
    (re.compile(r"\.tokens_head\.(weight|bias)$"), 0),
)


def read_config(data: bytes, label: str) -> dict[str, Any]:
    """model_config.yaml as a dictionary; `${…}` stays as it is written."""
    if len(data) > MAX_CONFIG:
        raise CheckpointError(
            f"{label}: {len(data):,} bytes, more than the {MAX_CONFIG:,} a configuration has."
        )
    try:
        text, depth = data.decode("utf-8"), 0
        # looked through first, since building is what an alias bomb or a thousand brackets attack
        for event in yaml.parse(text, Loader=LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
                raise ValueError("aliases or deep nesting, which NeMo never writes")
        config = yaml.load(text, Loader=LOADER)
    except (yaml.YAMLError, ValueError) as fault:
        raise CheckpointError(f"{label}: not plain YAML ({' '.join(str(fault).split())}).") from fault
    if not isinstance(config, dict):
        raise CheckpointError(f"{label}: {type(config).__name__}, expected a mapping of settings.")
    return config


def stack_settings(config: Mapping[str, Any], side: str) -> dict[str, Any]:
    """One stack's settings: its own block since NeMo 1.11, before that the top level for both stacks."""
    block = config.get(side)
    if isinstance(block, Mapping):
        settings = {**config, **block}
        settings["arch"] = block.get("arch", "transformer")
        settings["fused"] = block.get("bias_activation_fusion", True)
    else:
        settings = dict(config)
        settings["arch"] = config.get(f"{side}_arch", "transformer")
        if "bias_gelu_fusion" in config:
            settings["fused"] = config["bias_gelu_fusion"]
        else:
            settings["fused"] = config.get("bias_activation_fusion", config.get("bias", True))
    return settings


def unsupported(config: Mapping[str, Any]) -> list[str]:
    """What a configuration asks for that this network cannot do, by NeMo's names."""
    faults = []
    for side in ("encoder", "decoder"):
        settings = stack_settings(config, side)
        expected: dict[str, tuple[Any, ...]] = {
            "arch": ("transformer",),
            "transformer_block_type": (None, "pre_ln"),
            "headscale": (None, False),
            "normalization": (None, "layernorm", "rmsnorm"),
            "position_embedding_type": (None, "learned_absolute", "relative"),
            "activation": (None, "gelu", "geglu", "swiglu", "reglu"),
            "openai_gelu": (None, False),
            "onnx_safe": (None, False),
            "megatron_legacy": (None, False),
            "normalize_attention_scores": (None, True),
            "num_moe_experts": (None, 1),
        }
        if settings.get("position_embedding_type") == "relative":
            expected["relative_position_bias_self_attention_only"] = (None, True)
        if settings.get("activation") in ("swiglu", "reglu") and settings["fused"]:
            faults.append(f"{side} bias_activation_fusion with {settings['activation']}")
        faults += [
            f"{side} {name}: {settings[name]}"
            for name, allowed in expected.items()
            if settings.get(name) not in allowed
        ]
    if "t5" not in str(config.get("target") or "t5").rpartition(".")[2].lower():
        faults.append(f"target: {config['target']}")
    stages = config.get("pipeline_model_parallel_size", 1)
    if stages not in (None, 1) or isinstance(stages, bool):
        faults.append(f"pipeline_model_parallel_size: {stages}")
    tokenizer = config.get("tokenizer")
    tokenizer = tokenizer if isinstance(tokenizer, Mapping) else {}
    library = tokenizer.get("library")
    if library != "sentencepiece":
        faults.append(f"tokenizer library: {library}")
    elif tokenizer.get("sentencepiece_legacy") is False or config.get("sentencepiece_legacy") is False:
        faults.append("sentencepiece_legacy: false")
    return list(dict.fromkeys(faults))


def model_config(
    config: Mapping[str, Any], tokenizer: Tokenizer, rows: int, *, tied_head: bool, label: str
) -> ModelConfig:
    """The network's facts. rows: of the whole word embedding."""
    faults = unsupported(config)
    if faults:
        raise CheckpointError(f"{label}: not supported: {'; '.join(faults)}.")
    encoder, decoder = (stack_settings(config, side) for side in ("encoder", "decoder"))
    if encoder.get("hidden_size") != decoder.get("hidden_size"):
        raise CheckpointError(f"{label}: not supported: encoder and decoder of different hidden_size.")
    absolute = encoder.get("position_embedding_type") in (None, "learned_absolute")
    result = ModelConfig(
        d_model=_whole(encoder, "hidden_size", label),
        vocab_size=tokenizer.vocab_size,
        padded_vocab_size=rows,
        encoder=_stack(encoder, label),
        decoder=_stack(decoder, label),
        tied_head=tied_head,
        head_bias=tied_head and config.get("tokens_head_bias") in (None, True),
        masked_score=MASKED_SCORE,
        pad_masks_target=True,
        max_positions=_whole(encoder, "max_position_embeddings", label) if absolute else None,
        start_id=tokenizer.bos_id or 0,
        pad_id=tokenizer.pad_id,
        eos_id=tokenizer.eos_id,
        source_eos=False,
        shared_embeddings=config.get("share_token_embeddings") in (None, True),
    )
    result.check()
    return result


def _stack(settings: Mapping[str, Any], label: str) -> StackConfig:
    heads = _whole(settings, "num_attention_heads", label)
    hidden = _whole(settings, "hidden_size", label)
    if settings.get("kv_channels") is None and hidden % heads:
        raise CheckpointError(f"{label}: hidden_size {hidden} does not divide into {heads} heads.")
    d_kv = hidden // heads if settings.get("kv_channels") is None else _whole(settings, "kv_channels", label)
    activation = settings.get("activation") or "gelu"
    # fused kernels approximate GELU with tanh; without them NeMo calls the exact function
    gelu: Activation = "gelu_tanh" if settings["fused"] else "gelu"
    others: dict[str, Activation] = {"swiglu": "silu", "reglu": "relu"}
    relative = settings.get("position_embedding_type") == "relative"
    return StackConfig(
        num_layers=_whole(settings, "num_layers", label),
        num_heads=heads,
        d_kv=d_kv,
        d_ff=_whole(settings, "ffn_hidden_size", label),
        norm="rms" if settings.get("normalization") == "rmsnorm" else "layer",
        norm_eps=_real(settings, "layernorm_epsilon", label, 1e-5),
        positions="relative" if relative else "absolute",
        activation=others.get(activation, gelu),
        gated=activation.endswith("glu"),
        linear_bias=settings.get("bias") in (None, True),
        score_scale=d_kv**-0.5,
        num_buckets=_whole(settings, "relative_attention_num_buckets", label, 32),
        max_distance=_whole(settings, "relative_attention_max_distance", label, 128),
        relative_bias_times_layer=relative and settings.get("apply_query_key_layer_scaling") in (None, True),
    )


def _whole(settings: Mapping[str, Any], name: str, label: str, default: int | None = None) -> int:
    value = settings.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{label}: {name} is {value!r}, expected a whole number above 0.")
    return value


def _real(settings: Mapping[str, Any], name: str, label: str, default: float) -> float:
    value = settings.get(name)
    try:
        # YAML takes 1e-05, without a point, for text
        number = default if value is None else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number < 1:
        raise CheckpointError(f"{label}: {name} is {value!r}, expected a small number.")
    return number


def cut_dimension(name: str) -> int | None:
    """Along which dimension NeMo cuts a tensor over ranks, None where every rank holds it whole."""
    return next((dim for pattern, dim in CUT if pattern.search(name)), None)


def join(ranks: list[dict[str, Lazy]], label: str) -> dict[str, Lazy]:
    """The whole tensors of an archive, by NeMo's names. CheckpointError when the ranks do not agree."""
    first, faults = ranks[0], []
    for number, rank in enumerate(ranks[1:], 1):
        odd = [name for name in {**first, **rank} if name not in first or name not in rank]
        odd += [name for name in first if name in rank and rank[name].shape != first[name].shape]
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
        if name == "decoder_embedding.position_embeddings.weight" or config.shared_embeddings:
            return []
        return ["decoder_embedding.weight"]
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
    _check_positions(weights, config, label)
    files = tuple(path / name for name in names) if path.is_dir() else (path,)
    return NemoArchive(archive, settings, tokenizer, tokenizer_name, len(names), weights, config, files)


def _check_positions(weights: Mapping[str, Lazy], config: ModelConfig, label: str) -> None:
    """One table of positions serves both stacks here; NeMo has two when it shares no embeddings."""
    tables = [tensor for name, tensor in weights.items() if name.endswith(".position_embeddings.weight")]
    if not config.shared_embeddings and len(tables) == 2 and not same(*tables):
        raise CheckpointError(
            f"{label}: not supported: share_token_embeddings: false with positions of the decoder's own."
        )


def padded_rows(settings: Mapping[str, Any], vocab_size: int, ranks: int) -> int:
    """Rows of the word embeddings: the vocabulary, rounded up so that every rank's part is a round number."""
    multiple = settings.get("make_vocab_size_divisible_by")
    multiple = (128 if type(multiple) is not int or multiple < 1 else multiple) * ranks
    return -(-vocab_size // multiple) * multiple


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
