"""Reading a `.nemo` in place: a tar of files, some of them zips of tensors. Nothing is ever extracted."""

import gzip
import io
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from mt5.checkpoint.weights import FileTensor, Lazy
from mt5.errors import CheckpointError

MAX_MEMBERS = 10_000
MAX_HEADER = 1 << 20  # bytes of names and extended headers before a member
MAX_PICKLE = 64 << 20  # bytes of the list of tensors in a weights file
MAX_INFLATED = 64 << 30


class Window(io.RawIOBase):
    """A part of a file, [start, start + size), as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self.file, self.start, self.size, self.at = file, start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence])
        return self.at

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        view = memoryview(buffer).cast("B")[: max(0, self.size - self.at)]
        self.file.seek(self.start + self.at)
        count = self.file.readinto(view)  # type: ignore[attr-defined]
        self.at += count
        return count


class Archive:
    """The members of a tar by name, without a leading `./`."""

    def __init__(self, path: Path) -> None:
        """Index the members. CheckpointError when it is no tar, holds links or devices, or is cut short."""
        self.path = path
        self.file = _plain(path)
        self.file.seek(0, io.SEEK_END)
        size = self.file.tell()
        self.members: dict[str, tuple[int, int]] = {}  # name -> start, size
        self.file.seek(0)
        try:
            with tarfile.open(fileobj=self.file, mode="r:") as tar:
                for number, member in enumerate(tar):
                    self._add(member, number, size)
        except (tarfile.TarError, EOFError, ValueError, OverflowError) as fault:
            raise CheckpointError(f"{path}: not a readable tar archive ({fault}). Download it again.") from fault

    def _add(self, member: tarfile.TarInfo, number: int, size: int) -> None:
        name = member.name.removeprefix("./")
        if number >= MAX_MEMBERS:
            raise CheckpointError(f"{self.path}: more than {MAX_MEMBERS:,} members; this is no NeMo checkpoint.")
        if len(str(member.pax_headers)) > MAX_HEADER:
            raise CheckpointError(f"{self.path}: the header of a member is too long; this is no NeMo checkpoint.")
        if member.isdir():
            return
        if not member.isreg() or member.issparse():
            raise CheckpointError(f"{self.path}: member {name!r} is a link, a device or sparse; NeMo writes none.")
        if name.startswith("/") or ".." in name.split("/"):
            raise CheckpointError(f"{self.path}: member {name!r} points outside the archive; NeMo writes none.")
        if name in self.members:
            raise CheckpointError(f"{self.path}: member {name!r} occurs twice.")
        if member.offset_data + member.size > size:
            raise CheckpointError(f"{self.path}: {name} is cut short. Download the archive again.")
        self.members[name] = (member.offset_data, member.size)

    def window(self, name: str) -> Window:
        return Window(self.file, *self.members[name])

    def read(self, name: str, limit: int) -> bytes:
        """The bytes of a member of at most `limit` bytes."""
        _, size = self.members[name]
        if size > limit:
            raise CheckpointError(f"{self.path}: {name} has {size:,} bytes, more than the {limit:,} expected of it.")
        return self.window(name).read(size)

    def tensors(self, name: str) -> dict[str, Lazy]:
        """The tensors of a torch zip file, by name, each read from its place when asked for."""
        start, _ = self.members[name]
        return torch_tensors(self.window(name), self.file, start, f"{self.path}: {name}")


def torch_tensors(window: BinaryIO, file: BinaryIO, start: int, label: str) -> dict[str, Lazy]:
    """The tensors of a file that torch.save wrote; start: where the file begins in `file`.

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
            raise CheckpointError(f"{label}: its list of tensors has {record.file_size:,} bytes; it is damaged.")
    window.seek(0)
    try:
        with FakeTensorMode():
            state = torch.load(window, map_location="cpu", weights_only=True)
    except Exception as fault:  # whatever a hostile pickle provokes, the advice of torch's own message is unsafe
        raise CheckpointError(
            f"{label} holds more than tensors or is damaged ({type(fault).__name__}). "
            "Only plain weights are read; save them again as a state dict of tensors."
        ) from fault
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise CheckpointError(f"{label} is no state dict: names with tensors are expected, nothing else.")
    file.seek(0, io.SEEK_END)
    end = file.tell()
    return {str(key): _located(value, file, start, end, f"{label}: {key}") for key, value in state.items()}


def _located(tensor: torch.Tensor, file: BinaryIO, start: int, end: int, label: str) -> Lazy:
    if not tensor.is_contiguous() or tensor.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise CheckpointError(f"{label}: {tensor.dtype} of stride {tensor.stride()}; contiguous floats are expected.")
    storage = tensor.untyped_storage()
    offset = start + storage._checkpoint_offset + tensor.storage_offset() * tensor.itemsize
    stop = offset + tensor.numel() * tensor.itemsize
    if tensor.storage_offset() * tensor.itemsize + tensor.numel() * tensor.itemsize > storage.nbytes() or stop > end:
        raise CheckpointError(f"{label}: its storage is shorter than its shape {tuple(tensor.shape)}.")
    return FileTensor(tuple(tensor.shape), tensor.dtype, file, offset)


def _plain(path: Path) -> BinaryIO:
    """The archive as a seekable file; a gzipped one is unpacked into a nameless temporary file."""
    file = path.open("rb", buffering=0)
    start = file.read(2)
    file.seek(0)
    if start != b"\x1f\x8b":
        return file
    plain = tempfile.TemporaryFile(buffering=0)
    try:
        with gzip.open(file) as packed:
            while block := packed.read(16 << 20):
                plain.write(block)
                if plain.tell() > MAX_INFLATED:
                    raise CheckpointError(f"{path}: unpacks to more than {MAX_INFLATED >> 30} GiB.")
                if plain.tell() > 1000 * max(path.stat().st_size, 1 << 20):
                    raise CheckpointError(f"{path}: unpacks to a thousand times its size; this is no checkpoint.")
    except (OSError, EOFError) as fault:
        raise CheckpointError(f"{path}: the gzip stream is damaged ({fault}). Download it again.") from fault
    file.close()
    return plain
