"""Folders in Hugging Face's layout: mT5, T5 and umT5 as transformers writes them."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mt5.checkpoint import safetensors, torchfile
from mt5.checkpoint.file import read_small
from mt5.checkpoint.weights import Lazy, same
from mt5.config import LOWEST_FLOAT32, Activation, ModelConfig, StackConfig
from mt5.errors import CheckpointError
from mt5.tokenizer import Tokenizer

MAX_CONFIG = 256 << 10
MAX_TOKENIZER = 64 << 20
CONFIG = "config.json"
SPIECE = "spiece.model"

ACTIVATIONS: dict[str, Activation] = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# embeddings that are `shared.weight` once more, and a table that early mT5 files hold but never use
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
UNUSED = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


@dataclass(frozen=True)
class Folder:
    """What a folder holds. settings: its config.json. weights: by the network's names.

    names: the network's name of a weight to that in the files.
    """

    settings: dict[str, Any]
    tokenizer: Tokenizer
    config: ModelConfig
    weights: dict[str, Lazy]
    names: dict[str, str]
    files: tuple[Path, ...]


def open_huggingface(folder: Path) -> Folder:
    """Read a folder's configuration and index its weights; none is read yet. CheckpointError names faults."""
    label = str(folder)
    settings = read_json(folder / CONFIG)
    proto = read_vocabulary(folder)
    check_supported(settings, label)
    stored, files = _stored(folder)
    stored.pop(UNUSED, None)
    tied = _drop_copies(stored, label)
    config = model_config(settings, tied=tied, label=label)
    appended = 300 if settings["model_type"] == "umt5" else 100
    tokenizer = Tokenizer.huggingface(proto, config.vocab_size, extra_ids=appended)
    names = dict(weight_names(config))
    found = {own: stored.pop(name) for own, name in names.items() if name in stored}
    return Folder(settings, tokenizer, config, found | stored, names, files)


def read_json(path: Path) -> dict[str, Any]:
    """config.json as a dictionary."""
    try:
        settings = json.loads(read_small(path, MAX_CONFIG))
    except (ValueError, RecursionError) as fault:
        if isinstance(fault, CheckpointError):
            raise
        raise CheckpointError(f"{path} is not JSON ({fault}). Download it again.") from fault
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path}: {type(settings).__name__}, expected an object of settings.")
    return settings


def read_vocabulary(folder: Path) -> bytes:
    """The SentencePiece model of a folder."""
    if not (folder / SPIECE).is_file():
        raise CheckpointError(
            f"{folder}: no {SPIECE}. Put the SentencePiece model of these weights beside them."
        )
    return read_small(folder / SPIECE, MAX_TOKENIZER)


def check_supported(settings: Mapping[str, Any], label: str) -> None:
    """CheckpointError when config.json asks for what this network cannot do."""
    kind = settings.get("model_type")
    if kind not in ("mt5", "t5", "umt5"):
        raise CheckpointError(
            f"{label}: model_type {kind!r} is not supported; mt5, t5 and umt5 are. Choose an mT5 checkpoint."
        )
    if "quantization_config" in settings:
        raise CheckpointError(
            f"{label}: quantised weights are not supported. Choose the unquantised checkpoint."
        )


def model_config(settings: Mapping[str, Any], *, tied: bool, label: str) -> ModelConfig:
    """The network's facts, as transformers 5 understands config.json. tied: the weights hold no head."""
    kind = settings["model_type"]
    d_model = _number(settings, "d_model", label)
    layers = _number(settings, "num_layers", label)
    activation, gated = feed_forward(settings, label)
    d_kv = _number(settings, "d_kv", label, 64)

    def stack(num_layers: int) -> StackConfig:
        return StackConfig(
            num_layers=num_layers,
            num_heads=_number(settings, "num_heads", label),
            d_kv=d_kv,
            d_ff=_number(settings, "d_ff", label),
            norm="rms",
            norm_eps=_real(settings, "layer_norm_epsilon", label, 1e-6),
            positions="relative",
            activation=activation,
            gated=gated,
            linear_bias=False,
            score_scale=1.0,
            num_buckets=_number(settings, "relative_attention_num_buckets", label, 32),
            max_distance=_number(settings, "relative_attention_max_distance", label, 128),
            relative_bias_per_layer=kind == "umt5",
        )

    # T5 1.0 and umT5 scale before the head, and a config that says `tie_word_embeddings: false` does not;
    # transformers' mT5 never does, whatever its config says
    scaled = kind != "mt5" and settings.get("tie_word_embeddings") is not False
    vocab_size = _number(settings, "vocab_size", label)
    pad_id = _id(settings, "pad_token_id", label, 0)
    config = ModelConfig(
        d_model=d_model,
        vocab_size=vocab_size,
        padded_vocab_size=vocab_size,
        encoder=stack(layers),
        decoder=stack(_number(settings, "num_decoder_layers", label, layers)),
        tied_head=tied,
        head_bias=False,
        head_scale=d_model**-0.5 if scaled else 1.0,
        masked_score=LOWEST_FLOAT32,
        pad_masks_target=False,
        max_positions=None,
        start_id=_id(settings, "decoder_start_token_id", label, pad_id),
        pad_id=pad_id,
        eos_id=_id(settings, "eos_token_id", label, 1),
        source_eos=True,
    )
    config.check()
    return config


