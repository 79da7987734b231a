"""Write a training checkpoint as a Hugging Face mT5 folder: python -m training.export --out assets/model"""

import argparse
import hashlib
import json
from pathlib import Path
from string import Template

import torch
from safetensors.torch import save_file
from torch import Tensor

from training.pretrain import OUT
from training.recipe import Recipe

CARD = Path(__file__).with_name("card.md")

LAYER = {
    "self_attention": ("0", "SelfAttention"),
    "cross_attention": ("1", "EncDecAttention"),
}
PROJECTIONS = {"query": "q", "key": "k", "value": "v", "output": "o"}
FEED_FORWARD = {"gate": "wi_0", "up": "wi_1", "down": "wo"}
NAME = "mt5-mini-24"
LARGEST = 24_000_000
"""Bytes that weights and vocabulary may take together."""


def huggingface_name(name: str) -> str:
    """Our name of a weight as mT5's code in transformers calls it; KeyError for a weight that mT5 has not."""
    if name == "embedding.weight":
        return "shared.weight"
    stack, *rest = name.split(".")
    if rest == ["final_norm", "weight"]:
        return f"{stack}.final_layer_norm.weight"
    if rest == ["relative_bias", "weight"]:
        return f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    _, number, part, *rest = rest
    block, feed_forward = f"{stack}.block.{number}.layer", "2" if stack == "decoder" else "1"
    if part.endswith("_norm"):
        place = feed_forward if part == "feed_forward_norm" else LAYER[part.removesuffix("_norm")][0]
        return f"{block}.{place}.layer_norm.weight"
    if part == "feed_forward":
        return f"{block}.{feed_forward}.DenseReluDense.{FEED_FORWARD[rest[0]]}.weight"
    place, attention = LAYER[part]
    return f"{block}.{place}.{attention}.{PROJECTIONS[rest[0]]}.weight"


def folded(weights: dict[str, Tensor], recipe: Recipe) -> dict[str, Tensor]:
    """The weights of a network whose scores and head are not scaled, as mT5's are not."""
    result = {}
    for name, weight in weights.items():
        if name.endswith("attention.query.weight"):
            weight = weight * recipe.d_kv**-0.5
        elif name == "decoder.final_norm.weight":
            weight = weight * recipe.d_model**-0.5
        result[huggingface_name(name)] = weight.to(torch.bfloat16).contiguous()
    return result


def configuration(recipe: Recipe, vocab_size: int) -> dict[str, object]:
    """config.json as transformers writes it for mT5."""
    return {
        "_name_or_path": NAME,
        "architectures": ["MT5ForConditionalGeneration"],
        "model_type": "mt5",
        "d_ff": recipe.d_ff,
        "d_kv": recipe.d_kv,
        "d_model": recipe.d_model,
        "num_heads": recipe.num_heads,
        "num_layers": recipe.encoder_layers,
        "num_decoder_layers": recipe.decoder_layers,
        "vocab_size": vocab_size,
        "feed_forward_proj": "gated-gelu",
        "dense_act_fn": "gelu_new",
        "is_gated_act": True,
        "is_encoder_decoder": True,
        "layer_norm_epsilon": 1e-06,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "tie_word_embeddings": True,
        "dropout_rate": 0.0,
        "initializer_factor": 1.0,
        "decoder_start_token_id": 0,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "use_cache": True,
        "tokenizer_class": "T5Tokenizer",
        "torch_dtype": "bfloat16",
    }


def export(run: Path, out: Path) -> str:
    """Write config.json, model.safetensors, spiece.model and README.md; returns the SHA-256 of the weights.

    The weights are the running average of the run.
    ValueError when the files would be too large to ship.
    """
    state = torch.load(run / "state.pt", map_location="cpu", weights_only=True)
    recipe = Recipe(**state["recipe"])
    weights, spiece = folded(state["average"], recipe), (run / "spiece.model").read_bytes()
    size = sum(weight.nbytes for weight in weights.values()) + len(spiece)
    if size > LARGEST:
        raise ValueError(
            f"{size:,} bytes of weights and vocabulary; at most {LARGEST:,} are shipped. Train fewer layers."
        )
    out.mkdir(parents=True, exist_ok=True)
    config = configuration(recipe, weights["shared.weight"].shape[0])
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    (out / "spiece.model").write_bytes(spiece)
    sha256 = hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest()
    facts = {
        "parameters": f"{sum(weight.numel() for weight in weights.values()):,}",
        "bytes": f"{(out / 'model.safetensors').stat().st_size:,}",
        "sha256": sha256,
        "minutes": f"{state['seconds'] / 60:.0f}",
        "steps": f"{state['step']:,}",
        "device": state["device"],
        "longest": str(recipe.longest),
    } | {name: str(value) for name, value in config.items()}
    (out / "README.md").write_text(
        Template(CARD.read_text(encoding="utf-8")).substitute(facts), encoding="utf-8"
    )
    return sha256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, default=OUT, help="folder of the training run")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    options = parser.parse_args()
    print(f"{options.out}: model.safetensors has SHA-256 {export(options.run, options.out)}")


if __name__ == "__main__":
    main()
