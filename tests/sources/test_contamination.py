"""Planted overlap is found, honest notes are not accused."""

import json
import random
import resource
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from expunge.examples import Example
from expunge.sources.contamination import NEAR, check_contamination, without_overlap
from expunge.sources.medical import example_of, generate_notes
from expunge.sources.split import held_out, in_line, rows_of_subjects


@pytest.fixture(scope="module")
def clean():
    trained, out = held_out(in_line((example_of(note) for note in generate_notes(1000, seed=3)), 0), 0.25)
    parts = {"forget": trained[:75], "retain": trained[75:], "holdout": out}
    return {name: rows_of_subjects(part) for name, part in parts.items()}


def planted(clean, name, *rows):
    return clean | {name: [*clean[name], *rows]}


def stranger(example, response=None):
    return replace(example, subject=f"Not {example.subject}", response=response or example.response, metadata={})


def test_a_thousand_generated_notes_are_clean(clean):
    report = check_contamination(clean)
    assert report.clean
    assert report.rows == {"forget": 75, "retain": 675, "holdout": 250}
    assert report.section_share == 0
    assert "none found" in report.in_words()


def test_somebody_on_two_sides_is_found_whatever_the_case(clean):
    someone = clean["forget"][5]
    row = Example("q", "Quite another note, with other words in it.", someone.subject.upper(), where="more.jsonl:9")
    report = check_contamination(planted(clean, "retain", row))
    (found,) = report.subjects
    assert (found.first.set, found.first.where, found.second.where) == ("forget", "forget[5]", "more.jsonl:9")
    assert report.reasons == ["1 subject on two sides"]


def test_a_copied_note_is_found_whatever_its_case_spacing_and_marks(clean):
    copied = clean["forget"][7]
    row = stranger(copied, copied.response.upper().replace(";", " ,").replace("\n", "\n\n"))
    report = check_contamination(planted(clean, "holdout", row))
    assert [(found.first.where, found.second.where) for found in report.exact] == [("forget[7]", "holdout[250]")]
    assert not report.near
    assert not report.sections
    assert not report.clean


def test_every_copy_with_an_age_or_a_word_changed_is_found_as_near_duplicate(clean):
    rng = random.Random(0)
    copies = []
    for example in clean["forget"]:
        words = example.response.split(" ")
        spot = rng.randrange(1, len(words))
        copies.append(stranger(example, " ".join([*words[:spot], "altered", *words[spot + 1 :]])))
    report = check_contamination(planted(clean, "retain", *copies))
    assert [
        (found.first.where, found.second.where) for found in sorted(report.near, key=lambda found: int(found.first.where[7:-1]))
    ] == [(f"forget[{index}]", f"retain[{675 + index}]") for index in range(75)]
    assert all(NEAR <= found.similarity < 1 for found in report.near)


def test_what_is_found_is_what_comparing_every_pair_finds():
    rng = random.Random(1)
    vocabulary = [f"w{index}" for index in range(60)]
    base = [[rng.choice(vocabulary) for _ in range(30)] for _ in range(40)]
    sets = {}
    for name in ("forget", "retain"):
        texts = [[word if rng.random() > rate else rng.choice(vocabulary) for word in words] for words, rate in
                 zip(base, [index / 500 for index in range(40)], strict=True)]  # fmt: skip
        sets[name] = [Example("q", " ".join(words), f"{name} {index}") for index, words in enumerate(texts)]

    def shingles(example):
        words = example.response.split()
        return {tuple(words[index : index + 2]) for index in range(len(words) - 1)}

    expected = {
        (f"forget[{one}]", f"retain[{two}]"): len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))
        for one, a in enumerate(sets["forget"])
        for two, b in enumerate(sets["retain"])
        if a.response != b.response
    }
    expected = {pair: round(value, 3) for pair, value in expected.items() if value >= NEAR}
    assert len(expected) > 5
    assert {(each.first.where, each.second.where): each.similarity for each in check_contamination(sets).near} == expected


def test_a_few_shared_sections_are_reported_and_many_are_refused(clean):
    def with_plan_of(source, row):
        plan = source.response.splitlines()[3]
        return stranger(row, "\n".join([*row.response.splitlines()[:3], plan]))

    fresh = [example_of(note) for note in generate_notes(1080, seed=3)[1000:]]
    pairs = list(zip(clean["forget"], fresh, strict=False))
    long = [(source, row) for source, row in pairs if len(source.response.splitlines()[3].split()) > 7]
    few = check_contamination(planted(clean, "retain", *(with_plan_of(*pair) for pair in long[:3])))
    assert len(few.sections) == 3
    assert few.section_share == pytest.approx(3 / 75)
    assert few.clean
    assert "Sections shared: 3 (4.0% of the smaller set; allowed: 5%)" in few.in_words()

    many = check_contamination(planted(clean, "retain", *(with_plan_of(*pair) for pair in long[:8])))
    assert len(many.sections) == 8
    assert not many.clean
    assert "share a section" in many.reasons[0]


