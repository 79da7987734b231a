"""Memory that many visitors leave behind, free but in pieces: it goes back to the system."""

import ctypes
import math
import threading
import time

EVERY_S = 2.0
ARENA_MAX = -8  # of glibc's malloc.h
LIBRARY = ctypes.CDLL(None)


def keep_together() -> None:
    """Let all threads take memory from one heap, where the C library can: of many, each keeps its gaps."""
    if hasattr(LIBRARY, "mallopt"):
        LIBRARY.mallopt(ARENA_MAX, 1)


class Returned:
    """Hands free memory back while requests come; where the C library cannot, nothing is done."""

    def __init__(self) -> None:
        self._trim = getattr(LIBRARY, "malloc_trim", None)  # glibc has it
        self._at = -math.inf

    def now_and_then(self) -> None:
        """Begin to, in the background, when that was not done lately."""
        if self._trim is not None and time.monotonic() - self._at > EVERY_S:
            self._at = time.monotonic()
            threading.Thread(target=self._trim, args=(0,), daemon=True, name="memory").start()
