"""Chat: put prompts to one model, or to two side by side, by hand or from a file."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from expunge.errors import ExpungeError, at_least

if TYPE_CHECKING:
    from expunge.deploy.chat_api import ChatApi

_CONTEXT = 2048
"""Tokens left for a prompt, if the model can read so many."""
_LEAVE = ("/quit", "/exit", "/bye")


@dataclass(frozen=True, kw_only=True)
class ChatConfig:
    """Try prompts on a model, or on two side by side."""

    prompt: tuple[str, ...] = ()
    """Ask this and end; may be given several times. Without it, prompts are read from the terminal or from standard input."""
    max_tokens: int = 256
    """Tokens of an answer at most."""
    temperature: float = 0.0
    """0 for the likeliest answer, which is the same every time; 1 draws from the model as it is."""
    seed: int = 42
    """Of what is drawn."""
    api_key: str | None = None
    """For a model behind an address; by default OPENAI_API_KEY of the environment."""
    threads: int | None = None
    """Processor threads; every core by default."""


class Exchange(NamedTuple):
    """One prompt and what each model said to it."""

    prompt: str
    answers: dict[str, str]
    """By model, as it was named."""


Answering = Callable[[str], str]


def chat(models: Sequence[str], config: ChatConfig, prompts: Iterable[str] | None = None) -> Iterator[Exchange]:
    """Put each prompt to every model, on its own: what was said before does not colour the next answer.

    Args:
        models: one or two, each a model's name as elsewhere, a GGUF file, or the address of a server (`…/v1`, or `…/v1#name`
            where it has several models).
        config: how they are asked.
        prompts: asked one by one as they come; by default those of the config.

    Raises:
        ExpungeError: a model that is not there or broken, a server that cannot be asked, or a prompt that is too long.
    """
    at_least(1, max_tokens=config.max_tokens, threads=config.threads)
    at_least(0, temperature=config.temperature, seed=config.seed)
    names = [str(model) for model in models]
    if len(set(names)) < len(names):
        raise ExpungeError(f'"{names[0]}" is named twice', remedy="name two models, or one")
    for name in names:
        _check(name)
    with ExitStack() as stack:
        answering: Mapping[str, Answering] = {name: stack.enter_context(_answering(name, config)) for name in names}
        for prompt in config.prompt if prompts is None else prompts:
            yield Exchange(prompt, {name: answer(prompt) for name, answer in answering.items()})


def typed(show: Callable[[], str]) -> Iterator[str]:
    """Prompts as somebody types them, until the end of input or `/quit`.

    Args:
        show: reads one line after inviting it; raises EOFError at the end.
    """
    while True:
        try:
            line = show().strip()
        except EOFError:
            return
        if line in _LEAVE:
            return
        if line:
            yield line


def read_prompts() -> Iterator[str]:
    """Prompts from standard input: a line each, as plain text or as JSON with `prompt`."""
    for number, line in enumerate(sys.stdin, 1):
        words = line.strip()
        if words.startswith("{"):
            try:
                words = json.loads(words)["prompt"]
            except (ValueError, KeyError, TypeError):
                what = 'is neither plain text nor JSON with "prompt"'
                raise ExpungeError(what, where="standard input", line=number, remedy="mend the line") from None
        if words:
            yield str(words)


def _check(name: str) -> None:
    """Whatever is wrong with a model is said before another is loaded."""
    if _is_url(name):
        return
    if _is_gguf(name):
        from expunge.deploy.gguf_file import read_gguf
        from expunge.deploy.parts import SERVER, require

        require(SERVER)
        read_gguf(Path(name))
        return
    from expunge.models import check_readable

    check_readable(name)


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _is_gguf(name: str) -> bool:
    return name.endswith(".gguf") or Path(name).is_file()


@contextmanager
def _answering(name: str, config: ChatConfig) -> Iterator[Answering]:
    """What answers a prompt as this model does."""
    if _is_url(name):
        from expunge.deploy.chat_api import ChatApi

        address, _, model = name.partition("#")
        key = config.api_key or os.environ.get("OPENAI_API_KEY")
        api = ChatApi(address, key=key, model=model or None)
        names = api.models()
        if not model and names is not None and len(names) != 1:
            what = f"has several models ({', '.join(names)})" if names else "has no model"
            raise ExpungeError(what, where=address, remedy=f"name one: {address}#{names[0]}" if names else "load one there")
        yield _over(api if model or not names else ChatApi(address, key=key, model=names[0]), config)
    elif _is_gguf(name):
        from expunge.deploy.gguf_file import read_gguf
        from expunge.deploy.llama_cpp import LlamaServer

        longest = read_gguf(Path(name)).longest_context or _CONTEXT
        context = min(config.max_tokens + _CONTEXT, longest)
        with LlamaServer(Path(name), threads=config.threads, context=context) as server:
            yield _over(server.api, config)
    else:
        yield _loaded(name, config)


def _over(api: ChatApi, config: ChatConfig) -> Answering:
    def answer(prompt: str) -> str:
        messages = [{"role": "user", "content": prompt}]
        said = api.write(messages, max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed)
        return said.text.strip()

    return answer


def _loaded(name: str, config: ChatConfig) -> Answering:
    from expunge.batching import prompt_tokens
    from expunge.evidence import end_tokens, generate
    from expunge.evidence.generation import Sampling
    from expunge.models import load_plain, load_tokenizer, prepare_cpu

    prepare_cpu(config.threads)
    tokenizer, model = load_tokenizer(name), load_plain(name)
    ends = end_tokens(model, tokenizer)
    sampling = Sampling([config.seed], config.temperature) if config.temperature else None

    def answer(prompt: str) -> str:
        ids = prompt_tokens(prompt, tokenizer)
        (said,) = generate(model, [ids], max_new_tokens=config.max_tokens, ends=ends, sampling=sampling)
        return str(tokenizer.decode(said, skip_special_tokens=True)).strip()

    return answer
