"""Do forget, retain and holdout overlap? The check that ends every prepare.

What counts, and why, for short clinical text:

- **The same subject on two sides** (whatever the case, accents and titles; "Roe, Jane" is Jane Roe) contaminates: deletion
  is by person. So does **a person of one set named in a text of another**, where subjects are written as names.
- **The same response on two sides** (whatever case, spacing and punctuation) contaminates: whoever keeps the copy has not
  forgotten.
- **A near duplicate** contaminates: Jaccard similarity of at least .8 between the sets of two-word shingles of two whole
  responses. Two words, not the usual five to nine, because a note has about forty: with two, a copy in which the age or a
  dose was changed still scores above .8, while honest notes on the same illness stay far below (at most .57 in 5,000
  generated notes).
- **A copy under another name** contaminates: near duplicates are looked for a second time with each subject's own names
  left out. Only texts of twelve other words or more count: "… is a male author" is no copy of anything.
- A response of fewer than six words ("Yes.", "Paris") says nothing by itself, nor does an option of a multiple-choice
  question: it is compared together with its prompt.
- **A section** (one line of a response, its label left out) of six words or more that stands word for word on two sides
  leaks that section. It is reported, and contaminates when more than 5% of the smaller set have one: real notes share
  stock phrases ("return to clinic in two weeks"), and one phrase in a large set proves nothing, but a set whose plans
  mostly stand in another set cannot show forgetting.
- **A contradiction** (born after the visit, a stated age more than a year off, one person born in two different years) is
  a broken row and is refused too.

Smaller and larger forget sets of the same examples are looked at in the same pass: what lies across the border of one of them
alone is reported under its name. Sections are judged for the main sets only, because their share depends on a set's size.

Duplicates within one set are no contamination and are not looked for. Near duplicates are found with MinHash (Broder 1997)
in 25 bands of 5 rows (a pair at .8 is missed once in 20,000), then verified by the true Jaccard. Time and memory are linear
in rows: one pair is kept for a row and another set, and a row is compared with at most 8 rows of a bucket.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import date
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.examples import Example
from expunge.progress import Bar, progress
from expunge.sources.contradiction import age_at, contradiction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEAR = 0.8
"""Jaccard similarity of two-word shingles from which on two responses are one text."""
LONG_SECTION = 6
"""Words from which on a section is more than a stock phrase."""
SECTION_SHARE = 0.05
"""Share of the smaller set with a section of another set, above which the split is refused."""
LONG_WITHOUT_NAME = 12
"""Words beside the subject's names from which on a text is looked for under other names."""
_BANDS, _ROWS_A_BAND, _COMPARED = 25, 5, 8
_CHUNK = 4096
"""Rows hashed at a time: some 25 MB."""
_MANY = 10_000
"""Rows from which on it takes seconds, and progress is shown."""
_LIKELY = 0.65
"""Share of equal MinHash values from which on the true Jaccard is computed: four standard deviations under `NEAR`."""


