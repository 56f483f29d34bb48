"""Evidence on disk: what a model did on a set, kept so that another metric costs no model time.

One JSON-lines file for each (model weights, set, template, settings). A line is appended as soon as it is known, so a
killed audit goes on where it stopped; a line that was cut off by the kill is dropped and recorded again.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.errors import ExpungeError
from expunge.files import reported_disk_errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Record:
    """What one model did with one example; a part is None until its pass has run, or where the data do not ask for it."""

    id: str
    """`Example.id`."""
    log_p_T: NDArray[np.float32] | None = None
    """Log-probability of each labelled token under teacher forcing, nats."""
    hits_T: NDArray[np.bool_] | None = None
    """Whether each labelled token is the most likely one under teacher forcing."""
    entropy_T: NDArray[np.float32] | None = None
    """Entropy of the distribution each labelled token was to come from, nats."""
    variance_T: NDArray[np.float32] | None = None
    """Variance of log p under that distribution, nats²: Σ p·log²p - entropy²."""
    generated: str | None = None
    """The greedy answer."""
    paraphrased_N: NDArray[np.float32] | None = None
    """Mean log-probability a token of each paraphrase of the answer."""
    perturbed_N: NDArray[np.float32] | None = None
    """Mean log-probability a token of each wrong answer in the same words."""
    letters_N: NDArray[np.float32] | None = None
    """Log-probability of the letter of each option of a multiple-choice question."""
    permuted_PN: NDArray[np.float32] | None = None
    """The same with the options moved round by 1, 2, … places; a column is an option, wherever it stood."""
    options_N2: NDArray[np.float32] | None = None
    """Summed log-probability of each option written out, and its characters."""
    prefixed: str | None = None
    """The greedy answer once the model has been made to begin it obligingly."""
    gradient_norm: float | None = None
    """Euclidean norm of the loss's gradient with respect to all weights."""
    lens_L: NDArray[np.float32] | None = None
    """Mean log-probability a token of the answer read off after each layer, the embedding first, the output last."""
    hidden_LD: NDArray[np.float16] | None = None
    """Mean hidden state over the labelled tokens, at a few layers."""


class EvidenceStore:
    """The evidence of one model on one set."""

    def __init__(self, path: Path) -> None:
        """Open, or begin, the evidence in `path`; its name must say which model, set and settings it is of."""
        self.path = path
        self._parts: dict[str, dict[str, Any]] = {}
        with reported_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read()

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Whether a part (`scores`, `generated`, …) of an example id is known."""
        id, part = key
        return part in self._parts.get(id, {})

    def has(self, ids: Iterable[str], *parts: str) -> bool:
        """Whether all parts of all these examples are known."""
        return all(part in self._parts.get(id, {}) for id in ids for part in parts)

    def add_scores(
        self,
        id: str,
        log_p_T: NDArray[np.float32],
        hits_T: NDArray[np.bool_],
        entropy_T: NDArray[np.float32] | None = None,
        variance_T: NDArray[np.float32] | None = None,
    ) -> None:
        """Keep the teacher-forced pass of one example."""
        scores = {"log_p": rounded(log_p_T), "hits": "".join("1" if hit else "0" for hit in hits_T)}
        if entropy_T is not None and variance_T is not None:
            scores |= {"entropy": rounded(entropy_T), "variance": rounded(variance_T)}
        self.add(id, scores=scores)

    def add_answer(self, id: str, generated: str) -> None:
        """Keep the greedy answer of one example."""
        self.add(id, generated=generated)

    def add(self, id: str, **parts: Any) -> None:
        """Keep parts of one example, as JSON-like values.

        Raises:
            ExpungeError: a number is NaN or infinite, as a broken model gives; or the disk is full.
        """
        row = {"id": id, **parts}
        try:
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
        except ValueError:
            raise ExpungeError(
                f"the model gave a value that is not a number ({', '.join(parts)} of example {id})",
                where=self.path,
                remedy="load it in float32 or bfloat16, and check that its weights are whole",
            ) from None
        with reported_disk_errors(self.path), self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")
        self._parts.setdefault(id, {}).update(row)

    def __getitem__(self, id: str) -> Record:
        """All that is known of one example."""
        import numpy as np

        parts = self._parts.get(id, {})
        scores = parts.get("scores", {})

        def numbers(holder: dict[str, Any], name: str) -> NDArray[np.float32] | None:
            return np.array(holder[name], dtype=np.float32) if name in holder else None

        return Record(
            id,
            log_p_T=numbers(scores, "log_p"),
            hits_T=np.frombuffer(scores["hits"].encode(), np.uint8) == ord("1") if scores else None,
            entropy_T=numbers(scores, "entropy"),
            variance_T=numbers(scores, "variance"),
            generated=parts.get("generated"),
            paraphrased_N=numbers(parts, "paraphrased"),
            perturbed_N=numbers(parts, "perturbed"),
            letters_N=numbers(parts, "letters"),
            permuted_PN=numbers(parts, "permuted"),
            options_N2=numbers(parts, "options"),
            prefixed=parts.get("prefixed"),
            gradient_norm=parts.get("gradient"),
            lens_L=numbers(parts, "lens"),
            hidden_LD=unpacked(parts["hidden"]) if "hidden" in parts else None,
        )

    def part(self, id: str, name: str) -> Any:
        """One part of what is known of an example, as it was added; None if it is not known."""
        return self._parts.get(id, {}).get(name)

    def samples(self, id: str, count: int, seed: int) -> tuple[str, ...] | None:
        """The answers drawn to one example, so many by that seed; None: they were not drawn."""
        found = self._parts.get(id, {}).get(samples_part(count, seed))
        return None if found is None else tuple(found)

    def _read(self) -> None:
        whole = 0
        with self.path.open("rb") as stream:
            for raw in stream:
                # Without its line's end it may be whole JSON all the same, but the next line would run into it.
                if not raw.endswith(b"\n"):
                    break
                try:
                    row = json.loads(raw)
                    self._parts.setdefault(row["id"], {}).update(row)
                except (ValueError, KeyError, TypeError):
                    break
                whole += len(raw)
        if whole != self.path.stat().st_size:
            with self.path.open("rb+") as stream:
                stream.truncate(whole)


def samples_part(count: int, seed: int) -> str:
    """The part that holds so many answers drawn by that seed: other numbers stand beside it, and nothing greedy is lost."""
    return f"samples-{count}-{seed}"


def rounded(values: Any) -> Any:
    """Numbers, in nested rows perhaps, as JSON holds them: six digits each, which is what float32 knows."""
    if hasattr(values, "tolist"):
        values = values.tolist()
    return [rounded(value) for value in values] if isinstance(values, list | tuple) else float(f"{values:.6g}")


def packed(values_LD: NDArray[np.float16]) -> list[Any]:
    """A matrix of half-precision numbers as JSON holds it: width and base64, a sixth of the digits' length."""
    return [values_LD.shape[1], base64.b64encode(values_LD.astype("<f2").tobytes()).decode()]


def unpacked(value: list[Any]) -> NDArray[np.float16]:
    """What `packed` packed."""
    import numpy as np

    return np.frombuffer(base64.b64decode(value[1]), "<f2").reshape(-1, value[0])
