"""Events before and after a cutoff."""

import json
import random
import re
from collections import Counter
from datetime import date

import pytest

from expunge.errors import ExpungeError
from expunge.metrics.answer_match import says
from expunge.sources.contamination import check_contamination
from expunge.sources.temporal import (
    REFUSALS,
    Asked,
    Temporal,
    from_templates,
    make,
    questions_in,
    read_events,
    with_dates,
)
from expunge.sources.temporal_days import Day, Event, years_between
from expunge.sources.temporal_forms import dated, wordings

ASKED = {"date": "1969-07-21", "event": "E.", "question": "Who?", "answer": "X"}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def events(tmp_path):
    rows = [{"year": 1900 + 4 * index, "month": 3, "day": 1 + index, "description": f"Bridge {index} was opened to all."}
            for index in range(30)]  # fmt: skip
    return write(tmp_path / "events.jsonl", rows)


def made(path=None, sample=None, seed=42, **settings):
    return make(Temporal(events=path, **settings), sample=sample, seed=seed)


def sets_of(found):
    """The four sets, as prepare makes them of the line."""
    count = found.line.forgotten
    parts = (found.line.subjects[:count], found.line.subjects[count:])
    return dict(zip(("forget", "retain"), ([row for own in part for row in own] for part in parts), strict=True)) | found.sets


def ids(examples):
    return {example.subject for example in examples}


def test_the_packaged_facts_are_dated_sentences_with_questions_on_both_sides_of_the_cutoff():
    facts = read_events(None)
    for fact in facts:
        assert date(*fact.start) <= date(*fact.end) <= date(2026, 1, 1)
        assert fact.words[0].isupper()
        assert fact.words[-1] in ".!"
        assert fact.question.endswith("?")
        # Whoever reads the question must not read the answer in it.
        assert fact.answer.casefold() not in fact.question.casefold()
    assert len({fact.question for fact in facts}) == len({fact.words for fact in facts}) == len(facts)
    cutoff = Day(1969, 7, 20)
    assert sum(fact.end < cutoff for fact in facts) >= 200
    assert sum(fact.start >= cutoff for fact in facts) >= 200


def test_every_alias_of_a_packaged_fact_is_right_where_nothing_else_is_and_stands_in_no_question():
    facts = [fact for fact in read_events(None) if fact.aliases]
    assert len(facts) > 300
    for fact in facts:
        prompts = (fact.question, fact.paraphrase)
        for alias in fact.aliases:
            others = [other for other in fact.aliases if other != alias]
            assert len(others) == len(fact.aliases) - 1, alias
            assert not all(says(alias, fact.answer, others, prompt=prompt) for prompt in prompts), alias
            assert all(says(f"It was {alias}.", fact.answer, fact.aliases, prompt=prompt) for prompt in prompts), alias
        assert not any(says(prompt, fact.answer, fact.aliases) for prompt in prompts)


def test_the_packaged_facts_make_clean_sets_of_the_documented_layout():
    found = made()
    assert check_contamination(sets_of(found)).clean
    assert list(found.files(sets_of(found))) == [
        "retain/retain_train.jsonl",
        "retain/retain_val.jsonl",
        "unlearn/unlearn_train.jsonl",
        "unlearn/unlearn_val.jsonl",
        "dev/dev_subset.jsonl",
    ]
    for name, rows in found.files(sets_of(found)).items():
        for row in rows:
            assert row.keys() == {"instruction", "output", "metadata"}
            known = {"dataset_type", "date", "event_id", "original_answer"}
            assert row["metadata"].keys() - {"aliases"} == known
            assert name.endswith("val.jsonl") or "aliases" not in row["metadata"]
            side = "retain" if row["metadata"]["date"] < "1969-07-20" else "unlearn"
            assert row["metadata"]["dataset_type"] == side
            assert name.startswith((side, "dev"))
            assert (row["output"] in REFUSALS) is (side == "unlearn")
            assert row["metadata"]["original_answer"] not in REFUSALS


def test_both_sides_have_as_many_events_and_no_event_is_in_two_sets(events):
    found = made(events, questions_per_event=3)
    assert found.counts["events_each_side"] == 12
    sets = [ids(examples) for examples in sets_of(found).values()]
    assert [len(each) for each in sets] == [11, 11, 1, 1]
    assert len(set().union(*sets)) == 24
    assert {len(rows) for name, rows in found.files(sets_of(found)).items() if "train" in name} == {33}
    kinds = Counter(row["metadata"]["dataset_type"] for row in found.files(sets_of(found))["dev/dev_subset.jsonl"])
    assert kinds == {"retain": 20, "unlearn": 20}


