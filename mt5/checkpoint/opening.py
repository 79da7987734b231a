"""Find out what a path holds, and load it into a network."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from mt5.checkpoint import weights as reading
from mt5.checkpoint.hub import REPOSITORY, download
from mt5.checkpoint.huggingface import CONFIG, open_huggingface, read_json
from mt5.checkpoint.loading import load
from mt5.checkpoint.native import MODEL_TYPE, open_native
from mt5.checkpoint.nemo import open_nemo, rename
from mt5.checkpoint.nemo_config import CONFIG as NEMO_CONFIG
from mt5.checkpoint.weights import Lazy
from mt5.config import ModelConfig
from mt5.errors import CheckpointError
from mt5.model import MT5
from mt5.parallel import Shard
from mt5.tokenizer import Tokenizer

MOST_SHARED = 4
"""How often a number of a file is used, at most: a head may be the embedding of both stacks."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose weights are not read yet.

    format: "nemo", "huggingface" or "mt5-infilling". tensor_parallel: shards it is stored in.
    weights: by the network's names, whole. files: those that hold weights.
    """

    path: Path
    name: str
    format: str
    config: ModelConfig
    tokenizer: Tokenizer
    tensor_parallel: int
    weights: Mapping[str, Lazy]
    files: tuple[Path, ...]

    @property
    def dtype(self) -> torch.dtype:
        """Of the stored word embedding, and with it of nearly all weights."""
        return self.weights["embedding.weight"].dtype

    @cached_property
    def parameters(self) -> int:
        """Numbers in the network, shared ones counted once."""
        return sum(torch.Size(tensor.shape).numel() for tensor in self.weights.values())

    @cached_property
    def stamp(self) -> tuple[tuple[int, int], ...]:
        """Size and time of change of the files with the weights: a cheap sign that they are the same."""
        facts = [file.stat() for file in self.files]
        return tuple((fact.st_size, fact.st_mtime_ns) for fact in facts)

    def check(self, ranks: int = 1) -> None:
        """CheckpointError names every weight that is missing, odd or misshaped, or cannot be cut so often."""
        layers = self.config.encoder.num_layers + self.config.decoder.num_layers
        if layers > len(self.weights):
            raise CheckpointError(
                f"{self.path}: {layers} layers, but only {len(self.weights)} weights. "
                "Do the weights belong to this configuration?"
            )
        reading.check(self.weights, self._empty(Shard()), str(self.path))
        held = sum(
            file.size for file in {file for one in self.weights.values() for file in reading.files(one)}
        )
        size = self.parameters * self.dtype.itemsize
        if size > MOST_SHARED * held:
            raise CheckpointError(
                f"{self.path}: {size:,} bytes of weights in files of {held:,}: the same numbers are named "
                "many times over. Download it again."
            )
        if ranks > 1:
            self._empty(Shard(0, ranks))

    def check_unchanged(self) -> None:
        """CheckpointError when a file was written to since it was opened."""
        reading.check_unchanged(self.weights.values())

    def load(
        self,
        *,
        dtype: torch.dtype,
        device: torch.device,
        shard: Shard = Shard(),
        in_place: bool = False,
        progress: Callable[[float], None] = lambda share: None,
    ) -> MT5:
        """The network of one shard. CheckpointError names every weight that is missing, odd or misshaped.

        in_place, progress: see loading.load.
        """
        self.check()
        model = load(
            self.weights,
            self._empty(shard),
            dtype=dtype,
            device=device,
            in_place=in_place,
            progress=progress,
        )
        self.check_unchanged()
        return model.eval()

    def _empty(self, shard: Shard) -> MT5:
        rows = -(-self.config.padded_vocab_size // shard.size) * shard.size
        try:
            with torch.device("meta"):
                return MT5(replace(self.config, padded_vocab_size=rows), shard)
        except ValueError as fault:
            raise CheckpointError(
                f"{self.path} cannot be cut over {shard.size} ranks: {fault}. Choose another tensor_parallel."
            ) from fault


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read what a checkpoint says of itself: a `.nemo` archive, a folder, or a Hugging Face repository id.

    Raises CheckpointError when it is none of them, damaged, or asks for what this network cannot do.
    """
    place = Path(path)
    if place.exists():
        return _local(place)
    if REPOSITORY.fullmatch(str(path)):
        return replace(_local(download(str(path))), name=str(path))
    raise CheckpointError(
        f"{path}: no such file or folder. Pass a .nemo archive, the folder of a Hugging Face checkpoint, "
        "or a repository id such as google/mt5-small."
    )


def _local(path: Path) -> Checkpoint:
    if path.is_dir() and not (path / NEMO_CONFIG).is_file():
        return _folder(path)
    return _archive(path)


def _archive(path: Path) -> Checkpoint:
    nemo = open_nemo(path)
    return Checkpoint(
        path=path,
        name=path.stem,
        format="nemo",
        config=nemo.config,
        tokenizer=nemo.tokenizer,
        tensor_parallel=nemo.tensor_parallel,
        weights=rename(nemo.weights, nemo.config),
        files=nemo.files,
    )


def _folder(path: Path) -> Checkpoint:
    settings = read_json(path / CONFIG)
    # transformers notes where a model came from, often a path of which the end is the name
    name = str(settings.get("_name_or_path") or "").rstrip("/").rpartition("/")[2] or path.resolve().name
    if settings.get("model_type") == MODEL_TYPE:
        native = open_native(path)
        weights = (path / "model.safetensors",)
        return Checkpoint(path, name, MODEL_TYPE, native.config, native.tokenizer, 1, native.weights, weights)
    folder = open_huggingface(path)
    return Checkpoint(
        path, name, "huggingface", folder.config, folder.tokenizer, 1, folder.weights, folder.files
    )
