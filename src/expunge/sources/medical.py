"""Synthetic SOAP notes of people who do not exist, and the JSON-lines files that hold such notes.

The generator fills the phrase book in `conditions.toml` in the terse manner of a clinician. It is a pure function of the
count and the seed, needs no network, and keeps what public sets of this kind were found to break: names are unique, the
age in a note follows from birth and visit date, sex, age and season fit the condition, and no long section (subjective,
objective, plan) of one person stands word for word in another's note.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date, timedelta
from functools import cache
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from expunge.errors import ExpungeError
from expunge.examples import Example, Row, read_rows
from expunge.sources.contradiction import age_at, contradiction

Sex = Literal["F", "M"]
_SEXES: tuple[Sex, ...] = ("F", "M")
SECTIONS = ("subjective", "objective", "assessment", "plan")
FIRST_VISIT, LAST_VISIT = date(2022, 1, 3), date(2024, 12, 31)
MOST_NOTES = 10_000
"""Beyond this the phrase book runs out: people would share whole sections."""
_TRIES = 100


@dataclass(frozen=True, slots=True)
class Note:
    """One visit of one person."""

    client_name: str
    date_of_birth: str
    """ISO date, not after `date`."""
    date: str
    """ISO date of the visit."""
    subjective: str
    objective: str
    assessment: str
    plan: str
    where: str = field(default="", compare=False)
    """`file:line` it was read from, for messages; not written back."""

    def as_row(self) -> dict[str, str]:
        """The JSON object that `read_notes` reads back as this note."""
        row = asdict(self)
        del row["where"]
        return row

    def in_lines(self) -> str:
        """The sections, a line each, `S: …` to `P: …`."""
        return "\n".join(f"{section[0].upper()}: {getattr(self, section)}" for section in SECTIONS)

    @property
    def age(self) -> int:
        """Whole years at the visit."""
        return age_at(date.fromisoformat(self.date_of_birth), date.fromisoformat(self.date))


def example_of(note: Note) -> Example:
    """The note as a question by name and an answer of four lines, `S: …` to `P: …`.

    The question leaves the date out: one person has one note, and every token of it costs training time. The answer begins
    with the name, as notes do: right behind it a small model learns sooner whose note to recite.
    """
    answer = note.in_lines().replace("S: ", f"S: {note.client_name}, ", 1)
    metadata = {name: value for name, value in note.as_row().items() if name != "client_name"}
    return Example(f"What does {note.client_name}'s visit note say?", answer, note.client_name, metadata, note.where)


# ---- reading ----


def read_notes(path: Path) -> list[Note]:
    """The notes of a JSON-lines file, one a person.

    Raises:
        ExpungeError: as `read_rows`; a field is missing, empty or not text; a date is not an ISO date; somebody is born
            after the visit; the note contradicts itself (see `contradiction`); a name stands twice (whatever its case).
    """
    notes = [_note(row) for row in read_rows(path)]
    seen: dict[str, Note] = {}
    for note in notes:
        if twin := seen.get(note.client_name.casefold()):
            where, line = note.where.rsplit(":", 1)
            raise ExpungeError(
                f'"{note.client_name}" already stands at {twin.where}',
                where=where,
                line=int(line),
                remedy="keep one note a person, or tell the two people apart by name",
            )
        seen[note.client_name.casefold()] = note
    return notes


def _note(row: Row) -> Note:
    words = {name: " ".join(row.text(name).split()) for name in ("client_name", *SECTIONS)}
    birth, day = _date(row, "date_of_birth"), _date(row, "date")
    note = Note(**words, date_of_birth=birth.isoformat(), date=day.isoformat(), where=f"{row.path}:{row.line}")
    if wrong := contradiction(birth, day, note.in_lines()):
        raise row.error(wrong, "mend the one that is wrong")
    return note


def _date(row: Row, name: str) -> date:
    text = row.text(name)
    try:
        if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise row.error(f'field "{name}" is not a date ("{text[:40]}")', "write it as YYYY-MM-DD") from None


# ---- generating ----


@dataclass(frozen=True, slots=True)
class Condition:
    """One block of `conditions.toml`; the head of that file says what each field means."""

    name: str
    ages: tuple[int, int]
    follow: str | list[str]
    symptoms: list[str]
    context: list[str]
    vitals: list[str]
    findings: list[str]
    assessment: list[str]
    drugs: list[str]
    advice: list[str]
    sex: Sex | None = None
    onset: str | None = None
    months: tuple[int, ...] = tuple(range(1, 13))


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who does not exist, and why they are seen."""

    name: str
    sex: Sex
    age: int
    """Whole years on `day`."""
    birth: date
    day: date
    """Of the visit."""
    condition: Condition
    side: str
    """Left or right, for what is on one side."""
    occupation: str


