"""Load a GGUF file in llama.cpp and ask it questions, as whoever downloads it would.

How, and why (measured on two cores shared with other work, 16 questions of 90 tokens answered in 80, 135M weights, q4_k_m):

    1 server of 1 thread, one question at a time     24 s of processor time
    1 server of 1 thread, 4 or 8 questions at once   19 s; only 1 and 8 of 16 answers the same as before
    2 servers of 1 thread                            24 s, in half the time when both cores are free; the same answers
    1 server of 2 threads, 4 questions at once       320 s on the clock: the threads wait for each other in a loop

So small models are served by several independent copies (the weights are mapped from one file), each with one thread and
one question, and the answers depend on nothing but the file and the question.
"""

from __future__ import annotations

import json
import queue
import secrets
import selectors
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from expunge.deploy.chat_api import Answer, ChatApi, RefusedError
from expunge.deploy.gguf_file import read_gguf
from expunge.deploy.parts import SERVER, require
from expunge.errors import ExpungeError, at_least
from expunge.processes import cores

# Above this size several copies would crowd each other out of the caches: one copy with several threads is quicker.
_SMALL_BYTES = 1 << 30
_SECONDS_TO_LOAD = 600.0


class LlamaServer:
    """llama.cpp with one model, in a process of its own, reachable from this machine alone and with a key.

    Use it as a context manager: `with LlamaServer(path) as server: answers = list(server.ask(prompts, max_tokens=80))`.

    Args:
        path: the GGUF file.
        threads: processor threads in all; by default every core, at most 4, for a small model, and half the cores for
            one above a gibibyte.
        context: tokens that a question and its answer may take together.
        timeout: seconds to wait for one answer.
        name: what it calls the model in its replies.
        parsed: whether it reads its own answers: needed for `response_format` and tools, and chains of thought are then set
            apart. By default an answer is what the model wrote, whole.
        log: where llama.cpp's own words go; by default nowhere that stays.
    """

    def __init__(
        self,
        path: Path,
        *,
        threads: int | None = None,
        context: int = 1024,
        timeout: float = 600,
        name: str | None = None,
        parsed: bool = False,
        log: Path | None = None,
    ) -> None:
        at_least(1, threads=threads)
        self.path, self._context, self._timeout, self._log_path = path, context, timeout, log
        self._threads, self._name, self._parsed = threads, name or path.stem, parsed
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None
        self._apis: list[ChatApi] = []
        self.key = secrets.token_hex(16)
        """Lets whoever knows it ask over `copies`."""

    @property
    def copies(self) -> list[str]:
        """The OpenAI-compatible address of each copy of the model, while it runs."""
        return [api.url for api in self._apis]

    @property
    def address(self) -> str:
        """That of the first copy."""
        return self.copies[0]

    def __enter__(self) -> Self:
        """Load the file and wait until it can be asked.

        Raises:
            ExpungeError: xllamacpp is missing, or the file is no GGUF file, truncated, or cannot be loaded.
        """
        require(SERVER)
        size = read_gguf(self.path).bytes
        small = size < _SMALL_BYTES
        threads = self._threads or (min(cores(), 4) if small else max(1, cores() // 2))
        servers = threads if small else 1
        settings = {
            "path": str(self.path.absolute()),
            "name": self._name,
            "servers": servers,
            "threads": threads // servers,
            "context": self._context,
            "key": self.key,
            "parsed": self._parsed,
        }
        self._log = self._log_path.open("wb+") if self._log_path else tempfile.TemporaryFile()
        # A session of its own: Ctrl-C is for the program that asks, which then closes the pipe.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "expunge.deploy.server_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            start_new_session=True,
        )
        try:
            addresses = self._start(self._process, settings)
        except BaseException:
            self.close()
            raise
        self._apis = [ChatApi(f"{address}/v1", key=self.key, timeout=self._timeout) for address in addresses]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self.close()

    @property
    def api(self) -> ChatApi:
        """One copy of the model, to be asked directly."""
        return self._apis[0]

    @property
    def running(self) -> bool:
        """Whether llama.cpp is there to be asked."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """End llama.cpp and give its memory back."""
        process, self._process, self._apis = self._process, None, []
        if process is not None:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._log is not None:
            self._log.close()
            self._log = None

    def ask(self, prompts: Sequence[str], *, max_tokens: int) -> Iterator[Answer]:
        """The answers, in the order of the prompts, each as soon as it and all before it are there.

        Greedy, each prompt as one user message in the model's own chat template. The same file and prompt give the same
        answer, whatever else is asked and however many threads there are (of a small model).

        Raises:
            ExpungeError: a prompt and its answer do not fit the context, or llama.cpp ended.
        """
        free: queue.SimpleQueue[ChatApi] = queue.SimpleQueue()
        for api in self._apis:
            free.put(api)

        def answer(prompt: str) -> Answer:
            api = free.get()
            try:
                return api.answer(prompt, max_tokens=max_tokens)
            finally:
                free.put(api)

        pool = ThreadPoolExecutor(len(self._apis), thread_name_prefix="ask")
        try:
            yield from pool.map(answer, prompts)
        except ExpungeError as error:
            raise self._explained(error) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _start(self, process: subprocess.Popen[bytes], settings: dict[str, object]) -> list[str]:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            process.stdin.write(json.dumps(settings).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            pass  # It ended at once; its log says why.
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            ready = selector.select(_SECONDS_TO_LOAD)
        line = process.stdout.readline() if ready else b""
        if not line:
            raise ExpungeError(
                f"llama.cpp cannot load it ({self._last_words()})", where=self.path, remedy="make the file again"
            )
        addresses: list[str] = json.loads(line)
        return addresses

    def _explained(self, error: ExpungeError) -> ExpungeError:
        """Put the file in the place of an address that nobody outside knows."""
        if not self.running:
            what = f"llama.cpp ended while it was asked ({self._last_words()})"
            return ExpungeError(what, where=self.path, remedy="run the command again: it continues")
        too_long = isinstance(error, RefusedError) and error.too_long
        remedy = "shorten the prompt, or ask for fewer tokens" if too_long else "run the command again: it continues"
        return ExpungeError(error.what, where=self.path, remedy=remedy)

    def _last_words(self) -> str:
        """The first error of llama.cpp's log, which names the cause; the later ones only pass it on."""
        if self._log is None:
            return "no log"
        self._log.seek(0)
        lines = self._log.read().decode("utf-8", "replace").splitlines()
        errors = [line for line in lines if " E " in line or "error" in line.lower()]
        return (errors or lines or ["it said nothing"])[0].strip()[-200:]
