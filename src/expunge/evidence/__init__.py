"""What a model did on a set, recorded once."""

from expunge.evidence.passes import losses, mean_loss, record_answers, record_scores
from expunge.evidence.scoring import LabelScores, score_labels
from expunge.evidence.store import EvidenceStore, Record

__all__ = [
    "EvidenceStore",
    "LabelScores",
    "Record",
    "losses",
    "mean_loss",
    "record_answers",
    "record_scores",
    "score_labels",
]
