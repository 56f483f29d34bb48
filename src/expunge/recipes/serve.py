"""Serve: GGUF files behind an OpenAI-compatible address, as LM Studio would serve them."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from expunge.errors import at_least
from expunge.files import reported_disk_errors
from expunge.progress import console

KEY = "EXPUNGE_API_KEY"
"""The environment variable a key is taken from."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve GGUF files over an OpenAI-compatible API on this machine."""

    port: int = 1234
    """Port to listen on, LM Studio's by default; 0 takes any that is free and says which."""
    host: str = "127.0.0.1"
    """Address to listen on. Anything else than this machine's own opens the models to the network: give a key then."""
    api_key: str | None = None
    """Who asks must send it as a bearer token; by default EXPUNGE_API_KEY of the environment, and without that nobody must."""
    context: int = 4096
    """Tokens that a question and its answer may take together, unless the model can read only fewer."""
    threads: int | None = None
    """Processor threads for each model; every core, at most 4, by default, and half of them for a model above a gibibyte."""
    max_loaded: int = 2
    """Models in memory at most: the one that was not asked for longest makes room for the next."""
    log: Path | None = None
    """A folder for llama.cpp's own words."""


class Served(NamedTuple):
    """A server that listens."""

    url: str
    """The base URL for clients."""
    models: list[str]
    """What may be asked for."""


@contextmanager
def serving(place: Path, config: ServeConfig) -> Iterator[Served]:
    """Listen while the block runs; for programs that bring their own reason to end.

    Raises:
        ExpungeError: no file that can be served, a broken one, a missing package, or a port that is taken.
    """
    from expunge.deploy.api_server import ApiServer
    from expunge.deploy.chat_api import is_loopback
    from expunge.deploy.model_files import find_files
    from expunge.deploy.model_pool import ModelPool
    from expunge.deploy.parts import SERVER, require

    at_least(0, port=config.port)
    at_least(1, context=config.context, threads=config.threads, max_loaded=config.max_loaded)
    require(SERVER)
    files, broken = find_files(place)
    for error in broken:
        console.print(f"! left out: {error}", soft_wrap=True, markup=False)
    key = config.api_key or os.environ.get(KEY) or None
    if not is_loopback(config.host) and key is None:
        console.print(f"! {config.host} can be reached from the network, and no --api_key is asked for", markup=False)
    if config.log is not None:
        with reported_disk_errors(config.log):
            config.log.mkdir(parents=True, exist_ok=True)
    pool = ModelPool(files, most=config.max_loaded, threads=config.threads, context=config.context, log=config.log)
    with pool, ApiServer(pool, host=config.host, port=config.port, key=key) as server:
        if len(files) == 1:
            # What cannot be loaded is said now, not to the first who asks.
            with pool.lease(next(iter(files))):
                pass
        yield Served(server.url, list(files))


def serve(place: Path, config: ServeConfig, ready: Callable[[Served], None]) -> None:
    """Serve until Ctrl-C or a polite end (SIGTERM); `ready` is told when questions may come.

    Raises:
        ExpungeError: as `serving`.
    """

    def end(signal_: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        with serving(place, config) as served:
            ready(served)
            threading.Event().wait()
    except KeyboardInterrupt:
        pass  # That is how a server ends.
    finally:
        signal.signal(signal.SIGTERM, before)
