"""What a model did on a set, recorded once."""

from expunge.evidence.generation import Sampling, batches_of_prompts, end_tokens, generate
from expunge.evidence.passes import label_log_p, losses, mean_loss, record_answers, record_scores
from expunge.evidence.scoring import LabelScores, score_labels
from expunge.evidence.store import EvidenceStore, Record

__all__ = [
    "EvidenceStore",
    "LabelScores",
    "Record",
    "Sampling",
    "batches_of_prompts",
    "end_tokens",
    "generate",
    "label_log_p",
    "losses",
    "mean_loss",
    "record_answers",
    "record_scores",
    "score_labels",
]
