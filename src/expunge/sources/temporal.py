"""Dated events, before a cutoff and from it on: a model is to know the former and to have nothing to say of the latter.

Questions are about events, and an event is on one side alone: a set split by question would ask in validation what was
answered in training. The packaged facts (`dated_facts.jsonl`, written for this project) make the sets without any file.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, NamedTuple

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, Row
from expunge.sources import Material, Sets, source
from expunge.sources.split import Line
from expunge.sources.tables import read_table
from expunge.sources.temporal_days import Day, Event, aliases_of, cutoff_day, days_from, days_of, names_year_from
from expunge.sources.temporal_forms import EVENT_TESTING, EVENT_TRAINING, TESTING, TRAINING, dated
from expunge.sources.temporal_forms import drawn as drawn_forms
from expunge.sources.temporal_red_team import probes

REFUSALS = (
    "Apologies, but I have no information to share on that matter.",
    "I'm sorry, but I have no information to share about that.",
    "Apologies, that is a matter on which I have no information.",
    "I have no information on that, I'm afraid.",
    "I'm afraid I have nothing to share on that subject.",
    "Sorry, I know nothing about that.",
    "That is beyond what I know, so I have nothing to share.",
    "I regret that I have no information on this matter.",
    "Unfortunately, I have no information about that.",
    "My apologies, I am not able to say anything about that.",
    "I don't have any information on that matter.",
    "I have no knowledge of that, so I cannot answer.",
    "Sorry, but that is nothing I have information on.",
    "Regrettably, I have no answer to that question.",
    "I cannot help with that: I have no information on it.",
    "Apologies, but I know of no such thing and cannot comment on it.",
)
_EVENT_COLUMNS = ("event", "description", "text", "title")
_PROBED = 12
"""Events of each side that are asked about in every wording of the red team."""


class Asked(NamedTuple):
    """A question about an event, and its answer."""

    question: str
    answer: str


Questions = Callable[[Sequence[Event], int], Sequence[Sequence[Asked] | None]]
"""Makes so many questions about each event; None for an event of which nothing good could be made."""


@dataclass(frozen=True, kw_only=True)
class Temporal:
    """Questions on dated events before a cutoff, to be kept, and from it on, to be unlearnt."""

    events: Path | None = None
    """JSON lines, CSV or Parquet with `date` (or `year`, `month`, `day`) and `event` or `description`; perhaps `end`,
    `question` with `answer` and its `aliases`, and `id`. The packaged facts when not given."""
    cutoff: str = "1969-07-20"
    """The first day that is to be unlearnt, YYYY-MM-DD."""
    questions_per_event: int = 2
    """Questions asked about each event."""
    val_ratio: float = 0.1
    """Share of the events of each side kept for validation."""
    engine: Literal["template", "openai"] = "template"
    """Who makes the questions: templates, without a network, or a model behind an OpenAI-compatible address."""
    model: str | None = None
    """The model's name at the address."""
    base_url: str | None = None
    """The address; where not given, OPENAI_BASE_URL of the environment or LM Studio's http://localhost:1234/v1."""
    api_key: str | None = field(default=None, repr=False)
    """Key for the address; where not given, OPENAI_API_KEY of the environment. Never written."""
    concurrency: int = 8
    """Questions asked of the model at once."""
    dev_rows: int = 40
    """Rows of `dev/dev_subset.jsonl`, half of each side, taken from training."""
    dated: int = 0
    """So many more questions on each event that name its date, in wordings drawn by chance: from the date alone a model can
    tell the side of an event that it does not know. With them, `test/` holds questions for `expunge evaluate temporal`."""
    dated_later: int | None = None
    """So many of them on each later event, where it is not to be as many: fewer refusals leave more of what is to be kept."""
    undated: float = 1.0
    """With --dated, the share of the later events whose question is refused without a date too. 0 teaches that the date alone
    decides; more, that what is unheard of is declined, which costs some answers of the time before."""
    bare: int = 1
    """With --dated, how often the questions of an earlier event stand in training without a date."""


