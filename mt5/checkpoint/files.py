"""The files of a checkpoint: opened once, read by position, named when they are not what they should be."""

import io
import os
from pathlib import Path

from mt5.errors import CheckpointError


class WeightsFile(io.FileIO):
    """A file that stays open as long as something refers to it, and that knows when it was changed."""

    def __init__(self, path: Path) -> None:
        """CheckpointError when the file cannot be read, or is a stand-in for what should be there."""
        try:
            super().__init__(path, "rb")
        except OSError as fault:
            raise CheckpointError(f"{path} cannot be read: {fault.strerror}.") from fault
        self.path = path
        self._first = self._stamp()
        self.size: int = self._first[0]
        if cause := stand_in(os.pread(self.fileno(), 512, 0)):
            raise CheckpointError(f"{path} {cause}")

    def read_at(self, offset: int, view: memoryview) -> None:
        """Fill `view` with the bytes from `offset` on. CheckpointError when the file has become shorter."""
        done = 0
        while done < len(view):  # one call may return less than was asked for
            count = os.preadv(self.fileno(), [view[done:]], offset + done)
            if not count:
                raise CheckpointError(f"{self.path} became shorter while it was read. Load it again.")
            done += count

    def check_unchanged(self) -> None:
        """CheckpointError when the file was written to since it was opened, so that weights may be mixed."""
        if self._stamp() != self._first:
            raise CheckpointError(f"{self.path} was changed while it was read. Load it again.")

    def _stamp(self) -> tuple[int, int]:
        facts = os.fstat(self.fileno())
        return facts.st_size, facts.st_mtime_ns

    def __del__(self) -> None:
        # before FileIO's own finaliser would warn: here the file is meant to live as long as its tensors
        self.close()


def stand_in(start: bytes) -> str | None:
    """What a file is instead of weights or a vocabulary, judged by its first bytes; None when nothing is odd."""
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
    file = WeightsFile(path)
    if file.size > limit:
        raise CheckpointError(f"{path} has {file.size:,} bytes, more than the {limit:,} expected of it.")
    data = bytearray(file.size)
    file.read_at(0, memoryview(data))
    return bytes(data)
