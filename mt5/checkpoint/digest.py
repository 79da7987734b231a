"""What tells one checkpoint from another."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

from mt5.checkpoint.file import File

BLOCK = 1 << 22  # bytes


class Digest:
    """The sha256 of files, one after the other, found when it is called: reading gigabytes takes a while.

    The files are kept open, so that it is that of the files as they were, though others have taken their
    names since.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        """CheckpointError when a file cannot be opened."""
        self._files = [File.open(path) for path in paths]

    def __call__(self) -> str:
        """In hexadecimal. CheckpointError when a file was written to since it was opened."""
        digest = hashlib.sha256()
        for file in self._files:
            for offset in range(0, file.size, BLOCK):
                digest.update(file.read(min(BLOCK, file.size - offset), offset))
            file.check_unchanged()
        return digest.hexdigest()
