"""Multiple choice beside lm-eval, and its local tasks as sets of an audit."""

from __future__ import annotations

import json

import pytest

import tiny_models
from expunge.errors import ExpungeError
from expunge.evidence import EvidenceStore, record_choices
from expunge.examples import Example
from expunge.metrics.multiple_choice import by_letter, written_out
from expunge.models import load_model, load_tokenizer
from expunge.recipes.lm_eval_task import lm_eval_examples

lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed")

ROWS = [
    ("How many legs has an ant?", ["four", "six", "eight", "ten"], 1),
    ("Which of these flies at night?", ["a moth", "a bee", "an ant", "a wasp of summer"], 0),
    ("What does a caterpillar become?", ["a stone", "a worm", "a butterfly or a moth", "a leaf"], 2),
]
LETTERS = (
    "The following are multiple choice questions (with answers) about insects.\n\n{{question}}\n"
    "A. {{choices[0]}}\nB. {{choices[1]}}\nC. {{choices[2]}}\nD. {{choices[3]}}\nAnswer:"
)


class Silent:
    def advance(self, steps=1, **numbers): ...


@pytest.mark.slow
def test_letters_and_options_score_as_in_lm_eval(tmp_path):
    from lm_eval.models.huggingface import HFLM

    path = tiny_models.write_model(tmp_path / "model", hidden=64)
    model, tokenizer = load_model(path), load_tokenizer(path)
    file = tmp_path / "quiz.jsonl"
    rows = [{"question": question, "choices": choices, "answer": answer} for question, choices, answer in ROWS]
    file.write_text("\n".join(map(json.dumps, rows)))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_target": "answer",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    tasks = [
        {"task": "letters", "doc_to_text": LETTERS, "doc_to_choice": ["A", "B", "C", "D"], **common},
        {"task": "options", "doc_to_text": "Question: {{question}}\nAnswer:", "doc_to_choice": "choices", **common},
    ]
    peer = lm_eval.simple_evaluate(
        model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=1), tasks=tasks, log_samples=True, bootstrap_iters=0
    )

    examples = [Example(q, choices[at], "insects", {"choices": choices, "answer": at}) for q, choices, at in ROWS]
    store = EvidenceStore(tmp_path / "evidence.jsonl")
    for asking in ("letters", "options"):
        record_choices(model, tokenizer, examples, store, asking, max_seq_length=512, bar=Silent())
    records = [store[example.id] for example in examples]
    for name, ours in (
        ("letters", [record.letters_N for record in records]),
        ("options", [record.options_N2[:, 0] for record in records]),
    ):
        theirs = {sample["doc_id"]: [float(one[0][0]) for one in sample["resps"]] for sample in peer["samples"][name]}
        for number, own in enumerate(ours):
            assert own.tolist() == pytest.approx(theirs[number], abs=1e-3)
    right = [answer for _, _, answer in ROWS]
    found = peer["results"]
    assert by_letter([record.letters_N for record in records], right).mean() == pytest.approx(found["letters"]["acc,none"])
    full = written_out([record.options_N2 for record in records], right).mean()
    assert full == pytest.approx(found["options"]["acc_norm,none"])
    # The same task as a set of an audit.
    task = tmp_path / "task.yaml"
    task.write_text(json.dumps(tasks[1]))  # JSON is YAML
    asked = lm_eval_examples(task)
    assert [example.prompt for example in asked] == [f"Question: {question}\nAnswer:" for question, _, _ in ROWS]
    own = EvidenceStore(tmp_path / "task.jsonl")
    record_choices(model, tokenizer, asked, own, "options", max_seq_length=512, bar=Silent())
    record_choices(None, tokenizer, asked, own, "letters", max_seq_length=512, bar=Silent())  # it has no letters
    for example, record in zip(asked, records, strict=True):
        assert own[example.id].options_N2 == pytest.approx(record.options_N2)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("output_type: generate_until", "no multiple-choice task"),
        ("output_type: multiple_choice\ndoc_to_text: !function utils.make", "without functions"),
        ("output_type: multiple_choice\nnum_fewshot: 5", "leave out num_fewshot"),
        ("[", "cannot be read"),
    ],
)
def test_a_task_that_is_code_or_of_another_kind_is_refused_in_one_line(tmp_path, text, words):
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(ExpungeError, match=words) as caught:
        lm_eval_examples(tmp_path / "task.yaml")
    assert "\n" not in str(caught.value)
