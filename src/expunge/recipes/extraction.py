"""`expunge attack extraction`: what the model before a deletion and the one after it give away together."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.audit.attacks.extraction import MIN_MEMORISED, NO_HEADROOM, Extraction
from expunge.errors import at_least
from expunge.examples import read_examples
from expunge.files import fingerprint, sha256, write_json, written_atomically
from expunge.progress import progress
from expunge.runs import Run, settings_of

EXTRACTION, PLOT = "extraction.json", "extraction.svg"
_EVIDENCE = 2


@dataclass(frozen=True, kw_only=True)
class ExtractionConfig:
    """The two checkpoints, and what was deleted between them."""

    pre: str
    """The model before the deletion."""
    post: str
    """The model after it: unlearned, or retrained without the forget set."""
    forget: Path
    """What was deleted."""
    output: Path
    """Run directory; scores go to `extraction.json`, the curve to `extraction.svg`."""
    evidence: Path | None = None
    """Folder that keeps what was decoded; the run's own `evidence` when not given."""
    sample: int | None = None
    """Only the first so many examples."""
    max_seq_length: int = 512
    """Longest example in tokens."""
    min_memorised: float = MIN_MEMORISED
    """How much more the earlier model must recall than the later one; below it the attack shows nothing, and that is said."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""
    dry_run: bool = False
    """Say what would be decoded, and write nothing."""


def extraction(config: ExtractionConfig, settings: Extraction) -> Run | dict[str, Any]:
    """Decode with each model alone and with both, score; resumes if killed, answers at once if done."""
    import numpy as np

    from expunge.audit.attacks.extraction import asked, extract, refuse_other_tokenizers, scored
    from expunge.evidence import EvidenceStore, end_tokens
    from expunge.models import check_readable, load_plain, load_tokenizer, model_fingerprint, prepare_cpu
    from expunge.report.loss_plot import loss_plot

    at_least(1, max_seq_length=config.max_seq_length, threads=config.threads, sample=config.sample)
    at_least(0, min_memorised=config.min_memorised)
    settings.check()
    examples = read_examples(config.forget)[: config.sample]
    check_readable(config.pre)
    check_readable(config.post)
    tokenizer = load_tokenizer(config.pre)
    refuse_other_tokenizers(tokenizer, load_tokenizer(config.post), config.post)
    share, longest = settings.prefix_share, config.max_seq_length
    texts = asked(examples, tokenizer, prefix_share=share, max_seq_length=longest, stranger=settings.stranger)
    weights = [0.0, 1.0, *(weight for weight in dict.fromkeys(settings.weight) if weight not in (0, 1))]
    if config.dry_run:
        return {"attack": "extraction", "pre": config.pre, "post": config.post, "examples": len(texts), "weights": weights}
    inputs = {"pre": model_fingerprint(config.pre), "post": model_fingerprint(config.post), "forget": sha256(config.forget)}
    own = settings_of(config, without=("pre", "post", "forget", "output", "evidence", "threads", "dry_run"))
    with Run.open(config.output, "attack extraction", own | {"attack": settings_of(settings)}, inputs) as run:
        if run.finished:
            return run
        prepare_cpu(config.threads)
        most = max(len(tokenizer(text.expected)["input_ids"]) for text in texts) * 5 // 4 + 8
        sampled = [config.sample, longest, share]
        models: list[Any] = []
        rows = []
        with run.timed("extraction"), progress("Extracting", len(texts) * len(weights)) as bar:
            for weight in weights:
                gamma = settings.gamma if weight else 0.0
                kept = fingerprint([_EVIDENCE, _read(weight, inputs, settings), sampled, weight, gamma])[:24]
                store = EvidenceStore((config.evidence or run.path / "evidence") / f"extraction-{kept}.jsonl")
                if not all((text.id, "generated") in store for text in texts):
                    if not models:
                        models = [load_plain(name) for name in (config.pre, config.post)]
                    ends = end_tokens(models[0], tokenizer)
                    options: dict[str, Any] = {"weight": weight, "gamma": gamma, "max_new_tokens": most, "ends": ends}
                    for id, words in extract(models[0], models[1], tokenizer, texts, **options):
                        store.add_answer(id, words)
                        bar.advance()
                else:
                    bar.advance(len(texts))
                found = scored([str(store[text.id].generated) for text in texts], [text.expected for text in texts])
                values = {name: np.asarray(value).tolist() for name, value in found._asdict().items()}
                rows.append({"weight": weight, **values})
        post, pre = rows[0], rows[1]
        best = max(rows[2:], key=lambda row: row["recall"]) if rows[2:] else None
        warnings = []
        if pre["recall"] - post["recall"] < config.min_memorised:
            warnings.append(
                f"The earlier model recalls {pre['recall']:.3f}, the later one {post['recall']:.3f}: it memorised hardly "
                "anything that the later one does not know, so the attack shows nothing."
            )
        elif pre["recall"] > NO_HEADROOM:
            warnings.append("The earlier model knows nearly everything by heart, so there is no headroom for the attack.")
        write_json(run.path / EXTRACTION, {"rows": rows, "warnings": warnings})
        trace = [{"step": row["weight"], **{name: row[name] for name in _CURVES}} for row in sorted(rows, key=_weight)]
        with written_atomically(run.path / PLOT) as stream:
            stream.write(loss_plot(trace, _CURVES, title="Extracted, by guidance weight w", axis="w"))
        shown = {
            name: {key: value for key, value in row.items() if not key.endswith("_B")} for name, row in _named(post, pre, best)
        }
        run.finish({EXTRACTION: "", PLOT: ""}, **shown, warnings=warnings)
        return run


_CURVES = {"recall": "ROUGE-L recall", "a_esr_90": "A-ESR .9", "a_esr_100": "A-ESR 1.0", "edit_similarity": "edit similarity"}


def _read(weight: float, inputs: dict[str, str], settings: Extraction) -> list[str | None]:
    """What an answer depends on: one model alone knows nothing of the other."""
    if weight in (0, 1):
        return [inputs["forget"], inputs["pre" if weight else "post"]]
    return [inputs["forget"], inputs["pre"], inputs["post"], settings.stranger]


def _weight(row: dict[str, Any]) -> float:
    return float(row["weight"])


def _named(post: dict[str, Any], pre: dict[str, Any], best: dict[str, Any] | None) -> list[tuple[str, dict[str, Any]]]:
    return [("post", post), ("pre", pre), *([("attack", best)] if best else [])]
