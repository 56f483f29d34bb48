"""`expunge demo`: the whole story on a small model, each stage the very command a user would type.

A model learns patients' notes; some patients ask to be deleted; the model forgets them; it is held against a model that
never saw them; and the file that ships is asked again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from expunge.processes import cores, side_by_side
from expunge.progress import say_stage
from expunge.recipes.audit import audit
from expunge.recipes.audit_config import AuditConfig
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.recipes.generate import GenerateMedicalConfig, generate_medical
from expunge.recipes.gguf import GgufConfig, gguf
from expunge.recipes.merge import MergeConfig, merge
from expunge.recipes.prepare import PrepareMedicalConfig, prepare_medical
from expunge.recipes.report import ReportConfig, report
from expunge.recipes.unlearn import UnlearnConfig, unlearn
from expunge.runs import Run, settings_of

BY_HEART: dict[str, Any] = {"learning_rate": 1e-3, "lora_plus_ratio": 4.0, "adam_beta2": 0.95, "schedule": "linear"}
"""The quickest way for the small model to learn by heart, with a step for every note or two: the rates of LoRA+. What is learnt
last, such as whose note it is, would get too little of a cosine's rate."""


@dataclass(frozen=True, kw_only=True)
class DemoConfig:
    """How large a story."""

    output: Path = Path("runs/demo")
    """Directory for everything the demo makes."""
    patients: int = 40
    """People the target is trained on; a tenth of them ask to be deleted. People never trained on come on top."""
    seed: int = 0
    """Fixes the notes, the split, and what is learnt."""
    epochs: int = 9
    """How often the target and the retrained reference see every note."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""


def demo(config: DemoConfig) -> Run:
    """Run every stage; resumes if killed, answers at once if done."""
    from expunge.methods.balanced_npo import BalancedNpo
    from expunge.sources.split import subjects_for

    settings = settings_of(config, without=("output", "threads"))
    with Run.open(config.output, "demo", settings, {}) as run:
        if run.finished:
            return run
        place, seed, threads = run.path, config.seed, config.threads
        ledger = str(place / "ledger.db")
        data = place / "data"
        forget, retain, holdout = (data / f"{name}.jsonl" for name in ("forget", "retain", "holdout"))
        ordinary, ordinary_eval = data / "ordinary_train.jsonl", data / "ordinary_eval.jsonl"

        say_stage(1, "Notes of patients who do not exist, split by person")
        with run.timed("generate and prepare"):
            preparing = PrepareMedicalConfig(input=place / "notes.jsonl", output=data, forget_ratios=(0.1,), seed=seed)
            people = subjects_for(config.patients, holdout_ratio=preparing.holdout_ratio)
            generate_medical(GenerateMedicalConfig(n_record=people, output=preparing.input, seed=seed))
            prepare_medical(preparing)

        say_stage(2, "The target learns all of them; the retrained reference never sees those who will ask to be deleted")
        learning = [
            FinetuneConfig(
                data_file=files,
                ordinary=ordinary,
                output=place / name,
                epochs=config.epochs,
                batch_size=1,
                **BY_HEART,
                checkpoint_steps=60,
                keep_checkpoints=0,
                database=ledger,
                seed=seed,
                # Both learn at once, and what they learn must not depend on how many cores there are.
                threads=1,
            )
            for name, files in {"target": (forget, retain), "retrained": (retain,)}.items()
        ]
        with run.timed("target and retrained"):
            if (threads or cores()) > 1:
                side_by_side(*(partial(finetune, each) for each in learning))
            else:
                for each in learning:
                    finetune(each)

        say_stage(3, "A deletion request is filed and carried out")
        with run.timed("unlearn"):
            unlearn(
                UnlearnConfig(
                    model=str(place / "target" / "model"),
                    forget=forget,
                    retain=retain,
                    holdout=holdout,
                    output=place / "unlearned",
                    learning_rate=6e-4,
                    eval_steps=4,
                    database=ledger,
                    seed=seed,
                    threads=threads,
                ),
                "balanced-npo",
                # The push of NPO fades once an answer is some 1 / beta nats less likely. These are seventy tokens learnt by
                # heart, three hundred nats more likely than a stranger's: the usual .1 would stop half-way. With a retain
                # weight of 4 the others recited .93 of what they had, with 10 all of it, after 16 steps instead of 12.
                BalancedNpo(beta=0.015, unlikelihood=0.25, retain_weight=10.0),
            )

        say_stage(4, "Did it forget? The three models side by side")
        auditing = AuditConfig(
            target=str(place / "target" / "model"),
            unlearned=str(place / "unlearned" / "model"),
            retrained=str(place / "retrained" / "model"),
            forget=forget,
            retain=retain,
            holdout=holdout,
            ordinary=ordinary_eval,
            output=place / "audit",
            evidence=place / "evidence",
            database=ledger,
            seed=seed,
            threads=threads,
        )
        with run.timed("audit"):
            audit(auditing)

        say_stage(5, "Merged, converted, quantised: the file that ships")
        with run.timed("ship"):
            merge(MergeConfig(lora_path=place / "unlearned" / "model", output_path=place / "merged"))
            gguf(
                GgufConfig(
                    model_path=place / "merged" / "model",
                    output_path=place / "gguf",
                    quant_type=("f16", "q4_k_m"),
                    threads=threads,
                )
            )

        say_stage(6, "The shipped file is asked the same questions")
        with run.timed("audit shipped"):
            shipped = next((place / "gguf").glob("*q4_k_m.gguf"))
            audit(AuditConfig(**{**vars(auditing), "shipped": shipped, "output": place / "audit-shipped"}))

        stages = ("data", "target", "retrained", "unlearned", "audit", "merged", "gguf")
        page = ReportConfig(
            audit=place / "audit-shipped", runs=tuple(place / name for name in stages), output=place / "report.html"
        )
        with run.timed("report"):
            report(page)
        run.finish({"report.html": ""})
        return run
