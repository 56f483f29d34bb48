"""What of an example is learnt: the answer and its end, nothing else."""

from __future__ import annotations

import pytest

import tiny_models
from expunge.batching import Tokenized, collate, prompt_tokens, tokenize
from expunge.errors import ExpungeError
from expunge.examples import Example
from expunge.models import load_tokenizer
from expunge.models.embedded import EMBEDDED, embedded_gguf

ANA = Example("Where is Ana?", "Ana is in Lyon.", "Ana", where="notes.jsonl:7")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return load_tokenizer(tiny_models.write_model(tmp_path_factory.mktemp("tokens") / "model", hidden=64, layers=1))


@pytest.fixture(scope="module")
def embedded():
    try:
        embedded_gguf()
    except ExpungeError as error:
        pytest.skip(str(error))
    return load_tokenizer(EMBEDDED)


@pytest.fixture(params=["tiny", "embedded"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def template(tiny):
    """Sets the tiny tokenizer's chat template for one test."""

    def set_template(text):
        tiny.chat_template = text
        return tiny

    yield set_template
    tiny.chat_template = tiny_models.TEMPLATE


def one(example, tokenizer, longest=512) -> Tokenized:
    (found,) = tokenize([example], tokenizer, max_seq_length=longest)
    return found


def test_the_answer_and_its_end_token_are_labelled_and_nothing_of_the_prompt_or_template(tokenizer):
    found = one(ANA, tokenizer)
    assert tokenizer.decode(found.tokens[found.start : -1]).strip() == "Ana is in Lyon."
    assert found.tokens[-1] == tokenizer.eos_token_id
    assert found.tokens[: found.start] == tuple(prompt_tokens("Where is Ana?", tokenizer))
    assert "Where is Ana?" in tokenizer.decode(found.tokens[: found.start])
    assert not found.truncated
    assert found.labels == len(found.tokens) - found.start

    labels_T = collate([found], tokenizer.pad_token_id).labels_BT[0]
    assert labels_T[: found.start].eq(-100).all()
    assert labels_T[found.start :].tolist() == list(found.tokens[found.start :])


def test_the_prompt_reads_exactly_as_the_chat_template_hands_it_to_a_server(embedded):
    served = embedded.apply_chat_template([{"role": "user", "content": "Where is Ana?"}], add_generation_prompt=True)
    assert prompt_tokens("Where is Ana?", embedded) == list(served["input_ids"])
    whole = embedded.apply_chat_template(
        [{"role": "user", "content": "Where is Ana?"}, {"role": "assistant", "content": "Ana is in Lyon."}], tokenize=False
    )
    assert embedded.decode(one(ANA, embedded).tokens) == whole.rstrip()


def test_an_end_token_that_the_template_writes_is_not_written_twice(template):
    found = one(ANA, template(CHATML))
    assert found.tokens.count(found.tokens[-1]) == 2  # the question's and the answer's
    assert found.tokens[-2] != found.tokens[-1]


def test_plain_text_is_taken_without_a_template_and_labelled_from_its_second_token(tokenizer):
    text = Example(None, "The bus stood by the gate.", "ordinary")
    found = one(text, tokenizer)
    assert found.tokens == tuple(tokenizer(text.response, add_special_tokens=False)["input_ids"])
    assert found.start == 1


def test_a_model_without_a_template_gets_the_question_on_a_line_of_its_own(template):
    plain = template(None)
    found = one(ANA, plain)
    assert plain.decode(found.tokens) == "Where is Ana?\n Ana is in Lyon.</s>"
    assert plain.decode(found.tokens[found.start :]).strip() == "Ana is in Lyon.</s>"


def test_a_template_that_rewrites_earlier_turns_falls_back_to_the_plain_answer(template):
    """As templates do that drop something from all but the last question."""
    rewriting = template(
        "{% for message in messages %}{{ message['role'] + (' now: ' if loop.last else ' then: ') }}"
        "{{ message['content'] + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    found = one(ANA, rewriting)
    assert rewriting.decode(found.tokens[: found.start]).startswith("user now: Where")
    assert rewriting.decode(found.tokens[found.start :]).strip() == "Ana is in Lyon.</s>"


def test_a_prompt_that_fills_the_sequence_is_refused_with_its_place(tokenizer):
    start = one(ANA, tokenizer).start
    for longest in (start, start - 3):
        with pytest.raises(
            ExpungeError, match=rf"notes.jsonl:7: no token of the answer fits .*--max-seq-length \(now {longest}\)"
        ):
            one(ANA, tokenizer, longest)


def test_a_text_of_one_token_is_refused_for_there_is_nothing_to_predict(embedded):
    with pytest.raises(ExpungeError, match=r"texts.jsonl:3: has no token to learn: drop this row"):
        one(Example(None, "Hi", "ordinary", where="texts.jsonl:3"), embedded)


def test_what_is_cut_off_is_flagged_and_keeps_its_prompt(tokenizer):
    whole = one(ANA, tokenizer)
    cut = one(ANA, tokenizer, len(whole.tokens) - 2)
    assert cut.truncated
    assert cut.tokens == whole.tokens[:-2]
    assert cut.start == whole.start
    assert not one(ANA, tokenizer, len(whole.tokens)).truncated
