"""Who goes where: forget, retain and holdout sets split by subject, so that nobody is on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from expunge.errors import ExpungeError
from expunge.examples import Example


class Split(NamedTuple):
    """Three sets that share no subject."""

    forget: list[Example]
    retain: list[Example]
    holdout: list[Example]


def split_by_subject(examples: Iterable[Example], *, forget_ratio: float, holdout_ratio: float, seed: int) -> Split:
    """Split examples by their subjects (whatever the case of the name): `nested_splits` with one forget ratio.

    Args:
        examples: of at least three subjects.
        forget_ratio: share of the subjects that are trained on (forget and retain), in (0, 1).
        holdout_ratio: share of all subjects, in (0, 1). Both shares are rounded to whole subjects, at least one.
        seed: another seed, another line.

    Raises:
        ExpungeError: a ratio is out of range, or there are too few subjects to have one in each set.
    """
    return nested_splits(examples, forget_ratios=(forget_ratio,), holdout_ratio=holdout_ratio, seed=seed)[0]


def nested_splits(
    examples: Iterable[Example], *, forget_ratios: Sequence[float], holdout_ratio: float | None, seed: int
) -> list[Split]:
    """One split by subject for each forget ratio, with one holdout set for all.

    Every subject gets a place in line from its name and the seed alone, whatever the order of the rows. The front of the
    line is forgotten and the end held out, so a smaller forget ratio takes a part of what a larger one takes.

    Args:
        examples: of at least three subjects.
        forget_ratios: as in `split_by_subject`; where there is none, one split comes back with an empty forget set.
        holdout_ratio: as in `split_by_subject`; None for an empty holdout set.
        seed: another seed, another line.

    Raises:
        ExpungeError: as `split_by_subject`.
    """
    check_ratios(forget_ratios, holdout_ratio)
    by_subject: dict[str, list[Example]] = {}
    for example in examples:
        by_subject.setdefault(example.subject.casefold(), []).append(example)
    line = sorted(by_subject, key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).digest())
    trained = len(line) - (_share(holdout_ratio, len(line)) if holdout_ratio is not None else 0)
    splits = []
    for ratio in forget_ratios or (None,):
        forgotten = _share(ratio, trained) if ratio is not None else 0
        if not (ratio is None or forgotten) or not forgotten < trained or (holdout_ratio is not None and trained == len(line)):
            raise ExpungeError(
                f"{len(line)} subjects are too few for sets of these ratios", remedy="give more of them, or smaller ratios"
            )
        parts = (line[:forgotten], line[forgotten:trained], line[trained:])
        splits.append(Split(*([example for subject in part for example in by_subject[subject]] for part in parts)))
    return splits


def by_ratio(ratios: Sequence[float], splits: Sequence[Split]) -> dict[str, dict[str, list[Example]]]:
    """Forget and retain sets by their share in percent: `forget05` and `retain95` under `forget05`."""
    found = {}
    for ratio, split in zip(ratios, splits, strict=True):
        forget, retain = (f"{round(100 * share, 6):g}".zfill(2) for share in (ratio, 1 - ratio))
        found[f"forget{forget}"] = {f"forget{forget}": split.forget, f"retain{retain}": split.retain}
    return found


def check_ratios(forget_ratios: Sequence[float], holdout_ratio: float | None) -> None:
    """Refuse shares that are none.

    Raises:
        ExpungeError: one is not between 0 and 1.
    """
    named = [("forget_ratio", ratio) for ratio in forget_ratios]
    for name, ratio in (*named, *([("holdout_ratio", holdout_ratio)] if holdout_ratio is not None else [])):
        if not 0 < ratio < 1:
            raise ExpungeError(f"{name} is {ratio:g}", remedy="choose a share between 0 and 1, such as 0.10")


def subjects_for(trained: int, holdout_ratio: float) -> int:
    """The fewest subjects of which `trained` are left to train on once the holdout is taken."""
    total = trained
    while total - _share(holdout_ratio, total) < trained:
        total += 1
    return total


def _share(ratio: float, count: int) -> int:
    return max(1, int(ratio * count + 0.5))
