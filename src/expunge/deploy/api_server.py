"""An OpenAI-compatible server for GGUF files that answers as LM Studio's does: what works here works there.

It stands before llama.cpp's own server, which holds one model, knows nothing of LM Studio, and lets every web page ask it.
This one has several models, loads them when they are asked for, gives `/api/v0/models` and the figures of LM Studio's own
interface, and hands everything else on as it comes. Only the standard library is used.

Whoever may reach it, may ask it: it listens on this machine alone unless told otherwise, and a page in a browser on this
machine may not (requests must be JSON and be addressed to this machine, and no page is given permission to read answers).
"""

from __future__ import annotations

import hmac
import http.client
import json
import select
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

from expunge.deploy.chat_api import is_loopback
from expunge.deploy.model_files import ModelFile
from expunge.deploy.model_pool import Lease, ModelPool
from expunge.deploy.parts import SERVER
from expunge.errors import ExpungeError

_LARGEST_BODY = 32 << 20
_SECONDS_TO_ANSWER = 3600.0
_SECONDS_TO_ASK = 60.0
_ASKED = ("chat/completions", "completions")
"""What is handed on to llama.cpp."""
_STOPS = {"stop": "eosFound", "length": "maxPredictedTokensReached", "tool_calls": "toolCalls"}
"""Why an answer ended: in OpenAI's words → in LM Studio's."""


