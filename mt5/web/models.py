"""The model that answers, and those that a visitor may put in its place."""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mt5.errors import CheckpointError, PromptError, RankError
from mt5.info import Info
from mt5.web.canary import Canary

if TYPE_CHECKING:
    from mt5.engine import Engine

log = logging.getLogger(__name__)
Opener = Callable[[str], "Engine"]


def allowed(listed: str) -> dict[str, str]:
    """The models of MT5_MODELS, name → path: "small=google/mt5-small, x.nemo"; a path names itself."""
    entries = [entry.strip() for entry in listed.replace("\n", ",").split(",") if entry.strip()]
    pairs = [entry.partition("=") for entry in entries]
    return {name.strip(): path.strip() or name.strip() for name, _, path in pairs}


class OtherModelError(PromptError):
    """What is asked about was written by a model that does not answer any more, `name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"The answer is by {name}; another model answers now. Ask again.")
        self.name = name


class Models:
    """Holds one model. Another of the allowed ones is loaded beside it and then takes its place.

    choices: name → what `opener` opens. chosen: the name of the model that answers, None when it is not one
    of them. loading, failed: names, or None.
    """

    def __init__(
        self, engine: "Engine", choices: Mapping[str, str] | None = None, opener: Opener | None = None
    ) -> None:
        self.choices, self._opener = dict(choices or {}), opener
        if self.choices and engine.info.path not in self.choices.values():
            self.choices = {engine.info.name: engine.info.path, **self.choices}  # it can be had back
        paths = {path: name for name, path in self.choices.items()}
        self.chosen = paths.get(engine.info.path)
        self.loading: str | None = None
        self.failed: str | None = None
        self._engine = engine
        self._lock = threading.Lock()
        self._users: dict[int, int] = {}
        self._canary = Canary(self.engine)
        _hashed(engine)

    @property
    def info(self) -> Info:
        """Facts about the model that answers."""
        return self._engine.info

    def health(self) -> tuple[str, str]:
        """The state of the model that answers, "ready" when it does, and what a person should know."""
        health = self._engine.health
        if health.state in ("ready", "reduced"):
            self._canary.ask()
            if self._canary.failed:
                return "failed", "The model fails over whatever it is asked. Start it again."
        return health.state, health.message

    def close(self) -> None:
        """Refuse new requests, wait for those being answered, and release the model."""
        self._engine.drain()

    @contextmanager
    def engine(self, writer: Info | None = None) -> Iterator["Engine"]:
        """The model that answers, which is not closed before this ends.

        writer: who wrote what is asked about. OtherModelError when another model answers now.
        """
        with self._lock:
            engine = self._engine
            if writer is not None and (writer.path, writer.dtype) != (engine.info.path, engine.info.dtype):
                raise OtherModelError(writer.name)
            self._users[id(engine)] = self._users.get(id(engine), 0) + 1
        try:
            yield engine
        finally:
            with self._lock:
                self._users[id(engine)] -= 1
                idle = not self._users[id(engine)] and engine is not self._engine
            if idle:
                engine.close()

    def choose(self, name: object) -> None:
        """Load another model in the background. PromptError for a name that is not on the list."""
        if not isinstance(name, str) or name not in self.choices or self._opener is None:
            raise PromptError(f"Model {name!r} is not on the list: {', '.join(self.choices)}.")
        with self._lock:
            if self.loading or name == self.chosen:
                return
            self.loading, self.failed = name, None
        threading.Thread(target=self._load, args=(name, self._opener), daemon=True).start()

    def _load(self, name: str, opener: Opener) -> None:
        try:
            engine = opener(self.choices[name])
        except Exception as fault:  # whatever it is, the old model answers on and another can be chosen
            told = isinstance(fault, CheckpointError | RankError)
            log.error("Model %r was not loaded: %s", name, fault if told else type(fault).__name__)
            self.loading, self.failed = None, name
            return
        with self._lock:
            old, self._engine = self._engine, engine
            self.loading, self.chosen = None, name
            idle = not self._users.get(id(old))
        _hashed(engine)
        if idle:
            old.close()


def _hashed(engine: "Engine") -> None:
    """Find the hash of a checkpoint before an export asks for it: that reads the whole file."""
    threading.Thread(target=lambda: engine.info.sha256, daemon=True).start()
