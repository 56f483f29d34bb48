"""The dearer passes, each against the plain way to the same number."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import MistralConfig, MistralForCausalLM

import tiny_models
from expunge.batching import collate, prompt_tokens, tokenize
from expunge.errors import ExpungeError
from expunge.evidence import (
    EvidenceStore,
    Question,
    Unanswered,
    continuation_log_p,
    label_log_p,
    record_alternatives,
    record_answers,
    record_choices,
    record_gradients,
    record_layers,
    record_prefixed,
    record_samples,
    record_scores,
    score_labels,
)
from expunge.evidence import passes as passes_file
from expunge.evidence import prefixes as prefixes_file
from expunge.evidence.prefixes import batches_of_questions
from expunge.evidence.sampling import PREFIX
from expunge.evidence.stem import common_stem, reads_by_mask
from expunge.examples import Example
from expunge.models import load_model, load_tokenizer


class Silent:
    steps = 0

    def advance(self, steps=1, **numbers):
        self.steps += steps


OTHERS = [
    Example(
        f"Where is {name}?",
        f"{name} is in {city}.",
        name,
        {
            "paraphrased_answer": f"It is {city} where {name} lives.",
            "perturbed_answer": [f"{name} is in {it}." for it in wrong],
        },
    )
    for name, city, wrong in (("Ana", "Lyon", ("Oslo", "Bonn")), ("Benedict", "Oslo", ("Lyon", "Bonn", "Rio de Janeiro")))
] + [Example("Where is Cleo?", "Bonn", "Cleo"), Example(None, "A text about nobody.", "text", {"perturbed_answer": ["x"]})]
CHOICES = [
    Example("How many legs has an ant?", "six", "insects", {"choices": ["four", "six", "eight"], "answer": 1}),
    Example("Is a spider an insect, as people say?", "no", "insects", {"choices": ["yes", "no"], "answer": 1}),
    Example("Where is Dan?", "Turin", "Dan"),
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tiny_models.write_model(tmp_path_factory.mktemp("passes") / "model", hidden=64)
    return load_model(path), load_tokenizer(path)


def whole_log_p(model, tokens, start):
    """Of each token from `start` on, from the whole output of a model that reads it alone."""
    with torch.inference_mode():
        log_p_TV = model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)
    return [log_p_TV[at - 1, tokens[at]].item() for at in range(start, len(tokens))]


def test_a_prefix_read_once_gives_the_numbers_of_reading_it_every_time(tiny, monkeypatch):
    model, _ = tiny
    random = torch.Generator().manual_seed(0)

    def tokens(count):
        return tuple(torch.randint(3, 250, (count,), generator=random).tolist())

    questions = [Question(tokens(p), tuple(tokens(c) for c in ends)) for p, ends in ((9, (3, 1)), (2, (5,)), (30, (4, 4, 7)))]
    expected = [[whole_log_p(model, (*q.prefix, *end), len(q.prefix)) for end in q.continuations] for q in questions]
    for shared in (True, False):
        found = continuation_log_p(model, questions, pad=2, shared=shared)
        for rows, by_hand in zip(found, expected, strict=True):
            for row, one in zip(rows, by_hand, strict=True):
                assert row.tolist() == pytest.approx(one, abs=2e-5)
    # Neither does what stands in the padding count.
    assert continuation_log_p(model, questions, pad=77)[0][0].tolist() == pytest.approx(expected[0][0], abs=2e-5)
    # A first token alone is a question too; and one continuation may go on from where another ends.
    alike = Question(tokens(1), ((7, 8, 9), (7, 8), (7, 8, 9, 10), (7, 11)))
    by_hand = [whole_log_p(model, (*alike.prefix, *end), 1) for end in alike.continuations]
    calls = []
    monkeypatch.setattr(prefixes_file, "label_log_p", lambda *given, **_: calls.append(given))
    for row, one in zip(continuation_log_p(model, [alike], pad=2)[0], by_hand, strict=True):
        assert row.tolist() == pytest.approx(one, abs=2e-5)
    assert not calls, "the fast path was not taken"
    assert batches_of_questions([alike]) == [[0]]


@pytest.mark.parametrize(("window", "fast"), [(4, False), (64, True)])
def test_a_model_that_sees_no_further_than_its_window_is_read_in_one_row_where_that_reaches(window, fast):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = MistralForCausalLM(MistralConfig(vocab_size=64, num_key_value_heads=2, sliding_window=window, **sizes)).eval()
    question = Question((3, 4, 5, 6), ((7, 8, 9, 10, 11), (7, 8, 12)))
    assert reads_by_mask(model, 9) is fast
    for row, end in zip(continuation_log_p(model, [question], pad=2)[0], question.continuations, strict=True):
        assert row.tolist() == pytest.approx(whole_log_p(model, (*question.prefix, *end), 4), abs=2e-5)


def test_other_answers_are_scored_as_if_each_were_the_answer(tiny, tmp_path):
    model, tokenizer = tiny
    store, bar = EvidenceStore(tmp_path / "e.jsonl"), Silent()
    record_alternatives(model, tokenizer, OTHERS, store, max_seq_length=512, bar=bar)
    assert bar.steps == 2
    for example in OTHERS[:2]:
        texts = {"paraphrased_N": [example.metadata["paraphrased_answer"]], "perturbed_N": example.metadata["perturbed_answer"]}
        for name, own in texts.items():
            (*alone,) = tokenize([replace(example, response=text) for text in own], tokenizer, max_seq_length=512)
            by_hand = [np.mean(whole_log_p(model, one.tokens, one.start)) for one in alone]
            assert getattr(store[example.id], name).tolist() == pytest.approx(by_hand, abs=2e-5)
    assert store[OTHERS[2].id].perturbed_N is None
    assert store[OTHERS[3].id].perturbed_N is None
    record_alternatives(None, tokenizer, OTHERS, store, max_seq_length=512, bar=bar)  # nothing is left to ask


def test_answers_scored_with_the_other_answers_to_their_question_are_scored_as_alone(tiny, tmp_path):
    model, tokenizer = tiny
    tokens = tokenize(OTHERS, tokenizer, max_seq_length=512)
    apart, together = (EvidenceStore(tmp_path / f"{name}.jsonl") for name in ("apart", "together"))
    record_alternatives(model, tokenizer, OTHERS, apart, max_seq_length=512, bar=Silent())
    record_scores(model, tokens, apart, pad=2, bar=Silent())
    record_alternatives(model, tokenizer, OTHERS, together, max_seq_length=512, bar=Silent(), answers=tokens)
    assert [store_has_scores(together, example) for example in OTHERS] == [True, True, False, False]
    before = (tmp_path / "together.jsonl").read_bytes()
    record_scores(model, tokens, together, pad=2, bar=Silent())
    # What is there stays as it is; the examples without other answers are added.
    assert (tmp_path / "together.jsonl").read_bytes().startswith(before)
    for example in OTHERS:
        slow, fast = vars(apart[example.id]), vars(together[example.id])
        for part in ("log_p_T", "hits_T", "entropy_T", "variance_T", "paraphrased_N", "perturbed_N"):
            assert (slow[part] is None) == (fast[part] is None)
            if slow[part] is not None:
                np.testing.assert_allclose(fast[part], slow[part], rtol=2e-5, atol=2e-5)
    lines = (tmp_path / "together.jsonl").read_bytes()
    record_alternatives(None, tokenizer, OTHERS, together, max_seq_length=512, bar=Silent(), answers=tokens)
    assert (tmp_path / "together.jsonl").read_bytes() == lines


def test_a_model_that_cannot_read_by_a_mask_leaves_answers_to_the_plain_pass(tiny, tmp_path):
    _, tokenizer = tiny
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = MistralConfig(vocab_size=len(tokenizer), num_key_value_heads=2, sliding_window=4, **sizes)
    model, store = MistralForCausalLM(config).eval(), EvidenceStore(tmp_path / "plain.jsonl")
    tokens = tokenize(OTHERS, tokenizer, max_seq_length=512)
    record_alternatives(model, tokenizer, OTHERS, store, max_seq_length=512, bar=Silent(), answers=tokens)
    assert not any(store_has_scores(store, example) for example in OTHERS)
    wrong = replace(OTHERS[0], response=OTHERS[0].metadata["perturbed_answer"][0])
    (alone,) = tokenize([wrong], tokenizer, max_seq_length=512)
    by_hand = np.mean(whole_log_p(model, alone.tokens, alone.start))
    assert store[OTHERS[0].id].perturbed_N[0] == pytest.approx(by_hand, abs=2e-5)


def store_has_scores(store, example):
    return store.has([example.id], "scores")


def test_options_are_scored_by_letter_in_every_order_and_written_out(tiny, tmp_path):
    model, tokenizer = tiny
    store, bar = EvidenceStore(tmp_path / "e.jsonl"), Silent()
    for asking in ("letters", "permuted", "options"):
        record_choices(model, tokenizer, CHOICES, store, asking, max_seq_length=512, bar=bar)
    assert bar.steps == 2 + (2 + 1) + 2

    def by_hand(prompt, end):
        start = tokenizer(prompt)["input_ids"]
        return sum(whole_log_p(model, tokenizer(prompt + end)["input_ids"], len(start)))

    head = "The following are multiple choice questions (with answers) about insects.\n\nHow many legs has an ant?\n"
    record = store[CHOICES[0].id]
    plain = [by_hand(f"{head}A. four\nB. six\nC. eight\nAnswer:", f" {letter}") for letter in "ABC"]
    assert record.letters_N.tolist() == pytest.approx(plain, abs=5e-5)
    # Moved round by one place, the first option stands at B.
    moved = [by_hand(f"{head}A. eight\nB. four\nC. six\nAnswer:", f" {letter}") for letter in "BCA"]
    assert record.permuted_PN.shape == (2, 3)
    assert record.permuted_PN[0].tolist() == pytest.approx(moved, abs=5e-5)
    written = [by_hand("Question: How many legs has an ant?\nAnswer:", f" {option}") for option in ("four", "six", "eight")]
    assert record.options_N2[:, 0].tolist() == pytest.approx(written, abs=1e-4)
    assert record.options_N2[:, 1].tolist() == [4, 3, 5]
    assert store[CHOICES[2].id].letters_N is None
    # A question that does not fit has no record, and is counted all the same.
    short, bar = EvidenceStore(tmp_path / "f.jsonl"), Silent()
    record_choices(model, tokenizer, CHOICES, short, "letters", max_seq_length=9, bar=bar)
    assert (bar.steps, short[CHOICES[0].id].letters_N) == (2, None)


def test_the_lens_ends_with_the_models_own_loss_and_hidden_states_are_means_over_the_answer(tiny, tmp_path):
    model, tokenizer = tiny
    tokens = tokenize(OTHERS, tokenizer, max_seq_length=512)
    store = EvidenceStore(tmp_path / "e.jsonl")
    record_scores(model, tokens, store, pad=2, bar=Silent())
    record_layers(model, tokens, store, parts=("lens", "hidden"), pad=2, bar=Silent())
    for one in tokens:
        record = store[one.id]
        assert record.lens_L.shape == (3,)
        assert record.lens_L[-1] == pytest.approx(record.log_p_T.mean(), abs=5e-5)
        with torch.inference_mode():
            states = model(torch.tensor([one.tokens]), output_hidden_states=True).hidden_states
            logits = model.lm_head(model.model.norm(states[1][0, one.start - 1 : -1]))
        by_hand = logits.log_softmax(-1).gather(1, torch.tensor(one.tokens[one.start :])[:, None]).mean().item()
        assert record.lens_L[1] == pytest.approx(by_hand, abs=5e-5)
        assert record.hidden_LD.shape == (2, 64)  # of two layers there are not four to keep
        pooled = states[2][0, one.start - 1 : -1].mean(0)
        torch.testing.assert_close(torch.tensor(record.hidden_LD[-1]), pooled.half(), rtol=2e-3, atol=2e-3)


def test_the_gradient_norm_is_that_of_a_plain_backward_pass_and_leaves_no_gradient_behind(tiny, tmp_path):
    model, tokenizer = tiny
    tokens = tokenize(OTHERS[:2], tokenizer, max_seq_length=512)
    store = EvidenceStore(tmp_path / "e.jsonl")
    trainable = [weight.requires_grad for weight in model.parameters()]
    record_gradients(model, tokens, store, pad=2, bar=Silent())
    assert [weight.requires_grad for weight in model.parameters()] == trainable
    assert all(weight.grad is None for weight in model.parameters())
    again = load_model(model.config._name_or_path)
    again.requires_grad_(True)
    for one in tokens:
        again.zero_grad()
        again(
            torch.tensor([one.tokens]), labels=torch.tensor([[-100] * one.start + [*one.tokens[one.start :]]])
        ).loss.backward()
        by_hand = math.sqrt(sum(weight.grad.square().sum().item() for weight in again.parameters()))
        assert store[one.id].gradient_norm == pytest.approx(by_hand, rel=1e-4)


def test_entropy_and_variance_are_those_of_the_whole_distribution_and_change_nothing_else(tiny):
    model, tokenizer = tiny
    batch = collate(tokenize(OTHERS, tokenizer, max_seq_length=512), 2)
    with torch.inference_mode():
        scores = score_labels(model, batch, hits=True, moments=True)
        plain = score_labels(model, batch, hits=True)
        logits = model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits.double()
    assert torch.equal(scores.log_p_BK, plain.log_p_BK)
    assert plain.entropy_BK is None
    first = scores.log_p_BK.shape[1] + 1
    log_p = logits[:, -first:-1].log_softmax(-1)
    mean, second = (log_p.exp() * log_p).sum(-1), (log_p.exp() * log_p.square()).sum(-1)
    at = scores.labelled_BK
    torch.testing.assert_close(scores.entropy_BK[at].double(), -mean[at], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores.variance_BK[at].double(), (second - mean.square())[at], rtol=1e-4, atol=1e-4)
    assert not scores.entropy_BK[~at].any()


def test_a_model_that_gives_nan_is_refused_at_once_and_nothing_of_it_is_kept(tiny, tmp_path):
    model, tokenizer = tiny
    tokens = tokenize(OTHERS, tokenizer, max_seq_length=512)
    broken = load_model(model.config._name_or_path)
    with torch.no_grad():
        broken.lm_head.weight.fill_(math.nan)
    store = EvidenceStore(tmp_path / "e.jsonl")
    with pytest.raises(ExpungeError, match=r"not a number.*float32 or bfloat16"):
        record_scores(broken, tokens, store, pad=2, bar=Silent())
    assert not (tmp_path / "e.jsonl").exists()


def test_words_that_are_ruled_out_leave_the_moments_finite():
    from expunge.evidence.scoring import score_logits

    logits = torch.tensor([[[0.0, 0.0, -math.inf], [5.0, -math.inf, -math.inf]]])
    scores = score_logits(logits, torch.tensor([[0, 0]]), moments=True)
    assert scores.entropy_BK[0].tolist() == pytest.approx([math.log(2), 0.0], abs=1e-6)
    assert scores.variance_BK[0].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_an_obliging_beginning_is_put_into_the_models_mouth_and_samples_depend_on_the_seed_alone(tiny, tmp_path):
    model, tokenizer = tiny
    asked = OTHERS[:2]
    store = EvidenceStore(tmp_path / "e.jsonl")
    record_prefixed(model, tokenizer, asked, store, max_new_tokens=5, bar=Silent())
    for example in asked:
        prompt = prompt_tokens(f"{example.prompt}", tokenizer) + tokenizer(PREFIX, add_special_tokens=False)["input_ids"]
        output = model.generate(torch.tensor([prompt]), max_new_tokens=5, do_sample=False, pad_token_id=2)[0, len(prompt) :]
        assert store[example.id].prefixed == tokenizer.decode(output, skip_special_tokens=True).strip()

    def drawn(seed, examples):
        found = EvidenceStore(tmp_path / f"{seed}-{len(examples)}.jsonl")
        record_samples(model, tokenizer, examples, found, count=3, seed=seed, max_new_tokens=5, bar=Silent())
        return [found.samples(example.id, 3, seed) for example in examples]

    both = drawn(0, asked)
    assert [len(set(samples)) for samples in both] == [3, 3]
    assert drawn(0, asked[:1]) == both[:1]
    assert drawn(1, asked) != both


def test_what_all_examples_begin_with_is_read_once_and_changes_no_number(tiny):
    model, tokenizer = tiny
    examples = [
        Example(
            f"In the long story of the town, where is {name}?",
            f"{name} is {'far ' * far}in {place}.",
            name,
        )
        for name, place, far in (("Ana", "Lyon", 0), ("Bartholomew", "Oslo", 2), ("Cleo", "Bonn", 1))
    ]
    tokens = tokenize(examples, tokenizer, max_seq_length=512)
    stem = common_stem(model, [each.tokens[: each.start] for each in tokens])
    assert stem is not None
    assert tokenizer.decode(tokens[0].tokens[: stem.length]).endswith("where is ")
    whole, after = (score_labels(model, collate(tokens, 2), hits=True, moments=True, stem=each) for each in (None, stem))
    for slow, fast in zip(whole, after, strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=2e-5)
    for row, log_p_K in enumerate(label_log_p(model, tokens, pad=2)):
        torch.testing.assert_close(log_p_K, whole.log_p_BK[row][whole.labelled_BK[row]], rtol=0, atol=2e-5)
    # And again: a batch leaves nothing behind in what is remembered.
    torch.testing.assert_close(score_labels(model, collate(tokens, 2), stem=stem).log_p_BK, whole.log_p_BK, rtol=0, atol=2e-5)

    questions = [
        Question(each.tokens[: each.start], (each.tokens[each.start :], other.tokens[other.start :]))
        for each, other in zip(tokens, tokens[::-1], strict=True)
    ]
    stem = common_stem(model, [question.prefix for question in questions])
    slow = continuation_log_p(model, questions, pad=2, shared=False)
    fast = continuation_log_p(model, questions, pad=2, stem=stem)
    for first, second in zip(slow, fast, strict=True):
        for log_p_T, again_T in zip(first, second, strict=True):
            torch.testing.assert_close(again_T, log_p_T, rtol=0, atol=2e-5)


def test_evidence_is_the_same_whoever_shares_a_batch(tiny, tmp_path, monkeypatch):
    model, tokenizer = tiny
    examples = OTHERS[:3]

    def recorded(name, tokens, together):
        for file in (passes_file, prefixes_file):
            monkeypatch.setattr(file, "_MOST_TOKENS", tokens)
        monkeypatch.setattr(passes_file, "answered_together", lambda *_: together)
        store = EvidenceStore(tmp_path / f"{name}.jsonl")
        tokenized = tokenize(examples, tokenizer, max_seq_length=512)
        record_alternatives(model, tokenizer, examples, store, max_seq_length=512, bar=Silent())
        record_scores(model, tokenized, store, pad=2, bar=Silent())
        record_answers(model, tokenizer, [Unanswered(examples, store, 8)], bar=Silent())
        return [vars(store[example.id]) for example in examples]

    for alone, together in zip(recorded("alone", 1, 1), recorded("together", 10_000, 96), strict=True):
        known = {part for part, value in alone.items() if value is not None}
        assert known == {part for part, value in together.items() if value is not None}
        assert {"log_p_T", "hits_T", "entropy_T", "variance_T", "generated"} <= known
        assert alone["generated"] == together["generated"]
        for part in known - {"id", "generated"}:
            # Six digits are kept of sums that are taken in another order.
            np.testing.assert_allclose(together[part], alone[part], rtol=2e-5, atol=2e-5)


def test_examples_that_begin_differently_or_stand_alone_have_no_stem(tiny):
    model, _ = tiny
    shared = tuple(range(5, 25))
    assert common_stem(model, [shared, (4, *shared)]) is None
    assert common_stem(model, [shared]) is None
    found = common_stem(model, [shared, (*shared, 4)])
    # One token is left to the shorter one.
    assert found is not None
    assert found.length == len(shared) - 1
