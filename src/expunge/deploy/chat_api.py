"""A client of OpenAI-compatible chat servers: llama.cpp's, and any other that answers `/v1/chat/completions`.

The standard library does what is needed here: one kind of request, answered whole.
"""

from __future__ import annotations

import http.client
import ipaddress
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from expunge.errors import ExpungeError

# Full, busy or still loading: worth asking again. Everything else is the request's fault.
_PASSING = (408, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0
# The likeliest token always, whatever sampling the model's file recommends, and the text as the model wrote it: what
# stands in a chain of thought or looks like a tool call has leaked as well.
_GREEDY = {"temperature": 0, "top_k": 1, "repeat_penalty": 1.0, "seed": 0, "reasoning_format": "none"}


class Answer(NamedTuple):
    """What the model said to one prompt."""

    text: str
    prompt_tokens: int
    tokens: int
    """Length of the answer, with the token that ended it."""
    complete: bool
    """Whether the model ended by itself, not by `max_tokens`."""


class RefusedError(ExpungeError):
    """The server found fault with the request itself."""

    @property
    def too_long(self) -> bool:
        """Whether the question and its answer do not fit the model's context: every server says so in words of its own."""
        return "context" in self.what


def is_loopback(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class ChatApi:
    """One server, which may be asked from several threads.

    Args:
        url: where it listens, such as `http://localhost:1234/v1`.
        key: sent as a bearer token.
        model: which of the server's models.
        timeout: seconds to wait for one whole answer.
        tries: how often a question is asked while the server is down, full, or answers in halves.
        patient: ask again too where no answer came within `timeout`.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        model: str | None = None,
        timeout: float = 600,
        tries: int = 4,
        patient: bool = False,
    ) -> None:
        try:
            scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
        except ValueError:
            scheme, host = "", None
        if scheme not in ("http", "https") or not host:
            raise ExpungeError(f'"{url}" is no http address', remedy="give one such as http://localhost:1234/v1")
        self.url, self._key, self._model, self._timeout, self._tries = url.rstrip("/"), key, model, timeout, tries
        self._patient = patient
        # A proxy of the surroundings cannot know our own machine.
        own = [urllib.request.ProxyHandler({})] if is_loopback(host) else []
        self._opener = urllib.request.build_opener(*own)
        self._format = 0

    def models(self) -> list[str] | None:
        """The names of the server's models; None if it does not tell.

        Raises:
            ExpungeError: the server cannot be reached, or does not let us in.
        """
        try:
            return [str(model["id"]) for model in self._request("/models", None)["data"]]
        except (KeyError, TypeError):
            return None
        except ExpungeError as error:
            # Servers need not have the list. One that is down, or full, is as bad here as later.
            if "HTTP 404" in error.what or "HTTP 405" in error.what:
                return None
            raise

    def answer(self, prompt: str, *, max_tokens: int) -> Answer:
        """The likeliest answer to one user message, put into the model's own chat template by the server.

        Raises:
            ExpungeError: the server cannot be reached, refuses the question, or answers nonsense, also when asked again.
        """
        body: dict[str, Any] = {"messages": [{"role": "user", "content": prompt}], "max_tokens": max_tokens, **_GREEDY}
        # Sharing what two prompts have in common would make an answer depend on the question before it.
        body["cache_prompt"] = False
        return self._answer(body)

    def write(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        schema: Mapping[str, Any] | None = None,
    ) -> Answer:
        """A sampled answer to a conversation, asked with nothing but the fields that every such server knows.

        Args:
            messages: `{"role": …, "content": …}` each.
            max_tokens: most tokens of the answer.
            temperature: 0 for the likeliest words, 1 for the model's own distribution.
            seed: of the sampling, where the server heeds it.
            schema: JSON schema to hold the answer to. A server that refuses schemas is asked for any JSON, one that refuses
                that for nothing in particular: check the answer.

        Raises:
            ExpungeError: as `answer`.
        """
        body = {"messages": list(messages), "max_tokens": max_tokens, "temperature": temperature, "seed": seed}
        if schema is None:
            return self._answer(body)
        formats: tuple[dict[str, Any], ...] = (
            {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}},
            {"type": "json_object"},
            {"type": "text"},
        )
        for level in range(self._format, len(formats)):
            try:
                answer = self._answer(body | {"response_format": formats[level]})
            except RefusedError:
                if level == len(formats) - 1:
                    raise
                continue
            # Only what was answered says that the format was at fault, and not the question.
            self._format = level
            return answer
        raise AssertionError("there is always a last format")

    def _answer(self, body: dict[str, Any]) -> Answer:
        reply = self._request("/chat/completions", body if self._model is None else body | {"model": self._model})
        try:
            choice, usage = reply["choices"][0], reply.get("usage") or {}
            return Answer(
                text=choice["message"]["content"] or "",
                prompt_tokens=int(usage.get("prompt_tokens", 0)),
                tokens=int(usage.get("completion_tokens", 0)),
                complete=choice.get("finish_reason") != "length",
            )
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ExpungeError("gave no answer in its reply", where=self.url, remedy="is it a chat server?") from None

    def _request(self, path: str, body: dict[str, Any] | None) -> Any:
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, content, {"Content-Type": "application/json"})
        if self._key:
            # Wherever the server sends us on to is not told the key.
            request.add_unredirected_header("Authorization", f"Bearer {self._key}")
        problem, wait, kind = "", 0.0, ExpungeError
        for attempt in range(self._tries):
            if attempt:
                time.sleep(max(wait, 0.5 * 2 ** (attempt - 1)))
            try:
                with self._opener.open(request, timeout=self._timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                problem, wait = f"HTTP {error.code}: {_message(error)}", _wait_asked_for(error)
                if error.code not in _PASSING:
                    kind = RefusedError if error.code in (400, 422) else ExpungeError
                    break
            except TimeoutError:
                problem = f"no answer within {self._timeout:.0f} s"
                if not self._patient:
                    break
            except (OSError, http.client.HTTPException) as error:
                # urllib wraps what went wrong below it.
                problem = str(getattr(error, "reason", None) or error or type(error).__name__)
            except ValueError:
                problem = "its reply is no whole JSON"
        if self._key:
            problem = problem.replace(self._key, "…")
        raise kind(f"cannot be asked ({problem})", where=self.url, remedy="check the server and the request")


def _wait_asked_for(error: urllib.error.HTTPError) -> float:
    """Seconds until a full server wants to be asked again, as far as it says so."""
    said = error.headers.get("Retry-After", "")
    return min(float(said), _LONGEST_WAIT) if said.isdecimal() else 0.0


def _message(error: urllib.error.HTTPError) -> str:
    """The server's own words in an error reply."""
    try:
        found = json.loads(error.read())["error"]
        return str(found["message"] if isinstance(found, dict) else found)[:200]
    except (OSError, ValueError, KeyError, TypeError):
        return str(error.reason)
