"""Open a checkpoint as an engine."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from mt5.checkpoint import open_checkpoint
from mt5.checkpoint.digest import Digest
from mt5.checkpoint.loading import DTYPES
from mt5.checkpoint.opening import Checkpoint
from mt5.engine import Engine
from mt5.errors import CheckpointError
from mt5.info import Info
from mt5.network import Network
from mt5.nursery import Nursery
from mt5.rank import Plan
from mt5.ranks import Ranks, address_of, key_of
from mt5.threads import allowed

LARGEST_FLOAT32_ON_CPU = 4 << 30  # bytes


def open(
    path: str | Path,
    *,
    tensor_parallel: int = 1,
    dtype: str = "auto",
    device: str = "auto",
    listen: str | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> Engine:
    """Load a checkpoint: a `.nemo` archive, a Hugging Face folder, or a repository id like google/mt5-small.

    tensor_parallel: processes that share the weights; any number that divides the heads, whatever the
    checkpoint was cut for. dtype: of the weights in memory, "float32", "bfloat16", "float16" or, on a
    CPU, "int8"; "auto" is that of the checkpoint on a GPU, 16 bits on a CPU (8 where the checkpoint has 8),
    and over several processes on a CPU float32 unless that would take more than 4 GiB. device:
    "auto" is the first GPU if there is one, else the CPU. listen: HOST:PORT, where ranks on other machines
    come to (see the README); None starts all of them here. progress: called with the share that is loaded,
    0 to 1, from any thread.

    On a CPU it tries how many threads are quickest, for little work at a time and for much, at most
    OMP_NUM_THREADS where that is set; whenever it computes, it sets torch's number to that. Raises
    CheckpointError when the checkpoint cannot be used, RankError when ranks do not start.
    """
    began = time.perf_counter()
    place = _place(dtype, device, tensor_parallel, here=listen is None)
    # it imports torch while the checkpoint is looked at
    nursery = Nursery() if tensor_parallel > 1 and listen is None else None
    try:
        checkpoint = open_checkpoint(path)
        alone = nursery is None and listen is None
        chosen = DTYPES.get(dtype) or _fitting_dtype(checkpoint, place, alone=alone)
        if alone:
            network = Network(checkpoint.load(dtype=chosen, device=place, progress=progress), place)
            if place.type == "cpu":
                network.choose_threads(allowed())
            memory: tuple[int, ...] = ()
        else:
            plan = _plan(checkpoint, chosen, place, tensor_parallel, here=listen is None)
            desk = {} if listen is None else {"listen": address_of(listen), "key": key_of(os.environ)}
            network = Ranks(plan, nursery=nursery, progress=progress, **desk)
            memory = tuple(fact.memory for fact in network.facts)
    except BaseException:
        if nursery is not None:
            nursery.close()
        raise
    info = Info(
        name=checkpoint.name,
        path=str(path),
        format=checkpoint.format,
        parameters=checkpoint.parameters,
        dtype=str(chosen).removeprefix("torch."),
        stored_dtype=str(checkpoint.dtype).removeprefix("torch."),
        device=str(place),
        tensor_parallel=tensor_parallel,
        stored_tensor_parallel=checkpoint.tensor_parallel,
        vocabulary=checkpoint.config.vocab_size,
        padded_vocabulary=checkpoint.config.padded_vocab_size,
        load_s=time.perf_counter() - began,
        rank_memory=memory,
        config=checkpoint.config,
        digest=Digest(checkpoint.files),
    )
    return Engine(network, checkpoint.tokenizer, info)


def _place(dtype: str, device: str, tensor_parallel: int, *, here: bool) -> torch.device:
    """The device, when all that was asked for can be had. here: ranks are on this machine."""
    if dtype not in ("auto", *DTYPES):
        raise CheckpointError(f"dtype {dtype!r} is unknown; choose auto, {', '.join(DTYPES)}.")
    if isinstance(tensor_parallel, bool) or not isinstance(tensor_parallel, int) or tensor_parallel < 1:
        raise CheckpointError(f"tensor_parallel is {tensor_parallel!r}, expected a whole number from 1.")
    try:
        place = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
    except RuntimeError as fault:
        raise CheckpointError(f"device {device!r} is unknown; choose auto, cpu or cuda.") from fault
    if place.type == "cuda" and dtype == "int8":
        raise CheckpointError("dtype int8 is for a CPU; choose another, or device cpu.")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"device {device!r}: no GPU is usable here; choose auto or cpu.")
    if place.type == "cuda" and here and tensor_parallel > torch.cuda.device_count():
        raise CheckpointError(
            f"tensor_parallel {tensor_parallel}: this machine has {torch.cuda.device_count()} GPUs. "
            "Choose a smaller number, or device cpu."
        )
    return place


def _plan(
    checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device, ranks: int, *, here: bool
) -> Plan:
    checkpoint.check(ranks)
    return Plan(
        path=str(checkpoint.path.resolve()),
        dtype=dtype,
        device=device.type,
        size=ranks,
        meeting="",  # chosen anew at every start
        stamp=checkpoint.stamp,
        threads=max(1, allowed() // ranks) if here else None,
    )


def _fitting_dtype(checkpoint: Checkpoint, device: torch.device, *, alone: bool) -> torch.dtype:
    """What takes least memory of all whose error is too small to see (tests/test_quantized.py)."""
    stored = checkpoint.dtype
    if device.type != "cpu":
        return torch.float32 if stored == torch.int8 else stored
    if alone:
        return torch.float16 if stored == torch.float32 else stored
    return torch.float32 if 4 * checkpoint.parameters <= LARGEST_FLOAT32_ON_CPU else stored
