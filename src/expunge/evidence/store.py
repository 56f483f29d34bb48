"""Evidence on disk: what a model did on a set, kept so that another metric costs no model time.

One JSON-lines file for each (model weights, set, template, settings). A line is appended as soon as it is known, so a
killed audit goes on where it stopped; a line that was cut off by the kill is dropped and recorded again.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.files import reported_disk_errors

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Record:
    """What one model did with one example; a part is None until its pass has run."""

    id: str
    """`Example.id`."""
    log_p_T: NDArray[np.float32] | None = None
    """Log-probability of each labelled token under teacher forcing, nats."""
    hits_T: NDArray[np.bool_] | None = None
    """Whether each labelled token is the most likely one under teacher forcing."""
    generated: str | None = None
    """The greedy answer."""


class EvidenceStore:
    """The evidence of one model on one set."""

    def __init__(self, path: Path) -> None:
        """Open, or begin, the evidence in `path`; its name must say which model, set and settings it is of."""
        self._path = path
        self._parts: dict[str, dict[str, Any]] = {}
        with reported_disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.exists():
                self._read()

    def __contains__(self, key: tuple[str, str]) -> bool:
        """Whether the part (`scores` or `generated`) of an example id is known."""
        id, part = key
        return part in self._parts.get(id, {})

    def add_scores(self, id: str, log_p_T: NDArray[np.float32], hits_T: NDArray[np.bool_]) -> None:
        """Keep the teacher-forced pass of one example."""
        # Five digits: .00001 nats is far below what any interval can tell.
        log_p = [round(float(value), 5) for value in log_p_T]
        self._append({"id": id, "scores": {"log_p": log_p, "hits": "".join("1" if hit else "0" for hit in hits_T)}})

    def add_answer(self, id: str, generated: str) -> None:
        """Keep the greedy answer of one example."""
        self._append({"id": id, "generated": generated})

    def __getitem__(self, id: str) -> Record:
        """All that is known of one example."""
        import numpy as np

        parts = self._parts.get(id, {})
        scores = parts.get("scores")
        return Record(
            id,
            None if scores is None else np.array(scores["log_p"], dtype=np.float32),
            None if scores is None else np.array([hit == "1" for hit in scores["hits"]]),
            parts.get("generated"),
        )

    def _append(self, row: dict[str, Any]) -> None:
        with reported_disk_errors(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        self._parts.setdefault(row["id"], {}).update(row)

    def _read(self) -> None:
        whole = 0
        with self._path.open("rb") as stream:
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
        if whole != self._path.stat().st_size:
            with self._path.open("rb+") as stream:
                stream.truncate(whole)
