"""Who else hears the numbers of a training: TensorBoard's files, and Weights & Biases if asked."""

from __future__ import annotations

import os
from pathlib import Path

from transformers import TrainerCallback


def listeners(directory: Path, *, wandb: bool) -> list[TrainerCallback]:
    """Callbacks for the trainer; the main process alone writes.

    Args:
        directory: where TensorBoard's event files go; `tensorboard --logdir` shows them.
        wandb: send the numbers to Weights & Biases too, in the project WANDB_PROJECT or `expunge`.
    """
    from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

    board = TensorBoardCallback()
    board.logging_dir = str(directory)
    if not wandb:
        return [board]
    os.environ.setdefault("WANDB_PROJECT", "expunge")
    return [board, WandbCallback()]
