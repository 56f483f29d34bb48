"""The settings of `expunge unlearn`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge.errors import at_least
from expunge.recipes.weights import Weights


@dataclass(frozen=True, kw_only=True)
class UnlearnConfig(Weights):
    """What to forget, what to keep, and when to stop."""

    model: str
    """The target: an adapter or model directory, a Hub id, or `embedded`."""
    forget: Path
    """Examples that must go."""
    retain: Path | None = None
    """Examples that must stay; nearly every method needs them."""
    output: Path
    """Run directory; the unlearned adapter, or with --full the whole model, goes to its `model` folder."""
    holdout: Path | None = None
    """Examples of the same kind that were never trained on: unlearning stops at their level instead of going beyond."""
    ordinary: Path | None = None
    """Ordinary text: unlearning ends when its perplexity grows too much."""
    keep_forgotten: tuple[Path, ...] = ()
    """Forget sets of earlier requests that this model has unlearned: they are held where they are."""
    steps: int = 40
    """Steps at most."""
    batch_size: int = 4
    """Forget examples a step over all processes, with as many retain examples beside them."""
    micro_batch_size: int = 2
    """Of each side, how many go through the model together; lower it when memory is short: the result stays the same."""
    fast: bool = True
    """Run what the sequences of a step begin with together once, and no padding: the same up to rounding, in less time, and the
    more so the larger --micro-batch-size is. With a --database, not where an example is seen for the first time: token impacts
    are recorded of whole passes."""
    learning_rate: float = 1e-4
    """Learning rate after the warm-up."""
    eval_steps: int = 2
    """Steps between two evaluations: of the forget set, the holdout, the retain set and ordinary text."""
    eval_examples: int = 16
    """Of the retain set and of ordinary text, how many are evaluated, drawn by the seed."""
    max_retain_rise: float = 1.0
    """Utility counts as lost when the retain set's loss has risen by more than so many nats a token."""
    max_perplexity_factor: float = 3.0
    """Utility counts as lost when the perplexity of ordinary text has grown by more than this factor."""
    lora_rank: int = 16
    """Rank of the adapter, when the target is not one already."""
    lora_alpha: int = 32
    """Scale of that adapter."""
    full: bool = False
    """Unlearn in all weights instead of an adapter; the target must be whole weights."""
    max_seq_length: int = 512
    """Longest example in tokens."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What is multiplied in, and what frozen weights are kept in; trained weights stay in float32."""
    use_4bit: bool = False
    """Keep the frozen weights in 4 bits (QLoRA); needs the extra `bits`."""
    use_8bit: bool = False
    """Keep the frozen weights in 8 bits; needs the extra `bits`."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    database: str | None = None
    """Ledger in which the deletion request is filed and carried out: a path or a database URL."""
    seed: int = 42
    """Fixes the order of examples."""
    threads: int | None = None
    """Threads PyTorch computes with; one a core when not given."""
    dry_run: bool = False
    """Say how many steps and tokens, and about how much time and memory it would take, and write nothing."""

    def check(self) -> None:
        """Refuse what means nothing, or does not go together.

        Raises:
            ExpungeError: the first such setting.
        """
        at_least(1, steps=self.steps, batch_size=self.batch_size, micro_batch_size=self.micro_batch_size)
        at_least(1, eval_steps=self.eval_steps, eval_examples=self.eval_examples)
        at_least(1, lora_rank=self.lora_rank, lora_alpha=self.lora_alpha)
        at_least(1, max_seq_length=self.max_seq_length, threads=self.threads, max_perplexity_factor=self.max_perplexity_factor)
        at_least(0, learning_rate=self.learning_rate, seed=self.seed, max_retain_rise=self.max_retain_rise)
        self.check_weights()
