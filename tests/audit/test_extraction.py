"""Extraction from two checkpoints: what each model reads, on tiny models that know people by heart."""

from __future__ import annotations

import pytest

import tiny_people
from expunge.audit.attacks.extraction import asked, extract, scored
from expunge.evidence import end_tokens, generate
from expunge.models import load_model, load_tokenizer
from expunge.recipes.finetune import FinetuneConfig, finetune


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_people.target(tmp_path_factory)


@pytest.fixture(scope="module")
def models(tiny):
    return load_tokenizer(tiny.target), load_model(tiny.target), load_model(tiny.base)


def test_each_model_can_read_a_prompt_of_its_own(models):
    tokenizer, pre, _ = models
    options = {"max_new_tokens": 24, "ends": end_tokens(pre, tokenizer)}
    own, others = ([text.tokens for text in asked(set_, tokenizer, prefix_share=0, max_seq_length=512)] for set_ in SETS)
    found = generate([pre, pre], own, combine=lambda first_BV, second_BV: second_BV, read_instead=others, **options)
    assert found == generate(pre, others, **options)
    assert found != generate(pre, own, **options)


SETS = (tiny_people.FORGET, tiny_people.RETAIN[:4])


def test_a_stranger_stands_in_what_the_later_model_reads_and_nowhere_else(models):
    tokenizer = models[0]
    options = {"prefix_share": 0.5, "max_seq_length": 512}
    plain = asked(tiny_people.FORGET, tokenizer, **options)
    for example, text, before in zip(
        tiny_people.FORGET, asked(tiny_people.FORGET, tokenizer, stranger="Zoe", **options), plain, strict=True
    ):
        assert (text.tokens, text.expected, before.of_stranger) == (before.tokens, before.expected, None)
        own, instead = (tokenizer.decode(list(tokens)) for tokens in (text.tokens, text.of_stranger))
        assert example.subject in own
        assert instead == own.replace(example.subject, "Zoe")


def test_a_model_guided_by_itself_says_what_it_says_alone_unless_it_reads_another_name(models):
    tokenizer, pre, _ = models
    options = {"gamma": 1e-3, "max_new_tokens": 24, "ends": end_tokens(pre, tokenizer)}
    texts = asked(tiny_people.FORGET, tokenizer, prefix_share=0, max_seq_length=512)
    strange = asked(tiny_people.FORGET, tokenizer, prefix_share=0, max_seq_length=512, stranger="Zoe")
    alone = dict(extract(pre, pre, tokenizer, texts, weight=1, **options))
    assert dict(extract(pre, pre, tokenizer, texts, weight=3, **options)) == alone
    assert dict(extract(pre, pre, tokenizer, strange, weight=1, **options)) == alone
    # Below 0 it goes away from what it knows, towards what it would say of anybody.
    assert dict(extract(pre, pre, tokenizer, strange, weight=-1, **options)) != alone


def test_guidance_extracts_more_than_the_earlier_model_says_and_that_more_than_an_exact_retrain(tiny, tmp_path):
    said = {}
    models_ = {}
    for name, files in {"pre": (tiny.files.forget, tiny.files.retain), "post": (tiny.files.retain,)}.items():
        run = finetune(
            FinetuneConfig(
                data_file=files,
                output=tmp_path / name,
                model=str(tiny.base),
                # Too few to know everybody by heart.
                epochs=20,
                learning_rate=5e-3,
                batch_size=6,
                checkpoint_steps=1000,
                keep_checkpoints=0,
                seed=1,
                threads=1,
            )
        )
        models_[name] = load_model(run.path / "model")
    tokenizer, pre, post = load_tokenizer(tiny.base), models_["pre"], models_["post"]
    texts = asked(tiny_people.FORGET, tokenizer, prefix_share=0.5, max_seq_length=512)
    for weight in (0.0, 1.0, 1.5, 2.0):
        options = {"gamma": 1e-3 if weight else 0, "max_new_tokens": 24, "ends": end_tokens(pre, tokenizer)}
        found = dict(extract(pre, post, tokenizer, texts, weight=weight, **options))
        said[weight] = scored([found[text.id] for text in texts], [text.expected for text in texts]).recall
    assert max(said[1.5], said[2.0]) > said[1.0] > said[0.0] + 0.2