def feed_forward(settings: Mapping[str, Any], label: str) -> tuple[Activation, bool]:
    """Activation and whether it gates, from `feed_forward_proj`; in "gated-gelu" it is the tanh form."""
    default = "relu" if settings["model_type"] == "t5" else "gated-gelu"
    written = settings.get("feed_forward_proj") or default
    kind, _, name = str(written).rpartition("-")
    gated = settings.get("is_gated_act", kind == "gated")
    name = settings.get("dense_act_fn") or ("gelu_new" if written == "gated-gelu" else name)
    if kind not in ("", "gated") or name not in ACTIVATIONS or not isinstance(gated, bool):
        raise CheckpointError(
            f"{label}: feed_forward_proj {written!r} with activation {name!r} is not supported; "
            f"{', '.join(ACTIVATIONS)} are, plain and gated."
        )
    return ACTIVATIONS[name], gated


def weight_names(config: ModelConfig) -> Iterator[tuple[str, str]]:
    """Every weight of a network: its name here, its name in transformers."""
    yield "embedding.weight", "shared.weight"
    for side, stack in (("encoder", config.encoder), ("decoder", config.decoder)):
        for number in range(stack.num_layers):
            own, theirs = f"{side}.layers.{number}", f"{side}.block.{number}.layer"
            attentions = [("self", "SelfAttention")] + (
                [("cross", "EncDecAttention")] if side == "decoder" else []
            )
            for place, (kind, name) in enumerate(attentions):
                for part in ("query", "key", "value", "output"):
                    yield f"{own}.{kind}_attention.{part}.weight", f"{theirs}.{place}.{name}.{part[0]}.weight"
                yield f"{own}.{kind}_attention_norm.weight", f"{theirs}.{place}.layer_norm.weight"
            table = f"{theirs}.0.SelfAttention.relative_attention_bias.weight"
            if stack.relative_bias_per_layer:
                yield f"{own}.self_attention.relative_bias.weight", table
            elif number == 0:
                yield f"{side}.relative_bias.weight", table
            last = len(attentions)
            branches = {"gate": "wi_0", "up": "wi_1"} if stack.gated else {"up": "wi"}
            for part, name in {**branches, "down": "wo"}.items():
                yield f"{own}.feed_forward.{part}.weight", f"{theirs}.{last}.DenseReluDense.{name}.weight"
            yield f"{own}.feed_forward_norm.weight", f"{theirs}.{last}.layer_norm.weight"
        yield f"{side}.final_norm.weight", f"{side}.final_layer_norm.weight"
    if not config.tied_head:
        yield "head.weight", "lm_head.weight"


def _stored(folder: Path) -> tuple[dict[str, Lazy], tuple[Path, ...]]:
    """The tensors of a folder by their names there, and the files they are in."""
    name = next((name for name in WEIGHTS if (folder / name).is_file()), None)
    if name is None:
        raise CheckpointError(f"{folder}: no weights; expected one of {', '.join(WEIGHTS)}.")
    files = (
        [folder / part for part in safetensors.index_files(folder / name)]
        if name.endswith(".json")
        else [folder / name]
    )
    stored: dict[str, Lazy] = {}
    for file in files:
        tensors = safetensors.read(file) if file.suffix == ".safetensors" else torchfile.read(file)
        if twice := [key for key in tensors if key in stored]:
            raise CheckpointError(f"{file}: {twice[0]} is also in another file.")
        stored |= tensors
    return stored, tuple(files)


def _drop_copies(stored: dict[str, Lazy], label: str) -> bool:
    """Leave one tensor where several are the same by design. Returns whether the head is the embedding."""
    for copy in COPIES:
        if copy not in stored:
            continue
        tensor = stored.pop(copy)
        shared = stored.setdefault("shared.weight", tensor)
        if not same(shared, tensor):
            raise CheckpointError(f"{label}: not supported: {copy} differs from shared.weight.")
    head = stored.get("lm_head.weight")
    if head is None:
        return True
    # transformers ties what is absent, and leaves alone what is there and differs
    if "shared.weight" in stored and not same(stored["shared.weight"], head):
        return False
    stored.setdefault("shared.weight", head)
    del stored["lm_head.weight"]
    return True


def _number(settings: Mapping[str, Any], name: str, label: str, default: int | None = None) -> int:
    value = settings.get(name)
    value = default if value is None else value
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"{label}: {name} in config.json is {value!r}, expected a whole number above 0."
        )
    return value


def _id(settings: Mapping[str, Any], name: str, label: str, default: int) -> int:
    value = settings.get(name)
    value = value[0] if isinstance(value, list) and value else value
    value = default if value is None else value
    if type(value) is not int or value < 0:
        raise CheckpointError(f"{label}: {name} in config.json is {value!r}, expected a token id.")
    return value


def _real(settings: Mapping[str, Any], name: str, label: str, default: float) -> float:
    value = settings.get(name)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise CheckpointError(f"{label}: {name} in config.json is {value!r}, expected a small number.")
    return float(value)