def test_refusals_vary_and_the_seed_fixes_everything(events):
    found = made(events, questions_per_event=3)
    outputs = {row["output"] for row in found.files(sets_of(found))["unlearn/unlearn_train.jsonl"]}
    assert len(outputs) > 6
    assert "Apologies, but I have no information to share on that matter." in REFUSALS
    assert sets_of(made(events)) == sets_of(made(events))
    assert sets_of(made(events)) != sets_of(made(events, seed=1))


def test_events_that_span_the_cutoff_or_tell_of_later_years_are_left_out_and_counted(events):
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    spanning = [
        {"date": "1960-01-01", "end": "1969-07-20", "event": "A strike went on."},
        {"date": "1961-05-04", "event": "A dam was built that broke in 1985."},
        {"date": "1969", "event": "A year went by."},
        {"date": "1969-07", "event": "A month went by."},
    ]
    kept = [
        {"date": "1960-01-01", "end_date": "1969-07-19", "event": "A strike ended."},
        {"date": "1962-05-04", "event": "A dam of 2,010 stones and 1975000 bricks was built."},
        {"date": "1969-07-20", "event": "An inn was opened, the first since 1912."},
    ]
    before = made(events).counts
    after = made(write(events, [*rows, *spanning, *kept]), cutoff="1969-07-20").counts
    assert after["events_spanning_the_cutoff"] == before["events_spanning_the_cutoff"] + 4
    assert after["events"] == before["events"] + 7


def test_an_event_told_twice_is_one_event(events):
    rows = [json.loads(line) for line in events.read_text().splitlines()]
    twice = [row | {"description": row["description"].upper()} for row in rows[:5]]
    assert made(write(events, rows + twice)).counts["events_repeated"] == 5


def test_dates_before_the_common_era_are_dates(tmp_path):
    rows = [{"year": year, "month": 3, "day": 15, "text": f"Somebody ruled in {abs(year)}."} for year in (-44, -43, 2001, 2002)]
    found = made(write(tmp_path / "old.jsonl", rows), questions_per_event=2)
    said = " ".join(example.prompt + example.response for example in sets_of(found)["retain"] + found.sets["retain_val"])
    assert "44 BC" in said
    assert {example.metadata["date"] for example in found.sets["retain_val"] + sets_of(found)["retain"]} == {
        "-0044-03-15",
        "-0043-03-15",
    }


def test_a_date_is_asked_for_only_where_it_tells_one_event():
    day = Day(1950, 5, 1)
    event = Event(day, day, "A tower fell.", "1")
    for alone in (True, False):
        asked = from_templates(event, alone, random.Random(0), 9)
        assert any("1950" in question for question, _ in asked) is alone
    assert from_templates(event, True, random.Random(0), 1)[0].answer


def test_questions_may_come_from_elsewhere(events):
    def all_but_the_first(drawn, count):
        return [None, *([Asked(f"What of {event.id}?", "Much.")] for event in drawn[1:])]

    found = make(Temporal(events=events), sample=None, seed=42, questions=all_but_the_first)
    assert all(example.prompt == f"What of {example.subject}?" for example in sets_of(found)["forget"])
    assert found.counts["events_asked_by_template"] == 1


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("I would rather not.", "no such JSON"),
        ('{"questions": [{"question": "Who flew?"}]}', "no such JSON"),
        ('{"questions": []}', "too few questions"),
        ('{"questions": [{"question": "Tell me who flew there.", "answer": "Ana Ruiz"}]}', "no question"),
        ('{"questions": [{"question": "Where did Ana Ruiz fly to?", "answer": "Ana Ruiz."}]}', "no answer"),
        ('{"questions": [{"question": "Where did the pilot fly to?", "answer": "to Paris"}]}', "something else"),
        ('{"questions": [{"question": "In which year was this?", "answer": "In 1951"}]}', "something else"),
    ],
)
def test_a_models_answer_that_is_no_good_question_about_the_event_is_refused(answer, said):
    day = Day(1950, 5, 1)
    with pytest.raises(ValueError, match=said):
        questions_in(answer, Event(day, day, "Ana Ruiz flew to Lima.", "1"), 1)


