"""MMLU and WMDP: multiple-choice questions; MUSE: texts and their audits."""

import json
from pathlib import Path

import pytest

from expunge.errors import ExpungeError
from expunge.sources.contamination import check_contamination
from expunge.sources.mmlu import Mmlu
from expunge.sources.mmlu import make as make_mmlu
from expunge.sources.muse import Muse
from expunge.sources.muse import make as make_muse
from expunge.sources.wmdp_mcq import WmdpMcq
from expunge.sources.wmdp_mcq import make as make_wmdp

PUBLIC = Path(__file__).parents[2].parent / "shared" / "data"
HEADER = "question,choice0,choice1,choice2,choice3,answer\n"


@pytest.fixture
def mmlu(tmp_path):
    for split in ("test", "dev"):
        (tmp_path / split).mkdir()
        for topic in ("anatomy", "virology"):
            rows = [f"Which {split} {topic} part is number {number}?,a,b,{number},d,2\n" for number in range(3)]
            (tmp_path / split / f"{topic}_{split}.csv").write_text(HEADER + "".join(rows))
    return tmp_path


def test_questions_keep_their_options_and_the_index_of_the_right_one(mmlu):
    found = make_mmlu(Mmlu(input=str(mmlu)), sample=None, seed=0)
    assert {name: len(examples) for name, examples in found.sets.items()} == {"dev": 6, "test": 6}
    assert found.counts == {"subjects": 2}
    assert [{example.subject for example in own} for own in found.line.subjects] in (
        [{"anatomy"}, {"virology"}],
        [{"virology"}, {"anatomy"}],
    )
    example = found.sets["test"][4]
    assert (example.prompt, example.response, example.subject) == ("Which test virology part is number 1?", "1", "virology")
    assert example.metadata == {"choices": ["a", "b", "1", "d"], "answer": 2, "split": "test", "evaluation_only": True}


def test_topics_can_be_chosen_and_sampled(mmlu):
    found = make_mmlu(Mmlu(input=str(mmlu), subjects=("virology",)), sample=2, seed=0)
    assert [example.subject for example in found.sets["test"]] == ["virology"] * 2
    with pytest.raises(ExpungeError, match='there is no subject "anatomi": did you mean "anatomy"'):
        make_mmlu(Mmlu(input=str(mmlu), subjects=("anatomi",)), sample=None, seed=0)


@pytest.mark.parametrize("answer", ["4", "-1", "E", "x1", ""])
def test_an_answer_that_is_no_option_is_refused_with_its_line(mmlu, answer):
    (mmlu / "test" / "anatomy_test.csv").write_text(f"{HEADER}Which?,a,b,c,d,{answer}\n")
    with pytest.raises(ExpungeError, match=r"anatomy_test.csv:2: \"answer\" .* is none of the 4 options"):
        make_mmlu(Mmlu(input=str(mmlu)), sample=None, seed=0)


def test_a_question_of_dev_that_stands_in_test_is_found_and_an_option_they_share_is_not(mmlu):
    option = "There is insufficient information to answer this question."
    for split in ("test", "dev"):
        rows = f"What follows from {split}?,a,b,c,{option},3\nWhich bone of the hand is the smallest one?,a,b,c,d,D\n"
        (mmlu / split / f"anatomy_{split}.csv").write_text(HEADER + rows)
    found = make_mmlu(Mmlu(input=str(mmlu), subjects=("anatomy",)), sample=None, seed=0)
    report = check_contamination(found.sets, subjects_apart=found.subjects_apart)
    assert report.reasons == ["1 response stands in two sets"]


def test_wmdp_splits_are_sets_for_evaluation_alone(tmp_path):
    path = tmp_path / "wmdp.jsonl"
    rows = [
        {"split": number % 5, "question": f"Q{number}?", "choices": ["a", f"b{number}"], "answer": 1} for number in range(20)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = make_wmdp(WmdpMcq(input=str(path)), sample=3, seed=0)
    assert {name: len(examples) for name, examples in found.sets.items()} == {f"split_{number}": 3 for number in range(5)}
    example = found.sets["split_1"][0]
    assert (example.response, example.metadata["choices"], example.metadata["evaluation_only"]) == ("b1", ["a", "b1"], True)
    assert not found.trained
    assert len(found.line.subjects) == 15
    path.write_text('{"split": 0, "question": "Q?", "choices": "a", "answer": 0}\n')
    with pytest.raises(ExpungeError, match=r"wmdp.jsonl:1: has no options"):
        make_wmdp(WmdpMcq(input=str(path)), sample=None, seed=0)


def test_muse_has_its_texts_as_sets_and_its_audits_as_files(tmp_path):
    for table, splits in {
        "raw": ("forget", "retain1", "retain2", "holdout"),
        "knowmem": ("forget_qa",),
        "verbmem": ("forget",),
    }.items():
        (tmp_path / table).mkdir()
        for split in splits:
            text = {"text": f"A story of {split}."}
            row = {"knowmem": {"question": "Who?", "answer": "Ana."}, "verbmem": {"prompt": "Once", "gt": "upon"}}.get(
                table, text
            )
            (tmp_path / table / f"{split}.jsonl").write_text(
                json.dumps(row) + "\n" + json.dumps(row | {"text": "More."}) + "\n"
            )
    found = make_muse(Muse(input=str(tmp_path)), sample=1, seed=0)
    assert [[example.response for example in own] for own in found.line.subjects] == [
        ["A story of forget."],
        ["A story of retain2."],
    ]
    assert found.line.forgotten == 1
    assert [example.response for example in found.sets["holdout"]] == ["A story of holdout."]
    assert list(found.files(found.sets)) == ["retain1.jsonl", "verbmem/forget.jsonl", "knowmem/forget_qa.jsonl"]
    assert found.files(found.sets)["knowmem/forget_qa.jsonl"][0]["response"] == "Ana."
    assert found.files(found.sets)["verbmem/forget.jsonl"][0]["prompt"] == "Once"


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public data are not here (../shared/data)")
def test_the_public_questions_are_read_whole():
    mmlu = make_mmlu(Mmlu(input=str(PUBLIC / "mmlu")), sample=None, seed=0)
    assert {name: len(examples) for name, examples in mmlu.sets.items()} == {"dev": 285, "test": 14042}
    wmdp = make_wmdp(WmdpMcq(input=str(PUBLIC / "wmdp_mcq" / "wmdp_mcq_deduped.jsonl")), sample=None, seed=0)
    assert [len(examples) for examples in wmdp.sets.values()] == [157] * 5
    assert check_contamination(wmdp.sets).clean