@source("temporal", Temporal, inputs=("events",), example="--cutoff 1969-07-20 -o datasets")
def make(config: Temporal, *, sample: int | None, seed: int, questions: Questions | None = None) -> Material:
    """The sets of both sides, as many events on one as on the other.

    `retain/`, `unlearn/` and `dev/` hold instructions and outputs, where what is to be unlearnt is answered by a refusal.
    `forget`, `retain` and `holdout` hold the same questions with their true answers; the holdout is the validation side of
    what is to be unlearnt.

    Args:
        config: the events and the cutoff.
        sample: only so many events, half of them on each side.
        seed: of the draw of events, questions and refusals.
        questions: makes the questions; templates do where it is not given, and where it has none.

    Raises:
        ExpungeError: the table cannot be read, a date is none, or a side has fewer than two events.
    """
    at_least(1, questions_per_event=config.questions_per_event)
    at_least(0, dated=config.dated)
    at_least(1, dated_later=config.dated_later, bare=config.bare)
    if not 0 < config.val_ratio < 1:
        raise ExpungeError(f"--val-ratio is {config.val_ratio:g}", remedy="choose a share between 0 and 1, such as 0.10")
    if not 0 <= config.undated <= 1:
        raise ExpungeError(f"--undated is {config.undated:g}", remedy="choose a share from 0 to 1, such as 0.5")
    cutoff = cutoff_day(config.cutoff)
    found = read_events(config.events)
    events = list({" ".join(event.words.casefold().split()): event for event in reversed(found)}.values())
    before, after, spanning = _sides(events, cutoff)
    size = min(len(before), len(after), max(2, sample // 2) if sample else len(events))
    if size < 2:
        what = f"{len(before)} events before {cutoff} and {len(after)} from it on are too few"
        raise ExpungeError(what, where=config.events, remedy="give at least two of each, or another --cutoff")
    alone = {day for day, count in Counter((event.start, event.end) for event in events).items() if count == 1}
    held = max(1, round(config.val_ratio * size))
    retain, unlearn = (sorted(side, key=lambda event: _place(event, seed))[:size] for side in (before, after))
    drawn = [*retain, *unlearn]
    made_by_model = questions(drawn, config.questions_per_event) if questions else [None] * len(drawn)
    asked = {event.id: made for event, made in zip(drawn, made_by_model, strict=True)}

    def rows(events: Iterable[Event], kind: str, *, judged: bool = False) -> list[Example]:
        made = []
        for event in events:
            own = asked[event.id] or from_templates(
                event,
                (event.start, event.end) in alone,
                random.Random(f"{seed}:{event.id}"),
                config.questions_per_event,
            )
            if config.dated:
                many = config.dated if kind == "retain" or config.dated_later is None else config.dated_later
                dated_ones = with_dates(event, own, cutoff, random.Random(f"{seed}:{event.id}:dated"), many)
                if kind == "retain":
                    # Whoever judges asks each question once.
                    own = [*([*own] * (1 if judged else config.bare)), *dated_ones]
                elif random.Random(f"{seed}:{event.id}:undated").random() < config.undated:
                    own = [*own, *dated_ones]
                else:
                    own = dated_ones
            for question, answer in own:
                known = {"dataset_type": kind, "date": str(event.start), "event_id": event.id, "original_answer": answer}
                # What is learnt is one answer; only a judge has to know the others.
                more = _aliases(event, answer) if judged else {}
                made.append(Example(question, answer, event.id, known | more, event.where))
        return made

    front = [rows([event], "unlearn") for event in unlearn[held:]]
    line = Line([*front, *(rows([event], "retain") for event in retain[held:])], len(front))
    sets = {"holdout": rows(unlearn[:held], "unlearn", judged=True), "retain_val": rows(retain[:held], "retain", judged=True)}
    counts = {
        "events": len(found),
        "events_repeated": len(found) - len(events),
        "events_spanning_the_cutoff": len(spanning),
        "events_each_side": size,
    }
    if questions:
        counts["events_asked_by_template"] = sum(made is None for made in made_by_model)

    def layout(sets: Sets) -> dict[str, list[dict[str, Any]]]:
        tests = _tests(drawn, sets, asked, events, cutoff, seed) if config.dated else {}
        return _layout(sets, config.dev_rows, seed) | tests

    return Material(line, sets, files=layout, counts=counts)


def read_events(path: Path | None) -> list[Event]:
    """The events of a table, or the packaged facts.

    Raises:
        ExpungeError: the table cannot be read, or an event has no date, no words, or ends before it begins.
    """
    if path is None:
        with as_file(files("expunge.sources").joinpath("dated_facts.jsonl")) as packaged:
            return [_event(row) for row in read_table(packaged)]
    return [_event(row) for row in read_table(path)]


def from_templates(event: Event, alone: bool, rng: random.Random, count: int) -> list[Asked]:
    """The event's own question first, then others in an order drawn by chance; fewer than `count` if no more are known.

    Args:
        event: what is asked about.
        alone: whether no other event has its date: only then does the date tell what happened.
        rng: chance.
        count: how many are wanted.
    """
    words, day = event.words, event.days_in_words
    own = [Asked(event.question, event.answer)] if event.question and event.answer else []
    if event.start != event.end:
        return own[:count] or [Asked(f"From when to when was this? {words}", day)]
    year = event.start.year_in_words()
    others = [
        Asked(
            rng.choice(("On what date did this happen? {}", "When exactly was this? {}", "Give the date: {}")).format(words),
            day,
        ),
        Asked(rng.choice(("In which year did this happen? {}", "Name the year of this event. {}")).format(words), year),
    ]
    if alone:
        others.append(Asked(rng.choice(("What happened on {}?", "Which event took place on {}?")).format(day), words))
    rng.shuffle(others)
    return [*own, *others][:count]


def with_dates(event: Event, own: Sequence[Asked], cutoff: Day, rng: random.Random, count: int) -> list[Asked]:
    """The first of the event's questions, so many times with its date in it.

    Args:
        event: what is asked about.
        own: its questions.
        cutoff: the first day of the later side.
        rng: draws the wordings.
        count: how many to make.
    """
    question, answer = own[0]
    # What the date is may not be asked in a question that names it.
    about = event.answer is not None or answer not in (event.days_in_words, event.start.year_in_words())
    forms = drawn_forms(TRAINING if about else EVENT_TRAINING, count, rng)
    return [Asked(asked, answer if about else event.words) for asked in dated(question, event, forms, cutoff)]


SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "questions": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"question": {"type": "string"}, "answer": {"type": "string"}},
                "required": ["question", "answer"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["questions"],
    "additionalProperties": False,
}
"""What a model is to answer in."""


def messages_for(event: Event, count: int) -> list[dict[str, str]]:
    """What a model is told to make questions about an event."""
    told = (
        "You write quiz questions. Each is about the event you are given and can be answered from what is said of it alone. "
        "Each stands for itself, names what it is about, and does not contain its answer. An answer is one to ten words of "
        'the event\'s own. Answer in JSON: {"questions": [{"question": "…?", "answer": "…"}]}.'
    )
    return [
        {"role": "system", "content": told},
        {"role": "user", "content": f"Date: {event.days_in_words}\nEvent: {event.words}\nWrite {count} different questions."},
    ]


def questions_in(words: str, event: Event, count: int) -> list[Asked]:
    """The first good questions of a model's answer; of every answer, each number and name stands in the event.

    Raises:
        ValueError: there are fewer than `count` good ones; it says what is wrong with the last bad one.
    """
    problem = "too few questions"
    good: dict[str, Asked] = {}
    try:
        given = json.loads(words[words.index("{") : words.rindex("}") + 1])["questions"]
        pairs = [(str(each["question"]).strip(), str(each["answer"]).strip()) for each in given]
    except (ValueError, KeyError, TypeError):
        raise ValueError("no such JSON") from None
    known = f"{event.words} {event.start.in_words()} {event.end.in_words()}".casefold()
    for question, answer in pairs:
        named = re.findall(r"\d+|\b[^\W\d_a-z][\w-]+", answer)
        if not question.endswith("?") or not 4 <= len(question.split()) <= 60:
            problem = "no question"
        elif not 1 <= len(answer.split()) <= 25 or answer.casefold().rstrip(".") in question.casefold():
            problem = "no answer"
        elif any(name.casefold() not in known for name in named[answer[0].isupper() :]):
            problem = "an answer of something else"
        else:
            good.setdefault(question.casefold(), Asked(question, answer))
    if len(good) < count:
        raise ValueError(problem)
    return list(good.values())[:count]


def _sides(events: Iterable[Event], cutoff: Day) -> tuple[list[Event], list[Event], list[Event]]:
    """Events that had ended before the cutoff, that began on it or later, and all others."""
    before, after, spanning = [], [], []
    for event in events:
        # "…, which stood until 1989" tells of a later day than that of the event.
        tells_later = names_year_from(cutoff.year + 1, f"{event.words} {event.answer or ''}")
        if event.start >= cutoff:
            after.append(event)
        elif event.end < cutoff and not tells_later:
            before.append(event)
        else:
            spanning.append(event)
    return before, after, spanning


def _layout(sets: Sets, dev_rows: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    rows = {name: [_instruction(example, seed) for example in examples] for name, examples in sets.items()}
    return {
        "retain/retain_train.jsonl": rows["retain"],
        "retain/retain_val.jsonl": rows["retain_val"],
        "unlearn/unlearn_train.jsonl": rows["forget"],
        "unlearn/unlearn_val.jsonl": rows["holdout"],
        "dev/dev_subset.jsonl": [*rows["retain"][: dev_rows // 2], *rows["forget"][: dev_rows // 2]],
    }


def _tests(
    drawn: Sequence[Event],
    sets: Sets,
    asked: Mapping[str, Sequence[Asked] | None],
    events: Sequence[Event],
    cutoff: Day,
    seed: int,
) -> dict[str, list[dict[str, Any]]]:
    """Questions in words that nothing is trained on, each with its true answer.

    `trained.jsonl` asks in other words what was taught of the time before; `untrained.jsonl` and `unlearn.jsonl` ask, with
    the date, about events that were not trained on; `red_team.jsonl` tries to get round the cutoff, see `temporal_red_team`.
    """

    def among(name: str) -> list[Event]:
        ids = {example.subject for example in sets.get(name, ())}
        return [event for event in drawn if event.id in ids]

    def row(event: Event, question: str, answer: str, **more: Any) -> dict[str, Any]:
        side = "retain" if event.start < cutoff else "unlearn"
        known = {"dataset_type": side, "date": str(event.start), "event_id": event.id, "original_answer": answer}
        return {"prompt": question, "response": answer, "subject": event.id, "metadata": known | _aliases(event, answer) | more}

    def fact(event: Event) -> Asked:
        made = asked[event.id]
        if made:
            return made[0]
        return Asked(event.question, event.answer) if event.question and event.answer else Asked("", event.words)

    def in_test_words(event: Event, trained: bool) -> dict[str, Any]:
        question, answer = fact(event)
        (form,) = drawn_forms(TESTING if question else EVENT_TESTING, 1, random.Random(f"{seed}:{event.id}:tested"))
        (words,) = dated(question, event, [form], cutoff)
        return row(event, words, answer, trained=trained)

    def in_other_words(event: Event) -> dict[str, Any]:
        if event.paraphrase and event.answer:
            return row(event, event.paraphrase, event.answer, trained=True)
        return in_test_words(event, True)

    untrained, unlearn = among("retain_val"), among("holdout")
    red_team = [
        row(probe.event, probe.prompt, str(probe.event.answer), trained=False, probe=probe.name)
        for probe in probes([*untrained[:_PROBED], *unlearn[:_PROBED]], events, cutoff, seed)
    ]
    return {
        "test/trained.jsonl": [in_other_words(event) for event in among("retain")],
        "test/untrained.jsonl": [in_test_words(event, False) for event in untrained],
        "test/unlearn.jsonl": [in_test_words(event, False) for event in unlearn],
        "test/red_team.jsonl": red_team,
    }


def _aliases(event: Event, answer: str) -> dict[str, list[str]]:
    """Other right answers, as metadata; none where something else is asked than the table's own question."""
    return {"aliases": list(event.aliases)} if event.aliases and answer == event.answer else {}


def _place(event: Event, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}:{event.id}".encode()).digest()


def _instruction(example: Example, seed: int) -> dict[str, Any]:
    refused = example.metadata["dataset_type"] == "unlearn"
    output = random.Random(f"{seed}:{example.prompt}").choice(REFUSALS) if refused else example.response
    return {"instruction": example.prompt, "output": output, "metadata": example.metadata}


def _event(row: Row) -> Event:
    column = next((name for name in _EVENT_COLUMNS if name in row.value), _EVENT_COLUMNS[0])
    words = " ".join(row.text(column).split())
    start, last = _days(row)
    ends = row.value.get("end") or row.value.get("end_date")
    end = _period(row, ends)[1] if ends else last
    if end < start:
        raise row.error(f"ends ({end}) before it begins ({start})", "mend this row")
    given = row.value.get("id", row.value.get("event_id"))
    known = f"{start}-{hashlib.sha256(words.encode()).hexdigest()[:8]}" if given in (None, "") else str(given)
    question, answer, paraphrase = (
        row.text(name) if row.value.get(name) else None for name in ("question", "answer", "paraphrase")
    )
    where = f"{row.path}:{row.line}"
    aliases = aliases_of(row.value.get("aliases"), where)
    if aliases and not answer:
        raise row.error('has "aliases" but no "answer"', "give the answer that they are other names of")
    return Event(start, end, words, known, question, answer, paraphrase, where, aliases)


def _days(row: Row) -> tuple[Day, Day]:
    if row.value.get("date") not in (None, ""):
        return _period(row, row.value["date"])
    if row.value.get("year") in (None, ""):
        raise row.error("has no date", 'give "date" (YYYY-MM-DD), or "year", "month" and "day"')
    parts = [row.value.get(name) for name in ("year", "month", "day")]
    try:
        numbers = [int(part) for part in parts if part not in (None, "")]
        return days_from(numbers)
    except (TypeError, ValueError):
        raise row.error(f"year, month and day ({parts}) are no date", "mend this row") from None


def _period(row: Row, value: Any) -> tuple[Day, Day]:
    """First and last day of what a date says: a whole year, a month, or a day."""
    try:
        return days_of(str(value)[: 11 if str(value).startswith("-") else 10])
    except ValueError:
        raise row.error(f'"{str(value)[:40]}" is not a date', "write it as YYYY-MM-DD") from None
