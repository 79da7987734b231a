"""The weights of a checkpoint in a network: fused, packed for the processor, or seen where they lie."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor, nn

from mt5.checkpoint.weights import Lazy, Quantized, empty, mapped, narrow, padded
from mt5.fused import fuse
from mt5.model import MT5, Head
from mt5.parallel import ColumnLinear, Packed, RowLinear, VocabularyEmbedding
from mt5.quantized import SINGLE, SMALL, Half, Int8, Single, halved, packing

LARGEST_PACKED = 1 << 30
"""Numbers in a network of 16 bits that is packed, at most."""
MATRICES = (ColumnLinear, RowLinear, VocabularyEmbedding, Head)

DTYPES = {name: getattr(torch, name) for name in ("float32", "bfloat16", "float16", "int8")}
"""What weights can be held in, by name."""


@torch.no_grad()
def load(
    weights: Mapping[str, Lazy],
    model: MT5,
    *,
    dtype: torch.dtype,
    device: torch.device,
    in_place: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> MT5:
    """Fill a network that was built on the meta device with this rank's part of the weights.

    On a CPU, matrices are packed for its kernels (see quantized.py) and everything else is float32; but a
    large network of 16 bits becomes plain float16, since packing takes longer than reading, and more memory.
    Beside float16 weights norms stay in float32, because then activations are float32.
    in_place: look at weights where they lie in their file instead of copying them, where that can be done;
    float32 and bfloat16 are then neither packed nor fused.
    progress: called with the share of the numbers that are there, 0 to 1, from any thread.
    """
    size = sum(parameter.numel() for parameter in model.parameters()) * model.shard.size
    mapping = in_place and dtype in (torch.float32, torch.bfloat16)
    large = device.type == "cpu" and not mapping and size > LARGEST_PACKED
    halves = large and dtype in (torch.bfloat16, torch.float16)
    joints = {} if mapping else fuse(model)
    parameters, partition, shard = dict(model.named_parameters()), model.partition(), model.shard
    owners = {name: model.get_submodule(name.rpartition(".")[0]) for name in parameters}
    packs = device.type == "cpu" and not (mapping or halves) and (dtype != torch.float32 or SINGLE)
    packed: dict[str, type[Int8] | type[Half] | type[Single]] = {}
    for name, owner in owners.items():
        if (
            packs
            and parameters[name].numel() > SMALL
            and isinstance(owner, MATRICES)
            and name.endswith("weight")
        ):
            packed[name] = packing(name, dtype)

    def kept(name: str) -> torch.dtype:
        if packs:
            return torch.bfloat16 if name in packed and dtype == torch.bfloat16 else torch.float32
        if isinstance(owners[name], nn.RMSNorm | nn.LayerNorm) and (dtype == torch.float16 or halves):
            return torch.float32
        stored = {weights[one].dtype for one in joints.get(name, (name,))}
        if halves and dtype == torch.float16 and stored != {torch.float16}:
            # `halved` makes float16 of it, where the numbers fit
            return torch.bfloat16 if stored == {torch.bfloat16} else torch.float32
        return dtype

    def cut(tensor: Lazy, dim: int | None, own: int, dtype: torch.dtype | None) -> Tensor:
        """This rank's part, which has `own` rows or columns; None leaves the numbers as they are."""
        rows = tensor.shape[0] if dim is None else own * shard.size
        span = slice(0, rows) if dim is None else shard.span(rows)
        view = None
        if mapping and dtype == tensor.dtype and span.stop <= tensor.shape[dim or 0]:
            view = mapped(tensor, dim or 0, span.start, span.stop)
        if view is not None:
            return view.to(device)
        # a vocabulary that does not divide over the ranks gets more rows than are stored
        found = narrow(tensor, dim, span.start, span.stop) if dim else padded(tensor, span)
        return found.to(device=device, dtype=dtype)

    def part(name: str) -> Tensor | Packed:
        dim, names = partition[name], joints.get(name, (name,))
        own = parameters[name].shape[dim or 0] // len(names)
        stored = [weights[one] for one in names]
        if name not in packed and len(stored) > 1 and all(tensor.dtype == kept(name) for tensor in stored):
            # straight to their places, without copies to be joined; what is joined is cut by rows
            whole = empty((own * len(stored), *parameters[name].shape[1:]), kept(name))
            for tensor, out in zip(stored, whole.split(own), strict=True):
                tensor.read_into(out, 0, shard.span(own * shard.size).start)
            return halved(whole.to(device)) if halves else whole.to(device)
        if name not in packed:
            found = _one([cut(tensor, dim, own, kept(name)) for tensor in stored])
            return halved(found) if halves else found
        table = isinstance(owners[name], VocabularyEmbedding)
        if packed[name] is Int8 and all(isinstance(tensor, Quantized) for tensor in stored):
            numbers = _one([cut(tensor.numbers, dim, own, None) for tensor in stored])
            scales = _one([cut(tensor.scales, None if dim else dim, own, None) for tensor in stored])
            return Int8(numbers, scales, table=table)
        return packed[name].of(_one([cut(tensor, dim, own, kept(name)) for tensor in stored]), table=table)

    def read(names: Sequence[str]) -> Iterator[tuple[str, Tensor | Packed]]:
        if packs:
            # one by one, the largest first, so that little else is there while it is packed
            order = sorted(names, key=lambda name: (-parameters[name].numel(), name.startswith("embedding")))
            yield from ((name, part(name)) for name in order)
            return
        # reading and converting leave Python's lock alone, so a thread per core is worth it
        with ThreadPoolExecutor(torch.get_num_threads()) as threads:
            yield from zip(names, threads.map(part, names), strict=True)

    total, done = sum(parameter.numel() for parameter in parameters.values()), 0
    for name, found in read(list(parameters)):
        leaf = name.rpartition(".")[2]
        delattr(owners[name], leaf)
        dense = isinstance(found, Tensor)
        setattr(owners[name], leaf, nn.Parameter(found, requires_grad=False) if dense else found)
        done += parameters[name].numel()
        progress(done / total)
    if model.config.tied_head and not isinstance(model.embedding.weight, Tensor):
        model.embedding.weight.pack()
    return model


def _one(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)