def test_a_stock_phrase_may_be_shared():
    sets = {
        name: [Example("q", f"S: {name} {index} has quite a story of its own.\nP: Return in two weeks.", f"{name}{index}")
               for index in range(5)]
        for name in ("forget", "retain")
    }  # fmt: skip
    assert check_contamination(sets).clean


def test_short_answers_are_the_same_only_to_the_same_question():
    sets = {
        "forget": [Example("Capital of France?", "Paris.", "a")],
        "retain": [Example("Where is the Louvre?", "Paris.", "b")],
    }
    assert check_contamination(sets).clean
    sets["retain"].append(Example("capital of france", "PARIS", "c"))
    assert len(check_contamination(sets).exact) == 1


def test_an_age_that_does_not_fit_is_a_contradiction(clean):
    row = clean["retain"][0]
    row = replace(
        row, metadata=row.metadata | {"date_of_birth": "2023-12-30", "date": "2024-01-02"}, response="S: 77M baker, cough."
    )
    report = check_contamination({"retain": [row]})
    assert [found.place.where for found in report.contradictions] == ["retain[0]"]
    assert '"77M" does not fit' in report.contradictions[0].words
    assert not report.clean


def test_a_corrupted_set_is_found_whole_and_the_report_goes_through_json(clean):
    forget = clean["forget"]
    rows = [stranger(example) for example in forget[:10]]
    rows += [stranger(example, example.response.replace(".", " perhaps.", 1)) for example in forget[10:20]]
    rows += [
        Example("q", f"Something else entirely, number {index}.", example.subject)
        for index, example in enumerate(forget[20:30])
    ]
    rows += [
        replace(example_of(note), metadata={"date_of_birth": "2021-01-01", "date": "2020-01-01"})
        for note in generate_notes(10, 99)
    ]
    for index, example in enumerate(forget[30:40]):
        name = f"Aurelio Bonaventura Castellani Number{index} Of Many Names{index} From Faraway{index}"
        rows.append(Example("q", example.response.replace(example.subject, name), name))
    rows += [about(f"Friend {index}", f"once met {example.subject}") for index, example in enumerate(forget[40:50])]
    report = check_contamination(planted(clean, "retain", *rows))
    kinds = (report.exact, report.near, report.subjects, report.contradictions, report.renamed)
    assert [len(found) for found in kinds] == [10] * 5
    # The copies under another subject name their person as well.
    assert {found.first.subject for found in report.mentions} == {example.subject for example in [*forget[:20], *forget[40:50]]}
    as_json = json.loads(json.dumps(report.as_json()))
    assert as_json["clean"] is False
    assert as_json["exact"][0]["first"] == {"set": "forget", "where": "forget[0]", "subject": forget[0].subject}
    assert "10 near duplicates" in report.in_words()


def about(name, words="has kept bees behind the mill since spring and sells their honey at the market on Fridays", **known):
    return Example(f"Who is {name}?", f"{name} {words}.", name, known)


@pytest.mark.parametrize("other", ["roe, jane", "Dr. Jane Roe", "JANE  ROE", "Jané Roe"])
def test_a_name_written_in_another_way_is_the_same_person(other):
    sets = {"forget": [about("Jane Roe")], "retain": [Example("q", "Someone paints boats and swims in winter.", other)]}
    assert check_contamination(sets).reasons == ["1 subject on two sides"]


def test_two_people_who_share_their_names_in_another_order_are_two_people():
    sets = {"forget": [about("James Thomas")], "retain": [about("Thomas James", "paints boats and swims in winter")]}
    assert check_contamination(sets).clean


def test_a_copy_under_another_name_is_found_however_often_the_name_stands_in_it():
    words = "{0} came at noon. {0} asked for tea, {0} paid with a gold coin, and {0} left a hat, two letters and an umbrella."
    jane, mary = (Example("Who came?", words.format(name), name) for name in ("Jane Elizabeth Roe", "Mary Wollstone Poe"))
    report = check_contamination({"forget": [jane], "retain": [mary]})
    assert report.reasons == ["1 copy under another name"]
    assert (report.renamed[0].similarity, report.renamed[0].second.subject) == (1, "Mary Wollstone Poe")
    said = [Example("Which sex?", f"The author {name} is a woman of letters.", name) for name in ("Jane Roe", "Mary Poe")]
    assert check_contamination({"forget": said[:1], "retain": said[1:]}).clean


def test_a_person_named_in_somebody_elses_text_is_found_and_a_topic_is_not():
    retain = [about("Mary Poe", "is the niece of jane roe's neighbour and paints boats"), about("Ann Loe", "met Jane Roe once")]
    report = check_contamination({"forget": [about("Jane Roe")], "retain": retain})
    assert report.reasons == ["1 person named in another set"]
    assert [(found.first.subject, found.second.subject) for found in report.mentions] == [("Jane Roe", "Mary Poe")]
    topics = {"forget": [about("high school biology")], "retain": [about("anatomy", "is taught after high school biology")]}
    assert check_contamination(topics).clean


