"""Reading a `.nemo` in place: a tar of files, some of them zips of tensors. Nothing is ever extracted."""

import gzip
import tarfile
import tempfile
import zipfile
import zlib
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mt5.checkpoint.file import File, Window
from mt5.checkpoint.weights import FileTensor, Lazy
from mt5.errors import CheckpointError

MAX_MEMBERS = 10_000
MAX_HEADER = 1 << 20  # bytes of names and extended headers before a member
MAX_PICKLE = 64 << 20  # bytes of the list of tensors in a weights file
MAX_INFLATED = 64 << 30
MAX_RATIO = 1_000


class Archive:
    """The members of a tar by name, without a leading `./`."""

    def __init__(self, path: Path) -> None:
        """Index the members. CheckpointError when it is no tar, holds links or devices, or is cut short."""
        self.path = path
        self.file = _plain(path)
        self.members: dict[str, tuple[int, int]] = {}  # name -> start, size
        try:
            with tarfile.open(fileobj=Window(self.file, 0, self.file.size), mode="r:") as tar:
                for number, member in enumerate(tar):
                    self._add(member, number)
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as fault:
            raise CheckpointError(
                f"{path}: not a readable tar archive ({fault}). Download it again."
            ) from fault

    def _add(self, member: tarfile.TarInfo, number: int) -> None:
        name = member.name.removeprefix("./")
        if number >= MAX_MEMBERS:
            raise CheckpointError(
                f"{self.path}: more than {MAX_MEMBERS:,} members; this is no NeMo checkpoint."
            )
        if len(str(member.pax_headers)) > MAX_HEADER:
            raise CheckpointError(
                f"{self.path}: the header of a member is too long; this is no NeMo checkpoint."
            )
        if member.isdir():
            return
        if not member.isreg() or member.issparse():
            raise CheckpointError(
                f"{self.path}: member {name!r} is a link, a device or sparse; NeMo writes none."
            )
        if name.startswith("/") or ".." in name.split("/"):
            raise CheckpointError(
                f"{self.path}: member {name!r} points outside the archive; NeMo writes none."
            )
        if name in self.members:
            raise CheckpointError(f"{self.path}: member {name!r} occurs twice.")
        if member.offset_data + member.size > self.file.size:
            raise CheckpointError(f"{self.path}: {name} is cut short. Download the archive again.")
        self.members[name] = (member.offset_data, member.size)

    def window(self, name: str) -> Window:
        return Window(self.file, *self.members[name])

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a member of at most `limit` bytes."""
        _, size = self.members[name]
        if size > limit:
            raise CheckpointError(
                f"{self.path}: {name} has {size:,} bytes, more than the {limit:,} expected of it."
            )
        return self.window(name).read(size)

    def tensors(self, name: str) -> dict[str, Lazy]:
        """The tensors of a torch zip file, by name, each read from its place when asked for."""
        return torch_tensors(self.window(name), f"{self.path}: {name}")


def torch_file(path: Path) -> dict[str, Lazy]:
    """The tensors of a file of its own that torch.save wrote, such as pytorch_model.bin."""
    file = File.open(path)
    return torch_tensors(Window(file, 0, file.size), str(path))


def torch_tensors(window: Window, label: str) -> dict[str, Lazy]:
    """The tensors of a file that torch.save wrote.

    The pickle is read with weights_only=True and without its storages; sizes are checked against the zip's own.
    """
    try:
        with zipfile.ZipFile(window) as zipped:
            records = {record.filename: record for record in zipped.infolist()}
    except zipfile.BadZipFile as fault:
        raise CheckpointError(f"{label} is no torch file, or a damaged one ({fault}).") from fault
    for record in records.values():
        if record.compress_type != zipfile.ZIP_STORED or record.file_size != record.compress_size:
            raise CheckpointError(f"{label}: {record.filename} is compressed; torch never writes that.")
        if record.filename.endswith("data.pkl") and record.file_size > MAX_PICKLE:
            raise CheckpointError(
                f"{label}: its list of tensors has {record.file_size:,} bytes; it is damaged."
            )
    window.seek(0)
    try:
        with FakeTensorMode():
            state = torch.load(window, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as fault:  # whatever a hostile pickle provokes, the advice of torch's own message is unsafe
        raise CheckpointError(
            f"{label} holds more than tensors or is damaged ({type(fault).__name__}). "
            "Only plain weights are read; save them again as a state dict of tensors."
        ) from fault
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{label} is no state dict: names with tensors are expected, nothing else.")
    return {str(key): _located(value, window, f"{label}: {key}") for key, value in state.items()}


def _located(tensor: torch.Tensor, window: Window, label: str) -> Lazy:
    if not tensor.is_contiguous() or tensor.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise CheckpointError(
            f"{label}: {tensor.dtype} of stride {tensor.stride()}; contiguous floats are expected."
        )
    storage = tensor.untyped_storage()
    first = tensor.storage_offset() * tensor.itemsize
    last = first + tensor.numel() * tensor.itemsize
    offset = storage._checkpoint_offset
    if last > storage.nbytes() or offset + last > window.size:
        raise CheckpointError(f"{label}: its storage is shorter than its shape {tuple(tensor.shape)}.")
    return FileTensor(tuple(tensor.shape), tensor.dtype, window.file, window.start + offset + first)


def _plain(path: Path) -> File:
    """The archive itself; a gzipped one is unpacked into a nameless temporary file."""
    file = File.open(path)
    start = bytearray(min(2, file.size))
    file.read_into(memoryview(start), 0)
    if start != b"\x1f\x8b":
        return file
    limit = min(MAX_INFLATED, MAX_RATIO * max(file.size, 1 << 20))
    with tempfile.TemporaryFile() as plain:
        try:
            with gzip.open(Window(file, 0, file.size)) as packed:
                while block := packed.read(16 << 20):
                    plain.write(block)
                    if plain.tell() > limit:
                        raise CheckpointError(
                            f"{path}: unpacks to more than {limit:,} bytes; this is no checkpoint."
                        )
        except (OSError, EOFError, zlib.error) as fault:
            raise CheckpointError(
                f"{path}: the gzip stream is damaged ({fault}). Download it again."
            ) from fault
        return File.of(plain, path)
