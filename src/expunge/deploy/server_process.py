"""The process that holds llama.cpp's servers: a crash of native code, and all it writes, stay in here.

Reads its settings as one line of JSON from standard input, answers with the addresses it listens on as one line of JSON,
and ends when standard input closes: it never outlives the process that started it, however that ended.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until standard input closes."""
    settings = json.loads(sys.stdin.readline())
    # The log goes to standard error: only the answer line may stand on standard output, whatever native code prints.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    servers = [_server(settings) for _ in range(settings["servers"])]
    print(json.dumps([server.listening_address for server in servers]), file=answers, flush=True)
    sys.stdin.read()
    os._exit(0)


def _server(settings: dict[str, Any]) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = settings["path"]
    params.model_alias = {settings["name"]}
    params.hostnames = ["127.0.0.1"]
    params.port = 0  # the system gives a free one
    params.api_keys = [settings["key"]]
    params.n_ctx = settings["context"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = settings["threads"]
    # One question at a time: questions that share a batch change each other's rounding, and so their answers.
    params.n_parallel = 1
    params.cache_prompt = params.cache_idle_slots = False
    params.cache_ram_mib = 0
    params.n_threads_http = 2
    params.force_pure_content_parser = not settings["parsed"]
    params.warmup = params.ui = params.endpoint_slots = False
    params.verbosity = 2  # warnings
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
