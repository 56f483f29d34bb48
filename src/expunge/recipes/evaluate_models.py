"""Who is asked in an evaluation, and how: weights, a GGUF file, or a server. Every answer is kept as soon as it comes."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from expunge.errors import ExpungeError
from expunge.files import fingerprint, sha256
from expunge.progress import Bar, progress

if TYPE_CHECKING:
    from expunge.deploy.chat_api import ChatApi
    from expunge.evidence import EvidenceStore
    from expunge.examples import Example

_Item = TypeVar("_Item")

UNASKED = "unasked"
"""The part of a record that says why a question could not be asked."""


class Model(Protocol):
    """Something that answers questions."""

    @property
    def fingerprint(self) -> str:
        """Stands for its weights, as far as they are known."""

    def answer(self, examples: Sequence[Example], store: EvidenceStore, max_tokens: int, bar: Bar) -> None:
        """Put the greedy answer to each question into the store, unless it is there."""


def record(name: str, model: Model, examples: Sequence[Example], place: Path, max_tokens: int) -> EvidenceStore:
    """Ask a model what it has not been asked yet.

    Raises:
        ExpungeError: it cannot be asked, or not any more; what it has answered is kept.
    """
    from expunge.evidence import EvidenceStore

    store = EvidenceStore(place / f"{model.fingerprint[:16]}-{max_tokens}.jsonl")
    with progress(f"Asking {name}", len(examples)) as bar:
        model.answer(examples, store, max_tokens, bar)
    return store


def open_model(name: str, threads: int | None) -> Model:
    """A GGUF file, or whatever else a model's name may be.

    Raises:
        ExpungeError: there is no such model, or it cannot be read.
    """
    if name.endswith(".gguf"):
        from expunge.deploy.gguf_file import read_gguf

        read_gguf(Path(name))
        return GgufFile(Path(name), sha256(Path(name)), threads)
    from expunge.models import check_readable, model_fingerprint

    check_readable(name)
    return Weights(name, model_fingerprint(name), threads)


def open_server(url: str, model: str | None, key: str | None, *, timeout: float, concurrency: int) -> Model:
    """A model behind an OpenAI-compatible address.

    Raises:
        ExpungeError: the server is down, or has no model of that name.
    """
    from expunge.deploy.chat_api import ChatApi
    from expunge.errors import suggestion

    key = key or os.environ.get("OPENAI_API_KEY")
    # A quick look at what there is, before minutes of questions.
    names = ChatApi(url, key=key, timeout=min(timeout, 20), tries=3).models()
    if names is not None:
        if model is None and len(names) != 1:
            what = f"has {len(names)} models" if names else "has no model loaded"
            remedy = f"give --lmstudio-model: {', '.join(names[:8])}" if names else "load one"
            raise ExpungeError(what, where=url, remedy=remedy)
        if model is not None and model not in names:
            raise ExpungeError(f'has no model called "{model}"', where=url, remedy=suggestion(model, names))
    api = ChatApi(url, key=key, model=model or (names[0] if names else None), timeout=timeout, patient=True)
    return Server(api, fingerprint(["server", model or names]), concurrency)


@dataclass(frozen=True)
class Weights:
    """A merged model or an adapter, loaded here."""

    name: str
    fingerprint: str
    threads: int | None

    def answer(self, examples: Sequence[Example], store: EvidenceStore, max_tokens: int, bar: Bar) -> None:
        """In batches; what is recorded takes no time."""
        from expunge.evidence import Unanswered, record_answers
        from expunge.models import load_plain, load_tokenizer, prepare_cpu

        if store.has([example.id for example in examples], "generated"):
            bar.advance(len(examples))
            return
        prepare_cpu(self.threads)
        record_answers(load_plain(self.name), load_tokenizer(self.name), [Unanswered(examples, store, max_tokens)], bar=bar)


@dataclass(frozen=True)
class GgufFile:
    """A file, loaded in llama.cpp."""

    path: Path
    fingerprint: str
    threads: int | None

    def answer(self, examples: Sequence[Example], store: EvidenceStore, max_tokens: int, bar: Bar) -> None:
        """One question at a time for each copy of the server."""
        from expunge.deploy.llama_cpp import LlamaServer

        waiting = _waiting(examples, store, bar)
        if not waiting:
            return
        longest = max(len(str(example.prompt)) for example in waiting)
        with LlamaServer(self.path, threads=self.threads, context=max(1024, max_tokens + longest + 64)) as server:
            answers = server.ask([str(example.prompt) for example in waiting], max_tokens=max_tokens)
            for example, answer in zip(waiting, answers, strict=True):
                store.add(example.id, generated=answer.text.strip(), whole=answer.complete)
                bar.advance()


@dataclass(frozen=True)
class Server:
    """A model that is served elsewhere. Whose weights answer, only the server knows."""

    api: ChatApi
    fingerprint: str
    concurrency: int

    def answer(self, examples: Sequence[Example], store: EvidenceStore, max_tokens: int, bar: Bar) -> None:
        """Several questions at once. One that does not fit the model's context is passed over; any other error ends it."""
        from expunge.deploy.chat_api import RefusedError

        lock = threading.Lock()

        def ask(example: Example) -> None:
            try:
                answer = self.api.answer(str(example.prompt), max_tokens=max_tokens)
                found: dict[str, Any] = {"generated": answer.text.strip(), "whole": answer.complete}
            except RefusedError as error:
                if not error.too_long:
                    raise
                found = {UNASKED: error.what}
            # Kept by whoever asked: an answer that was on its way when another question failed is not lost.
            with lock:
                store.add(example.id, **found)

        try:
            together(ask, _waiting(examples, store, bar), self.concurrency, bar)
        except ExpungeError as error:
            if error.where != self.api.url:
                raise
            remedy = "check the server; the same command then asks only what is missing"
            raise ExpungeError(error.what, where=self.api.url, remedy=remedy) from None


def together(call: Callable[[_Item], None], items: Iterable[_Item], concurrency: int, bar: Bar) -> None:
    """Call for every item, so many at once. The first error ends it, after the calls that are on their way."""
    with ThreadPoolExecutor(concurrency, thread_name_prefix="ask") as pool:
        try:
            for done in as_completed([pool.submit(call, item) for item in items]):
                done.result()
                bar.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _waiting(examples: Sequence[Example], store: EvidenceStore, bar: Bar) -> list[Example]:
    waiting = [each for each in examples if (each.id, "generated") not in store and (each.id, UNASKED) not in store]
    bar.advance(len(examples) - len(waiting))
    return waiting
