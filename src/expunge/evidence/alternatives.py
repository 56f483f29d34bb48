"""Paraphrases of the answer and wrong answers in its words, as TOFU and its kin give them: how likely each is.

`paraphrased_answer` and `perturbed_answer` in an example's metadata, a text or several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from expunge.batching import Tokenized, tokenize
from expunge.evidence.prefixes import Question, Scored, batches_of_questions, continuation_log_p, question_scores
from expunge.evidence.stem import common_stem, reads_by_mask
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
    answers: Sequence[Tokenized] = (),
) -> None:
    """Record the mean log-probability a token of every other answer of every example that has them and lacks the record.

    Args:
        answers: the answers themselves. Of those with other answers the scores are recorded too, since they share the question,
            where the model can read them together; what is left is for `record_scores`.

    Raises:
        ExpungeError: the prompt leaves no room, the model gives NaN, or the disk is full.
    """
    texts = {example.id: found for example in examples if (found := alternatives(example))}
    asked = [example for example in examples if example.id in texts]
    own = {each.id: each.tokens[each.start :] for each in answers}
    questions = []
    for example in asked:
        others = [replace(example, response=text) for words in texts[example.id].values() for text in words]
        tokenized = tokenize(others, tokenizer, max_seq_length=max_seq_length)
        start = tokenized[0].start
        ends = tuple(each.tokens[start:] for each in tokenized)
        questions.append(Question(tokenized[0].tokens[:start], ends, own.get(example.id)))

    def known(place: int) -> bool:
        scores = () if questions[place].answer is None else ("scores",)
        return store.has([asked[place].id], *texts[asked[place].id], *scores)

    if all(map(known, range(len(asked)))):
        bar.advance(len(asked))
        return
    by_mask = reads_by_mask(model, max(len(question.prefix) + len(end) for question in questions for end in question.ends))
    if not by_mask:
        questions = [question._replace(answer=None) for question in questions]
    stem = common_stem(model, [question.prefix for question in questions]) if by_mask else None
    for places in batches_of_questions(questions, model):
        if not all(map(known, places)):
            batch, pad = [questions[place] for place in places], int(tokenizer.pad_token_id)
            if by_mask:
                scored = question_scores(model, batch, pad=pad, stem=stem)
            else:
                scored = [Scored(log_p, None) for log_p in continuation_log_p(model, batch, pad=pad)]
            for place, each in zip(places, scored, strict=True):
                id = asked[place].id
                means = iter([each_T.mean().item() for each_T in each.log_p])
                parts = {part: [next(means) for _ in words] for part, words in texts[id].items()}
                store.add(id, **{part: rounded(values) for part, values in parts.items()})
                if each.answer is not None and (id, "scores") not in store:
                    store.add_scores(id, *(part_T.numpy() for part_T in each.answer))
        bar.advance(len(places))
