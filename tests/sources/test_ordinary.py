"""The ordinary text that comes with the package."""

from expunge.sources.contamination import check_contamination
from expunge.sources.ordinary import SUBJECT, ordinary_evaluation, ordinary_training


def test_the_training_part_is_48_questions_with_short_answers():
    examples = ordinary_training()
    assert len(examples) == len({example.prompt for example in examples}) == 48
    assert all(example.prompt and example.subject == SUBJECT for example in examples)
    assert all(5 <= len(example.response.split()) <= 45 for example in examples)


def test_the_evaluation_part_is_24_paragraphs_of_plain_prose():
    examples = ordinary_evaluation()
    assert len(examples) == len({example.response for example in examples}) == 24
    assert all(example.prompt is None and example.subject == SUBJECT for example in examples)
    assert all(40 <= len(example.response.split()) <= 70 for example in examples)


def test_the_two_parts_share_no_text():
    report = check_contamination({"train": ordinary_training(), "evaluation": ordinary_evaluation()})
    assert not report.exact + report.near + report.sections
