"""Questions about events asked of a language model, many at once, kept as they come.

Every event's questions are one line of `<output>.questions.jsonl`, flushed at once: a killed run loses only the answers that
were on their way. The file is removed when the sets are written.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.deploy.chat_api import ChatApi
from expunge.errors import ExpungeError, at_least
from expunge.files import fingerprint, reported_disk_errors
from expunge.progress import progress

if TYPE_CHECKING:
    from expunge.sources.temporal import Asked, Questions, Temporal
    from expunge.sources.temporal_days import Event

_LM_STUDIO = "http://localhost:1234/v1"
_TRIES = 3
_HOPELESS = 10
"""So many events in the beginning of which nothing good was made, and a model is given up."""


@contextmanager
def asked_of_a_model(settings: Temporal, output: Path, seed: int) -> Iterator[Questions]:
    """What makes questions through the model that the settings name.

    Raises:
        ExpungeError: the model cannot be asked or makes nothing good; what it made so far is kept and continued from.
    """
    at_least(1, concurrency=settings.concurrency)
    url = settings.base_url or os.environ.get("OPENAI_BASE_URL") or _LM_STUDIO
    api = ChatApi(url, key=settings.api_key or os.environ.get("OPENAI_API_KEY"), model=settings.model)
    kept_in = output.with_name(f"{output.name}.questions.jsonl")

    def questions(events: Sequence[Event], count: int) -> list[list[Asked] | None]:
        request = fingerprint([settings.model, seed, count])[:16]
        made = _kept(kept_in, request)
        missing = [event for event in events if event.id not in made]
        with (
            reported_disk_errors(kept_in),
            kept_in.open("a", encoding="utf-8") as stream,
            progress("Questions", len(events), done=len(events) - len(missing)) as bar,
            ThreadPoolExecutor(settings.concurrency) as pool,
        ):
            running = {pool.submit(_ask, api, event, count, seed): event for event in missing}
            try:
                for done in as_completed(running):
                    event = running[done]
                    made[event.id] = done.result()
                    line = {"request": request, "event": event.id, "asked": made[event.id]}
                    stream.write(json.dumps(line, ensure_ascii=False) + "\n")
                    stream.flush()
                    bar.advance()
                    _refuse_hopeless(made.values(), url)
            except BaseException:
                _cancel(running)
                raise
        return [made[event.id] for event in events]

    yield questions
    kept_in.unlink(missing_ok=True)


def _ask(api: ChatApi, event: Event, count: int, seed: int) -> list[Asked] | None:
    from expunge.sources.temporal import SCHEMA, messages_for, questions_in

    for attempt in range(_TRIES):
        answer = api.write(
            messages_for(event, count), max_tokens=120 * count, temperature=0.7, seed=seed + attempt, schema=SCHEMA
        )
        try:
            return questions_in(answer.text, event, count)
        except ValueError:
            continue
    return None


def _kept(path: Path, request: str) -> dict[str, list[Asked] | None]:
    """What an earlier run of the same request made; a last line that was cut off is passed over."""
    from expunge.sources.temporal import Asked

    made: dict[str, list[Asked] | None] = {}
    if path.exists():
        for words in path.read_text("utf-8", errors="replace").splitlines():
            try:
                line = json.loads(words)
                if line["request"] == request:
                    made[line["event"]] = line["asked"] and [Asked(*pair) for pair in line["asked"]]
            except (ValueError, KeyError, TypeError):
                continue
    return made


def _refuse_hopeless(made: Collection[list[Asked] | None], url: str) -> None:
    if len(made) >= _HOPELESS and not any(made):
        what = f"the model made no good question about {len(made)} events"
        raise ExpungeError(what, where=url, remedy="choose another --model, or --engine template")


def _cancel(running: dict[Future[list[Asked] | None], Event]) -> None:
    for future in running:
        future.cancel()
