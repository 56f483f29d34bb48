"""Who else hears the numbers of a training: TensorBoard's files, and Weights & Biases if asked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import TrainerCallback


@contextmanager
def listeners(directory: Path, *, wandb: bool) -> Iterator[list[TrainerCallback]]:
    """Callbacks for the trainer; the main process alone writes.

    Left early, by an error or Ctrl-C, they are closed: TensorBoard's writer is a thread that would complain of its end.

    Args:
        directory: where TensorBoard's event files go; `tensorboard --logdir` shows them.
        wandb: send the numbers to Weights & Biases too, in the project WANDB_PROJECT or `expunge`.
    """
    from transformers.integrations.integration_utils import TensorBoardCallback, WandbCallback

    board = TensorBoardCallback()
    board.logging_dir = str(directory)
    if wandb:
        os.environ.setdefault("WANDB_PROJECT", "expunge")
    try:
        yield [board, WandbCallback()] if wandb else [board]
    finally:
        if board.tb_writer is not None:
            board.tb_writer.close()
