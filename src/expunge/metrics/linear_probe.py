"""A linear probe: whether the forget examples stand apart inside the model, whatever it says.

Alain & Bengio 2016, arXiv 1610.01644. The control does the same with labels drawn by lot (Hewitt & Liang 2019, arXiv
1909.03368): what it finds above .5 is what a probe of this size learns by heart. A forget set and a holdout of different kinds
stand apart under any model: only the distance from the retrained model speaks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from expunge.metrics import Direction, FloatArray, Over, Part, metric

_FOLDS = 4
_PAPER = "Hewitt & Liang 2019, arXiv 1909.03368"


class Sides(NamedTuple):
    """Scores of both sides of a probe, higher = more likely a member; None: too few people to train on some and test others."""

    members_B: FloatArray
    member_subjects_B: tuple[str, ...]
    others_C: FloatArray
    other_subjects_C: tuple[str, ...]


@metric("linear-probe-auc", needs=(Part.HIDDEN,), better=Direction.MIDDLE, span=(0.0, 1.0), over=Over.PROBE, paper=_PAPER)
def linear_probe(
    members_BLD: Sequence[NDArray[Any]],
    others_CLD: Sequence[NDArray[Any]],
    subjects_B: Sequence[str],
    subjects_C: Sequence[str],
    *,
    control: bool = False,
) -> Sides | None:
    """Scores of a logistic regression on hidden states, each person scored by a probe that never saw them.

    Args:
        members_BLD, others_CLD: mean hidden states of each example, at the same layers.
        subjects_B, subjects_C: who each example is about: people are kept together when the folds are made.
        control: draw the labels by lot, by person, as many of each as there are.

    Returns:
        The scores of both sides; None where a side has fewer than four people.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if min(len({*subjects_B}), len({*subjects_C})) < _FOLDS:
        return None
    features = np.stack([np.asarray(state, np.float32).ravel() for state in (*members_BLD, *others_CLD)])
    labels = np.array([1] * len(members_BLD) + [0] * len(others_CLD))
    groups = np.array([f"m {name}" for name in subjects_B] + [f"o {name}" for name in subjects_C])
    taught = _by_lot(groups, labels) if control else labels
    scores = np.zeros(len(labels))
    for learnt, asked in StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0).split(features, taught, groups):
        if len({*taught[learnt]}) < 2:
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=200))
        scores[asked] = probe.fit(features[learnt], taught[learnt]).decision_function(features[asked])
    # Of the control, what counts is whether it finds the labels it was taught.
    sides = [(scores[taught == label], tuple(groups[taught == label].tolist())) for label in (1, 0)]
    return Sides(*sides[0], *sides[1])


@metric(
    "linear-probe-control-auc", needs=(Part.HIDDEN,), better=Direction.MIDDLE, span=(0.0, 1.0), over=Over.PROBE, paper=_PAPER
)
def linear_probe_control(
    members_BLD: Sequence[NDArray[Any]],
    others_CLD: Sequence[NDArray[Any]],
    subjects_B: Sequence[str],
    subjects_C: Sequence[str],
) -> Sides | None:
    """The same probe with labels drawn by lot: .5 unless it learns by heart."""
    return linear_probe(members_BLD, others_CLD, subjects_B, subjects_C, control=True)


def _by_lot(groups: NDArray[Any], labels: NDArray[Any]) -> NDArray[Any]:
    names, first, person = np.unique(groups, return_index=True, return_inverse=True)
    return np.random.default_rng(0).permutation(labels[first])[person] if len(names) else labels