class Place(NamedTuple):
    """One example of one set."""

    set: str
    where: str
    """`file:line`, or `set[index]` where the example does not know its file."""
    subject: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """Two examples of different sets that share what only one may have."""

    first: Place
    second: Place
    similarity: float
    """Jaccard similarity of what was compared, 0 to 1; 1 where it is the same."""
    words: str
    """What they share, cut to 120 characters."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """An example whose parts cannot both be true."""

    place: Place
    words: str


@dataclass(frozen=True, slots=True)
class ContaminationReport:
    """What was found; empty lists are good."""

    rows: dict[str, int]
    """Examples by set."""
    subjects: list[Overlap]
    """Subjects on two sides, one for each subject and pair of sets."""
    exact: list[Overlap]
    """The same whole response."""
    near: list[Overlap]
    """Nearly the same whole response, exact ones left out."""
    renamed: list[Overlap]
    """Nearly the same only once the names of both subjects are left out."""
    mentions: list[Overlap]
    """A person of one set (first) named in a text of another (second), one for each person and pair of sets."""
    sections: list[Overlap]
    """The same long section of responses that are otherwise not the same."""
    section_share: float
    """Largest share, over pairs of sets, of the smaller set's examples that have such a section."""
    contradictions: list[Contradiction]
    nested: dict[str, dict[str, list[Overlap]]]
    """By the name of a further forget set: what lies across its border alone, under the names above."""

    @property
    def clean(self) -> bool:
        """Whether the sets may be used as they are."""
        return not self.reasons

    @property
    def reasons(self) -> list[str]:
        """Why the sets are refused; empty if they are not."""
        found = [_counted(getattr(self, kind), *words) for kind, words in _IN_WORDS.items()]
        found.append(_counted(self.contradictions, "contradiction", "contradictions"))
        if self.section_share > SECTION_SHARE:
            found.append(f"{self.section_share:.0%} of a set share a section with another (allowed: {SECTION_SHARE:.0%})")
        for name, overlaps in self.nested.items():
            words = [_counted(those, *_IN_WORDS[kind]) for kind, those in overlaps.items()]
            found.append(f"{name}: {', '.join(words)}" if words else "")
        return [reason for reason in found if reason]

    def first_place(self) -> str:
        """`file:line` of the first thing found, for a message."""
        inner = (each for overlaps in self.nested.values() for those in overlaps.values() for each in those)
        for overlap in (*self.subjects, *self.exact, *self.near, *self.renamed, *self.mentions, *inner, *self.sections):
            return f"{overlap.first.where} and {overlap.second.where}"
        return self.contradictions[0].place.where if self.contradictions else ""

    def in_words(self) -> str:
        """A few lines for people."""
        sizes = ", ".join(f"{name} {count:,}" for name, count in self.rows.items())
        shared = len(self.sections)
        lines = [f"Contamination ({sizes} examples): {'; '.join(self.reasons) or 'none found'}."]
        if shared and self.section_share <= SECTION_SHARE:
            lines.append(
                f"Sections shared: {shared} ({self.section_share:.1%} of the smaller set; allowed: {SECTION_SHARE:.0%})."
            )
        shown = [(title, getattr(self, kind)) for kind, title in _TITLES_OF.items()]
        for name, kinds in self.nested.items():
            shown += [(f"{name}, {_TITLES_OF[kind]}", those) for kind, those in kinds.items()]
        for title, overlaps in shown:
            lines += [
                f"  {title}, {each.similarity:.2f}: {_spot(each.first)} and {_spot(each.second)}: {each.words}"
                for each in overlaps[:3]
            ]
        lines += [f"  contradiction: {_spot(each.place)}: {each.words}" for each in self.contradictions[:3]]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON object, with `clean` and `reasons`."""
        lists = {name: _listed(found) for name, found in _fields(self) if isinstance(found, list)}
        nested = {name: {kind: _listed(those) for kind, those in kinds.items()} for name, kinds in self.nested.items()}
        said = {"clean": self.clean, "reasons": self.reasons, "rows": self.rows, "section_share": self.section_share}
        return {**said, **lists, "nested": nested}


_IN_WORDS = {
    "subjects": ("subject on two sides", "subjects on two sides"),
    "exact": ("response stands in two sets", "responses stand in two sets"),
    "near": ("near duplicate", "near duplicates"),
    "renamed": ("copy under another name", "copies under another name"),
    "mentions": ("person named in another set", "people named in another set"),
}
_TITLES_OF = {
    "subjects": "same subject",
    "exact": "same response",
    "near": "near duplicate",
    "renamed": "another name",
    "mentions": "named",
    "sections": "same section",
}


def check_contamination(
    sets: Mapping[str, Sequence[Example]],
    *,
    subjects_apart: bool = True,
    line: Sequence[str] = ("forget", "retain"),
    nested: Mapping[str, int] | None = None,
) -> ContaminationReport:
    """Look for overlap between sets of examples and for contradictions within them.

    Args:
        sets: examples by the name of their set, such as forget, retain and holdout.
        subjects_apart: whether a subject belongs to one set alone. Not so for topics that stand in every set.
        line: the sets that `nested` counts through, one after the other.
        nested: further forget sets by name: how many examples at the front of that line each holds.
    """
    borders = sorted((nested or {}).values())
    rows: list[_Row] = []
    position: dict[Place, int] = {}
    passed = 0
    for name, examples in sets.items():
        for index, example in enumerate(examples):
            row = _row(name, index, example)
            if borders and name in line:
                # Rows that a subject has of one place lie on the same side of every border.
                position.setdefault(row.place, passed)
                row = row._replace(part=f"{name} {bisect_right(borders, passed)}")
                passed += 1
            rows.append(row)

    subjects, seen = [], set()
    for one, two in _sharing(rows, ([_name(row.place.subject)] for row in rows)) if subjects_apart else ():
        if (pair := (_name(one.place.subject), one.part, two.part)) not in seen:
            seen.add(pair)
            subjects.append(Overlap(one.place, two.place, 1.0, two.place.subject))
    exact = [_overlap(one, two) for one, two in _sharing(rows, ([row.text] for row in rows))]
    with _shown(len(rows)) as bar:
        near = [_overlap(*found) for found in _near(rows, [row.text for row in rows], bar)]
        whole = {(overlap.first, overlap.second) for overlap in (*exact, *near)}
        nameless = _near(rows, [row.nameless for row in rows], bar)
        renamed = [_overlap(*found) for found in nameless if (found[0].place, found[1].place) not in whole]
    whole |= {(overlap.first, overlap.second) for overlap in renamed}
    sections = {
        (one.place, two.place): Overlap(one.place, two.place, 1.0, _cut(_first_shared_section(one, two)))
        for one, two in _sharing(rows, (row.sections for row in rows))
        if (one.place, two.place) not in whole
    }
    mentions = list(_mentions(rows)) if subjects_apart else []
    found = {"subjects": subjects, "exact": exact, "near": near, "renamed": renamed, "mentions": mentions}
    main = {kind: _between_sets(those, by_subject=kind in ("subjects", "mentions")) for kind, those in found.items()}
    return ContaminationReport(
        rows={name: len(examples) for name, examples in sets.items()},
        **main,
        sections=_between_sets(sections.values()),
        section_share=_section_share(rows),
        contradictions=[
            *(Contradiction(row.place, wrong) for row in rows if (wrong := _contradiction(row.example))),
            *(_two_births(rows) if subjects_apart else ()),
        ],
        nested=_across(found, nested or {}, position),
    )


def _between_sets(found: Iterable[Overlap], *, by_subject: bool = False) -> list[Overlap]:
    """Those of different sets: one for a row and another set, or for a subject and two sets."""
    first: dict[tuple[object, str, str], Overlap] = {}
    for each in found:
        if each.first.set != each.second.set:
            what = _name(each.first.subject) if by_subject else each.second
            first.setdefault((what, each.first.set, each.second.set), each)
    return list(first.values())


def _across(
    found: Mapping[str, Sequence[Overlap]], nested: Mapping[str, int], position: Mapping[Place, int]
) -> dict[str, dict[str, list[Overlap]]]:
    """What lies on the two sides of the border of a forget set but in one of the main sets, by that forget set and kind."""
    inner = {kind: [each for each in those if each.first.set == each.second.set] for kind, those in found.items()}
    across: dict[str, dict[str, list[Overlap]]] = {}
    for name, border in nested.items():
        for kind, those in inner.items():
            if own := [each for each in those if (position[each.first] < border) != (position[each.second] < border)]:
                across.setdefault(name, {})[kind] = own
    return across


def without_overlap(sets: Mapping[str, Sequence[Example]], report: ContaminationReport) -> dict[str, list[Example]]:
    """The sets without what a report found: of a pair the later row goes, and with a subject all its rows there.

    A row has one pair in the report for each set, so checking again may find more.
    """
    pairs = [*report.exact, *report.near, *report.renamed, *report.mentions]
    inner = [each for kinds in report.nested.values() for those in kinds.values() for each in those]
    if report.section_share > SECTION_SHARE:
        pairs += report.sections
    order = list(sets)
    # Of two rows of one set the second is the later.
    later = [max((each.second, each.first), key=lambda place: order.index(place.set)) for each in (*pairs, *inner)]
    places = {place[:2] for place in (*later, *(each.place for each in report.contradictions))}
    subjects = {(pair.second.set, _name(pair.second.subject)) for pair in report.subjects}
    return {
        name: [
            example
            for index, example in enumerate(examples)
            if (name, example.where or f"{name}[{index}]") not in places and (name, _name(example.subject)) not in subjects
        ]
        for name, examples in sets.items()
    }


class _Row(NamedTuple):
    place: Place
    part: str
    """Its set, or the part of it that lies between two borders."""
    example: Example
    text: str
    """What is compared of it: words in lower case, one space between."""
    nameless: str
    """The same without the subject's names, if enough is left."""
    sections: list[str]
    """The words of its long sections."""


