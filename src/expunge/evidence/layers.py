"""What stands inside the model, layer by layer: the answer read off early (logit lens), and mean hidden states.

Logit lens: nostalgebraist 2020. A model may have stopped saying what its middle layers still hold.

Shapes: B examples, T tokens, L layers with the embedding before them, D width, N labelled tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expunge.batching import Tokenized, batches_by_length, collate
from expunge.batching.batches import IGNORED
from expunge.errors import ExpungeError
from expunge.evidence.passes import to_device
from expunge.evidence.room import tokens_together
from expunge.evidence.scoring import score_logits
from expunge.evidence.store import packed, rounded

if TYPE_CHECKING:
    from torch import Tensor, nn

    from expunge.evidence.store import EvidenceStore
    from expunge.progress import Bar

_MOST_TOKENS = 1024
_PROBED = 4
"""At how many layers, evenly spaced, the hidden states are kept; the last one always."""
_NORMS = ("norm", "final_layernorm", "ln_f", "final_layer_norm")


def record_layers(
    model: nn.Module,
    examples: Sequence[Tokenized],
    store: EvidenceStore,
    *,
    parts: Sequence[str],
    pad: int,
    bar: Bar,
) -> None:
    """Record `lens`, `hidden` or both, of every example that lacks one, in a pass for both.

    Raises:
        ExpungeError: the model's last norm is not where such models have it; NaN; or the disk is full.
    """
    import torch

    for batch in batches_by_length(
        [len(example.tokens) for example in examples], most_tokens=tokens_together(model, _MOST_TOKENS)
    ):
        members = [examples[place] for place in batch.places]
        if not store.has([example.id for example in members], *parts):
            with torch.inference_mode():
                tokens = to_device(model, collate(members, pad))
                labels_BT = tokens.labels_BT[:, 1:]
                states = [state_BTD[:, :-1] for state_BTD in _states(model, tokens)]
                lens_BL = _lens(model, states, labels_BT) if "lens" in parts else None
                hidden_BLD = _means(states, labels_BT) if "hidden" in parts else None
            for row, example in enumerate(members):
                found: dict[str, Any] = {}
                if lens_BL is not None:
                    found["lens"] = rounded(lens_BL[row])
                if hidden_BLD is not None:
                    found["hidden"] = packed(hidden_BLD[row].half().cpu().numpy())
                store.add(example.id, **found)
        bar.advance(len(members))


def _states(model: Any, tokens: Any) -> tuple[Tensor, ...]:
    """(B, T, D) after the embedding and each layer; the last one normed, as the head takes it."""
    output = model(
        input_ids=tokens.input_ids_BT,
        attention_mask=tokens.attention_mask_BT,
        output_hidden_states=True,
        logits_to_keep=1,
        use_cache=False,
    )
    return output.hidden_states  # type: ignore[no-any-return]


def _lens(model: Any, states: Sequence[Tensor], labels_BT: Tensor) -> Tensor:
    import torch

    labelled_BT = labels_BT != IGNORED
    labels_N = labels_BT[labelled_BT]
    row_N = labelled_BT.nonzero()[:, 0]
    norm, head = _last_norm(model), model.get_output_embeddings()
    columns = []
    for number, state_BTD in enumerate(states):
        state_ND = state_BTD[labelled_BT]
        logits_NV = head(state_ND if number == len(states) - 1 else norm(state_ND))
        log_p_N = score_logits(logits_NV[None], labels_N[None]).log_p_BK[0]
        columns.append(torch.zeros(len(labels_BT), device=log_p_N.device).index_add_(0, row_N, log_p_N))
    return torch.stack(columns, 1) / labelled_BT.sum(1, keepdim=True)


def _means(states: Sequence[Tensor], labels_BT: Tensor) -> Tensor:
    import torch

    labelled_BT = labels_BT != IGNORED
    last = len(states) - 1
    kept = sorted({max(1, last * step // _PROBED) for step in range(1, _PROBED + 1)})
    weights_BT1 = labelled_BT[..., None] / labelled_BT.sum(1)[:, None, None]
    return torch.stack([(states[number].float() * weights_BT1).sum(1) for number in kept], 1)


def _last_norm(model: Any) -> Any:
    whole = model.get_base_model() if hasattr(model, "peft_config") else model
    body = whole.base_model
    for name in _NORMS:
        if hasattr(body, name):
            return getattr(body, name)
    raise ExpungeError(
        f"the logit lens does not know where the last norm of a {type(whole).__name__} is", remedy="leave out logit-lens"
    )