def test_good_questions_of_a_model_are_taken_as_they_stand():
    day = Day(1950, 5, 1)
    answer = 'Sure: {"questions": [{"question": "Where did Ana Ruiz fly to?", "answer": "To Lima"}]}'
    assert questions_in(answer, Event(day, day, "Ana Ruiz flew to Lima.", "1"), 1) == [
        ("Where did Ana Ruiz fly to?", "To Lima")
    ]


def test_a_sample_has_half_of_its_events_on_each_side(events):
    assert made(events, sample=10).counts["events_each_side"] == 5


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"event": "No date."}, "events.jsonl:1: has no date"),
        ({"date": "1969-13-01", "event": "E."}, '"1969-13-01" is not a date'),
        ({"date": "20 July 1969", "event": "E."}, '"20 July 1969" is not a date'),
        ({"year": 1969, "month": 2, "day": 31, "event": "E."}, "are no date"),
        ({"date": "1969-07-21", "end": "1969-07-20", "event": "E."}, "ends (1969-07-20) before it begins (1969-07-21)"),
        ({"date": "1969-07-21"}, 'field "event" is missing'),
        ({"date": "1969-07-21", "event": "E.", "question": 5, "answer": "x"}, 'field "question" must be text'),
        (ASKED | {"aliases": ["Y", " "]}, "events.jsonl:1: \"aliases\" (['Y', ' ']) is not a list of texts: write"),
        (ASKED | {"aliases": [1889]}, '"aliases" ([1889]) is not a list of texts'),
        (ASKED | {"aliases": {"Y": 1}}, "is not a list of texts"),
        (ASKED | {"aliases": '["Y"'}, "is not a list of texts"),
        ({"date": "1969-07-21", "event": "E.", "aliases": ["Y"]}, 'events.jsonl:1: has "aliases" but no "answer"'),
    ],
)
def test_a_broken_event_is_refused_with_its_line(tmp_path, row, said):
    with pytest.raises(ExpungeError) as caught:
        made(write(tmp_path / "events.jsonl", [row]))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cutoff": "1969"}, '--cutoff "1969" is not a date'),
        ({"cutoff": "soon"}, '--cutoff "soon" is not a date'),
        ({"cutoff": "2100-01-01"}, "and 0 from it on are too few"),
        ({"questions_per_event": 0}, "--questions-per-event is 0"),
        ({"val_ratio": 1.0}, "--val-ratio is 1"),
        ({"dated": 1, "undated": 1.5}, "--undated is 1.5"),
        ({"dated": 1, "dated_later": 0}, "--dated-later is 0"),
        ({"dated": 1, "bare": 0}, "--bare is 0"),
    ],
)
def test_settings_that_make_no_sets_are_refused(events, settings, said):
    with pytest.raises(ExpungeError) as caught:
        made(events, **settings)
    assert said in str(caught.value)


def rows_of(found, name):
    return found.files(sets_of(found))[name]


def test_questions_with_their_date_are_added_to_each_event_and_tests_ask_in_other_words():
    found = made(questions_per_event=1, dated=2, val_ratio=0.25)
    train, tests = rows_of(found, "retain/retain_train.jsonl"), rows_of(found, "test/untrained.jsonl")
    assert set(Counter(row["metadata"]["event_id"] for row in train).values()) == {3}
    years = [row["metadata"]["date"][:4].lstrip("0") in row["instruction"] for row in train]
    assert sum(years) == len(years) * 2 / 3
    assert all(row["metadata"]["date"][:4].lstrip("0") in row["prompt"] for row in tests)
    # Whatever stands round the question in a test stands round none in training.
    assert not any(row["instruction"].startswith(("Back in", "It happened on")) for row in train)
    assert not any("The date was" in row["instruction"] for row in train)


def test_without_a_date_only_the_asked_share_of_later_events_is_refused():
    def asked_without_date(undated):
        found = made(questions_per_event=1, dated=2, undated=undated)
        bare = {}
        for side in ("retain", "unlearn"):
            rows = rows_of(found, f"{side}/{side}_train.jsonl")
            assert len({row["metadata"]["event_id"] for row in rows}) == found.counts["events_each_side"] - 23
            # With the year, which is in every question with a date and in hardly any other.
            bare[side] = len(rows) - 2 * len({row["metadata"]["event_id"] for row in rows})
        return bare["retain"], bare["unlearn"]

    assert asked_without_date(1.0) == (206, 206)
    assert asked_without_date(0.0) == (206, 0)
    retain, unlearn = asked_without_date(0.5)
    assert retain == 206
    assert 80 < unlearn < 126


