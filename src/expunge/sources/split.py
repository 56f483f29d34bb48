"""Who goes where: forget, retain and holdout sets split by subject, so that nobody is on two sides.

All subjects stand in one line. Its end is held out; of the rest, which is trained on, the front is forgotten. However many
are to be forgotten, a smaller share is so a part of a larger one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from expunge.errors import ExpungeError
from expunge.examples import Example

FORGET_RATIOS = (0.10, 0.01, 0.05, 0.20)
"""The shares that are usually compared; the first makes the main split."""

Subjects = list[list[Example]]
"""The examples of each subject."""


class Line(NamedTuple):
    """Those who are trained on, in the order in which they are forgotten."""

    subjects: Subjects
    forgotten: int | None = None
    """How many at the front are to be forgotten, where the data themselves say so; None: the first ratio says it."""


class Cut(NamedTuple):
    """Where a line is cut."""

    forgotten: int
    """Subjects of the main forget set."""
    nested: dict[float, int]
    """Subjects of the forget set of each ratio."""
    left_out: str
    """Which ratios have no forget set of their own, and why, in words; empty if all have one."""


def in_line(
    examples: Iterable[Example], seed: int, key: Callable[[Example], str] = lambda example: example.subject
) -> Subjects:
    """The examples by subject (whatever the case of the name), each subject at a place given by its name and the seed alone.

    Args:
        examples: in any order.
        seed: another seed, another line.
        key: the name by which examples belong together.
    """
    by_subject: dict[str, list[Example]] = {}
    for example in examples:
        by_subject.setdefault(key(example).casefold(), []).append(example)
    places = sorted(by_subject, key=lambda subject: hashlib.sha256(f"{seed}:{subject}".encode()).digest())
    return [by_subject[subject] for subject in places]


def held_out(subjects: Subjects, holdout_ratio: float | None) -> tuple[Subjects, Subjects]:
    """Those who are trained on, and those at the end of the line who are not.

    Args:
        subjects: in line.
        holdout_ratio: share of the subjects, in (0, 1), rounded to whole subjects, at least one; None for nobody.

    Raises:
        ExpungeError: the ratio is out of range, or leaves nobody to train on.
    """
    if holdout_ratio is None:
        return subjects, []
    check_ratio("--holdout-ratio", holdout_ratio)
    trained = len(subjects) - _share(holdout_ratio, len(subjects))
    if trained < 1:
        raise too_few(len(subjects))
    return subjects[:trained], subjects[trained:]


def cut(line: Line, ratios: Sequence[float], *, main: bool = True) -> Cut:
    """How many subjects at the front of a line make the forget set of each ratio.

    A share is rounded to whole subjects. A further ratio that comes to nobody, or to more than are to be forgotten at all, has
    no set of its own.

    Args:
        line: of at least two subjects.
        ratios: shares of the line, each in (0, 1).
        main: whether there is to be a main split, and so somebody on either side.

    Raises:
        ExpungeError: a ratio is out of range or given twice, there is none, or the subjects are too few for the main sets.
    """
    check_ratios(ratios)
    trained = len(line.subjects)
    most = trained - 1 if line.forgotten is None else line.forgotten
    counts = {ratio: int(ratio * trained + 0.5) for ratio in ratios}
    forgotten = line.forgotten if line.forgotten is not None else max(1, counts[ratios[0]])
    if line.forgotten is None:
        counts[ratios[0]] = forgotten
    if main and not 1 <= forgotten < trained:
        raise too_few(trained)
    nested = {ratio: count for ratio, count in counts.items() if 1 <= count <= most}
    none = [f"{ratio:g}" for ratio, count in counts.items() if count < 1]
    many = [f"{ratio:g}" for ratio, count in counts.items() if count > most]
    words = [f"{', '.join(none)} (nobody of {trained:,})"] if none else []
    words += [f"{', '.join(many)} (more than the {most:,} of {trained:,} that may be forgotten)"] if many else []
    return Cut(forgotten, nested, ", ".join(words))


def percent(ratio: float) -> str:
    """A share in percent, as file names say it: 5, 12.5."""
    return f"{round(100 * ratio, 6):g}"


def pair_names(ratio: float) -> tuple[str, str]:
    """What the sets of a ratio are called: forget05 and retain95."""
    return f"forget{percent(ratio).zfill(2)}", f"retain{percent(1 - ratio).zfill(2)}"


def check_ratios(ratios: Sequence[float]) -> None:
    """Refuse forget ratios that are no shares, or not different ones.

    Raises:
        ExpungeError: one is not between 0 and 1 or stands twice, or there is none.
    """
    if not ratios or len({percent(ratio) for ratio in ratios}) < len(ratios):
        given = " ".join(f"{ratio:g}" for ratio in ratios) or "empty"
        raise ExpungeError(f"--forget-ratios is {given}", remedy="give each share once, such as 0.10 0.01")
    for ratio in ratios:
        check_ratio("--forget-ratios", ratio)


def check_ratio(name: str, ratio: float) -> None:
    """Refuse a share that is none.

    Raises:
        ExpungeError: it is not between 0 and 1.
    """
    if not 0 < ratio < 1:
        raise ExpungeError(f"{name} is {ratio:g}", remedy="choose a share between 0 and 1, such as 0.10")


def subjects_for(trained: int, holdout_ratio: float) -> int:
    """The fewest subjects of which `trained` are left to train on once the holdout is taken."""
    total = trained
    while total - _share(holdout_ratio, total) < trained:
        total += 1
    return total


def rows_of_subjects(subjects: Iterable[Sequence[Example]]) -> list[Example]:
    """All examples of some subjects, in line."""
    return [example for own in subjects for example in own]


def too_few(subjects: int) -> ExpungeError:
    """That subjects are too few, as an error."""
    what = f"{subjects:,} {'subject is' if subjects == 1 else 'subjects are'} too few for sets of these ratios"
    return ExpungeError(what, remedy="give more of them, or other ratios")


def _share(ratio: float, count: int) -> int:
    return max(1, int(ratio * count + 0.5))
