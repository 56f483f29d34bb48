"""The database of what was trained on, which tokens mattered, and what was asked to be deleted."""

from expunge.ledger.impacts import TokenImpact, TopToken
from expunge.ledger.recorder import Recorder
from expunge.ledger.requests import DeletionRequest
from expunge.ledger.store import Added, FoundToken, Ledger, RecordedRun, Status

__all__ = ["Added", "DeletionRequest", "FoundToken", "Ledger", "RecordedRun", "Recorder", "Status", "TokenImpact", "TopToken"]
