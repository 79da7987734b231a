"""NeMo's model_config.yaml: the facts of the network, flat as up to NeMo 1.10 or a block for each stack."""

import math
from collections.abc import Mapping
from typing import Any

import yaml

from mt5.config import Activation, ModelConfig, StackConfig
from mt5.errors import CheckpointError
from mt5.tokenizer import Tokenizer

CONFIG = "model_config.yaml"
MAX_CONFIG = 256 << 10
MAX_DEPTH = 20
MAX_ALIASES = 16  # a writer may share the settings of the two stacks; a bomb takes dozens
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
MASKED_SCORE = -10_000.0


def read_config(data: bytes, label: str) -> dict[str, Any]:
    """model_config.yaml as a dictionary; `${…}` stays as it is written."""
    if len(data) > MAX_CONFIG:
        raise CheckpointError(
            f"{label}: {len(data):,} bytes, more than the {MAX_CONFIG:,} a configuration has."
        )
    try:
        text, depth, aliases = data.decode("utf-8"), 0, 0
        # looked through first, since building is what an alias bomb or a thousand brackets attack
        for event in yaml.parse(text, Loader=LOADER):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            aliases += isinstance(event, yaml.AliasEvent)
            if aliases > MAX_ALIASES or depth > MAX_DEPTH:
                raise ValueError("many aliases or deep nesting, which NeMo never writes")
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


def padded_rows(settings: Mapping[str, Any], vocab_size: int, ranks: int) -> int:
    """Rows of the word embeddings: the vocabulary, rounded up so that every rank's part is a round number."""
    multiple = settings.get("make_vocab_size_divisible_by")
    multiple = (128 if type(multiple) is not int or multiple < 1 else multiple) * ranks
    return -(-vocab_size // multiple) * multiple
