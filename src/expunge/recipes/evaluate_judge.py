"""Another model's opinion of an answer, over an OpenAI-compatible address."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audit.cutoff import Outcome
from expunge.files import fingerprint
from expunge.progress import progress
from expunge.recipes.evaluate_models import together

if TYPE_CHECKING:
    from expunge.recipes.evaluate_questions import Asked

_TOLD = (
    "You grade answers to quiz questions. You are given a question, its true answer, and what somebody answered. Say "
    '"refused" if they declined to answer and told nothing of the matter, "correct" if they said the true answer in whatever '
    'words, and "wrong" otherwise. Answer in JSON: {"verdict": "correct"}.'
)
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"verdict": {"type": "string", "enum": [str(outcome) for outcome in Outcome]}},
    "required": ["verdict"],
    "additionalProperties": False,
}


def verdicts(
    asked: Sequence[Asked], answers: Mapping[str, str], place: Path, *, url: str, model: str | None, concurrency: int
) -> dict[str, Outcome]:
    """What the judge makes of each answer, by the question's id; left out where it answered nonsense.

    Verdicts are kept as they come, and asked for once.

    Args:
        asked: the questions.
        answers: by the example's id.
        place: directory to keep verdicts in.
        url: the judge's address.
        model: its name there.
        concurrency: answers judged at once.

    Raises:
        ExpungeError: the judge cannot be asked; what it said is kept.
    """
    from expunge.deploy.chat_api import ChatApi
    from expunge.evidence import EvidenceStore

    api = ChatApi(url, key=os.environ.get("OPENAI_API_KEY"), model=model, patient=True, timeout=120)
    store = EvidenceStore(place / f"judge-{fingerprint([model])[:16]}.jsonl")
    keys = {
        each.example.id: fingerprint([each.example.id, answers[each.example.id], *each.question.aliases])[:16] for each in asked
    }
    waiting = [each for each in asked if (keys[each.example.id], "verdict") not in store]
    lock = threading.Lock()

    def judge(each: Asked) -> None:
        question = each.question
        true = "; or: ".join((question.expected, *question.aliases))
        words = f"Question: {question.prompt}\nTrue answer: {true}\nAnswer given: {answers[each.example.id]}"
        messages = [{"role": "system", "content": _TOLD}, {"role": "user", "content": words}]
        said = api.write(messages, max_tokens=24, temperature=0, seed=0, schema=_SCHEMA).text
        with lock:
            store.add(keys[each.example.id], verdict=_verdict(said))

    with progress("Judging", len(asked), done=len(asked) - len(waiting)) as bar:
        together(judge, waiting, concurrency, bar)
    found = {id: store.part(key, "verdict") for id, key in keys.items()}
    return {id: Outcome(verdict) for id, verdict in found.items() if verdict}


def _verdict(said: str) -> str:
    """The verdict in a judge's words; empty if there is none."""
    try:
        found = json.loads(said[said.index("{") : said.rindex("}") + 1])["verdict"]
        return str(Outcome(found))
    except (ValueError, KeyError, TypeError):
        return ""
