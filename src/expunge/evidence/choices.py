"""Multiple-choice questions: how likely the letter of each option is, and each option written out.

`choices` and `answer` (an index) in an example's metadata, perhaps `asked_as`, its own prompt. Prompts are those of MMLU
(Hendrycks et al. 2021) and, written out, of ARC, as lm-eval asks them: plain text without a chat template, so that numbers
compare with published ones.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from expunge.evidence.prefixes import Question, batches_of_questions, continuation_log_p
from expunge.evidence.store import rounded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.evidence.store import EvidenceStore
    from expunge.examples import Example
    from expunge.progress import Bar

Asking = Literal["letters", "permuted", "options"]
_TOPICS = {"wmdp-bio": "biology", "wmdp-chem": "chemistry", "wmdp-cyber": "cybersecurity"}


def options_of(example: Example) -> list[str]:
    """The options of a multiple-choice question; empty: it is none."""
    choices, answer = example.metadata.get("choices"), example.metadata.get("answer")
    if example.prompt is None or not isinstance(choices, list) or not isinstance(answer, int) or isinstance(answer, bool):
        return []
    return [str(choice) for choice in choices] if 1 < len(choices) <= len(string.ascii_uppercase) else []


def asked_by(examples: Sequence[Example], asking: Asking) -> list[Example]:
    """The multiple-choice questions that can be asked so: one with words of its own (`asked_as`) is asked in those alone."""
    return [one for one in examples if options_of(one) and (asking == "options" or "asked_as" not in one.metadata)]


def letter_prompt(example: Example, options: Sequence[str]) -> str:
    """Question and lettered options, up to where the letter of the answer stands."""
    topic = _TOPICS.get(example.subject, example.subject.replace("_", " "))
    lines = [f"{letter}. {option}" for letter, option in zip(string.ascii_uppercase, options, strict=False)]
    head = f"The following are multiple choice questions (with answers) about {topic}.\n\n"
    return head + "\n".join([str(example.prompt).strip(), *lines, "Answer:"])


def record_choices(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    store: EvidenceStore,
    asking: Asking,
    *,
    max_seq_length: int,
    bar: Bar,
) -> None:
    """Record one way of asking for every multiple-choice question that lacks the record; one that does not fit gets none.

    Args:
        asking: `letters`, `permuted` (letters again, the options moved round by 1, 2, … places) or `options` (written out).

    Raises:
        ExpungeError: the model gives NaN, or the disk is full.
    """
    asked = asked_by(examples, asking)
    questions: list[Question] = []
    owners: list[tuple[int, int]] = []  # of each question: place of the example, how far its options are moved
    for place, example in enumerate(asked):
        options = options_of(example)
        for shift in range(1, len(options)) if asking == "permuted" else (0,):
            moved = options[-shift:] + options[:-shift] if shift else options
            written_out = str(example.metadata.get("asked_as", f"Question: {example.prompt}\nAnswer:"))
            prompt = written_out if asking == "options" else letter_prompt(example, moved)
            ends = options if asking == "options" else string.ascii_uppercase[: len(options)]
            question = _question(tokenizer, prompt, [f" {end}" for end in ends])
            if len(question.prefix) > max_seq_length:
                continue
            questions.append(question)
            owners.append((place, shift))
    bar.advance(questions_asked(asked, asking) - len(questions))
    rows: dict[int, dict[int, list[float]]] = {}
    for batch in batches_of_questions(questions, model):
        if not all((asked[owners[number][0]].id, asking) in store for number in batch):
            found = continuation_log_p(model, [questions[number] for number in batch], pad=int(tokenizer.pad_token_id))
            for number, log_p in zip(batch, found, strict=True):
                place, shift = owners[number]
                values = [each_T.sum().item() for each_T in log_p]
                # Back to the options' own order.
                own = rows.setdefault(place, {})
                own[shift] = values[shift:] + values[:shift]
                options = options_of(asked[place])
                if asking == "options":
                    pairs = [[value, len(option)] for value, option in zip(own[0], options, strict=True)]
                    store.add(asked[place].id, options=rounded(pairs))
                elif asking == "letters":
                    store.add(asked[place].id, letters=rounded(own[0]))
                elif len(own) == len(options) - 1:
                    store.add(asked[place].id, permuted=rounded([own[by] for by in sorted(own)]))
        bar.advance(len(batch))


def questions_asked(examples: Sequence[Example], asking: Asking) -> int:
    """How many steps `record_choices` takes."""
    return sum(len(options_of(one)) - 1 if asking == "permuted" else 1 for one in asked_by(examples, asking))


def _question(tokenizer: PreTrainedTokenizerBase, prompt: str, ends: Sequence[str]) -> Question:
    prefix = list(tokenizer(prompt)["input_ids"])
    # With the prompt before it: alone, some tokenizers would put a blank of their own in front.
    whole = [list(tokenizer(prompt + end)["input_ids"]) for end in ends]
    return Question(tuple(prefix), tuple(tuple(each[len(prefix) :]) for each in whole))
