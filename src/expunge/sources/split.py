"""Who goes where: forget, retain and holdout sets split by subject, so that nobody is on two sides."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

from expunge.errors import ExpungeError
from expunge.examples import Example


class Split(NamedTuple):
    """Three sets that share no subject."""

    forget: list[Example]
    retain: list[Example]
    holdout: list[Example]


def split_by_subject(examples: Iterable[Example], *, forget_ratio: float, holdout_ratio: float, seed: int) -> Split:
    """Split examples by their subjects (whatever the case of the name).

    Every subject gets a place in line from its name and the seed alone, whatever the order of the rows. The front of the
    line is forgotten and the end held out, so a smaller forget ratio takes a part of what a larger one takes.

    Args:
        examples: of at least three subjects.
        forget_ratio: share of the subjects that are trained on (forget and retain), in (0, 1).
        holdout_ratio: share of all subjects, in (0, 1). Both shares are rounded to whole subjects, at least one.
        seed: another seed, another line.

    Raises:
        ExpungeError: a ratio is out of range, or there are too few subjects to have one in each set.
    """
    for name, ratio in (("forget_ratio", forget_ratio), ("holdout_ratio", holdout_ratio)):
        if not 0 < ratio < 1:
            raise ExpungeError(f"{name} is {ratio:g}", remedy="choose a share between 0 and 1, such as 0.10")
    by_subject: dict[str, list[Example]] = {}
    for example in examples:
        by_subject.setdefault(example.subject.casefold(), []).append(example)
    line = sorted(by_subject, key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).digest())
    trained = len(line) - _share(holdout_ratio, len(line))
    forgotten = _share(forget_ratio, trained)
    if not 0 < forgotten < trained < len(line):
        raise ExpungeError(
            f"{len(line)} subjects are too few for a forget, a retain and a holdout set of these ratios",
            remedy="give more of them, or smaller ratios",
        )
    parts = (line[:forgotten], line[forgotten:trained], line[trained:])
    return Split(*([example for subject in part for example in by_subject[subject]] for part in parts))


def subjects_for(trained: int, holdout_ratio: float) -> int:
    """The fewest subjects of which `trained` are left to train on once the holdout is taken."""
    total = trained
    while total - _share(holdout_ratio, total) < trained:
        total += 1
    return total


def _share(ratio: float, count: int) -> int:
    return max(1, int(ratio * count + 0.5))
