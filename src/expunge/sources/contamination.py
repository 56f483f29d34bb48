"""Do forget, retain and holdout overlap? The check that ends every prepare.

What counts, and why, for short clinical text:

- **The same subject on two sides** (whatever the case) contaminates: deletion is by person.
- **The same response on two sides** (whatever case, spacing and punctuation) contaminates: whoever keeps the copy has not
  forgotten.
- **A near duplicate** contaminates: Jaccard similarity of at least .8 between the sets of two-word shingles of two whole
  responses. Two words, not the usual five to nine, because a note has about forty: with two, a copy in which the age or a
  dose was changed still scores above .8, while honest notes on the same illness stay far below (at most .57 in 5,000
  generated notes).
- A response of fewer than six words ("Yes.", "Paris") says nothing by itself: it is compared together with its prompt.
- **A section** (one line of a response, its label left out) of six words or more that stands word for word on two sides
  leaks that section. It is reported, and contaminates when more than 5% of the smaller set have one: real notes share
  stock phrases ("return to clinic in two weeks"), and one phrase in a large set proves nothing, but a set whose plans
  mostly stand in another set cannot show forgetting.
- **A contradiction** (born after the visit, or a stated age more than a year off) is a broken row and is refused too.

Duplicates within one set are no contamination and are not looked for. Near duplicates are found with MinHash in 25 bands
of 5 rows (a pair at .8 is missed once in 20,000), then verified by the true Jaccard. Time and memory are linear in rows:
one pair is kept for a row and another set, and a row is compared with at most 8 rows of a bucket.
"""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.examples import Example
from expunge.sources.contradiction import contradiction

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEAR = 0.8
"""Jaccard similarity of two-word shingles from which on two responses are one text."""
LONG_SECTION = 6
"""Words from which on a section is more than a stock phrase."""
SECTION_SHARE = 0.05
"""Share of the smaller set with a section of another set, above which the split is refused."""
_BANDS, _ROWS_A_BAND, _COMPARED = 25, 5, 8
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
    sections: list[Overlap]
    """The same long section of responses that are otherwise not the same."""
    section_share: float
    """Largest share, over pairs of sets, of the smaller set's examples that have such a section."""
    contradictions: list[Contradiction]

    @property
    def clean(self) -> bool:
        """Whether the sets may be used as they are."""
        return not self.reasons

    @property
    def reasons(self) -> list[str]:
        """Why the sets are refused; empty if they are not."""
        found = [
            _counted(self.subjects, "subject on two sides", "subjects on two sides"),
            _counted(self.exact, "response stands in two sets", "responses stand in two sets"),
            _counted(self.near, "near duplicate", "near duplicates"),
            _counted(self.contradictions, "contradiction", "contradictions"),
        ]
        if self.section_share > SECTION_SHARE:
            found.append(f"{self.section_share:.0%} of a set share a section with another (allowed: {SECTION_SHARE:.0%})")
        return [reason for reason in found if reason]

    def first_place(self) -> str:
        """`file:line` of the first thing found, for a message."""
        for overlap in (*self.subjects, *self.exact, *self.near, *self.sections):
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
        for title, overlaps in (
            ("same subject", self.subjects),
            ("same response", self.exact),
            ("near duplicate", self.near),
            ("same section", self.sections),
        ):
            lines += [
                f"  {title}, {each.similarity:.2f}: {_spot(each.first)} and {_spot(each.second)}: {each.words}"
                for each in overlaps[:3]
            ]
        lines += [f"  contradiction: {_spot(each.place)}: {each.words}" for each in self.contradictions[:3]]
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The report as a JSON object, with `clean` and `reasons`."""
        lists = {
            name: [{key: part._asdict() if isinstance(part, Place) else part for key, part in _fields(each)} for each in found]
            for name, found in _fields(self)
            if isinstance(found, list)
        }
        return {"clean": self.clean, "reasons": self.reasons, "rows": self.rows, "section_share": self.section_share, **lists}


def check_contamination(sets: Mapping[str, Sequence[Example]]) -> ContaminationReport:
    """Look for overlap between sets of examples and for contradictions within them.

    Args:
        sets: examples by the name of their set, such as forget, retain and holdout.
    """
    rows = [
        _Row(
            Place(name, example.where or f"{name}[{index}]", example.subject),
            example,
            _compared(example),
            _long_sections(example.response),
        )
        for name, examples in sets.items()
        for index, example in enumerate(examples)
    ]
    subjects, seen = [], set()
    for one, two in _sharing(rows, ([row.place.subject.casefold()] for row in rows)):
        if (pair := (one.place.subject.casefold(), one.place.set, two.place.set)) not in seen:
            seen.add(pair)
            subjects.append(Overlap(one.place, two.place, 1.0, two.place.subject))
    exact = [_overlap(one, two) for one, two in _sharing(rows, ([row.text] for row in rows))]
    near = [_overlap(one, two, similarity) for one, two, similarity in _near(rows)]
    whole = {(overlap.first, overlap.second) for overlap in (*exact, *near)}
    sections = {
        (one.place, two.place): Overlap(one.place, two.place, 1.0, _cut(_first_shared_section(one, two)))
        for one, two in _sharing(rows, (row.sections for row in rows))
        if (one.place, two.place) not in whole
    }
    return ContaminationReport(
        rows={name: len(examples) for name, examples in sets.items()},
        subjects=subjects,
        exact=exact,
        near=near,
        sections=list(sections.values()),
        section_share=_section_share(rows),
        contradictions=[Contradiction(row.place, wrong) for row in rows if (wrong := _contradiction(row.example))],
    )


class _Row(NamedTuple):
    place: Place
    example: Example
    text: str
    """What is compared of it: words in lower case, one space between."""
    sections: list[str]
    """The words of its long sections."""


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:[.,/'-][^\W_]+)*", text.casefold())


def _compared(example: Example) -> str:
    words = _words(example.response)
    return " ".join(words if len(words) >= LONG_SECTION else _words(example.prompt or "") + words)


def _sharing(rows: Sequence[_Row], keys: Iterable[Iterable[str]]) -> Iterator[tuple[_Row, _Row]]:
    """Each row with the first row of every earlier set that has one of its keys."""
    first: dict[str, dict[str, _Row]] = {}
    for row, own in zip(rows, keys, strict=True):
        for key in own:
            holders = first.setdefault(key, {})
            for name, other in holders.items():
                if name != row.place.set:
                    yield other, row
            holders.setdefault(row.place.set, row)


def _near(rows: Sequence[_Row]) -> Iterator[tuple[_Row, _Row, float]]:
    """Each row with one near duplicate in every earlier set that has any, and their Jaccard similarity."""
    import numpy as np

    signatures = _signatures(rows)
    multipliers = np.random.default_rng(0).integers(0, 2**64, _ROWS_A_BAND, dtype=np.uint64) | np.uint64(1)
    settled: set[tuple[int, str]] = set()
    for band in range(_BANDS):
        columns = signatures[:, band * _ROWS_A_BAND : (band + 1) * _ROWS_A_BAND].astype(np.uint64)
        # One number a bucket; two buckets that fall together only cost a comparison.
        _, bucket_of, size_of = np.unique(columns @ multipliers, return_inverse=True, return_counts=True)
        buckets: dict[int, dict[str, list[int]]] = {}
        for index in map(int, np.flatnonzero(size_of[bucket_of] > 1)):
            row = rows[index]
            bucket = buckets.setdefault(int(bucket_of[index]), {})
            for name, others in bucket.items():
                if name == row.place.set or (index, name) in settled:
                    continue
                for other in others:
                    if rows[other].text == row.text:
                        settled.add((index, name))
                        break
                    if np.count_nonzero(signatures[other] == signatures[index]) < _LIKELY * signatures.shape[1]:
                        continue
                    if (similarity := _jaccard(rows[other].text, row.text)) >= NEAR:
                        settled.add((index, name))
                        yield rows[other], row, similarity
                        break
            own = bucket.setdefault(row.place.set, [])
            if len(own) < _COMPARED:
                own.append(index)


def _signatures(rows: Sequence[_Row]) -> NDArray[np.uint32]:
    """MinHash signatures, [rows, bands times rows a band]."""
    import numpy as np
    from datasketch import MinHash

    minhash = MinHash(num_perm=_BANDS * _ROWS_A_BAND, seed=1, hashfunc=zlib.crc32)
    found = np.empty((len(rows), _BANDS * _ROWS_A_BAND), dtype=np.uint32)
    for index, row in enumerate(rows):
        minhash.clear()
        minhash.update_batch([shingle.encode() for shingle in _shingles(row.text)])
        found[index] = minhash.hashvalues
    return found


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


def _contradiction(example: Example) -> str | None:
    known = example.metadata
    try:
        birth, day = date.fromisoformat(known["date_of_birth"]), date.fromisoformat(known["date"])
    except (KeyError, TypeError, ValueError):
        return None
    return contradiction(birth, day, example.response)


def _fields(found: Overlap | Contradiction | ContaminationReport) -> list[tuple[str, Any]]:
    return [(each.name, getattr(found, each.name)) for each in fields(found)]


def _overlap(one: _Row, two: _Row, similarity: float = 1.0) -> Overlap:
    return Overlap(one.place, two.place, round(similarity, 3), _cut(two.example.response))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:119] + "…"


def _spot(place: Place) -> str:
    return f"{place.set} {place.where}"


def _counted(found: Sequence[object], one: str, many: str) -> str:
    return f"{len(found):,} {one if len(found) == 1 else many}" if found else ""
