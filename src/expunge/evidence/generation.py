"""Answers token by token, in batches: greedy, sampled, or from the scores of several models together.

A loop of our own, since transformers' `generate` can neither ask two models at once nor draw each answer from a seed of its
own, and goes on computing answers that have ended. What it says greedily is what `generate` says.

Shapes: B prompts still being answered, T tokens, V the vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.evidence.room import memory_for_a_batch

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from expunge.evidence.stem import Stem

Combine = Callable[..., "Tensor"]
"""(logits_BV of each model, in order) → scores_BV whose largest is said."""

# Where dropping a row copies all that is kept of the past, it waits until so small a share is still being answered.
_PACKED_BELOW = 0.75
# Past the most, multiplying takes nearly all the time; the past of a batch may take so many bytes, or that of the fewest.
_FEWEST_TOGETHER, _MOST_TOGETHER = 32, 96
_PAST_BYTES = 1 << 30
# There a step takes as long for hundreds as for one.
_MOST_ON_A_GPU = 512


class Sampling(NamedTuple):
    """Draw answers instead of taking the likeliest token."""

    seeds: Sequence[int]
    """One for each prompt: what is drawn depends on it and the prompt, and not on who shares the batch."""
    temperature: float = 1.0
    """Above 0; 1 draws from the model as it is."""


def generate(
    models: Any | Sequence[Any],
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int | Sequence[int],
    ends: Collection[int],
    combine: Combine | None = None,
    sampling: Sampling | None = None,
    read_instead: Sequence[Sequence[int]] | None = None,
    stem: Stem | None = None,
) -> list[list[int]]:
    """Answer a batch of prompts.

    Args:
        models: a causal language model, or several of one vocabulary.
        prompts: token ids, of any lengths above 0.
        max_new_tokens: where an answer that does not end by itself is cut, at least 1; one for all, or one for each prompt.
        ends: the tokens that end an answer, see `end_tokens`.
        combine: what is said, from the logits of all models; None: the logits of the only one.
        sampling: draw each token; None: say the one with the largest score.
        read_instead: what all models but the first read in place of `prompts`, one for each; None: the same.
        stem: what all prompts begin with, with a token left of each, if the only model read it already.

    Returns:
        The tokens of each answer, without the one that ends it.
    """
    import torch

    from expunge.evidence.growing import kept_in_place
    from expunge.models.linears import weights_laid_out

    readers = [
        _Reader(model, prompts if number == 0 or read_instead is None else read_instead, stem)
        for number, model in enumerate(models if isinstance(models, Sequence) else [models])
    ]
    said: list[list[int]] = [[] for _ in prompts]
    noise = None if sampling is None else [torch.Generator().manual_seed(seed) for seed in sampling.seeds]
    places = list(range(len(prompts)))  # of the rows that the readers hold
    ended = [False] * len(prompts)
    most = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    with torch.inference_mode(), ExitStack() as stack:
        for model in dict.fromkeys(models if isinstance(models, Sequence) else [models]):
            stack.enter_context(weights_laid_out(model))
        logits = [reader.begin() for reader in readers]
        cheap = all(reader.drops_cheaply for reader in readers)
        for length in range(1, max(most) + 1):
            scores_BV = combine(*logits) if combine else logits[0]
            if sampling is not None and noise is not None:
                scores_BV = _perturbed(scores_BV / sampling.temperature, [noise[place] for place in places])
            token_B = scores_BV.argmax(-1)
            for place, token in zip(places, token_B.tolist(), strict=True):
                ended[place] |= token in ends
                if not ended[place]:
                    said[place].append(token)
                    ended[place] = length == most[place]
            going = [not ended[place] for place in places]
            if not any(going):
                break
            if not all(going) and (cheap or sum(going) <= len(going) * _PACKED_BELOW):
                rows = kept_in_place(going)
                rows_B = torch.tensor(rows, device=token_B.device)
                token_B, places = token_B[rows_B], [places[row] for row in rows]
                for reader in readers:
                    reader.keep(rows_B)
            logits = [reader.go_on(token_B) for reader in readers]
    return said


def end_tokens(model: Any, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """The tokens that end an answer: those of the model's generation settings, which may be several, else the tokenizer's."""
    found = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    found = tokenizer.eos_token_id if found is None else found
    return frozenset(found if isinstance(found, list | tuple) else [] if found is None else [found])


def answered_together(model: Any, tokens: int) -> int:
    """How many prompts to answer in a batch: every step reads all weights, whoever shares it, but each row has a past to keep.

    Args:
        tokens: of the longest prompt and the longest answer together.
    """
    config = getattr(model, "config", None)
    text: Any = config.get_text_config(decoder=True) if config is not None else None
    heads = getattr(text, "num_key_value_heads", None) or getattr(text, "num_attention_heads", None)
    layers, hidden = getattr(text, "num_hidden_layers", None), getattr(text, "hidden_size", None)
    if not (heads and layers and hidden):
        return _FEWEST_TOGETHER
    width = getattr(text, "head_dim", None) or hidden // text.num_attention_heads
    past = 2 * layers * heads * width * tokens * next(model.parameters()).element_size()
    memory = memory_for_a_batch(model)
    if memory is not None:
        return int(min(max(memory // past, _FEWEST_TOGETHER), _MOST_ON_A_GPU))
    return int(min(max(_PAST_BYTES // past, _FEWEST_TOGETHER), _MOST_TOGETHER))


def batches_of_prompts(prompts: Sequence[Sequence[int]], together: int) -> list[list[int]]:
    """Places of prompts, at most `together` to a batch, neighbours in length, the longest first."""
    order = sorted(range(len(prompts)), key=lambda place: (-len(prompts[place]), place))
    return [order[start : start + together] for start in range(0, len(order), together)]


class _Reader:
    """One model on its way through a batch, with what it keeps of the past."""

    def __init__(self, model: Any, prompts: Sequence[Sequence[int]], stem: Stem | None) -> None:
        import torch

        longest, read = max(map(len, prompts)), stem.length if stem else 0
        self._model = model
        self._tokens_BT = torch.zeros((len(prompts), longest - read), dtype=torch.long)
        self._mask_BT = torch.ones((len(prompts), longest), dtype=torch.long)
        for row, prompt in enumerate(prompts):
            # On the left: an answer goes on from the last position. What stands in the padding is masked.
            padding = longest - len(prompt)
            self._tokens_BT[row, padding:] = torch.tensor(list(prompt[read:]))
            self._mask_BT[row, read : read + padding] = 0
        self._tokens_BT, self._mask_BT = self._tokens_BT.to(model.device), self._mask_BT.to(model.device)
        whole = model.get_base_model() if hasattr(model, "get_base_model") else model
        takes = inspect.signature(whole.forward).parameters
        self._takes_positions, self._spares_head = "position_ids" in takes, "logits_to_keep" in takes
        self._past: Any = stem.past(len(prompts)) if stem else None

    def begin(self) -> Tensor:
        """(B, V) logits of the first token of each answer."""
        from expunge.evidence.growing import growing

        positions_BT = (self._mask_BT.cumsum(1) - 1).clamp(min=0)
        logits_BV = self._logits(self._tokens_BT, positions_BT[:, -self._tokens_BT.shape[1] :])
        self._past = growing(self._past)
        return logits_BV

    def go_on(self, token_B: Tensor) -> Tensor:
        """(B, V) logits of the next token, after this one."""
        import torch

        token_B1 = token_B[:, None].to(self._tokens_BT.device)
        self._mask_BT = torch.cat([self._mask_BT, torch.ones_like(token_B1)], 1)
        positions_BT = self._mask_BT.cumsum(1) - 1
        if self._past is None:  # a model that keeps nothing reads everything again
            self._tokens_BT = torch.cat([self._tokens_BT, token_B1], 1)
            return self._logits(self._tokens_BT, positions_BT.clamp(min=0))
        return self._logits(token_B1, positions_BT[:, -1:])

    @property
    def drops_cheaply(self) -> bool:
        """Whether a row costs no more to drop than what is kept of it."""
        from expunge.evidence.growing import grows

        return grows(self._past)

    def keep(self, rows_B: Tensor) -> None:
        """Go on with these rows alone."""
        rows_B = rows_B.to(self._tokens_BT.device)
        self._tokens_BT, self._mask_BT = self._tokens_BT[rows_B], self._mask_BT[rows_B]
        if self._past is not None:
            self._past.reorder_cache(rows_B)

    def _logits(self, tokens_BT: Tensor, positions_BT: Tensor) -> Tensor:
        options: dict[str, Any] = {"position_ids": positions_BT} if self._takes_positions else {}
        options |= {"logits_to_keep": 1} if self._spares_head else {}
        options |= {"past_key_values": self._past} if self._past is not None else {}
        output = self._model(input_ids=tokens_BT, attention_mask=self._mask_BT, use_cache=True, **options)
        self._past = getattr(output, "past_key_values", None)
        logits_BV: Tensor = output.logits[:, -1].float()
        return logits_BV


def _perturbed(scores_BV: Tensor, generators: Sequence[Any]) -> Tensor:
    """Scores plus Gumbel noise: the largest is then a draw from their softmax (Gumbel 1954)."""
    import torch

    noise_BV = torch.stack([torch.empty(scores_BV.shape[1]).exponential_(generator=one) for one in generators])
    return scores_BV - noise_BV.log().to(scores_BV.device)
