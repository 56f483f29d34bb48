"""Several GGUF files behind one door: loaded when they are asked for, a few at a time, one question each."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from expunge.deploy.llama_cpp import LlamaServer
from expunge.deploy.model_files import ModelFile
from expunge.errors import ExpungeError

_NO_CONTEXT_SAID = 4096


class Lease(NamedTuple):
    """The right to ask one copy of a model one question."""

    address: str
    key: str


class _Loaded:
    """One model, loaded or being loaded."""

    def __init__(self, server: LlamaServer) -> None:
        self.server, self.ready = server, False
        self.free: list[str] = []
        self.asked = 0
        """Questions that are being answered."""
        self.used = time.monotonic()


class ModelPool:
    """The models of a folder, of which at most `most` are in memory; a context manager, which unloads them all.

    Each is loaded when it is asked for, in the place of the one that was not asked for longest. Small models come in several
    copies, each of which answers one question at a time (see `llama_cpp.py`): who asks while all are busy waits.

    Args:
        files: by name.
        most: models in memory.
        threads: processor threads for each.
        context: tokens that a question and its answer may take together, if the model can read so many.
        log: a folder for llama.cpp's own words, one file a model.
    """

    def __init__(
        self,
        files: Mapping[str, ModelFile],
        *,
        most: int = 2,
        threads: int | None = None,
        context: int = 4096,
        log: Path | None = None,
    ) -> None:
        self.files, self._most, self._threads, self._context, self._log = dict(files), most, threads, context, log
        self._changed = threading.Condition()
        self._loaded: dict[str, _Loaded] = {}
        self._closed = False

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Unload everything; whoever waits is told so."""
        with self._changed:
            self._closed = True
            servers = [each.server for each in self._loaded.values()]
            self._loaded.clear()
            self._changed.notify_all()
        for server in servers:
            server.close()

    def is_loaded(self, name: str) -> bool:
        """Whether a model can be asked at once."""
        found = self._loaded.get(name)
        return found is not None and found.ready and found.server.running

    def context(self, name: str) -> int:
        """Tokens that a question to this model and its answer may take together."""
        return min(self._context, self.files[name].longest_context or _NO_CONTEXT_SAID)

    @contextmanager
    def lease(self, name: str, *, wanted: Callable[[], bool] = lambda: True) -> Iterator[Lease]:
        """Have a copy of a model to oneself for one question; it is loaded first if need be.

        Args:
            name: one of `files`.
            wanted: asked while one waits; when it says no, waiting ends.

        Raises:
            ExpungeError: it cannot be loaded, nobody wants the answer any more, or the pool was closed.
        """
        model = self._taken(name, wanted)
        address = model.free.pop()
        self._changed.release()
        try:
            yield Lease(address, model.server.key)
        finally:
            with self._changed:
                model.asked -= 1
                model.used = time.monotonic()
                model.free.append(address)
                self._changed.notify_all()

    def _taken(self, name: str, wanted: Callable[[], bool]) -> _Loaded:
        """A model with a free copy, counted as asked. Returns with the lock held."""
        self._changed.acquire()
        try:
            while True:
                if self._closed:
                    raise ExpungeError("the server is stopping", remedy="start it again")
                if not wanted():
                    raise ExpungeError("nobody waits for the answer any more")
                model = self._loaded.get(name)
                if model is not None and model.ready and not model.server.running:
                    # It crashed: whoever comes next has it loaded again.
                    del self._loaded[name]
                    model.server.close()
                elif model is not None and model.free:
                    model.asked += 1
                    return model
                elif model is None and self._has_room():
                    self._load(name)
                else:
                    self._changed.wait(1.0)
        except BaseException:
            self._changed.release()
            raise

    def _has_room(self) -> bool:
        """Whether one more may be loaded; makes room if one of the others is idle. Called with the lock held."""
        if len(self._loaded) < self._most:
            return True
        idle = [(model.used, name) for name, model in self._loaded.items() if model.ready and not model.asked]
        if not idle:
            return False
        # Closed with the lock held: two models more than allowed might not fit into memory.
        self._loaded.pop(min(idle)[1]).server.close()
        return True

    def _load(self, name: str) -> None:
        """Load a model, without the lock, which is held before and after."""
        file = self.files[name]
        log = self._log / f"{name.replace('/', '_')}.log" if self._log else None
        server = LlamaServer(file.path, threads=self._threads, context=self.context(name), name=name, parsed=True, log=log)
        model = self._loaded[name] = _Loaded(server)
        self._changed.release()
        failed = None
        try:
            server.__enter__()
        except BaseException as error:
            failed = error
        self._changed.acquire()
        if failed is not None or self._closed:
            self._loaded.pop(name, None)
            self._changed.notify_all()
            if failed is None:
                server.close()
                raise ExpungeError("the server is stopping", remedy="start it again")
            raise failed
        model.free, model.ready, model.used = server.copies, True, time.monotonic()
        self._changed.notify_all()
