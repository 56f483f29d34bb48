"""How large a model is, from its config alone: no weights are read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from expunge.errors import ExpungeError
from expunge.models.loading import on_disk, resolve_base


class Shape(NamedTuple):
    """Sizes of a causal language model."""

    parameters: int
    """All weights, tied ones once."""
    linear: int
    """Weights that every token is multiplied with: the linear layers without the output head."""
    sides: int
    """Inputs and outputs of those layers, summed: the weights of a LoRA adapter of rank 1 on all of them."""
    layers: int
    hidden: int
    vocabulary: int


def model_shape(name: str | Path) -> Shape:
    """The sizes of a model, or of an adapter's base.

    Raises:
        ExpungeError: its config cannot be read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(on_disk(resolve_base(name)))
    except (OSError, ValueError) as error:
        raise ExpungeError(f"its config cannot be read ({str(error).splitlines()[0]})", where=name, remedy="check the model")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    return Shape(
        parameters=sum(weight.numel() for weight in model.parameters()),
        linear=sum(layer.weight.numel() for layer in layers),
        sides=sum(layer.in_features + layer.out_features for layer in layers),
        layers=int(config.num_hidden_layers),
        hidden=int(config.hidden_size),
        vocabulary=int(config.vocab_size),
    )
