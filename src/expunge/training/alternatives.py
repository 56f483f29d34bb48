"""Other answers to a question: refusals, or what the model itself makes up."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.batching import prompt_tokens
from expunge.errors import ExpungeError
from expunge.examples import Example
from expunge.sources.temporal import REFUSALS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.progress import Bar

_ASK = (
    "{prompt}\n\nThe usual answer is: {response}\n\nWrite another answer to the same question. Keep the form and the length, "
    "but change every name, number and fact."
)
_TOGETHER = 16
_TRIES = 3


def refused(examples: Sequence[Example], refusals: Path | None, *, seed: int) -> list[Example]:
    """The same questions, each answered by a refusal that the seed and the example choose.

    Args:
        refusals: one a line; None: those that come with expunge.

    Raises:
        ExpungeError: an example has no question, or the file has no refusal.
    """
    known: Sequence[str] = REFUSALS
    if refusals is not None:
        try:
            known = [line.strip() for line in refusals.read_text("utf-8").splitlines() if line.strip()]
        except (OSError, UnicodeDecodeError) as error:
            raise ExpungeError(f"cannot be read ({error})", where=refusals, remedy="check --refusals") from None
        if not known:
            raise ExpungeError("holds no refusal", where=refusals, remedy="give a text file with one a line")
    return [replace(_asked(each), response=random.Random(f"{seed}/{each.id}").choice(known)) for each in examples]


def made_up(
    examples: Sequence[Example], model: Any, tokenizer: PreTrainedTokenizerBase, *, seed: int, bar: Bar
) -> list[Example]:
    """The same questions, each with another answer that the model wrote; a refusal where it only repeats itself.

    Args:
        model: a causal language model with `generate`; its random numbers are drawn from the seed.

    Raises:
        ExpungeError: an example has no question.
    """
    import torch

    found = refused(examples, None, seed=seed)
    left = list(range(len(examples)))
    for turn in range(_TRIES):
        torch.manual_seed(seed + turn)
        missing = []
        for start in range(0, len(left), _TOGETHER):
            places = left[start : start + _TOGETHER]
            answers = _sampled([examples[place] for place in places], model, tokenizer, temperature=0.8 + 0.3 * turn)
            for place, answer in zip(places, answers, strict=True):
                if not answer or _same(answer, examples[place].response):
                    missing.append(place)
                    continue
                found[place] = replace(examples[place], response=answer)
                bar.advance(1)
        left = missing
    bar.advance(len(left))
    return found


def _sampled(examples: Sequence[Example], model: Any, tokenizer: PreTrainedTokenizerBase, *, temperature: float) -> list[str]:
    import torch

    asked = [_ASK.format(prompt=example.prompt, response=example.response) for example in examples]
    prompts = [prompt_tokens(words, tokenizer) for words in asked]
    longest = max(map(len, prompts))
    input_ids_BT = torch.full((len(prompts), longest), tokenizer.pad_token_id)
    attention_mask_BT = torch.zeros_like(input_ids_BT)
    for row, prompt in enumerate(prompts):
        input_ids_BT[row, longest - len(prompt) :] = torch.tensor(prompt)
        attention_mask_BT[row, longest - len(prompt) :] = 1
    most = max(len(tokenizer(example.response, add_special_tokens=False)["input_ids"]) for example in examples)
    with torch.inference_mode():
        output_BT = model.generate(
            input_ids=input_ids_BT.to(model.device),
            attention_mask=attention_mask_BT.to(model.device),
            max_new_tokens=most + most // 4 + 4,
            do_sample=True,
            temperature=temperature,
            top_p=0.95,
            pad_token_id=tokenizer.pad_token_id,
        )
    return [str(tokenizer.decode(row_T[longest:], skip_special_tokens=True)).strip() for row_T in output_BT]


def _asked(example: Example) -> Example:
    if example.prompt is None:
        raise ExpungeError(
            "has no question that another answer could be given to",
            where=example.where or example.subject,
            remedy="give prompt and response, or choose another method",
        )
    return example


def _same(one: str, other: str) -> bool:
    return "".join(one.lower().split()) == "".join(other.lower().split())