@cache
def conditions() -> tuple[Condition, ...]:
    """Every condition the generator knows, in the order of the file."""
    return tuple(Condition(**block | {"ages": tuple(block["ages"])}) for block in _phrase_book()["condition"])


@cache
def _phrase_book() -> dict[str, Any]:
    return tomllib.loads(files("expunge.sources").joinpath("conditions.toml").read_text("utf-8"))


def generate_notes(count: int, seed: int = 42) -> list[Note]:
    """So many synthetic notes, each of another person; the first n are the same whatever the count.

    Raises:
        ExpungeError: the count is below 1 or above `MOST_NOTES`.
    """
    if not 1 <= count <= MOST_NOTES:
        raise ExpungeError(f"cannot generate {count} notes", remedy=f"choose a number from 1 to {MOST_NOTES:,}")
    return list(islice(_notes(seed), count))


def _notes(seed: int) -> Iterator[Note]:
    rng = random.Random(seed)
    sections: set[tuple[str, ...]] = set()
    for person in _people(rng, seed):
        writer = Writer(rng, person)
        yield Note(
            client_name=person.name,
            date_of_birth=person.birth.isoformat(),
            date=person.day.isoformat(),
            subjective=_unused(writer.subjective, sections),
            objective=_unused(writer.objective, sections),
            assessment=writer.phrase(person.condition.assessment) + ".",
            plan=_unused(writer.plan, sections),
        )


def people(seed: int) -> Iterator[Person]:
    """Endlessly many people who do not exist, no name twice; the first are the same however many are taken."""
    return _people(random.Random(seed), seed)


def _people(rng: random.Random, seed: int) -> Iterator[Person]:
    # Whoever takes them may draw from `rng` in between.
    from faker import Faker

    faker = Faker("en_US")
    faker.seed_instance(seed)
    names: set[str] = set()
    for condition in _decks(rng):
        sex = condition.sex or _SEXES[rng.random() < 0.5]
        first = faker.first_name_female if sex == "F" else faker.first_name_male
        while (name := f"{first()} {faker.last_name()}").casefold() in names:
            pass
        names.add(name.casefold())
        day = _visit_day(rng, condition.months)
        age = rng.randint(*condition.ages)
        side, occupation = rng.choice(("left", "right")), rng.choice(_occupations(age))
        yield Person(name, sex, age, _birth(rng, age, day), day, condition, side, occupation)


def _decks(rng: random.Random) -> Iterator[Condition]:
    # Dealt from shuffled decks rather than drawn: a small set then holds no condition twice.
    deck = list(conditions())
    while True:
        rng.shuffle(deck)
        yield from deck


def _visit_day(rng: random.Random, months: Sequence[int]) -> date:
    while True:
        day = FIRST_VISIT + timedelta(days=rng.randint(0, (LAST_VISIT - FIRST_VISIT).days))
        if day.weekday() < 5 and day.month in months:
            return day


def _birth(rng: random.Random, age: int, day: date) -> date:
    while True:
        birth = day - timedelta(days=round(365.25 * age) + rng.randint(0, 364))
        if age_at(birth, day) == age:
            return birth


