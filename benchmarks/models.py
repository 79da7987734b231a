"""The networks that are measured: the embedded one, and random ones in the shapes of Google's."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from mt5.checkpoint import open_checkpoint, safetensors
from mt5.checkpoint.huggingface import model_config, weight_names
from mt5.checkpoint.weights import Held
from mt5.model import MT5

EMBEDDED = Path(__file__).resolve().parent.parent / "assets" / "model"
SHAPES = {
    "mt5-small": {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6, "num_layers": 8},
    "mt5-base": {"d_model": 768, "d_kv": 64, "d_ff": 2048, "num_heads": 12, "num_layers": 12},
}
VOCABULARY = 250_112


@dataclass(frozen=True)
class Measured:
    """A folder in Hugging Face's layout. vocabulary: its ids; the head is tied or not, as its weights say."""

    name: str
    path: Path
    vocabulary: int


def measured(name: str, folder: Path) -> Measured:
    """The network of a name; a random one is written below `folder` when it is not there."""
    if name == "embedded":
        return Measured(name, EMBEDDED, open_checkpoint(EMBEDDED).config.vocab_size)
    path = folder / name
    if not path.exists():
        _write(path, SHAPES[name])
    return Measured(name, path, VOCABULARY)


@torch.no_grad()
def _write(path: Path, shape: dict[str, int]) -> None:
    """Random weights, drawn as T5 draws them; untied, as every published mT5 is."""
    settings = json.loads((EMBEDDED / "config.json").read_text())
    settings |= shape | {"num_decoder_layers": shape["num_layers"], "vocab_size": VOCABULARY}
    settings |= {"tie_word_embeddings": False, "torch_dtype": "float32", "_name_or_path": path.name}
    config = model_config(settings, tied=False, label=path.name)
    model = MT5(config)
    model.reset_parameters(torch.Generator().manual_seed(0))
    names = dict(weight_names(config))
    weights = {names[name]: Held(weight) for name, weight in model.named_parameters()}
    made = path.with_name(path.name + ".made")
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    (made / "config.json").write_text(json.dumps(settings))
    shutil.copy(EMBEDDED / "spiece.model", made)
    safetensors.write(made / "model.safetensors", weights, None)
    made.rename(path)


def bytes_per_token(path: Path, bits: int) -> float:
    """What a token must read: the head, and the decoder without the keys and values of the source."""
    config = open_checkpoint(path).config
    stack = config.decoder
    width = stack.num_heads * stack.d_kv
    layer = config.d_model * (6 * width + (3 if stack.gated else 2) * stack.d_ff)
    return (stack.num_layers * layer + config.padded_vocab_size * config.d_model) * bits / 8
