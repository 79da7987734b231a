"""A token that the model is asked for now and then, so that its health is known though nobody asks."""

import logging
import math
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from mt5.errors import RankError

if TYPE_CHECKING:
    from mt5.engine import Engine

EVERY_S = 30.0


class Canary:
    """failed: whether the model last met with a fault. One that hangs says so itself: see engine.health."""

    def __init__(self, engine: "Callable[[], AbstractContextManager[Engine]]") -> None:
        self.engine, self.failed = engine, False
        self._asked_at, self._asking = -math.inf, threading.Lock()

    def ask(self) -> None:
        """Ask in the background, unless that was done lately or is not answered yet."""
        if time.monotonic() - self._asked_at < EVERY_S or not self._asking.acquire(blocking=False):
            return
        self._asked_at = time.monotonic()
        threading.Thread(target=self._ask, daemon=True, name="canary").start()

    def _ask(self) -> None:
        try:
            with self.engine() as engine:
                engine.generate([1], max_new_tokens=1)
            self.failed = False
        except RankError:
            pass  # its processes are looked after
        except Exception as fault:
            self.failed = True
            logging.getLogger(__name__).warning("The model failed over a single token: %s", type(fault))
        finally:
            self._asking.release()
