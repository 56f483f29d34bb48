"""Notes written by a language model: what it is asked, and whether its answer will do.

Who is seen, when, and with what is decided here, not by the model: asked for made-up patients, models hand out the same few
names and forget the birth date by the time they write the age. The model gets one person with an illness, numbers and drugs
that fit, and writes the words.
"""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from datetime import date
from typing import Any, NamedTuple

from expunge.sources.contradiction import contradiction
from expunge.sources.medical import SECTIONS, Note, Person, Writer

MAX_TOKENS = 512
"""Room for an answer; a note of four sections takes 100 to 250."""
TEMPERATURE = 0.5
"""Low: the briefs differ, so the notes do, and a hot small model leaves them."""
SHORTEST = {"subjective": 30, "objective": 12, "assessment": 4, "plan": 15}
"""Characters that a section has at least."""
LONGEST = 400
"""Characters that a section has at most."""
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        section: {"type": "string", "minLength": shortest, "maxLength": LONGEST} for section, shortest in SHORTEST.items()
    },
    "required": list(SECTIONS),
    "additionalProperties": False,
}
"""JSON schema of an answer, for servers that can hold a model to one."""

_INSTRUCTIONS = (
    "You write visit notes of patients who do not exist, for tests of software. Write as a busy clinician does: terse, in "
    "plain sentences, with every fact you are given and nothing that contradicts one. Answer with one JSON object and "
    f"nothing else. Its keys are {', '.join(SECTIONS)}; each value is text of one to three sentences. The assessment names "
    "the diagnosis, the plan the drug with its dose."
)
_ASKED = """Patient: {name}, {patient}
Visit: {day}
Complaint: {complaint}
Found: {found}
Diagnosis: {diagnosis}
Plan: {drug}, {advice}
Begin "subjective" with "{lead}". Do not use the name in the note."""
# Of an illness that the phrase book does not have.
_EXAMPLE_ASKED = _ASKED.format(
    name="Rosalind Achterberg",
    patient="58-year-old woman, glassblower, born 1964-09-02",
    day="2023-02-14",
    complaint="bitter taste and cough at night for three weeks; sleeps flat again since the new mattress",
    found="BP 128/76, lungs clear, throat red",
    diagnosis="Laryngopharyngeal irritation",
    drug="alginate 10 mL at bedtime",
    advice="raise the head of the bed, back in a month",
    lead="58F glassblower",
)
_EXAMPLE_ANSWER = json.dumps(
    {
        "subjective": "58F glassblower with bitter taste and night cough for three weeks. Sleeps flat since a new mattress.",
        "objective": "BP 128/76. Throat red, lungs clear.",
        "assessment": "Laryngopharyngeal irritation.",
        "plan": "Alginate 10 mL at bedtime. Raise the head of the bed; back in a month.",
    }
)
INSTRUCTED = (_INSTRUCTIONS, _ASKED, _EXAMPLE_ASKED, _EXAMPLE_ANSWER)
"""Everything but the person: other words here, other notes."""
_PLACEHOLDER = re.compile(r"\[[^\]]*\]|[{}<>]|\b(?:lorem ipsum|insert|placeholder|to be filled|n/a|tbd)\b", re.IGNORECASE)
_SAYS = re.compile(r"\b(?P<who>[Hh]e|[Ss]he) (?:reports?|denies|states?|says|complains|presents|describes|notes)\b")
# Words of a diagnosis that do not say what it is.
_NO_NAMES = frozenset(
    {"acute", "active", "chronic", "early", "for", "likely", "mild", "moderate", "new", "onset", "plus", "poor", "probable"}
    | {"severe", "stable", "the", "left", "right", "with", "without"}
)
_REPETITIVE = 0.4
"""Share of different words below which a section of `_LOOP` words or more goes round in circles."""
_LOOP = 20


class BadAnswerError(Exception):
    """An answer that is no note of this person; the text says why in a few words, for counting."""


class Brief(NamedTuple):
    """What one note is to be about."""

    person: Person
    complaint: str
    found: str
    diagnosis: str
    drug: str
    advice: str


def brief_for(person: Person, seed: int) -> Brief:
    """One person's complaint, findings and treatment, from the phrase book: always the same for one person and seed."""
    writer, condition = Writer(random.Random(f"{seed}:{person.name}"), person), person.condition
    return Brief(
        person,
        complaint=f"{writer.complaint()}; {writer.phrase(condition.context)}",
        found=f"{writer.phrase(condition.vitals)}, {writer.phrase(condition.findings)}",
        diagnosis=writer.phrase(condition.assessment),
        drug=writer.phrase(condition.drugs),
        advice=f"{writer.phrase(condition.advice)}, {writer.follow_up()}",
    )


