"""Files that are read in places."""

import io
import os
import weakref
from pathlib import Path
from typing import BinaryIO, Self

from typing_extensions import Buffer

from mt5.errors import CheckpointError


class File:
    """A file open for reading at any position, from several threads; closed when nothing refers to it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.size = descriptor, os.fstat(descriptor).st_size
        weakref.finalize(self, os.close, descriptor)

    @classmethod
    def open(cls, path: Path) -> Self:
        """CheckpointError when the file cannot be opened."""
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as fault:
            raise CheckpointError(f"{path}: cannot be opened ({fault.strerror}).") from fault

    @classmethod
    def of(cls, file: BinaryIO) -> Self:
        """The same file, under a descriptor of its own."""
        file.flush()
        return cls(os.dup(file.fileno()))

    def read_into(self, view: memoryview, offset: int) -> None:
        """Fill `view` from byte `offset`. CheckpointError when the file ends before."""
        done = 0
        while done < len(view):
            count = os.preadv(self.descriptor, [view[done:]], offset + done)
            if not count:
                raise CheckpointError("The checkpoint became shorter while it was read. Load it again.")
            done += count


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
