"""Which examples each step sees: decided before training, from the seed alone.

A plan is a list of micro-batches. Which examples a step sees depends neither on the size of the micro-batches, nor on the
number of processes, nor on where a run was interrupted, so none of them can change what is learnt.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from expunge.errors import ExpungeError


class MicroBatch(NamedTuple):
    """Places in the example lists that go through the model together."""

    forget: tuple[int, ...]
    """In the forget set (or the training set, when fine-tuning)."""
    retain: tuple[int, ...] = ()
    """In the retain set."""
    kept: tuple[int, ...] = ()
    """In the sets that were forgotten earlier."""


def rounds(batch_size: int, micro_batch_size: int, processes: int = 1) -> int:
    """How many micro-batches a step has in each process: as few as fit.

    Raises:
        ExpungeError: the processes cannot share the batch evenly.
    """
    if batch_size % processes:
        raise ExpungeError(
            f"{batch_size} examples a step cannot be shared by {processes} processes",
            remedy=f"give --batch-size a multiple of {processes}, no larger than the number of examples",
        )
    return -(-batch_size // (micro_batch_size * processes))


def plan_epochs(
    lengths: Sequence[int],
    *,
    extra: int,
    extra_share: float,
    epochs: int,
    batch_size: int,
    micro_batch_size: int,
    seed: int,
    processes: int = 1,
) -> list[MicroBatch]:
    """Every example once an epoch, in a new order each time, with neighbours in length side by side.

    Args:
        lengths: tokens of each example; the last `extra` of them are ordinary text, of which an epoch takes only a part.
        extra_share: how many ordinary examples an epoch takes, as a share of the others; they take turns.
        batch_size: examples a step; no more than an epoch has.
        micro_batch_size: examples that go through the model together, at most.
        processes: that take turns in the list, one micro-batch each.

    Returns:
        micro-batches, `rounds` · `processes` to a step; the last step of an epoch is filled up from the epoch's start, so
        that every step is equally large.

    Raises:
        ExpungeError: see `rounds`.
    """
    plan: list[MicroBatch] = []
    own = len(lengths) - extra
    turns = round(own * extra_share) if extra else 0
    pieces = rounds(batch_size, micro_batch_size, processes) * processes
    # As even as can be: processes wait for the slowest.
    ends = [batch_size * piece // pieces for piece in range(pieces + 1)]
    for epoch in range(epochs):
        chance = random.Random(f"{seed}/{epoch}")
        order = list(range(own)) + [own + (epoch * turns + turn) % extra for turn in range(turns)]
        chance.shuffle(order)
        order += order[: -len(order) % min(batch_size, len(order))]
        # Sorted within some batches' worth only: the order stays random, the padding goes.
        window = 4 * batch_size
        for start in range(0, len(order), window):
            order[start : start + window] = sorted(order[start : start + window], key=lambda place: -lengths[place])
        steps = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        chance.shuffle(steps)
        plan += [MicroBatch(tuple(step[start:end])) for step in steps for start, end in pairwise(ends)]
    return plan


def with_held(plan: Sequence[MicroBatch], held: int, *, share: float, seed: int) -> list[MicroBatch]:
    """Examples that are held beside those that are learnt, as the retain side; they take turns in shuffled rounds.

    Args:
        held: how many there are.
        share: how many stand beside so many that are learnt: with 1 a micro-batch has as many of either, with .5 half as many,
            at or next to evenly spread.
    """
    ends = [math.floor(learnt * share + 1e-9) for learnt in accumulate((len(micro.forget) for micro in plan), initial=0)]
    # Their first name stays in the seed: it fixes what runs beside strangers have learnt.
    turns = _rounds(held, ends[-1], f"{seed}/strangers")
    return [micro._replace(retain=tuple(turns[start:end])) for micro, (start, end) in zip(plan, pairwise(ends), strict=True)]


def plan_pairs(
    forget: int,
    retain: int,
    *,
    steps: int,
    batch_size: int,
    micro_batch_size: int,
    seed: int,
    kept: int = 0,
    processes: int = 1,
    lengths: Sequence[Sequence[int]] = (),
) -> list[MicroBatch]:
    """Forget and retain examples side by side: each set is gone through in its own shuffled rounds, again and again.

    Args:
        kept: examples that were forgotten earlier, as many a step as forget examples.
        processes: that take turns in the list, one micro-batch each.
        lengths: tokens of each example of the three sets, where the examples of a step are to be sorted by length, so that
            those that go through the model together need little padding.

    Returns:
        `rounds` · `processes` micro-batches for each of `steps` steps, with as many retain as forget examples (none when
        `retain` is 0).

    Raises:
        ExpungeError: see `rounds`.
    """
    places = [
        _rounds(size, steps * batch_size, f"{seed}/{name}") if size else []
        for name, size in (("forget", forget), ("retain", retain), ("kept", kept))
    ]
    for side, sizes in zip(places, lengths, strict=False):
        for step in range(0, len(side), batch_size):
            side[step : step + batch_size] = sorted(side[step : step + batch_size], key=lambda place: -sizes[place])
    pieces = rounds(batch_size, micro_batch_size, processes) * processes
    ends = [batch_size * piece // pieces for piece in range(pieces + 1)]
    return [
        MicroBatch(*(tuple(side[step + start : step + end]) for side in places))
        for step in range(0, steps * batch_size, batch_size)
        for start, end in pairwise(ends)
    ]


def _rounds(size: int, count: int, seed: str) -> list[int]:
    chance = random.Random(seed)
    places: list[int] = []
    while len(places) < count:
        order = list(range(size))
        chance.shuffle(order)
        places += order
    return places[:count]
