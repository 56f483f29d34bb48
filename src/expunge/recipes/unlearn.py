"""`expunge unlearn METHOD`: carry out a deletion request, and stop where people never trained on are."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.errors import ExpungeError
from expunge.files import fingerprint
from expunge.processes import is_main, main_first, model_is_spread
from expunge.progress import console
from expunge.recipes.unlearn_config import UnlearnConfig
from expunge.recipes.unlearn_data import UnlearnData, dry_run, read_sets, recorded_impacts
from expunge.runs import Run, settings_of
from expunge.training.impact import ImpactConfig

if TYPE_CHECKING:
    from expunge.ledger import Ledger
    from expunge.training.objective import Method

__all__ = ["UnlearnConfig", "unlearn"]

_NOT_OF_THE_RESULT = ("output", "threads", "database", "micro_batch_size", "gradient_checkpointing", "dry_run")


def unlearn(config: UnlearnConfig, method_name: str, method_config: Any, impact: ImpactConfig | None = None) -> Run:
    """Unlearn the forget set with a method; resumes if killed, answers at once if done. Several processes may share the work.

    Args:
        impact: which tokens the ledger keeps; None: the defaults.
    """
    from expunge.methods import METHODS
    from expunge.models import model_fingerprint

    method: Method = METHODS[method_name]
    impact = impact or ImpactConfig()
    with ExitStack() as stack:
        with main_first():
            config.check()
            impact.check()
            data = read_sets(config, method, method_config)
            refuse_what_cannot_work(config, method)
            inputs = data.fingerprints | {"model": model_fingerprint(config.model)}
            settings = settings_of(config, without=_NOT_OF_THE_RESULT) | settings_of(impact)
            settings["method"] = settings_of(method_config)
            recorded = recorded_impacts(config, method, method_config, data.forget)
            if recorded is not None:
                inputs["impacts"] = fingerprint([[name, *found.top_tokens] for name, found in recorded.impacts.items()])
            if config.dry_run:
                return dry_run(config, method, method_config, data)
            run = stack.enter_context(Run.open(config.output, f"unlearn {method.name}", settings, inputs, together=True))
        if run.finished:
            return run
        ledger = None
        if config.database:
            from expunge.ledger import Ledger

            with main_first():
                # Before the model is loaded: a bad place should be known at once.
                ledger = stack.enter_context(Ledger.open(config.database))
                ledger.refuse_read_only()
        from expunge.recipes.unlearn_work import prepared
        from expunge.training.trainer import save_model

        work = prepared(config, method, method_config, data, recorded, run)
        recorder = filed = None
        if ledger is not None:
            with main_first():
                filed = _filed(ledger, config, data, run, method, impact, checkpoint=fingerprint([settings, inputs]))
            recorder = stack.enter_context(ledger.recorder(filed.run))
        trainer, stopped = work.edited() if method.edit is not None else work.trained(recorder, impact)
        saved = save_model(trainer, work.tokenizer, run.path)
        if ledger is not None and filed is not None and recorder is not None:
            recorder.flush()
            with main_first():
                # Also those that were filed for some of these people or entries.
                covered = ledger.requests_covered_by(example.id for example in data.forget)
                for number in sorted({filed.request, *(each.id for each in covered)}) if is_main() else ():
                    ledger.mark_unlearned(number, run=filed.run)
        if is_main():
            console.print(f"Stopped: {stopped}.", soft_wrap=True, markup=False)
            shutil.rmtree(run.path / "reinforced", ignore_errors=True)
        run.finish(
            {"model": saved},
            steps=trainer.state.global_step,
            stopped=stopped,
            trace=trainer.trace,
            **({} if recorded is None else {"impacts": f"of run {recorded.run_id}, {recorded.run}"}),
            request=filed.request if filed is not None else None,
        )
        return run


def refuse_what_cannot_work(config: UnlearnConfig, method: Method) -> None:
    """Refuse what this machine lacks, and a model that does not fit.

    Raises:
        ExpungeError: a package, a GPU or the model is missing; all weights of an adapter were to be changed; an edit has no
            weights to work on; or the model is spread over processes.
    """
    from expunge.deploy.parts import BITSANDBYTES, require
    from expunge.models import check_readable, resolve_base

    require(*([BITSANDBYTES] if config.bits else []))
    if config.dtype == "float16":
        import torch

        if not torch.cuda.is_available():
            raise ExpungeError("float16 needs a GPU", remedy="pass --dtype bfloat16")
        if method.gradient is not None:
            raise ExpungeError(f"{method.name} works on gradients that float16 scales", remedy="pass --dtype bfloat16")
    if model_is_spread():
        raise ExpungeError("unlearning needs the whole model in every process", remedy="launch it with ddp.yaml")
    check_readable(config.model)
    adapter = resolve_base(config.model) != config.model
    if config.full and adapter:
        raise ExpungeError(
            "is an adapter, which has no weights of its own", where=config.model, remedy="merge it, then pass --full"
        )
    if method.name == "ssd" and not (adapter or config.full):
        raise ExpungeError(
            "ssd makes weights smaller, and a new adapter has none yet", where=config.model, remedy="pass --full"
        )


class _Filed(NamedTuple):
    run: int
    request: int


def _filed(
    ledger: Ledger, config: UnlearnConfig, data: UnlearnData, run: Run, method: Method, impact: ImpactConfig, *, checkpoint: str
) -> _Filed:
    """The deletion request and this run, in the ledger."""
    for path, examples in ((config.forget, data.forget), (config.retain, data.retain)):
        if path is not None and examples:
            ledger.add_entries(examples, source=path.name)
    if data.kept:
        ledger.add_entries(data.kept, source=config.keep_forgotten[0].name)
    subjects = sorted({example.subject for example in data.forget})
    request = ledger.request_deletion(subjects=subjects, reason=f"named in {config.forget.name}")
    number = ledger.start_run(
        name=f"unlearn {method.name}", path=run.path, checkpoint=checkpoint, impact_estimator=impact.impact
    )
    return _Filed(number, request.id)