def messages_for(brief: Brief) -> list[dict[str, str]]:
    """What a chat model is asked, behind one example of a good answer: small models copy a form, but follow no orders."""
    person = brief.person
    who = {"F": ("girl", "woman"), "M": ("boy", "man")}[person.sex][person.age >= 18]
    asked = _ASKED.format(
        name=person.name,
        patient=f"{person.age}-year-old {who}, {person.occupation}, born {person.birth}",
        day=person.day,
        lead=f"{person.age}{person.sex} {person.occupation}",
        **{part: words for part, words in brief._asdict().items() if part != "person"},
    )
    conversation = (("system", _INSTRUCTIONS), ("user", _EXAMPLE_ASKED), ("assistant", _EXAMPLE_ANSWER), ("user", asked))
    return [{"role": role, "content": content} for role, content in conversation]


def note_of(answer: str, brief: Brief) -> Note:
    """The note that a model wrote, checked field by field.

    Raises:
        BadAnswerError: it is no JSON object, a section is missing, not text, too short, too long, a placeholder or a loop,
            the assessment does not name the diagnosis or the plan the drug, or something does not fit the person's name,
            dates, age or sex.
    """
    person, fields = brief.person, _json_object(answer)
    for name, expected in (("client_name", person.name), ("date_of_birth", person.birth), ("date", person.day)):
        # Not asked for, but models like to repeat them; then they must be right.
        if name in fields and not _same(fields[name], expected):
            raise BadAnswerError(f"another {name}")
    words = {section: _section(fields, section) for section in SECTIONS}
    note = Note(person.name, person.birth.isoformat(), person.day.isoformat(), **words)
    if contradiction(person.birth, person.day, note.in_lines()):
        raise BadAnswerError("age, sex or dates do not agree")
    for said in _SAYS.finditer(note.subjective):
        if (said["who"].lower() == "she") != (person.sex == "F"):
            raise BadAnswerError("age, sex or dates do not agree")
    if _names(brief.diagnosis).isdisjoint(_names(note.assessment)):
        raise BadAnswerError("the assessment does not name the diagnosis")
    if brief.drug.split()[0].casefold() not in re.findall(r"[\w-]+", note.plan.casefold()):
        raise BadAnswerError("the plan does not name the drug")
    return note


def long_sections(note: Note) -> list[tuple[str, ...]]:
    """The words of the sections that nobody else may have: all but the assessment, where they say more than a stock phrase."""
    sections = (re.findall(r"[\w./%]+", getattr(note, section).casefold()) for section in SECTIONS if section != "assessment")
    return [tuple(words) for words in sections if len(words) >= 6]


def _json_object(answer: str) -> dict[str, Any]:
    # Behind a chain of thought, inside a fence or between pleasantries.
    answer = answer.rsplit("</think>", 1)[-1]
    start, end = answer.find("{"), answer.rfind("}")
    try:
        found = json.loads(answer[start : end + 1]) if start >= 0 else None
        # JSON may spell half a character, which no file can hold afterwards.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise BadAnswerError("no whole JSON object") from None
    if not isinstance(found, dict):
        raise BadAnswerError("no whole JSON object")
    return found


def _names(words: str) -> set[str]:
    return {word for word in re.findall(r"[a-z][a-z0-9-]{2,}", words.casefold()) if word not in _NO_NAMES}


def _same(found: object, expected: str | date) -> bool:
    if not isinstance(found, str):
        return False
    if isinstance(expected, str):
        return " ".join(found.split()).casefold() == expected.casefold()
    try:
        return date.fromisoformat(found.strip()) == expected
    except ValueError:
        return False


def _section(fields: dict[str, Any], name: str) -> str:
    if name not in fields:
        raise BadAnswerError(f"no {name}")
    if not isinstance(fields[name], str):
        raise BadAnswerError(f"{name} is not text")
    text = " ".join(fields[name].split())
    if len(text) < SHORTEST[name]:
        raise BadAnswerError(f"{name} too short")
    if len(text) > LONGEST:
        raise BadAnswerError(f"{name} too long")
    if _PLACEHOLDER.search(text):
        raise BadAnswerError(f"a placeholder in {name}")
    words = Counter(text.casefold().split())
    if words.total() >= _LOOP and len(words) < _REPETITIVE * words.total():
        raise BadAnswerError(f"{name} goes round in circles")
    return text
