"""What a model did on a set, recorded once."""

from expunge.evidence.alternatives import alternatives, record_alternatives
from expunge.evidence.choices import Asking, asked_by, options_of, questions_asked, record_choices
from expunge.evidence.generation import Sampling, batches_of_prompts, end_tokens, generate
from expunge.evidence.gradients import record_gradients
from expunge.evidence.layers import record_layers
from expunge.evidence.passes import Unanswered, label_log_p, losses, mean_loss, record_answers, record_scores
from expunge.evidence.prefixes import Question, continuation_log_p
from expunge.evidence.sampling import record_prefixed, record_samples
from expunge.evidence.scoring import LabelScores, score_labels
from expunge.evidence.store import EvidenceStore, Record, samples_part

__all__ = [
    "Asking",
    "EvidenceStore",
    "LabelScores",
    "Question",
    "Record",
    "Sampling",
    "Unanswered",
    "alternatives",
    "asked_by",
    "batches_of_prompts",
    "continuation_log_p",
    "end_tokens",
    "generate",
    "label_log_p",
    "losses",
    "mean_loss",
    "options_of",
    "questions_asked",
    "record_alternatives",
    "record_answers",
    "record_choices",
    "record_gradients",
    "record_layers",
    "record_prefixed",
    "record_samples",
    "record_scores",
    "samples_part",
    "score_labels",
]