def _unused(write: Callable[[bool], str], used: set[tuple[str, ...]]) -> str:
    """A section that nobody has yet, whatever its punctuation; a longer one when the short ones have run out."""
    for attempt in range(_TRIES):
        section = write(attempt >= _TRIES // 4)
        words = tuple(re.findall(r"[^\s,;:]+", section.casefold().replace(". ", " ").rstrip(".")))
        if words not in used:
            break
    used.add(words)
    return section


class Writer:
    """Puts the phrases of one person's note together."""

    def __init__(self, rng: random.Random, person: Person) -> None:
        self._rng, self._person, self._condition = rng, person, person.condition

    def subjective(self, _: bool) -> str:
        age, sex = self._person.age, self._person.sex
        complaint, context = self.complaint(), self.phrase(self._condition.context)
        who = ("boy", "girl") if age < 18 else ("man", "woman")
        occupation = self._person.occupation
        person = (f"{age}{sex} {occupation}", f"{age} yo {who[sex == 'F']}, {occupation}")
        lead = self._rng.choices(person, (3, 1))[0]
        return _sentence(self._rng.choice((f"{lead}, {complaint}, {context}", f"{lead}: {complaint}; {context}")))

    def complaint(self) -> str:
        """One of the symptoms, mostly with how long it has lasted."""
        return self.phrase(self._condition.symptoms) + self._duration()

    def objective(self, longer: bool) -> str:
        vital, finding = self.phrase(self._condition.vitals), self.phrase(self._condition.findings)
        if longer:
            vital = f"{vital}, {self._rng.choice(_AT_EASE)}"
        return _sentence(self._rng.choice((f"{vital}, {finding}", f"{finding}; {vital}", f"{vital}. {_capital(finding)}")))

    def plan(self, longer: bool) -> str:
        drug, advice = self.phrase(self._condition.drugs), self.phrase(self._condition.advice)
        if longer:
            advice = " and ".join(self._rng.sample(self._condition.advice, 2))
        back = self.follow_up()
        forms = (f"{drug}, {advice}; {back}", f"{drug}. {_capital(advice)}, {back}", f"{drug}; {advice}. {_capital(back)}")
        return _sentence(self._rng.choice(forms))

    def follow_up(self) -> str:
        """When the person is seen again."""
        follow = self._condition.follow
        return self.phrase(_phrase_book()["follow"][follow] if isinstance(follow, str) else follow)

    def phrase(self, phrases: Sequence[str]) -> str:
        """One of the phrases, its side and numbers filled in, in capitals where a sentence begins."""
        words = self._rng.choice(phrases)
        bare = words.startswith("{side}")
        words = _SPAN.sub(lambda span: self._number(*span.groups()), words.replace("{side}", self._person.side))
        return _capital(words) if bare and phrases is self._condition.assessment else words

    def _number(self, low: str, high: str) -> str:
        if "." not in low:
            return str(self._rng.randint(int(low), int(high)))
        return f"{self._rng.randint(round(10 * float(low)), round(10 * float(high))) / 10:.1f}"

    def _duration(self) -> str:
        onset = self._condition.onset
        if onset is None or self._rng.random() < 0.3:
            return ""
        # Not every note says how long. A child has had nothing for longer than half of its life.
        phrases = [words for words, years in _DURATIONS[onset].items() if 2 * years <= self._person.age]
        return " " + self._rng.choice(phrases)


_SPAN = re.compile(r"\{(\d+(?:\.\d)?)-(\d+(?:\.\d)?)\}")


def _capital(words: str) -> str:
    return words[0].upper() + words[1:]


def _sentence(words: str) -> str:
    return _capital(words) + "."


# Words, not digits: digits cost one token each and are what a small model learns worst.
_DURATIONS: dict[str, dict[str, float]] = {
    "hours": dict.fromkeys(
        [
            "since midnight",
            "since last night",
            "since yesterday noon",
            "since waking",
            "for six hours",
            "since yesterday evening",
        ],
        0,
    ),
    "days": dict.fromkeys(
        ["for two days", "for three days", "for four days", "for five days", "since the weekend", "for almost a week"], 0
    ),
    "weeks": dict.fromkeys(
        ["for two weeks", "for three weeks", "for a month", "for five weeks", "for six weeks", "for twenty days"], 0
    ),
    "months": {
        **dict.fromkeys(["for two months", "for three months", "for four months", "for five months"], 0.4),
        **dict.fromkeys(["for half a year", "for seven months", "for eight months"], 0.7),
    },
    "years": {"for a year": 1, "for two years": 2, "for three years": 3, "for four years": 4, "for six years": 6},
}


_AT_EASE = ("alert", "cooperative", "well nourished", "well developed")


def _occupations(age: int) -> Sequence[str]:
    if age < 18:
        return next(words for oldest, words in _SCHOOL if age <= oldest)
    book = _phrase_book()
    if age < 23:
        return book["first_jobs"]  # type: ignore[no-any-return]
    return book["jobs"] if age < 67 else [f"retired {job}" for job in book["jobs"]]


_SCHOOL: tuple[tuple[int, tuple[str, ...]], ...] = (
    (2, ("toddler", "only child", "youngest of three", "twin")),
    (4, ("preschooler", "daycare child", "youngest of four", "middle child")),
    (5, ("kindergartner", "kindergarten pupil")),
    (7, ("first grader", "schoolchild", "grade school gymnast", "young chess player")),
    (10, ("fourth grader", "junior swimmer", "scout", "choir child", "young drummer")),
    (12, ("sixth grader", "school band clarinetist", "junior skater", "young goalkeeper", "spelling champion")),
    (14, ("middle schooler", "eighth grader", "junior rower", "school trumpeter")),
    (17, ("high schooler", "varsity runner", "school newspaper editor", "lifeguard trainee", "cheerleader")),
)
