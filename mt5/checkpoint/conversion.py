"""Writing checkpoints: a folder with safetensors from any, a `.nemo` of any number of shards from another."""

import io
import json
import os
import re
import shutil
import tarfile
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, cast

import torch
from torch import Tensor

from mt5.checkpoint import safetensors
from mt5.checkpoint.huggingface import CONFIG, SPIECE, read_json, weight_names
from mt5.checkpoint.loading import DTYPES
from mt5.checkpoint.native import settings_of, stored
from mt5.checkpoint.nemo import NemoArchive, cut_dimension, is_weights, open_nemo, weights_member
from mt5.checkpoint.nemo_config import CONFIG as NEMO_CONFIG
from mt5.checkpoint.nemo_config import MAX_CONFIG, padded_rows
from mt5.checkpoint.opening import Checkpoint, open_checkpoint
from mt5.checkpoint.weights import Lazy, check_unchanged, narrow, padded, whole
from mt5.errors import CheckpointError
from mt5.parallel import Shard

PRECISION = {torch.float32: "32", torch.bfloat16: "bf16", torch.float16: "16"}


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: Literal["huggingface", "nemo"] = "huggingface",
    dtype: str | None = None,
    tensor_parallel: int = 1,
) -> None:
    """Write a checkpoint again: a folder with safetensors, or a `.nemo` cut into `tensor_parallel` shards.

    A folder has Hugging Face's layout where transformers has a class for the network, else this project's
    own, which `open_checkpoint` reads like any other. dtype: float32, bfloat16, float16, or in this
    project's layout int8; None keeps what is stored. Nothing is left behind when it fails. Raises
    CheckpointError.
    """
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"dtype {dtype!r} is unknown; choose {', '.join(DTYPES)}.")
    if to not in ("huggingface", "nemo"):
        raise CheckpointError(f"Cannot convert to {to!r}; choose huggingface or nemo.")
    kept = None if dtype is None else DTYPES[dtype]
    checkpoint = open_checkpoint(source)
    checkpoint.check()
    if to == "huggingface":
        if tensor_parallel != 1:
            raise CheckpointError(
                "safetensors are never cut into shards; leave tensor_parallel out, or convert to nemo."
            )
        _write_folder(checkpoint, Path(out), kept)
    elif checkpoint.format != "nemo":
        raise CheckpointError(
            f"{source}: a .nemo can be written from a .nemo only. Convert to huggingface instead."
        )
    elif kept == torch.int8:
        raise CheckpointError("A .nemo holds no int8; choose another dtype, or convert to huggingface.")
    else:
        _write_nemo(open_nemo(checkpoint.path), Path(out), kept, tensor_parallel)


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """A folder beside `out` to write in, removed whatever happens. A full disk becomes a CheckpointError."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as fault:
        raise CheckpointError(f"{out} cannot be written: {fault.strerror}. Choose another place.") from fault
    try:
        yield folder
    except OSError as fault:
        raise CheckpointError(f"{out} could not be written: {fault.strerror}. Nothing was kept.") from fault
    except RuntimeError as fault:
        # torch.save reports a full disk as this
        if "write" not in str(fault):
            raise
        raise CheckpointError(f"{out} could not be written; is the disk full? Nothing was kept.") from fault
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_folder(checkpoint: Checkpoint, out: Path, dtype: torch.dtype | None) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} exists already. Choose a new folder.")
    written = str(dtype or checkpoint.dtype).removeprefix("torch.")
    int8 = (dtype or checkpoint.dtype) == torch.int8
    names: dict[str, str] = {}  # where they are not the network's own
    if checkpoint.format == "huggingface" and not int8:
        names = dict(weight_names(checkpoint.config))
        settings = read_json(checkpoint.path / CONFIG)
        settings["torch_dtype" if "torch_dtype" in settings else "dtype"] = written
    else:
        settings = settings_of(checkpoint.config, checkpoint.tokenizer) | {"dtype": written}
    with _replacing(out) as folder:
        made = folder / "made"
        made.mkdir()
        weights = stored(checkpoint.weights) if int8 else checkpoint.weights
        named = {names.get(name, name): tensor for name, tensor in weights.items()}
        safetensors.write(made / "model.safetensors", named, None if int8 else dtype)
        (made / CONFIG).write_text(
            json.dumps(settings, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        (made / SPIECE).write_bytes(checkpoint.tokenizer.model_proto)
        checkpoint.check_unchanged()
        made.replace(out)


def _write_nemo(nemo: NemoArchive, out: Path, dtype: torch.dtype | None, size: int) -> None:
    if out.is_dir():
        raise CheckpointError(f"{out} is a folder. Name the .nemo file to write.")
    odd = [
        f"{side} {name} {value:,}"
        for side, stack in (("encoder", nemo.config.encoder), ("decoder", nemo.config.decoder))
        for name, value in (("num_attention_heads", stack.num_heads), ("ffn_hidden_size", stack.d_ff))
        if size < 1 or value % size
    ]
    if odd:
        raise CheckpointError(f"{nemo.archive.path}: {size} shards do not divide {', '.join(odd)}.")
    archive = nemo.archive
    members = {name: window for name, window in archive.members.items() if not is_weights(name)}
    config = _edited(archive.read(NEMO_CONFIG, MAX_CONFIG).decode("utf-8"), size, dtype).encode()
    with _replacing(out) as folder:
        made = folder / "made.nemo"
        ranks = {weights_member(rank, size): rank for rank in range(size)}
        with tarfile.open(made, "w", format=tarfile.PAX_FORMAT) as tar:
            _add(tar, "./", None, 0)
            for name in sorted({**members, **ranks}):
                if name in ranks:
                    if "/" in name:
                        _add(tar, f"./{name.split('/')[0]}/", None, 0)
                    # torch names the folder inside the zip after the file, and NeMo gives it this name
                    part = folder / name.replace("/", "_")
                    torch.save(_shard(nemo, Shard(ranks[name], size), dtype), part)
                    with part.open("rb") as weights:
                        _add(tar, f"./{name}", weights, part.stat().st_size)
                    part.unlink()
                elif name == NEMO_CONFIG:
                    _add(tar, f"./{name}", io.BytesIO(config), len(config))
                else:
                    _add(tar, f"./{name}", cast(IO[bytes], members[name]), members[name].size)
        check_unchanged(nemo.weights.values())
        with made.open("rb") as done:
            os.fsync(done.fileno())
        made.replace(out)


def _add(tar: tarfile.TarFile, name: str, data: IO[bytes] | None, size: int) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o644
    if data is None:
        member.type, member.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(member, data)


def _shard(nemo: NemoArchive, shard: Shard, dtype: torch.dtype | None) -> "OrderedDict[str, Tensor]":
    """One rank's state dict, in the order of the archive's keys; tensors shared there are shared here."""
    rows = padded_rows(nemo.settings, nemo.config.vocab_size, shard.size)
    made: dict[Lazy, Tensor] = {}
    state: OrderedDict[str, Tensor] = OrderedDict()
    for name, tensor in nemo.weights.items():
        if tensor not in made:
            dim = cut_dimension(name)
            if dim is None:
                part = whole(tensor)
            elif tensor.shape[0] == nemo.config.padded_vocab_size and (
                "word_embeddings" in name or "tokens_head" in name
            ):
                part = padded(tensor, shard.span(rows))
            else:
                span = shard.span(tensor.shape[dim])
                part = narrow(tensor, dim, span.start, span.stop)
            made[tensor] = part.to(dtype or tensor.dtype)
        state[name] = made[tensor]
    return state


def _edited(config: str, size: int, dtype: torch.dtype | None) -> str:
    """model_config.yaml with another number of shards and precision, otherwise to the letter."""
    changes: Mapping[str, str] = {"tensor_model_parallel_size": str(size)}
    if dtype is not None:
        half = "false" if dtype == torch.float32 else "true"
        changes = {**changes, "precision": PRECISION[dtype], "megatron_amp_O2": half}
    for name, value in changes.items():
        line = re.compile(rf"^{name}:.*$", re.MULTILINE)
        if line.search(config):
            config = line.sub(f"{name}: {value}", config)
        else:
            config = config.rstrip("\n") + f"\n{name}: {value}\n"
    return config