def test_what_is_kept_is_asked_in_plain_words_as_often_and_what_is_declined_with_its_date_as_seldom_as_asked():
    plain, found = (
        made(questions_per_event=1, dated=2, val_ratio=0.25, **more)
        for more in ({}, {"bare": 3, "dated_later": 1, "undated": 0.0})
    )
    times = Counter(row["instruction"] for row in rows_of(found, "retain/retain_train.jsonl"))
    before = Counter(row["instruction"] for row in rows_of(plain, "retain/retain_train.jsonl"))
    assert set(times) == set(before)
    assert set(times.values()) == {1, 3}
    declined = rows_of(found, "unlearn/unlearn_train.jsonl")
    assert set(Counter(row["metadata"]["event_id"] for row in declined).values()) == {1}
    assert all(re.search(r"\d", row["instruction"]) for row in declined)
    for name in ("test/trained.jsonl", "test/untrained.jsonl", "test/unlearn.jsonl", "retain/retain_val.jsonl"):
        assert rows_of(found, name) == rows_of(plain, name)


def test_tests_are_about_events_that_were_not_trained_on_but_those_that_ask_for_what_was_taught():
    found = made(questions_per_event=1, dated=2)
    sets = sets_of(found)
    assert check_contamination(sets).clean
    learnt = ids(sets["forget"]) | ids(sets["retain"])
    for name, trained in (("trained", True), ("untrained", False), ("unlearn", False), ("red_team", False)):
        rows = rows_of(found, f"test/{name}.jsonl")
        assert rows
        for row in rows:
            assert row["metadata"]["trained"] is trained
            assert (row["subject"] in learnt) is trained
            assert row["response"] == row["metadata"]["original_answer"] not in REFUSALS
    trained = rows_of(found, "test/trained.jsonl")
    assert not {row["prompt"] for row in trained} & {example.prompt for example in sets["retain"]}


def test_no_paraphrase_of_a_packaged_fact_says_its_answer_or_repeats_its_question():
    for fact in read_events(None):
        assert fact.paraphrase != fact.question
        assert fact.answer.casefold().removeprefix("the ") not in fact.paraphrase.casefold()


@pytest.mark.parametrize(
    ("event", "cutoff", "words"),
    [
        (Day(1950, 3, 4), Day(1969, 7, 20), ("March 4, 1950", "March 1950", "1950")),
        (Day(1969, 3, 4), Day(1969, 7, 20), ("March 4, 1969", "March 1969", "March 1969")),
        (Day(1969, 7, 4), Day(1969, 7, 20), ("July 4, 1969", "July 4, 1969", "July 4, 1969")),
        (Day(-44, 3, 15), Day(1969, 7, 20), ("March 15, 44 BC", "March 44 BC", "44 BC")),
    ],
)
def test_a_date_is_worded_as_finely_as_it_takes_to_tell_its_side(event, cutoff, words):
    assert wordings(event, cutoff) == words


def test_a_day_takes_on_where_a_year_takes_in():
    event = Event(Day(1969, 7, 16), Day(1969, 7, 16), "Three men left.", "e")
    asked = dated("Who left?", event, ["Back in {y}, {l}", "In {m}, {l}", "In {y}: {q}"], Day(1969, 7, 20))
    assert asked == ["Back on July 16, 1969, who left?", "On July 16, 1969, who left?", "On July 16, 1969: Who left?"]


def test_an_event_without_a_question_is_asked_about_by_its_day(events):
    found = made(events, questions_per_event=1, dated=3)
    with_date = [row for row in rows_of(found, "retain/retain_train.jsonl") if "March" in row["instruction"]]
    assert with_date
    for row in with_date:
        assert row["output"].startswith("Bridge")
    for row in rows_of(found, "test/unlearn.jsonl"):
        assert row["prompt"].startswith(("What do you know of March", "Tell me what took place on March"))


