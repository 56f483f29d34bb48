"""Examples to tokens, in the model's own chat template: the one it will be served with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

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
