"""A loaded model that answers requests."""

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self, TypedDict, Unpack, overload

import torch

from mt5 import corruption, infill
from mt5.checkpoint import open_checkpoint
from mt5.config import ModelConfig
from mt5.corruption import Corruption
from mt5.errors import CheckpointError, PromptError
from mt5.generate import Free, Guided, Hypothesis, Row, Rules, Settings
from mt5.infill import Fill, MaskedPrompt, Score, Span, Sweep, SweepWord, Token
from mt5.model import MT5
from mt5.network import Network, Scored
from mt5.parallel import Shard
from mt5.tokenizer import Tokenizer

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LARGEST_FLOAT32_ON_CPU = 4 * 2**30
BATCH = 32


class SettingsOptions(TypedDict, total=False):
    """The fields of generate.Settings, as keywords."""

    strategy: Literal["greedy", "beam", "sample"]
    num_beams: int
    num_return: int
    temperature: float
    top_k: int
    top_p: float
    seed: int
    max_new_tokens: int
    num_alternatives: int
    guided: bool


@dataclass(frozen=True)
class Info:
    """Facts about a loaded engine.

    format: "huggingface" or "nemo". archive_tensor_parallel: shards in the checkpoint. dtype: of the weights
    in memory; stored_dtype: in the checkpoint. vocab_size: ids that can be predicted. sha256: of the weights.
    """

    name: str
    path: str
    format: str
    parameters: int
    dtype: str
    stored_dtype: str
    device: str
    tensor_parallel: int
    archive_tensor_parallel: int
    vocab_size: int
    padded_vocab_size: int
    sha256: str
    config: ModelConfig


def open(
    path: str | Path, *, tensor_parallel: int = 1, dtype: Dtype = "auto", device: str = "auto"
) -> "Engine":
    """Load a checkpoint: a `.nemo` archive, a Hugging Face folder, or a repository id such as google/mt5-small.

    dtype: of the weights in memory. "auto" is that of the checkpoint on a GPU, and on a CPU float32 unless
    that would take more than 4 GiB. device: "auto" is the first GPU if there is one, else the CPU.
    Raises CheckpointError when the checkpoint cannot be used.
    """
    if dtype not in ("auto", *DTYPES):
        raise CheckpointError(f"dtype {dtype!r} is unknown; choose auto, float32, bfloat16 or float16.")
    if tensor_parallel != 1:
        raise CheckpointError(f"tensor_parallel {tensor_parallel}: this version loads any archive into one process, 1.")
    checkpoint = open_checkpoint(path)
    where = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    chosen = _dtype(dtype, checkpoint.dtype, checkpoint.parameters, where)
    with torch.device("meta"):
        model = MT5(checkpoint.config, Shard())
    model = checkpoint.load(model, dtype=chosen, device=where)
    info = Info(
        name=checkpoint.name,
        path=str(path),
        format=checkpoint.format,
        parameters=checkpoint.parameters,
        dtype=str(chosen).removeprefix("torch."),
        stored_dtype=str(checkpoint.dtype).removeprefix("torch."),
        device=str(where),
        tensor_parallel=1,
        archive_tensor_parallel=checkpoint.tensor_parallel,
        vocab_size=checkpoint.config.vocab_size,
        padded_vocab_size=checkpoint.config.padded_vocab_size,
        sha256=checkpoint.sha256,
        config=checkpoint.config,
    )
    return Engine(Network(model.eval(), where), checkpoint.tokenizer, info)


def _dtype(dtype: Dtype, stored: torch.dtype, parameters: int, device: torch.device) -> torch.dtype:
    if dtype != "auto":
        return DTYPES[dtype]
    return torch.float32 if device.type == "cpu" and 4 * parameters <= LARGEST_FLOAT32_ON_CPU else stored


class Engine:
    """Answers requests with one model. Safe to call from several threads. PromptError names bad input."""

    def __init__(self, network: Network, tokenizer: Tokenizer, info: Info) -> None:
        self.network, self.tokenizer, self.info = network, tokenizer, info
        self.config = info.config
        # one request at a time has the processor: two at once only slow each other down
        self._turn = threading.RLock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the model; the engine answers no more."""
        del self.network

    @overload
    def fill(self, prompt: str, **settings: Unpack[SettingsOptions]) -> Fill: ...
    @overload
    def fill(self, prompt: Sequence[str], **settings: Unpack[SettingsOptions]) -> list[Fill]: ...
    def fill(self, prompt: str | Sequence[str], **settings: Unpack[SettingsOptions]) -> Fill | list[Fill]:
        """Fill the masks of a prompt, or of each prompt of a list in one batch. Settings: see generate.Settings."""
        chosen = Settings(**settings)
        prompts = _listed(prompt)
        *_, fills = self._fills(prompts, chosen)
        return fills[0] if isinstance(prompt, str) else fills

    def stream(self, prompt: str, **settings: Unpack[SettingsOptions]) -> Iterator[Fill]:
        """Fill the masks of a prompt and yield what is there after every token; the last is the whole result."""
        for fills in self._fills(_listed(prompt), Settings(**settings)):
            yield fills[0]
