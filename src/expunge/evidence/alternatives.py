"""Paraphrases of the answer and wrong answers in its words, as TOFU and its kin give them: how likely each is.

`paraphrased_answer` and `perturbed_answer` in an example's metadata, a text or several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from expunge.batching import tokenize
from expunge.evidence.prefixes import Question, batches_of_questions, continuation_log_p
from expunge.evidence.stem import common_stem
from expunge.evidence.store import rounded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.evidence.store import EvidenceStore
    from expunge.examples import Example
    from expunge.progress import Bar

_FIELDS = {"paraphrased": "paraphrased_answer", "perturbed": "perturbed_answer"}


def alternatives(example: Example) -> dict[str, list[str]]:
    """The other answers of an example, by the part of the evidence; empty: it has none."""
    found = {}
    for part, field in _FIELDS.items():
        given = example.metadata.get(field)
        texts = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        if words := [text for text in texts if isinstance(text, str) and text.strip()]:
            found[part] = words
    return found if example.prompt is not None else {}


def record_alternatives(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    store: EvidenceStore,
    *,
    max_seq_length: int,
    bar: Bar,
) -> None:
    """Record the mean log-probability a token of every other answer of every example that has them and lacks the record.

    Raises:
        ExpungeError: the prompt leaves no room, the model gives NaN, or the disk is full.
    """
    texts = {example.id: found for example in examples if (found := alternatives(example))}
    asked = [example for example in examples if example.id in texts]
    questions = []
    for example in asked:
        others = [replace(example, response=text) for words in texts[example.id].values() for text in words]
        tokenized = tokenize(others, tokenizer, max_seq_length=max_seq_length)
        start = tokenized[0].start
        questions.append(Question(tokenized[0].tokens[:start], tuple(each.tokens[start:] for each in tokenized)))
    whole = all(store.has([example.id], *texts[example.id]) for example in asked)
    stem = None if whole else common_stem(model, [question.prefix for question in questions])
    for places in batches_of_questions(questions):
        if not all(store.has([asked[place].id], *texts[asked[place].id]) for place in places):
            batch = [questions[place] for place in places]
            scored = continuation_log_p(model, batch, pad=int(tokenizer.pad_token_id), stem=stem)
            for place, log_p in zip(places, scored, strict=True):
                means = iter([each_T.mean().item() for each_T in log_p])
                parts = {part: [next(means) for _ in words] for part, words in texts[asked[place].id].items()}
                store.add(asked[place].id, **{part: rounded(values) for part, values in parts.items()})
        bar.advance(len(places))
