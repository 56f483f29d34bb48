"""Can these words be true of somebody with these dates? Age, sex and dates of a visit note, held against each other.

Made to be believed when it speaks: real notes tell of relatives, contacts and plans, and a note that is refused for nothing
costs a person an afternoon. So the patient's age and sex are read only where a note begins, a sex-bound or age-bound illness
only in the assessment, and a clause that names a relative says nothing about the patient.
"""

from __future__ import annotations

import re
from datetime import date

_OLDEST = 120
# 62F or 62M only where the note begins, perhaps behind the name: later it may be a temperature or a distance.
_STATED_AGE = re.compile(
    r"^(?:S:\s*)?(?:[^\s\d,][^\d,]{1,60},\s)?(?P<short>(?P<first>\d{1,3})\s?(?P<letter>[FM])\b)"
    r"|(?<![Oo]f a )(?<![Hh]as a )(?<![Ww]ith a )(?<![Oo]f an )(?<![Hh]as an )(?<![Ww]ith an )(?:"
    r"\b(?P<years>\d{1,3})(?:\s?(?:yo|y/o)\b|[\s-]years?[\s-]old\b)"
    r"|\b(?P<months>\d{1,2})[\s-]months?[\s-]old\b"
    r"|\baged (?P<aged>\d{1,3})\b)"
)
_STATED_WITHIN = 80
_STATED_SEX = re.compile(r"[\s,]+(?:[a-z-]+\s){0,2}?(?P<word>woman|man|female|male|girl|boy|lady|gentleman)\b", re.IGNORECASE)
_FEMALE = frozenset(("f", "woman", "female", "girl", "lady"))
_GROWN_UP = 21
_CHILD = frozenset(("girl", "boy"))

# Illnesses that bind sex and age: pattern, sex, youngest and oldest in years.
_BOUND = tuple(
    (re.compile(rf"\b(?:{words})\b", re.IGNORECASE), sex, youngest, oldest)
    for words, sex, youngest, oldest in (
        (r"pregnan\w*|miscarriage|(?:pre)?eclampsia|morning sickness|puerperal|postpartum|lactational \w+", "F", 10, 60),
        (r"endometrio\w*|ovarian|polycystic ovar\w*|pcos|dysmenorrh\w*|menorrhagia|uterine \w+", "F", 0, _OLDEST),
        (r"vagini\w*|vaginal \w+|vulvo\w*", "F", 0, _OLDEST),
        (r"(?:post|peri)?menopaus\w*", "F", 20, _OLDEST),
        (r"prostatitis|prostat\w+ (?:cancer|carcinoma|hyperplasia)|bph", "M", 18, _OLDEST),
        (r"epididym\w*|testicular \w+|erectile dysfunction|orchitis", "M", 0, _OLDEST),
        (r"(?:child|infant)(?:hood|ile) \w+|croup", None, 0, _GROWN_UP),
    )
)
_ASSESSMENT = re.compile(r"^A:(.*)$", re.MULTILINE)
_CLAUSE = re.compile(r"[.;:,\n]")
_RELATIVE = re.compile(
    r"\b(?:mother|father|mom|dad|parent|sister|brother|sibling|wife|husband|spouse|partner|son|daughter|child|children|baby|"
    r"uncle|aunt|cousin|grand\w+|family|familial|relative|contact|contacts|roommate|friend|risk|exposure|screening|married)s?\b",
    re.IGNORECASE,
)
_NUMBERS = (
    "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
)
_IN_WORDS = {word: number for number, word in enumerate(_NUMBERS.split(), 2)} | {
    word: 10 * number for number, word in enumerate(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty"], 2)
}
_FOR_YEARS = re.compile(rf"\bfor (?:the (?:past|last) |about |over )?(\d{{1,2}}|{'|'.join(_IN_WORDS)}) years\b", re.IGNORECASE)
_BIRTH_STATED = re.compile(r"\b(?:DOB|[Dd]ate of birth)[:\s]+(\d{4}-\d\d-\d\d)\b")


def age_at(birth: date, day: date) -> int:
    """Whole years lived on `day`."""
    return day.year - birth.year - ((day.month, day.day) < (birth.month, birth.day))


def contradiction(birth: date, day: date, words: str) -> str | None:
    """Why somebody born on `birth` cannot have these words in a note of `day`; None where they can.

    - The first age stated in the first 80 characters counts, unless it is that of somebody's child ("has a 2-year-old"). A
      clinician may be a year out about a birthday; more than that is another person or a made-up date.
    - The sex stated with that age is held against the illnesses of the assessment, the line that begins with `A:`.
    - Nobody has had anything for longer than they have lived.

    Args:
        birth: date of birth.
        day: date of the visit.
        words: the note, or how it begins.
    """
    if birth > day:
        return f"date_of_birth ({birth}) is after date ({day})"
    age = age_at(birth, day)
    if age > _OLDEST:
        return f"date_of_birth ({birth}) and date ({day}) make the patient {age} years old"
    stated = _STATED_AGE.search(words[:_STATED_WITHIN])
    sex = None
    if stated is not None:
        known = f"date_of_birth ({birth}) and date ({day}): {age} years"
        if not _fits(stated, birth, day):
            return f'"{(stated["short"] or stated[0]).strip()}" does not fit {known}'
        said = _STATED_SEX.match(words, stated.end())
        word = stated["letter"] or (said["word"] if said else None)
        if word is not None:
            sex = "F" if word.casefold() in _FEMALE else "M"
            if word.casefold() in _CHILD and age >= _GROWN_UP:
                return f'"{word}" does not fit {known}'
    return _unfit_illness(words, age, sex) or _longer_than_life(words, age) or _other_birth(words, birth)


def _fits(stated: re.Match[str], birth: date, day: date) -> bool:
    if stated["months"]:
        youngest = oldest = int(stated["months"])
    else:
        youngest = 12 * int(stated["first"] or stated["years"] or stated["aged"])
        oldest = youngest + 11
    lived = 12 * (day.year - birth.year) + day.month - birth.month - (day.day < birth.day)
    return youngest - 12 <= lived <= oldest + 12


def _unfit_illness(words: str, age: int, sex: str | None) -> str | None:
    found = _ASSESSMENT.search(words)
    if found is None:
        return None
    for clause in _CLAUSE.split(found[1]):
        for illness, only, youngest, oldest in _BOUND:
            if (named := illness.search(clause)) and not _RELATIVE.search(clause.replace(named[0], "")):
                if only and sex and only != sex:
                    return f'"{named[0]}" is said of a {"woman" if sex == "F" else "man"}'
                if not youngest <= age <= oldest:
                    return f'"{named[0]}" is said of somebody {age} years old'
    return None


def _longer_than_life(words: str, age: int) -> str | None:
    for found in _FOR_YEARS.finditer(words):
        number = found[1].casefold()
        if (_IN_WORDS.get(number) or int(number)) <= age + 1:
            continue
        sentence = words[: found.start()].rsplit(".", 1)[-1]
        if not _RELATIVE.search(sentence):
            return f'"{found[0]}" is said of somebody {age} years old'
    return None


def _other_birth(words: str, birth: date) -> str | None:
    found = _BIRTH_STATED.search(words)
    if found is None or found[1] == birth.isoformat():
        return None
    return f'"{found[0]}" does not fit date_of_birth ({birth})'
