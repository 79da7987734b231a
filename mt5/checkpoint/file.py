"""Files that are read in places, and named when they are not what they should be."""

import io
import math
import mmap
import os
import stat
import time
import weakref
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

import torch
from torch import Tensor
from typing_extensions import Buffer

from mt5.errors import CheckpointError

TICK_S = 0.02
"""So far apart, two changes of a file have different times."""
AT_ONCE = 1024
"""Views that one call of the system fills, at most; Linux and macOS take as many."""
MADV_POPULATE_READ = 22
"""Linux 5.14: read pages in and map them; Python does not name it."""


class File:
    """A file open for reading at any position, from several threads; closed when nothing refers to it."""

    def __init__(self, descriptor: int, path: Path) -> None:
        self.descriptor, self.path = descriptor, path
        weakref.finalize(self, os.close, descriptor)
        self._first = self._stamp()
        self.size = self._first[0]

    @classmethod
    def open(cls, path: Path) -> Self:
        """CheckpointError when the file cannot be opened, or is a stand-in for what should be there."""
        try:
            # a pipe would be waited for
            file = cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), path)
            if not stat.S_ISREG(os.fstat(file.descriptor).st_mode):
                raise CheckpointError(f"{path} is a folder, a pipe or a device; a file is expected here.")
            start = os.pread(file.descriptor, 512, 0)
        except OSError as fault:
            raise CheckpointError(f"{path}: cannot be read ({fault.strerror}).") from fault
        if cause := stand_in(start):
            raise CheckpointError(f"{path} {cause}")
        if 0 <= time.time() - file._first[1] / 1e9 < TICK_S:
            # written to this moment: what is written next might get the same time, and not be noticed
            time.sleep(TICK_S)
            file._first = file._stamp()
        return file

    @classmethod
    def of(cls, file: BinaryIO, path: Path) -> Self:
        """The same file, under a descriptor of its own; path: what to call it."""
        file.flush()
        return cls(os.dup(file.fileno()), path)

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` from byte `offset`. CheckpointError when the file ends before."""
        done = 0
        while done < len(view):  # one call may return less than was asked for
            count = os.preadv(self.descriptor, [view[done:]], offset + done)
            if not count:
                raise CheckpointError(f"{self.path} became shorter while it was read. Load it again.")
            done += count

    def read_rows(self, rows: Sequence[memoryview], offset: int) -> None:
        """Fill views of one length, one after the other, with what begins at byte `offset`."""
        length = len(rows[0]) if rows else 0
        for first in range(0, len(rows), AT_ONCE):
            some, start = rows[first : first + AT_ONCE], offset + first * length
            whole = os.preadv(self.descriptor, some, start) // length
            for number in range(whole, len(some)):  # one call may return less than was asked for
                self.read_into(some[number], start + number * length)

    def read(self, size: int, offset: int) -> bytes:
        data = bytearray(size)
        self.read_into(memoryview(data), offset)
        return bytes(data)

    def mapped(self, offset: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor | None:
        """Numbers from byte `offset`, seen where they lie; None where they do not lie at whole numbers.

        Pages are read now, so that none is waited for later. Writing to the tensor does not write the file.
        """
        size = math.prod(shape) * dtype.itemsize
        if offset % dtype.itemsize or not size:
            return None
        first = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        pages = mmap.mmap(self.descriptor, offset + size - first, access=mmap.ACCESS_COPY, offset=first)
        with suppress(OSError, AttributeError):  # a kernel that cannot will read them when they are used
            pages.madvise(mmap.MADV_WILLNEED)
            pages.madvise(MADV_POPULATE_READ)
        numbers = torch.frombuffer(pages, dtype=dtype, count=math.prod(shape), offset=offset - first)
        return numbers.view(shape)

    def check_unchanged(self) -> None:
        """CheckpointError when the file was written to since it was opened: old and new may be mixed."""
        if self._stamp() != self._first:
            raise CheckpointError(f"{self.path} was changed while it was read. Load it again.")

    def _stamp(self) -> tuple[int, int]:
        facts = os.fstat(self.descriptor)
        return facts.st_size, facts.st_mtime_ns


def stand_in(start: bytes) -> str | None:
    """What a file is instead of what it should be, judged by its first bytes; None when nothing is odd."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "is empty. Download it again."
    if start.startswith(b"version https://git-lfs"):
        return "is only a Git LFS pointer, not the file itself. Run `git lfs pull` in its folder."
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not the file itself; the download failed. Download it again."
    return None


def read_small(path: Path, limit: int) -> bytes:
    """The bytes of a file of at most `limit` bytes. CheckpointError names what is wrong with it."""
    file = File.open(path)
    if file.size > limit:
        raise CheckpointError(f"{path} has {file.size:,} bytes, more than the {limit:,} expected of it.")
    return file.read(file.size, 0)


class Window(io.RawIOBase):
    """A part of a file, [start, start + size), as a file of its own."""

    def __init__(self, file: File, start: int, size: int) -> None:
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

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer).cast("B")[: max(0, self.size - self.at)]
        count = os.preadv(self.file.descriptor, [view], self.start + self.at)
        self.at += count
        return count