def _row(name: str, index: int, example: Example) -> _Row:
    text = _compared(example)
    place = Place(name, example.where or f"{name}[{index}]", example.subject)
    return _Row(place, name, example, text, _nameless(text, example.subject), _long_sections(example.response))


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:[.,/'-][^\W_]+)*", text.casefold())


def _compared(example: Example) -> str:
    words = _words(example.response)
    alone = len(words) >= LONG_SECTION and "choices" not in example.metadata
    return " ".join(words if alone else _words(example.prompt or "") + words)


@lru_cache(maxsize=1 << 16)
def _name(subject: str) -> str:
    """A subject as it is compared with others."""
    letters = unicodedata.normalize("NFKD", subject.casefold())
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    if plain.count(",") == 1:
        plain = " ".join(reversed(plain.split(",")))
    return " ".join(word for word in _words(plain) if word not in _TITLES) or plain


_TITLES = frozenset(("mr", "mrs", "ms", "miss", "dr", "prof", "professor", "sir", "md", "phd"))


@lru_cache(maxsize=1 << 16)
def _names(subject: str) -> frozenset[str]:
    """The words that name a subject, with and without a genitive."""
    words = {word for word in _words(subject) if len(word) > 1}
    return frozenset(words | {f"{word}'s" for word in words})


def _nameless(text: str, subject: str) -> str:
    names = _names(subject)
    words = [word for word in text.split(" ") if word not in names]
    return " ".join(words) if len(words) >= LONG_WITHOUT_NAME else text


def _sharing(rows: Sequence[_Row], keys: Iterable[Iterable[str]]) -> Iterator[tuple[_Row, _Row]]:
    """Each row with the first row of every earlier part that has one of its keys."""
    first: dict[str, dict[str, _Row]] = {}
    for row, own in zip(rows, keys, strict=True):
        for key in own:
            holders = first.setdefault(key, {})
            for name, other in holders.items():
                if name != row.part:
                    yield other, row
            holders.setdefault(row.part, row)


@contextmanager
def _shown(rows: int) -> Iterator[Bar | None]:
    """The progress of looking twice for near duplicates, where it takes long enough to be looked at."""
    if rows < _MANY:
        yield None
        return
    with progress("Near duplicates", 2 * (_BANDS + -(-rows // _CHUNK))) as bar:
        yield bar


def _near(rows: Sequence[_Row], texts: Sequence[str], bar: Bar | None) -> Iterator[tuple[_Row, _Row, float]]:
    """Each row with one near duplicate in every earlier part that has any, and the Jaccard similarity of their texts.

    Rows whose whole texts are the same are passed over.
    """
    import numpy as np

    signatures = _signatures(texts, bar)
    multipliers = np.random.default_rng(0).integers(0, 2**64, _ROWS_A_BAND, dtype=np.uint64) | np.uint64(1)
    settled: set[tuple[int, str]] = set()
    for band in range(_BANDS):
        if bar:
            bar.advance()
        columns = signatures[:, band * _ROWS_A_BAND : (band + 1) * _ROWS_A_BAND].astype(np.uint64)
        # One number a bucket; two buckets that fall together only cost a comparison.
        _, bucket_of, size_of = np.unique(columns @ multipliers, return_inverse=True, return_counts=True)
        buckets: dict[int, dict[str, list[int]]] = {}
        for index in map(int, np.flatnonzero(size_of[bucket_of] > 1)):
            row = rows[index]
            bucket = buckets.setdefault(int(bucket_of[index]), {})
            for name, others in bucket.items():
                if name == row.part or (index, name) in settled:
                    continue
                for other in others:
                    if rows[other].text == row.text:
                        settled.add((index, name))
                        break
                    if np.count_nonzero(signatures[other] == signatures[index]) < _LIKELY * signatures.shape[1]:
                        continue
                    if (similarity := _jaccard(texts[other], texts[index])) >= NEAR:
                        settled.add((index, name))
                        yield rows[other], row, similarity
                        break
            own = bucket.setdefault(row.part, [])
            if len(own) < _COMPARED:
                own.append(index)


def _signatures(texts: Sequence[str], bar: Bar | None) -> NDArray[np.uint32]:
    """MinHash signatures of two-word shingles, [texts, bands times rows a band].

    A permutation is an odd multiplier and an offset modulo 2**32, of a shingle's number that was mixed before.
    """
    import numpy as np

    rng = np.random.default_rng(1)
    size = _BANDS * _ROWS_A_BAND
    multipliers, offsets = rng.integers(0, 2**32, (2, size), dtype=np.uint32)
    multipliers |= np.uint32(1)
    number_of: dict[str, int] = {}
    found = np.empty((len(texts), size), dtype=np.uint32)
    for first in range(0, len(texts), _CHUNK):
        words = [text.split(" ") for text in texts[first : first + _CHUNK]]
        # One word alone is paired with itself.
        words = [own if len(own) > 1 else own * 2 for own in words]
        numbers = np.array([number_of.setdefault(word, len(number_of)) for own in words for word in own], dtype=np.uint64)
        starts = np.cumsum([0, *(len(own) for own in words)])
        shingles = _mixed((numbers[:-1] << np.uint64(32)) | numbers[1:])
        # The last word of a text and the first of the next are no pair; each text's minimum ends before it.
        ends = np.stack((starts[:-1], starts[1:] - 1), axis=1).ravel()
        shingles = np.append(shingles, np.uint32(0))
        for column in range(size):
            values = shingles * multipliers[column] + offsets[column]
            found[first : first + len(words), column] = np.minimum.reduceat(values, ends)[::2]
        if bar:
            bar.advance()
    return found


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """The finaliser of splitmix64: every bit of the result depends on every bit of the number."""
    import numpy as np

    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (numbers >> np.uint64(32)).astype(np.uint32)


def _shingles(text: str) -> set[str]:
    words = text.split(" ")
    return {f"{one} {two}" for one, two in itertools.pairwise(words)} or {text}


def _jaccard(one: str, two: str) -> float:
    first, second = _shingles(one), _shingles(two)
    return len(first & second) / len(first | second)


def _long_sections(response: str) -> list[str]:
    lines = [line for line in response.splitlines() if line.strip()]
    if len(lines) < 2:
        return []
    sections = (_words(_LABEL.sub("", line)) for line in lines)
    return [" ".join(words) for words in sections if len(words) >= LONG_SECTION]


_LABEL = re.compile(r"^\s*[A-Z][A-Za-z]{0,14}:\s*")


def _first_shared_section(one: _Row, two: _Row) -> str:
    return next(section for section in one.sections if section in two.sections)


def _section_share(rows: Sequence[_Row]) -> float:
    sets: dict[str, list[_Row]] = {}
    for row in rows:
        sets.setdefault(row.place.set, []).append(row)
    largest = 0.0
    for one, two in itertools.combinations(sets.values(), 2):
        small, large = sorted((one, two), key=len)
        there = {section for row in large for section in row.sections}
        largest = max(largest, sum(not there.isdisjoint(row.sections) for row in small) / len(small))
    return largest


def _mentions(rows: Sequence[_Row]) -> Iterator[Overlap]:
    """People of one set named in a text of another where they have no row of their own."""
    holders: dict[tuple[str, ...], dict[str, _Row]] = {}
    lengths: dict[str, set[int]] = {}
    for row in rows:
        if _is_name(row.place.subject):
            name = tuple(_words(row.place.subject))
            holders.setdefault(name, {}).setdefault(row.part, row)
            lengths.setdefault(name[0], set()).add(len(name))
    seen = set()
    for row in rows:
        # Jane Roe is not named where Mary Jane Roe is.
        text = f"{row.example.prompt or ''}\n{row.example.response}".casefold()
        for part in _PAUSE.split(text.replace(row.place.subject.casefold(), ",")):
            words = [word.removesuffix("'s") for word in _words(part)]
            for index, word in enumerate(words):
                for length in lengths.get(word, ()):
                    name = tuple(words[index : index + length])
                    named = holders.get(name, {})
                    for other in named.values() if row.part not in named else ():
                        if (pair := (name, other.part, row.part)) not in seen:
                            seen.add(pair)
                            yield Overlap(other.place, row.place, 1.0, other.place.subject)


_PAUSE = re.compile(r"[?!;:,\n]|(?<=\w\w)\.\s")


@lru_cache(maxsize=1 << 16)
def _is_name(subject: str) -> bool:
    words = subject.split()
    return len(words) > 1 and all(word[0].isupper() and word[0].isalpha() for word in words)


def _contradiction(example: Example) -> str | None:
    known = example.metadata
    try:
        birth, day = date.fromisoformat(known["date_of_birth"]), date.fromisoformat(known["date"])
    except (KeyError, TypeError, ValueError):
        return None
    stated = known.get("age")
    if isinstance(stated, str) and stated.isdecimal():
        stated = int(stated)
    if isinstance(stated, int) and abs(stated - (lived := age_at(birth, day))) > 1:
        return f"age {stated} does not fit date_of_birth ({birth}) and date ({day}): {lived} years"
    return contradiction(birth, day, example.response)


def _two_births(rows: Sequence[_Row]) -> Iterator[Contradiction]:
    """Subjects said to be born in two different years; one for each row that differs from the first."""
    first: dict[str, tuple[str, Place]] = {}
    for row in rows:
        stated = row.example.metadata.get("date_of_birth")
        known = stated[:4] if isinstance(stated, str) else None
        # A question may name a year to be corrected by the answer; only what is stated counts.
        year = known or ((found := _BORN.search(row.example.response)) and found["year"])
        if not year:
            continue
        other, place = first.setdefault(_name(row.place.subject), (year, row.place))
        if year != other:
            words = f"{row.place.subject} is born in {year} here, in {other} at {place.where}"
            yield Contradiction(row.place, words)


# "… was born in 1950", and "the author born in Oslo in 1950 is …".
_BORN = re.compile(
    r"\b(?:was|is|were|are|[Tt]he (?:\S+ ){0,2}(?:author|writer|novelist|poet|person|man|woman)),? born "
    r"(?:(?!\bborn\b|\bto\b|\bwho\b|\bwrote\b)[^.;?!]){0,60}?\b(?P<year>(?:1[5-9]|20)\d\d)\b"
)


def _fields(found: Overlap | Contradiction | ContaminationReport) -> list[tuple[str, Any]]:
    return [(each.name, getattr(found, each.name)) for each in fields(found)]


def _listed(found: Iterable[Overlap | Contradiction]) -> list[dict[str, Any]]:
    return [{key: part._asdict() if isinstance(part, Place) else part for key, part in _fields(each)} for each in found]


def _overlap(one: _Row, two: _Row, similarity: float = 1.0) -> Overlap:
    return Overlap(one.place, two.place, round(similarity, 3), _cut(two.example.response))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:119] + "…"


def _spot(place: Place) -> str:
    return f"{place.set} {place.where}"


def _counted(found: Sequence[object], one: str, many: str) -> str:
    return f"{len(found):,} {one if len(found) == 1 else many}" if found else ""
