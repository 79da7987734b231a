"""Open a checkpoint as an engine."""

from pathlib import Path

import torch

from mt5.checkpoint import open_checkpoint
from mt5.checkpoint.digest import Digest
from mt5.engine import Engine
from mt5.errors import CheckpointError
from mt5.info import Info
from mt5.network import Network

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LARGEST_FLOAT32_ON_CPU = 4 << 30  # bytes


def open(path: str | Path, *, tensor_parallel: int = 1, dtype: str = "auto", device: str = "auto") -> Engine:
    """Load a checkpoint: a `.nemo` archive, a Hugging Face folder, or a repository id like google/mt5-small.

    dtype: of the weights in memory, "float32", "bfloat16" or "float16"; "auto" is that of the checkpoint on a
    GPU, and on a CPU float32 unless that would take more than 4 GiB. device: "auto" is the first GPU if there
    is one, else the CPU. Raises CheckpointError when the checkpoint cannot be used.
    """
    if dtype not in ("auto", *DTYPES):
        raise CheckpointError(f"dtype {dtype!r} is unknown; choose auto, {', '.join(DTYPES)}.")
    if tensor_parallel != 1:
        raise CheckpointError(
            f"tensor_parallel {tensor_parallel} is not supported; any archive loads into one process, 1."
        )
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError as fault:
        raise CheckpointError(f"device {device!r} is unknown; choose auto, cpu or cuda.") from fault
    if place.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {device!r}: no GPU is usable here; choose auto or cpu.")
    checkpoint = open_checkpoint(path)
    chosen = DTYPES.get(dtype) or _fitting_dtype(checkpoint.dtype, checkpoint.parameters, place)
    network = Network(checkpoint.load(dtype=chosen, device=place), place)
    info = Info(
        name=checkpoint.name,
        path=str(path),
        format=checkpoint.format,
        parameters=checkpoint.parameters,
        dtype=str(chosen).removeprefix("torch."),
        stored_dtype=str(checkpoint.dtype).removeprefix("torch."),
        device=str(place),
        tensor_parallel=1,
        stored_tensor_parallel=checkpoint.tensor_parallel,
        vocabulary=checkpoint.config.vocab_size,
        padded_vocabulary=checkpoint.config.padded_vocab_size,
        config=checkpoint.config,
        digest=Digest(checkpoint.files),
    )
    return Engine(network, checkpoint.tokenizer, info)


def _fitting_dtype(stored: torch.dtype, parameters: int, device: torch.device) -> torch.dtype:
    small = 4 * parameters <= LARGEST_FLOAT32_ON_CPU
    return torch.float32 if device.type == "cpu" and small else stored
