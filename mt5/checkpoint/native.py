"""This project's own folder, for networks that transformers has no class for."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

import torch

from mt5.checkpoint import safetensors
from mt5.checkpoint.huggingface import CONFIG, read_json, read_vocabulary
from mt5.checkpoint.weights import Cast, Lazy, Quantized, Rounded
from mt5.config import Activation, ModelConfig, Norm, Positions, StackConfig
from mt5.errors import CheckpointError
from mt5.quantized import SMALL, Int8, packing
from mt5.tokenizer import Tokenizer

MODEL_TYPE = "mt5-infilling"
SCALES = "_scale"
"""Ends the name of the scales of a matrix with 8-bit numbers."""


@dataclass(frozen=True)
class NativeFolder:
    """What a folder holds."""

    tokenizer: Tokenizer
    weights: dict[str, Lazy]
    config: ModelConfig


def settings_of(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """config.json: every fact of the network and how the tokenizer numbers its special tokens."""
    rules = "nemo" if tokenizer.special else "huggingface"
    facts = {"tokenizer": rules, "sentinels": len(tokenizer.sentinels), "config": asdict(config)}
    return {"model_type": MODEL_TYPE, **facts}


def open_native(folder: Path) -> NativeFolder:
    """Read a folder that `convert` wrote; no weights are read yet."""
    settings, label = read_json(folder / CONFIG), str(folder / CONFIG)
    facts = settings.get("config")
    if not isinstance(facts, dict):
        raise CheckpointError(f"{label}: no `config` with the network's facts. Convert the checkpoint again.")
    stacks = {
        side: _built(StackConfig, facts.get(side), f"{label}: {side}") for side in ("encoder", "decoder")
    }
    config = _built(ModelConfig, facts | stacks, label)
    try:
        config.check()
        known = all(
            stack.norm in get_args(Norm)
            and stack.positions in get_args(Positions)
            and stack.activation in get_args(Activation)
            and math.isfinite(stack.score_scale + config.head_scale + config.masked_score)
            for stack in stacks.values()
        )
    except TypeError:  # a text where a number belongs
        known = False
    if not known:
        raise CheckpointError(
            f"{label}: a fact of `config` is of no known kind. Convert the checkpoint again."
        )
    proto, count = read_vocabulary(folder), settings.get("sentinels")
    if settings.get("tokenizer") == "nemo":
        tokenizer = Tokenizer.nemo(proto, sentinels=count if isinstance(count, int) else 100)
    else:
        appended = {"extra_ids": count} if isinstance(count, int) else {}
        tokenizer = Tokenizer.huggingface(proto, config.vocab_size, **appended)
    return NativeFolder(tokenizer, _quantized(safetensors.read(folder / "model.safetensors")), config)


def stored(weights: Mapping[str, Lazy]) -> dict[str, Lazy]:
    """Weights as an int8 network keeps them: 8-bit matrices with scales, the other matrices in 16 bits."""
    found: dict[str, Lazy] = {}
    for name, tensor in weights.items():
        matrix = len(tensor.shape) == 2 and "positions." not in name and "relative_bias" not in name
        large = matrix and math.prod(tensor.shape) > SMALL
        if isinstance(tensor, Quantized):
            found |= {name: tensor.numbers, name + SCALES: tensor.scales}
        elif large and packing(name, torch.int8) is Int8:
            found |= {name: Rounded(tensor), name + SCALES: Rounded(tensor, scales=True)}
        else:
            half = large and tensor.dtype == torch.float32
            found[name] = Cast(tensor, torch.float16) if half else tensor
    return found


def _quantized(weights: dict[str, Lazy]) -> dict[str, Lazy]:
    """The other way: numbers and their scales are one tensor."""
    found = {}
    for name, tensor in weights.items():
        scales = weights.get(name + SCALES)
        if tensor.dtype != torch.int8:
            if weights.get(name.removesuffix(SCALES), tensor).dtype != torch.int8:
                found[name] = tensor
            continue
        if scales is None or scales.dtype != torch.float32 or scales.shape != tensor.shape[:1]:
            raise CheckpointError(f"{name} is int8, but has no scale for each row. Convert it again.")
        found[name] = Quantized(tensor, scales)
    return found


def _built(kind: type[Any], facts: object, label: str) -> Any:
    names = {field.name for field in fields(kind)}
    if not isinstance(facts, Mapping) or set(facts) != names:
        raise CheckpointError(
            f"{label}: expected the facts {', '.join(sorted(names))}. Convert the checkpoint again."
        )
    return kind(**facts)
