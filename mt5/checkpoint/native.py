"""This project's own folder, for networks that transformers has no class for."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from mt5.checkpoint import safetensors
from mt5.checkpoint.huggingface import CONFIG, read_json, read_vocabulary
from mt5.checkpoint.weights import Lazy
from mt5.config import Activation, ModelConfig, Norm, Positions, StackConfig
from mt5.errors import CheckpointError
from mt5.tokenizer import Tokenizer

MODEL_TYPE = "mt5-infilling"


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
        tokenizer = Tokenizer.huggingface(proto, config.vocab_size)
    return NativeFolder(tokenizer, safetensors.read(folder / "model.safetensors"), config)


def _built(kind: type[Any], facts: object, label: str) -> Any:
    names = {field.name for field in fields(kind)}
    if not isinstance(facts, Mapping) or set(facts) != names:
        raise CheckpointError(
            f"{label}: expected the facts {', '.join(sorted(names))}. Convert the checkpoint again."
        )
    return kind(**facts)
