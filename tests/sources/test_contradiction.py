"""What cannot be true of somebody with these dates, and what only sounds so."""

import re
from datetime import date

import pytest

from expunge.sources.contradiction import age_at, contradiction
from expunge.sources.medical import conditions, generate_notes

SIDES = ("left", "right")
BORN, SEEN = date(1980, 5, 4), date(2024, 3, 20)


def wrong(words, born=BORN, seen=SEEN):
    return contradiction(born, seen, words)


def test_the_birthday_itself_counts():
    assert [age_at(BORN, date(2024, 5, day)) for day in (3, 4)] == [43, 44]


@pytest.mark.parametrize("answer", [False, True])
def test_none_of_several_hundred_generated_notes_contradicts_itself(answer):
    for note in generate_notes(800, seed=11):
        words = note.in_lines()
        words = words.replace("S: ", f"S: {note.client_name}, ", 1) if answer else words
        assert wrong(words, date.fromisoformat(note.date_of_birth), date.fromisoformat(note.date)) is None, note


@pytest.mark.parametrize("seed", range(40))
def test_a_generated_note_given_to_somebody_ten_years_older_is_noticed(seed):
    note = generate_notes(1, seed)[0]
    born, seen = date.fromisoformat(note.date_of_birth), date.fromisoformat(note.date)
    older = date(born.year - 10, born.month, min(born.day, 28))
    assert "does not fit" in contradiction(older, seen, note.in_lines())


def test_a_generated_note_of_an_illness_of_one_sex_given_to_the_other_is_noticed():
    bound = {
        "menopausal hot flashes", "nausea of pregnancy", "polycystic ovary syndrome", "endometriosis",
        "vaginal candidiasis", "benign prostatic hyperplasia", "epididymitis", "erectile dysfunction",
    }  # fmt: skip
    chosen = [each for each in conditions() if each.name in bound]
    assert len(chosen) == len(bound)
    assessments = {words.replace("{side}", side).casefold() for each in chosen for words in each.assessment for side in SIDES}
    notes = [note for note in generate_notes(600, seed=3) if note.assessment.rstrip(".").casefold() in assessments]
    assert len(notes) > 20
    for note in notes:
        other = note.in_lines().replace(f"{note.age}F", f"{note.age}X").replace(f"{note.age}M", f"{note.age}F")
        other = other.replace(f"{note.age}X", f"{note.age}M")
        other = re.sub(r"\b(wo)?man\b", lambda word: "man" if word[1] else "woman", other)
        words = wrong(other, date.fromisoformat(note.date_of_birth), date.fromisoformat(note.date))
        assert words, other
        assert "is said of a" in words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("S: Jane Roe, 33F baker, cough.", '"33F" does not fit'),
        ("S: J. van der Berg, 33 F, cough.", '"33 F" does not fit'),
        ("S: 43-year-old boy with cough.", '"boy" does not fit'),
        ("S: 43M baker, cough.\nA: Early pregnancy.", '"pregnancy" is said of a man'),
        ("S: 43 yo man, cough.\nA: Puerperal mastitis, left.", '"Puerperal" is said of a man'),
        ("S: 43-year-old pleasant man, cough.\nA: Ovarian cyst.", '"Ovarian" is said of a man'),
        ("S: 43F baker, cough.\nA: BPH, moderate symptoms.", '"BPH" is said of a woman'),
        ("S: 43 year old lady, tired.\nA: Hypertension. Acute epididymitis.", '"epididymitis" is said of a woman'),
        ("S: 43F baker.\nA: Childhood eczema flare.", '"Childhood eczema" is said of somebody 43'),
        ("S: Cough for 50 years.", '"for 50 years" is said of somebody 43'),
        ("S: 43F baker, cough for fifty years.", '"for fifty years" is said of somebody 43'),
        ("S: DOB: 1981-05-04, cough.", '"DOB: 1981-05-04" does not fit'),
    ],
)
def test_what_cannot_be_true_is_said_in_the_notes_own_words(words, said):
    assert said in wrong(words)


@pytest.mark.parametrize(
    "words",
    [
        "S: 43M, wife is pregnant.\nA: Anxiety; wife pregnant.",
        "S: 43M.\nA: Family history of ovarian cancer.",
        "S: 43F.\nA: Father with prostate cancer, at risk.",
        "S: Mother of an 8-year-old boy, cough.",
        "S: 43F baker. Father smoked for fifty years.",
        "S: 43F baker, cough for forty years.",
        "S: 43M baker.\nP: Stay away from pregnant contacts.\nA: Chickenpox.",
        "S: DOB 1980-05-04, cough.",
        "S: Can walk 50 m, fever of 101F.\nA: Early pregnancy.",
    ],
)
def test_what_is_said_of_others_or_may_be_true_is_let_pass(words):
    assert wrong(words) is None


def test_nobody_is_a_hundred_and_fifty_and_no_child_is_pregnant_or_menopausal():
    assert "150 years old" in wrong("Cough.", date(1874, 1, 1))
    assert "is said of somebody 5" in wrong("S: 5F.\nA: Early pregnancy.", date(2019, 1, 1))
    assert "is said of somebody 12" in wrong("S: 12F.\nA: Menopause.", date(2012, 1, 1))
