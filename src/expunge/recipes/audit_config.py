"""What an audit is of, and what it holds the models to."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from expunge.audit.verdict import Rules


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Which models to ask about which examples, and what to hold them to."""

    target: str
    """The model that knows everything."""
    unlearned: str
    """The model that is claimed to have forgotten."""
    forget: Path
    """Examples that must be gone."""
    retain: Path
    """Examples that must still be known."""
    holdout: Path
    """Examples of the same kind, never trained on."""
    ordinary: Path
    """Ordinary text (`text` rows), for perplexity."""
    output: Path
    """Run directory; the audit goes to its `audit.json`."""
    retrained: str | None = None
    """The reference: trained on everything but the forget set. Without it the rules are weaker, and a warning says so."""
    shipped: Path | None = None
    """The GGUF file that is given away; llama.cpp asks it the forget and retain questions, and scores all four sets."""
    also_unlearned: tuple[str, ...] = ()
    """Further runs of what made the unlearned model, with other seeds. Claims are then about their mean."""
    set: tuple[str, ...] = ()
    """Further sets to measure, as `NAME=FILE`; a FILE.yaml is a local multiple-choice task of lm-eval. `real_authors` and
    `world_facts` go into TOFU's model utility."""
    metrics: tuple[str, ...] = ()
    """Further metrics beside those of the claims, or `all`; when not given, all whose evidence is cheap."""
    attacks: tuple[str, ...] = ()
    """Attacks to try too, by name, or `all`. Their settings stand behind the name: `quantize:kinds=nf4`,
    `relearn:data=half:epochs=3`. `expunge attacks` lists them."""
    samples: int = 16
    """Answers drawn to each forget question, for leak-at-8."""
    engine: Literal["hf", "api"] = "hf"
    """`hf`: the models are read here. `api`: they are names of models behind `--base-url`, asked for answers alone."""
    base_url: str | None = None
    """Address of an OpenAI-compatible server, such as `http://localhost:1234/v1`."""
    api_key: str | None = None
    """Its key; else what `OPENAI_API_KEY` holds. Never written."""
    concurrency: int = 4
    """Questions put to the server at once."""
    evidence: Path | None = None
    """Folder that keeps what was recorded, to be shared between audits; the run's own `evidence` when not given."""
    database: str | None = None
    """Ledger in which the deletion request is marked as audited: a path or a database URL."""
    max_seq_length: int = 512
    """Longest example in tokens."""
    rules: Rules = field(default_factory=Rules)
    """Thresholds of the verdict."""
    seed: int = 0
    """Fixes the bootstrap."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""
    dry_run: bool = False
    """Say how much there is to ask, and write nothing."""
