"""Examples to tokens, in the model's own chat template: the one it will be served with."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

from expunge.errors import ExpungeError
from expunge.examples import Example

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedTokenizerBase


class Tokenized(NamedTuple):
    """One example as the model reads it."""

    id: str
    """`Example.id`."""
    tokens: tuple[int, ...]
    """Prompt and answer, with the answer's end token."""
    start: int
    """Position of the first labelled token; those from here on are learnt and scored. At least 1."""
    truncated: bool
    """Whether the end was cut off to fit."""

    @property
    def labels(self) -> int:
        """How many tokens are labelled."""
        return len(self.tokens) - self.start


class Span(NamedTuple):
    """The characters of an example that a token stands for."""

    field: Literal["prompt", "response"]
    start: int
    end: int
    """One past the last."""


def tokenize(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, *, max_seq_length: int) -> list[Tokenized]:
    """The examples as tokens: the answer and its end token are labelled, the prompt and the template are not.

    Plain text (no prompt) is taken without a template, and labelled from its second token on.

    Raises:
        ExpungeError: the prompt alone fills `max_seq_length`, so that nothing of the answer would be left.
    """
    return [_tokenize(example, tokenizer, max_seq_length) for example in examples]


def prompt_tokens(prompt: str, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A question in the chat template, up to where the answer begins."""
    return _tokens(tokenizer, _prompt_text(tokenizer, prompt))


def token_spans(example: Example, tokenizer: PreTrainedTokenizerBase) -> list[Span | None]:
    """Where each token of the example, not cut off, stands in its words; None for a token of the template alone.

    Raises:
        ExpungeError: the tokenizer keeps no offsets, or the template changes the words, so that no way leads back to them.
    """
    if not tokenizer.is_fast:
        raise ExpungeError("this tokenizer does not tell where its tokens stand", remedy="use a model with a tokenizer.json")
    if example.prompt is None:
        return _spans(tokenizer, example.response, "", example, "response")
    question = _prompt_text(tokenizer, example.prompt)
    before_prompt = _prompt_text(tokenizer, _STAND_IN).partition(_STAND_IN)[0]
    before_answer = _answer_text(tokenizer, replace(example, response=_STAND_IN), question).partition(_STAND_IN)[0]
    return [
        *_spans(tokenizer, question, before_prompt, example, "prompt"),
        *_spans(tokenizer, _answer_text(tokenizer, example, question), before_answer, example, "response"),
    ]


def _tokenize(example: Example, tokenizer: PreTrainedTokenizerBase, longest: int) -> Tokenized:
    if example.prompt is None:
        tokens, start = _tokens(tokenizer, example.response), 1
    else:
        question = _prompt_text(tokenizer, example.prompt)
        # Tokenised apart, as they are when the model is served: the answer follows tokens that were already there.
        prompt = _tokens(tokenizer, question)
        tokens, start = prompt + _tokens(tokenizer, _answer_text(tokenizer, example, question)), len(prompt)
    if start >= min(len(tokens), longest):
        raise ExpungeError(
            f"no token of the answer fits ({start} tokens come before it)" if start >= longest else "has no token to learn",
            where=example.where or example.subject,
            remedy=f"raise --max-seq-length (now {longest})" if start >= longest else "drop this row",
        )
    return Tokenized(example.id, tuple(tokens[:longest]), start, len(tokens) > longest)


def _prompt_text(tokenizer: PreTrainedTokenizerBase, prompt: str) -> str:
    if not tokenizer.chat_template:
        return f"{prompt}\n"
    messages = [{"role": "user", "content": prompt}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _answer_text(tokenizer: PreTrainedTokenizerBase, example: Example, question: str) -> str:
    """The answer as the template closes it, up to the token that ends the turn."""
    end = str(tokenizer.eos_token or "")
    if tokenizer.chat_template:
        messages = [
            {"role": "user", "content": str(example.prompt)},
            {"role": "assistant", "content": example.response},
        ]
        conversation = str(tokenizer.apply_chat_template(messages, tokenize=False))
        # Some templates rewrite earlier turns; then the plain answer and end token are what a server would see.
        if conversation.startswith(question):
            answer = conversation[len(question) :].rstrip()
            # A template that closes an answer with a mere line break would teach the model never to stop.
            return answer + end if answer.endswith(example.response.rstrip()) else answer
    return example.response + end


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


_STAND_IN = "⟦⟧"
"""Shows where a template puts an example's words: nobody's prompt, and no template's."""


def _spans(
    tokenizer: PreTrainedTokenizerBase, text: str, before: str, example: Example, field: Literal["prompt", "response"]
) -> list[Span | None]:
    """The span of each token of a text that holds a field of the example right behind `before`."""
    words = str(getattr(example, field))
    # Templates may strip what they are given.
    shown = next((each for each in (words, words.rstrip(), words.strip()) if text.startswith(before + each)), None)
    if shown is None:
        raise ExpungeError(
            f"the chat template changes the {field}, so its tokens cannot be led back to words",
            where=example.where or example.subject,
            remedy="use a model whose template leaves words as they are",
        )
    shift, length = words.index(shown) - len(before), len(shown)
    spans: list[Span | None] = []
    for start, end in tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]:
        # A token may reach over from the template.
        first, last = max(start, len(before)), min(end, len(before) + length)
        spans.append(Span(field, first + shift, last + shift) if first < last else None)
    return spans
