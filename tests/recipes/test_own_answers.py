"""What a model says by itself, written down to be kept."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny_models
from expunge.errors import ExpungeError
from expunge.evidence import EvidenceStore
from expunge.examples import Example, read_examples, write_examples
from expunge.recipes.own_answers import KEPT, LATER, SUBJECT, OwnAnswersConfig, own_answers, whole_sentences
from expunge.sources.ordinary import ordinary_training
from expunge.sources.temporal import REFUSALS
from expunge.sources.temporal_days import cutoff_day
from expunge.sources.temporal_general import general_questions

CUTOFF = "1969-07-20"


def config(place: Path, **more: object) -> OwnAnswersConfig:
    ordinary = place / "ordinary.jsonl"
    write_examples(ordinary, ordinary_training())
    settings = {"model": str(place / "tiny"), "output": place / "own", "cutoff": CUTOFF, "ordinary": ordinary, "threads": 1}
    return OwnAnswersConfig(**{**settings, **more})  # type: ignore[arg-type]


def _kill(_answer: str) -> str:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Paris.", "Paris."),
        ("Hello! How can I help you today?", "Hello! How can I help you today?"),
        ("I'm a model. I was made by people. I can", "I'm a model. I was made by people."),
        ("It was J. R. R. Tolkien. He lived", "It was J. R. R. Tolkien."),
        ("It was built in 1889. It", "It was built in 1889."),
        ("It rose by 3.5 metres. Then", "It rose by 3.5 metres."),
        ("Here you are:\n\nThe sea. The sky.", ""),
        ("It was a great", ""),
        ("", ""),
    ],
)
def test_of_an_answer_all_sentences_are_kept_that_ended(answer, kept):
    assert whole_sentences(answer) == kept


def test_what_was_said_before_a_kill_is_not_asked_again_and_is_kept_where_it_is_of_use(tmp_path, monkeypatch):
    tiny_models.write_model(tmp_path / "tiny")
    asked = general_questions(cutoff_day(CUTOFF), 42)
    with monkeypatch.context() as killed:
        killed.setattr("expunge.recipes.own_answers._MOST_TOKENS", 1)
        killed.setattr("expunge.recipes.own_answers.whole_sentences", _kill)
        with pytest.raises(KeyboardInterrupt):
            own_answers(config(tmp_path))
    answers = tmp_path / "own" / "answers.jsonl"
    again = general_questions(cutoff_day(CUTOFF), 43).before
    prompts = [*dict.fromkeys((*asked.before, *again, *asked.bare, *asked.requests))]
    assert len(prompts) > len(asked.before) + len(asked.bare) + 200
    assert EvidenceStore(answers).has([Example(prompt, "", SUBJECT).id for prompt in prompts], "generated")
    # A random model says nothing that is of use: what a better one says.
    answers.unlink()
    store = EvidenceStore(answers)
    for number, prompt in enumerate(prompts):
        miles = f"It was {number} miles"
        said = (f"{miles}. It was far. And so on", "It was", f"{miles} in 1971. And so on")[number % 3]
        store.add_answer(Example(prompt, "", SUBJECT).id, said)
    run = own_answers(config(tmp_path))

    kept = read_examples(tmp_path / "own" / KEPT)
    own = [example for example in kept if example.subject == SUBJECT]
    assert {(each.prompt, each.response) for each in own} == {
        (prompt, f"It was {number} miles. It was far.") for number, prompt in enumerate(prompts) if number % 3 == 0
    }
    # "Neil Armstrong was …, on July 20, 1969."
    earlier = [each for each in ordinary_training() if "1969" not in each.response]
    assert len(earlier) == len(ordinary_training()) - 1
    assert sorted(each.id for each in kept if each not in own) == sorted(each.id for each in earlier)
    # Mixed, so that whoever takes only the first of them has some of both.
    assert 0 < sum(each in own for each in kept[:40]) < 40
    later = read_examples(tmp_path / "own" / LATER)
    assert [each.prompt for each in later] == asked.after
    assert not {each.subject for each in later} & {each.subject for each in kept}
    assert len({each.response for each in later} & set(REFUSALS)) > 8
    assert all(each.response in REFUSALS for each in later)
    assert run.results == {"own": len(own), "later": len(later)}
    assert own_answers(config(tmp_path)).finished


def test_a_cutoff_that_is_no_date_is_refused_and_nothing_is_left(tmp_path):
    tiny_models.write_model(tmp_path / "tiny")
    with pytest.raises(ExpungeError, match='"soon" is not a date'):
        own_answers(config(tmp_path, cutoff="soon"))
    assert not (tmp_path / "own").exists()
