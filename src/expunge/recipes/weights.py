"""How weights are kept and trained: what `finetune` and `unlearn` say of it in the same flags, and mean in the same way."""

from __future__ import annotations

from typing import Literal

from expunge.errors import ExpungeError


class Weights:
    """A base of the configs that have these flags. It has no fields of its own, so that each keeps the order of its flags."""

    full: bool
    dtype: Literal["float32", "bfloat16", "float16"]
    use_4bit: bool
    use_8bit: bool

    def check_weights(self) -> None:
        """Refuse what does not go together.

        Raises:
            ExpungeError: 4 and 8 bits at once, or weights in so few bits that are to be trained themselves.
        """
        if self.use_4bit and self.use_8bit:
            raise ExpungeError("--use-4bit and --use-8bit exclude each other", remedy="leave one out")
        if self.full and self.bits:
            raise ExpungeError(
                f"weights in {self.bits} bits cannot be trained", remedy=f"leave out --full or --use-{self.bits}bit"
            )

    @property
    def bits(self) -> Literal[4, 8] | None:
        """Bits a frozen weight, where it is quantised."""
        return 4 if self.use_4bit else 8 if self.use_8bit else None

    @property
    def weights_dtype(self) -> str:
        """What the model is loaded in: weights that are trained stay in float32."""
        return "float32" if self.full else self.dtype
