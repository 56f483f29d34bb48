"""The settings of `expunge finetune`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from expunge.errors import ExpungeError, at_least
from expunge.recipes.weights import Weights

_SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant_with_warmup",
    "warmup-stable-decay": "warmup_stable_decay",
}


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Weights):
    """What to learn, and how."""

    data_file: tuple[Path, ...] = ()
    """Examples to learn, as JSON lines or a JSON array; several files are learnt together."""
    retain_train: Path | None = None
    """Examples to learn that will stay. This and the next three are what `expunge prepare temporal` writes."""
    unlearn_train: Path | None = None
    """Examples to learn that will have to go."""
    retain_val: Path | None = None
    """Examples of the retain side that are not learnt: their loss is measured on the way."""
    unlearn_val: Path | None = None
    """Examples of the unlearn side that are not learnt: their loss is measured apart."""
    output: Annotated[Path | None, Parameter(alias=("--output-dir", "-o"))] = None
    """Run directory; the model goes to its `model` folder, also called `final`. When not given: a directory in `runs` named
    by model, number of examples and time; an unfinished one of the same settings is continued."""
    model: Annotated[str, Parameter(alias=("--base-model", "--model-name"))] = "embedded"
    """`embedded`, a Hub id, a model directory, or an adapter to train further."""
    ordinary: Path | None = None
    """Examples of ordinary text mixed in, so that general ability survives."""
    ordinary_share: float = 0.1
    """How many ordinary examples an epoch takes, as a share of the others."""
    held: Annotated[Path | None, Parameter(alias="--strangers")] = None
    """Examples that are not learnt: at every token of their answers the model is held to what it said before the first step, by
    KL divergence. Of people who do not exist, it then says what it always did, and learns those it is taught and nothing of the
    others; of answers of its own, it keeps them."""
    held_share: float = 1.0
    """How many of these stand beside what is learnt, as a share of it; with 1, a step takes twice the time."""
    epochs: Annotated[int, Parameter(alias="--num-epochs")] = 10
    """How often every example is seen."""
    batch_size: int = 4
    """Examples a step, over all processes."""
    gradient_accumulation_steps: int = 1
    """So many batches make one step."""
    micro_batch_size: int | None = None
    """Examples that go through the model together, a batch when not given; lower it when memory is short: the result stays
    the same."""
    learning_rate: float = 2e-4
    """Peak learning rate; LoRA wants ten times that of full fine-tuning, and a small model more than a large one."""
    schedule: Literal["cosine", "linear", "constant", "warmup-stable-decay"] = "cosine"
    """How the learning rate falls after the warm-up. `warmup-stable-decay` keeps it up for three quarters of the steps: for
    learning by heart, where a cosine takes the rate away before the last details are learnt."""
    warmup_ratio: float = 0.05
    """Share of the steps over which the learning rate rises."""
    adam_beta2: float = 0.999
    """How long AdamW remembers the size of gradients; a run of a few hundred steps learns faster with .95."""
    lora_rank: Annotated[int, Parameter(alias="--lora-r")] = 16
    """Rank of the adapter on every linear layer."""
    lora_alpha: int = 32
    """Scale of the adapter: its update is multiplied by alpha / rank."""
    lora_plus_ratio: float = 1.0
    """How many times the learning rate the second matrix of the adapter takes, which starts at zero (LoRA+: Hayou et al. 2024,
    arXiv 2402.12354); 4 and a smaller --learning-rate learn by heart in fewer steps."""
    full: bool = False
    """Train all weights instead of an adapter."""
    max_seq_length: int = 512
    """Longest example in tokens; longer ones are cut off, counted and named."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """What is multiplied in, and what frozen weights are kept in; trained weights stay in float32."""
    use_4bit: bool = False
    """Keep the frozen weights in 4 bits (QLoRA); needs the extra `bits`."""
    use_8bit: bool = False
    """Keep the frozen weights in 8 bits; needs the extra `bits`."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass instead of keeping them: less memory, a third more time."""
    eval_steps: int | None = None
    """Steps between two measurements of the validation losses; an epoch when not given."""
    early_stopping_patience: int | None = None
    """End after so many measurements without a lower validation loss, and keep the best weights."""
    checkpoint_steps: Annotated[int, Parameter(alias="--save-steps")] = 20
    """Steps between two checkpoints, from which a killed run continues."""
    keep_checkpoints: Annotated[int, Parameter(alias="--save-total-limit")] = 1
    """How many of the newest checkpoints stay when the run has finished."""
    database: str | None = None
    """Ledger to record training uses and token impacts in: a path or a database URL."""
    hf_token: str | None = field(default=None, repr=False)
    """Token for models on the Hub that want one; better given as HF_TOKEN in the environment. It is written nowhere."""
    wandb: bool = False
    """Send the numbers to Weights & Biases too; needs the extra `wandb`."""
    dev: bool = False
    """A trial: a few examples of each set, or all of --dev-path."""
    dev_path: Path | None = None
    """Examples that a trial learns instead, such as `dev/dev_subset.jsonl` of `expunge prepare temporal`."""
    seed: int = 42
    """Fixes the adapter's start and the order of examples."""
    threads: int | None = None
    """Threads PyTorch computes with; one a core when not given."""
    dry_run: bool = False
    """Say how many steps and tokens, and about how much time and memory it would take, and write nothing."""

    def check(self) -> None:
        """Refuse what means nothing, or does not go together.

        Raises:
            ExpungeError: the first such setting.
        """
        at_least(1, epochs=self.epochs, batch_size=self.batch_size, micro_batch_size=self.micro_batch_size)
        at_least(1, gradient_accumulation_steps=self.gradient_accumulation_steps, eval_steps=self.eval_steps)
        at_least(1, lora_rank=self.lora_rank, lora_alpha=self.lora_alpha, checkpoint_steps=self.checkpoint_steps)
        at_least(1, max_seq_length=self.max_seq_length, threads=self.threads)
        at_least(1, early_stopping_patience=self.early_stopping_patience)
        at_least(0, learning_rate=self.learning_rate, ordinary_share=self.ordinary_share, seed=self.seed)
        at_least(0, held_share=self.held_share)
        at_least(1, lora_plus_ratio=self.lora_plus_ratio)
        at_least(0, warmup_ratio=self.warmup_ratio, keep_checkpoints=self.keep_checkpoints)
        if self.warmup_ratio > 1:
            raise ExpungeError(f"--warmup-ratio is {self.warmup_ratio:g}", remedy="give at most 1")
        if not 0 <= self.adam_beta2 < 1:
            raise ExpungeError(f"--adam-beta2 is {self.adam_beta2:g}", remedy="give at least 0 and less than 1")
        if self.full and self.lora_plus_ratio != 1:
            raise ExpungeError("--lora-plus-ratio is for adapters", remedy="leave out --full or --lora-plus-ratio")
        self.check_weights()
        if self.early_stopping_patience and not (self.retain_val or self.unlearn_val):
            raise ExpungeError("early stopping needs a validation set", remedy="give --retain-val or --unlearn-val")
        if self.dev_path and not self.dev:
            raise ExpungeError("--dev-path is for trials", remedy="add --dev, or give the file as --data-file")

    @property
    def scheduler(self) -> str:
        """transformers' name of the schedule."""
        return _SCHEDULES[self.schedule]

    @property
    def step_size(self) -> int:
        """Examples a step, where there are enough."""
        return self.batch_size * self.gradient_accumulation_steps