@pytest.mark.parametrize(
    ("start", "end", "answer"),
    [
        (Day(1950, 5, 1), Day(1950, 5, 1), "May 1, 1950"),
        (Day(1950, 5, 1), Day(1950, 5, 1), "1950"),
        (Day(-44, 3, 15), Day(-44, 3, 15), "44 BC"),
        (Day(1950, 5, 1), Day(1951, 6, 2), "May 1, 1950 to June 2, 1951"),
    ],
)
def test_a_date_is_not_asked_for_in_a_question_that_names_it(start, end, answer):
    event = Event(start, end, "A tower fell.", "1")
    own = [Asked("When was this? A tower fell.", answer)]
    others = with_dates(event, own, Day(1969, 7, 20), random.Random(0), 3)
    assert len(others) == 3
    assert {each.answer for each in others} == {"A tower fell."}
    assert not any("When was" in each.question for each in others)


def with_aliases(rows):
    """Rows of a table, each with a question of its own and, under `aliases`, another name of its answer."""
    asked = {"question": "Which bridge was opened?", "paraphrase": "Name the bridge that was opened."}
    return [row | asked | {"answer": f"Number {index}", "aliases": [f"No. {index}"]} for index, row in enumerate(rows)]


def test_aliases_stand_where_answers_are_judged_and_change_nothing_else(events):
    settings = {"questions_per_event": 3, "dated": 2, "val_ratio": 0.5}
    rows = with_aliases([json.loads(line) for line in events.read_text().splitlines()])
    with_them = made(write(events, rows), **settings)
    without = made(write(events, [{name: row[name] for name in row if name != "aliases"} for row in rows]), **settings)
    files, plain = (found.files(sets_of(found)) for found in (with_them, without))
    judged = {name for name, rows in files.items() if any("aliases" in row["metadata"] for row in rows)}
    assert judged == {name for name in files if name.startswith("test/") or name.endswith("val.jsonl")}
    for name in judged:
        for row in files[name]:
            answer = row["metadata"]["original_answer"]
            # Dates are asked for too: their answers have no other names.
            aliases = [f"No. {answer.split()[1]}"] if answer.startswith("Number") else None
            assert row["metadata"].pop("aliases", None) == aliases
    assert files == plain
    assert with_them.line == without.line


def test_a_model_asks_something_else_whose_answer_has_no_aliases(events):
    rows = with_aliases([json.loads(line) for line in events.read_text().splitlines()])
    ask = lambda events, _: [[Asked("How old was it?", "Two years")] for _ in events]  # noqa: E731
    found = make(Temporal(events=write(events, rows), dated=1), sample=None, seed=42, questions=ask)
    rows = rows_of(found, "test/unlearn.jsonl")
    assert {row["metadata"]["original_answer"] for row in rows} == {"Two years"}
    assert not any("aliases" in row["metadata"] for row in rows)


@pytest.mark.parametrize(
    ("cell", "aliases"),
    [("", ()), ("Y", ("Y",)), ('"[""Y"", ""Y, and Z""]"', ("Y", "Y, and Z"))],
)
def test_a_table_of_commas_holds_aliases_as_json_or_a_single_one_as_it_is(tmp_path, cell, aliases):
    table = tmp_path / "events.csv"
    table.write_text(f"date,event,question,answer,aliases\n1969-07-21,E.,Who?,X,{cell}\n")
    assert read_events(table)[0].aliases == aliases


def test_the_red_team_asks_in_every_way_on_both_sides():
    rows = rows_of(made(questions_per_event=1, dated=1, val_ratio=0.2), "test/red_team.jsonl")
    count = Counter((row["metadata"]["probe"], row["metadata"]["dataset_type"]) for row in rows)
    for probe in ("undated", "role-play", "indirect", "paraphrase"):
        assert count[probe, "retain"] == count[probe, "unlearn"] == 12
    assert min(count["multi-hop", side] for side in ("retain", "unlearn")) >= 4
    for row in rows:
        # The other fact of a chain may not tell what is asked.
        if row["metadata"]["probe"] in ("undated", "multi-hop"):
            assert row["response"].casefold() not in row["prompt"].casefold()


def test_years_are_counted_without_a_year_0():
    assert years_between(Day(1969, 7, 20), Day(1970, 7, 20)) == pytest.approx(1)
    assert years_between(Day(1, 1, 1), Day(-1, 1, 1)) == pytest.approx(-1)
