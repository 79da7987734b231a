"""What is fuzzed: functions of bytes that may fail with the declared errors only."""

import io
import math
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

from mt5 import batch, infill
from mt5.checkpoint import file as files
from mt5.checkpoint import safetensors, torchfile
from mt5.checkpoint.archive import Archive
from mt5.checkpoint.nemo_config import read_config
from mt5.errors import CheckpointError, PromptError
from mt5.results import Span
from mt5.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"
TINY, HF = DATA / "nemo_tiny_tp2.nemo", DATA / "hf_tiny_mt5"
files.TICK_S = 0  # every input was written this moment


@cache
def _place() -> Path:
    """A file in memory, where there is such a folder, that every input is written to."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None)) / "input"


def _written(data: bytes) -> Path:
    _place().write_bytes(data)
    return _place()


def tar(data: bytes) -> None:
    """The index of an archive."""
    archive = Archive(_written(data))
    for name, member in archive.members.items():
        assert member.start + member.size <= member.file.size and not name.startswith("/")


def zip_(data: bytes) -> None:
    """The directory of a torch file and its list of tensors, in either format."""
    path = _written(data)
    for lazy in torchfile.read(path).values():
        if torch.Size(lazy.shape).numel() < 1 << 16:
            lazy.read_into(torch.empty(lazy.shape, dtype=lazy.dtype), 0, 0) if lazy.shape else None


def header(data: bytes) -> None:
    """The header of a safetensors file."""
    found = safetensors.read(_written(data)).values()
    assert sum(math.prod(tensor.shape) * tensor.dtype.itemsize for tensor in found) <= len(data)


def table(data: bytes) -> None:
    """A file of prompts: what is read can be written, and is read again as it was."""
    for name in ("x.csv", "x.jsonl"):
        try:
            rows = batch.read(data, name)
        except PromptError:
            continue
        again = batch.read(batch.write(rows, "jsonl"), "x.jsonl")
        assert again == rows


def prompt(data: bytes) -> None:
    """Masks and the ids around them: all but the masks is kept, no control id is typed."""
    text = data.decode("utf-8", "surrogatepass") if _decodes(data) else data.decode("latin-1")
    masked = infill.parse(text)
    tokenizer = _tokenizer()
    ids = tokenizer.encode_masked(masked.parts)
    typed = [id_ for id_ in ids if id_ in tokenizer.control_ids - {tokenizer.unk_id}]
    assert typed == list(tokenizer.sentinels[: masked.masks])
    spans = infill.fitted(masked, [Span(mask, "x") for mask in range(masked.masks)])
    assert infill.splice(masked, [infill.MASK] * masked.masks) == text and len(spans) == masked.masks


def yaml(data: bytes) -> None:
    """A configuration of NeMo's."""
    read_config(data, "x")


@cache
def _tokenizer() -> Tokenizer:
    return Tokenizer.huggingface((HF / "spiece.model").read_bytes(), 1024)


def _decodes(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True


@cache
def seeds() -> dict[str, bytes]:
    """A well-formed input for each target."""
    archive, packed = Archive(TINY), io.BytesIO()
    torch.save({"a.weight": torch.ones(3, 4), "b": torch.zeros(2).bfloat16()}, packed)
    return {
        "tar": TINY.read_bytes()[:4_096] + bytes(1_024),
        "zip": packed.getvalue(),
        "header": (HF / "model.safetensors").read_bytes()[:8_000],
        "table": 'prompt,n\n"a <mask>",1\n'.encode("utf-16"),
        "prompt": "Die <mask> ist <extra_id_0> </s> grün <mask>.".encode(),
        "yaml": archive.read("model_config.yaml", 1 << 18),
    }


TARGETS: dict[str, Callable[[bytes], None]] = {
    "tar": tar,
    "zip": zip_,
    "header": header,
    "table": table,
    "prompt": prompt,
    "yaml": yaml,
}
DECLARED = (CheckpointError, PromptError)


def run(name: str, data: bytes) -> None:
    """One input; the declared errors are an answer like any other."""
    try:
        TARGETS[name](data)
    except DECLARED as fault:
        assert str(fault).isprintable()


def remove() -> None:
    """The file that inputs were written to."""
    if _place().exists():
        os.remove(_place())
    _place().parent.rmdir()