class ApiServer:
    """Serve models until the block ends: `with ApiServer(pool, port=0) as server: … server.url …`.

    Args:
        pool: the models.
        host: address to listen on; anything but this machine's own is open to the network.
        port: 0 for any that is free.
        key: who asks must send it as a bearer token.
    """

    def __init__(self, pool: ModelPool, *, host: str = "127.0.0.1", port: int = 1234, key: str | None = None) -> None:
        self._pool, self._host, self._port, self._key = pool, host, port, key
        self._server: _Server | None = None

    @property
    def url(self) -> str:
        """What a client is given as base URL."""
        assert self._server is not None
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._server.server_port}/v1"

    def __enter__(self) -> Self:
        """Begin to listen.

        Raises:
            ExpungeError: the port is taken, or there is no such address here.
        """
        place = f"{self._host}:{self._port}"
        try:
            self._server = _Server((self._host, self._port), self._pool, self._key, loopback=is_loopback(self._host))
        except (OSError, OverflowError) as error:
            words = error.strerror if isinstance(error, OSError) else error
            remedy = "choose another --port (0 takes any that is free), or end what listens there"
            raise ExpungeError(f"cannot listen there ({words})", where=place, remedy=remedy) from None
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop listening; answers on their way are broken off."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    # Who waits in line is not turned away.
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], pool: ModelPool, key: str | None, *, loopback: bool) -> None:
        self.pool, self.key, self.loopback = pool, key, loopback
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without asking the network for this machine's name, which may take for ever."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no error of ours."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _RefusedError(Exception):
    """What is answered instead of an answer."""

    def __init__(self, status: int, message: str, *, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        kind = "invalid_request_error" if status < 500 else "server_error"
        self.status, self.body = status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "expunge", ""
    timeout = _SECONDS_TO_ASK
    server: _Server
    begun = False
    """Whether an answer is on its way, so that no other can be given."""

    def do_GET(self) -> None:
        self._answer_or_refuse(self._get)

    def do_POST(self) -> None:
        self._answer_or_refuse(self._post)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: who asked what is nobody's business."""

    def _answer_or_refuse(self, answer: Any) -> None:
        self.begun = False
        try:
            self._check_sender()
            answer()
        except _RefusedError as refused:
            # Whatever of the request was not read must not be taken for the next one.
            self.close_connection = True
            self._send(refused.status, refused.body)
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close_connection = True
            if not self.begun and not _is_gone(self.connection):
                what = f"llama.cpp ended while it was asked ({error or type(error).__name__}); ask again"
                self._send(502, _RefusedError(502, what).body)

    def _check_sender(self) -> None:
        try:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        except ValueError:
            host = ""
        # A page of another site may have its name point at this machine.
        if self.server.loopback and not is_loopback(host):
            raise _RefusedError(403, "this server is addressed as localhost or 127.0.0.1 alone")
        said = self.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        if self.server.key and not hmac.compare_digest(said, self.server.key.encode()):
            raise _RefusedError(
                401, "the key is missing or wrong: send it as Authorization: Bearer KEY", code="invalid_api_key"
            )

    def _get(self) -> None:
        path = unquote(urlsplit(self.path).path).rstrip("/")
        files = self.server.pool.files
        for prefix, entry in (("/v1/models", self._openai_entry), ("/api/v0/models", self._lmstudio_entry)):
            if path == prefix:
                return self._send(200, {"object": "list", "data": [entry(file) for file in files.values()]})
            if path.startswith(f"{prefix}/"):
                return self._send(200, entry(files[self._name(path[len(prefix) + 1 :])]))
        if path in ("", "/health"):
            return self._send(200, {"status": "ok"})
        raise _RefusedError(404, f"there is nothing at {path}")

    def _post(self) -> None:
        path = urlsplit(self.path).path.rstrip("/")
        for prefix in ("/v1/", "/api/v0/"):
            if path.startswith(prefix) and path.removeprefix(prefix) in _ASKED:
                body = self._body()
                name = self._name(body.get("model"))
                asked = path.removeprefix(prefix)
                return self._ask(name, asked, body | {"model": name}, figures=prefix == "/api/v0/")
        raise _RefusedError(404, f"nothing can be sent to {path}")

    def _body(self) -> dict[str, Any]:
        """The request, as JSON: a form of a web page, which a browser would send without asking, is none."""
        if self.headers.get_content_type() != "application/json":
            raise _RefusedError(415, "send the request as Content-Type: application/json")
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _RefusedError(411, "say how long the request is (Content-Length)")
        if int(length) > _LARGEST_BODY:
            raise _RefusedError(413, f"the request is larger than {_LARGEST_BODY >> 20} MiB")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except TimeoutError:
            raise _RefusedError(408, "the request did not arrive whole") from None
        except (ValueError, RecursionError):
            raise _RefusedError(400, "the request is no whole JSON") from None
        if not isinstance(body, dict):
            raise _RefusedError(400, "the request must be a JSON object")
        return body

    def _name(self, asked: Any) -> str:
        """Which model is meant: names are looked up, and never become paths."""
        files = self.server.pool.files
        if asked in (None, "") and len(files) == 1:
            return next(iter(files))
        if not isinstance(asked, str) or not asked:
            raise _RefusedError(400, f"say which model is asked: {', '.join(files)}", param="model")
        if asked in files:
            return asked
        wanted = asked.lower().removesuffix(".gguf")
        for name in files:
            if name.lower() == wanted:
                return name
        what = f'there is no model "{asked[:100]}" here: choose from {", ".join(files)}'
        raise _RefusedError(404, what, code="model_not_found", param="model")

    def _ask(self, name: str, path: str, body: Mapping[str, Any], *, figures: bool) -> None:
        waiting = self.connection
        try:
            with self.server.pool.lease(name, wanted=lambda: not _is_gone(waiting)) as lease:
                upstream = _asked(lease, path, body)
                try:
                    self._hand_on(upstream, name, figures=figures)
                finally:
                    # llama.cpp stops working on an answer when the connection is closed.
                    upstream.close()
        except ExpungeError as error:
            remedy = f": {error.remedy}" if error.remedy else ""
            raise _RefusedError(503, f"{name} {error.what}{remedy}") from None

    def _hand_on(self, upstream: http.client.HTTPConnection, name: str, *, figures: bool) -> None:
        started = time.monotonic()
        _wait_for(upstream, self.connection)
        reply = upstream.getresponse()
        kind = reply.headers.get_content_type()
        if kind == "text/event-stream":
            self.begun = True
            self.send_response(reply.status)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Cache-Control", "no-cache")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            while part := reply.read1(1 << 16):
                self.wfile.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
            self.wfile.write(b"0\r\n\r\n")
            return
        found = json.loads(reply.read())
        if figures and reply.status == 200:
            found |= _figures(found, self.server.pool, name, time.monotonic() - started)
        self._send(reply.status, found)

    def _send(self, status: int, value: Any) -> None:
        content = json.dumps(value, ensure_ascii=False).encode()
        self.begun = True
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _openai_entry(self, file: ModelFile) -> dict[str, Any]:
        return {"id": file.id, "object": "model", "created": file.created, "owned_by": file.publisher}

    def _lmstudio_entry(self, file: ModelFile) -> dict[str, Any]:
        pool = self.server.pool
        is_loaded = pool.is_loaded(file.id)
        return {
            "id": file.id,
            "object": "model",
            "type": "llm",
            "publisher": file.publisher,
            "arch": file.arch,
            "compatibility_type": "gguf",
            "quantization": file.quantization,
            "state": "loaded" if is_loaded else "not-loaded",
            "max_context_length": file.longest_context,
        } | ({"loaded_context_length": pool.context(file.id)} if is_loaded else {})


def _asked(lease: Lease, path: str, body: Mapping[str, Any]) -> http.client.HTTPConnection:
    where = urlsplit(lease.address)
    connection = http.client.HTTPConnection(str(where.hostname), where.port, timeout=_SECONDS_TO_ANSWER)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {lease.key}"}
    connection.request("POST", f"{where.path}/{path}", json.dumps(body).encode(), headers)
    return connection


def _wait_for(upstream: http.client.HTTPConnection, client: socket.socket) -> None:
    """Return when llama.cpp answers.

    Raises:
        ConnectionAbortedError: the client went away before that.
    """
    while not select.select([upstream.sock], [], [], 1.0)[0]:
        if _is_gone(client):
            raise ConnectionAbortedError("nobody waits for the answer any more")


def _is_gone(client: socket.socket) -> bool:
    """Whether the other side has closed its connection."""
    try:
        return bool(select.select([client], [], [], 0)[0]) and not client.recv(1, socket.MSG_PEEK)
    except (OSError, ValueError):
        return True


def _figures(reply: Mapping[str, Any], pool: ModelPool, name: str, seconds: float) -> dict[str, Any]:
    """What LM Studio's own interface says beside the answer."""
    timings, file = reply.get("timings") or {}, pool.files[name]
    choices = reply.get("choices") or [{}]
    reason = str(choices[0].get("finish_reason") or "stop")
    return {
        "stats": {
            "tokens_per_second": timings.get("predicted_per_second", 0.0),
            "time_to_first_token": timings.get("prompt_ms", 0.0) / 1000,
            "generation_time": timings.get("predicted_ms", seconds * 1000) / 1000,
            "stop_reason": _STOPS.get(reason, reason),
        },
        "model_info": {
            "arch": file.arch,
            "quant": file.quantization,
            "format": "gguf",
            "context_length": pool.context(name),
        },
        "runtime": {"name": "llama.cpp by xllamacpp", "version": SERVER.version, "supported_formats": ["gguf"]},
    }