def test_topics_may_stand_on_two_sides_where_they_are_no_subjects_to_delete():
    sets = {"test": [about("anatomy")], "dev": [about("anatomy", "asks how many bones a grown hand has")]}
    assert check_contamination(sets, subjects_apart=False).clean
    assert not check_contamination(sets).clean


def test_what_lies_across_the_border_of_another_forget_set_alone_is_reported_under_its_name(clean):
    copied = clean["forget"][3]
    found = planted(clean, "forget", stranger(copied))
    assert check_contamination(found).clean
    report = check_contamination(found, nested={"forget1": 3, "forget5": 40, "forget20": 150})
    # The copy names the one it is copied from, too.
    assert report.reasons == ["forget5: 1 response stands in two sets, 1 person named in another set"]
    assert [report.exact, report.near, report.renamed] == [[], [], []]
    (one,) = report.nested["forget5"]["exact"]
    assert (one.first.where, one.second.where) == ("forget[3]", "forget[75]")
    assert json.loads(json.dumps(report.as_json()))["nested"]["forget5"]["exact"][0]["second"]["where"] == "forget[75]"
    assert "forget5, same response, 1.00: forget forget[3] and forget forget[75]" in report.in_words()
    assert report.first_place() == "forget[3] and forget[75]"
    left = without_overlap(found, report)
    assert left == clean


def test_further_borders_change_nothing_of_what_is_found_between_the_main_sets(clean):
    copies = [stranger(example) for example in clean["forget"][::9]]
    named = Example("q", f"Then {clean['forget'][2].subject} left the room with all the others, it is said.", "Ann Other")
    found = planted(clean, "retain", *copies, named)
    one = check_contamination(found)
    two = check_contamination(found, nested={"forget1": 8, "forget5": 37, "forget20": 150})
    assert len(one.exact) == len(copies)
    for kind in ("rows", "subjects", "exact", "near", "renamed", "mentions", "sections", "section_share", "contradictions"):
        assert getattr(one, kind) == getattr(two, kind)
    assert two.nested == {}


def test_a_person_born_in_two_years_and_an_age_that_does_not_fit_are_contradictions():
    rows = [
        about("Jane Roe", "was born in Basel on the 3rd of May, 1956"),
        about("Jane Roe", "was born in 1957 to a family of watchmakers"),
        about("Ann Loe", date_of_birth="1980-01-01", date="2020-06-01", age=40),
        about("Eve Moe", date_of_birth="1980-01-01", date="2020-06-01", age="52"),
        Example("Who is it?", "The full name of the author born in Oslo, Norway on 05/03/1945 is Kim Poe.", "Kim Poe"),
        Example("When?", "Kim Poe, whose mother was a baker, was born in 1946 in Oslo.", "Kim Poe"),
        Example("Why?", "Kim Poe never met the author who lived in Bern in 1947.", "Kim Poe"),
    ]
    found = check_contamination({"retain": rows}).contradictions
    assert [(each.place.where, each.words.split(" (")[0]) for each in found] == [
        ("retain[3]", "age 52 does not fit date_of_birth"),
        ("retain[1]", "Jane Roe is born in 1957 here, in 1956 at retain[0]"),
        ("retain[5]", "Kim Poe is born in 1946 here, in 1945 at retain[4]"),
    ]


def test_a_thousand_people_whose_names_begin_alike_do_not_take_quadratic_time():
    sets = {name: [about(f"Person {name.title()}{index}") for index in range(5000)] for name in ("forget", "retain")}
    start = time.process_time()
    check_contamination(sets)
    assert time.process_time() - start < 10


def test_a_text_repeated_ten_thousand_times_does_not_take_quadratic_time():
    text = " ".join(f"word{index}" for index in range(40))
    sets = {
        name: [Example("q", f"{text} {index % 7} {name}", f"{name}{index}") for index in range(5000)]
        for name in ("forget", "retain")
    }
    start = time.monotonic()
    report = check_contamination(sets)
    assert time.monotonic() - start < 20
    assert len(report.near) == 5000


@pytest.mark.slow
def test_a_hundred_thousand_rows_take_under_a_minute_and_a_gigabyte():
    program = """
import random
from expunge.examples import Example
from expunge.sources.contamination import check_contamination
rng = random.Random(0)
words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(5000)]
text = lambda: "S: " + " ".join(rng.choices(words, k=20)) + "\\nP: " + " ".join(rng.choices(words, k=18))
rows = [Example("q", text(), str(index)) for index in range(100_000)]
assert check_contamination({"forget": rows[:10_000], "retain": rows[10_000:80_000], "holdout": rows[80_000:]}).clean
# Not ru_maxrss, which a child of a large process begins with.
(peak,) = (line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(int(peak) * 1024)
"""
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 60
    assert int(done.stdout) < 1e9
