"""How much uploaded files may take together; the oldest make room."""

import os
import tempfile
from pathlib import Path

MOST = 500 << 20  # bytes
LOOK = 10 << 20  # bytes that may come before it is looked again


class Quota:
    """Uploaded files in a folder. Their ages are those of their last change."""

    def __init__(self, folder: Path | None = None, most: int | None = None, look: int | None = None) -> None:
        own = os.environ.get("GRADIO_TEMP_DIR") or Path(tempfile.gettempdir()) / "gradio"
        self.folder, self.most, self.look = folder or Path(own), most or MOST, look or LOOK
        self._since = self.look

    def add(self, size: int) -> None:
        """So many bytes came: remove the oldest files when all of them are too many."""
        self._since += size
        if self._since >= self.look:
            self._since = 0
            self._sweep()

    def _sweep(self) -> None:
        found = []
        for root, _, names in os.walk(self.folder):
            for name in names:
                path = Path(root) / name
                try:
                    facts = path.lstat()
                except OSError:  # another has removed it
                    continue
                found.append((facts.st_mtime, facts.st_size, path))
        total = sum(size for _, size, _ in found)
        for _, size, path in sorted(found):
            if total <= self.most - self.look:
                return
            path.unlink(missing_ok=True)
            total -= size
