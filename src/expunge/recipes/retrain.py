"""`expunge unlearn retrain`: exact unlearning. The target is trained anew, as it was, on its data without the people who go."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, read_examples, refuse_overlap, write_examples
from expunge.files import fingerprint, sha256, write_json
from expunge.recipes.finetune import FinetuneConfig, finetune
from expunge.runs import Run


@dataclass(frozen=True, kw_only=True)
class RetrainConfig:
    """Which target, and who goes."""

    model: Path
    """The target: the run directory that `expunge finetune` left, or its `model` folder."""
    forget: Path
    """Examples that must go; everybody named in them goes with all they have."""
    output: Path
    """Run directory; what was retrained goes to its `model` folder, the certificate to `certificate.json`."""
    strangers: Path | None = None
    """Examples about people who do not exist: of them the model goes on saying what the base says. A defence against whoever
    kept the target and holds it against what is retrained; a step takes twice the time."""
    epochs: int | None = None
    """Epochs, where they are not to be the target's: held to the base about strangers, a model learns the others slower."""
    database: str | None = None
    """Ledger in which the deletion request is filed and carried out: a path or a database URL."""
    threads: int | None = None
    """Threads PyTorch computes with; one a core when not given."""


def retrain(config: RetrainConfig) -> Run:
    """Train again from the base, with the target's own settings and seed; resumes if killed, answers at once if done.

    Raises:
        ExpungeError: the target is no finished fine-tuning run, its data have changed since, or nobody of them goes.
    """
    at_least(1, threads=config.threads, epochs=config.epochs)
    target = Run.read(config.model.parent if (config.model / "adapter_config.json").exists() else config.model)
    forget = read_examples(config.forget)
    made = _config_of(target)
    files = _data_files(made)
    for path in filter(None, (*files, made.ordinary, None if config.strangers else made.held)):
        if target.manifest["inputs"].get(str(path)) != sha256(path):
            raise ExpungeError("has changed since the target was trained on it", where=path, remedy="bring it back as it was")
    settings = {"target": target.manifest["settings"]}
    if config.strangers:
        learnt = [example for path in files for example in read_examples(path)]
        refuse_overlap([*forget, *learnt], read_examples(config.strangers))
        settings["strangers"] = sha256(config.strangers)
    if config.epochs:
        settings["epochs"] = config.epochs
    inputs = {str(config.forget): sha256(config.forget), "target": fingerprint(target.manifest["outputs"])}
    with Run.open(config.output, "unlearn retrain", settings, inputs) as run:
        if run.finished:
            return run
        left, gone = _without(files, forget, run.path / "data")
        held = config.strangers or made.held
        anew = finetune(
            dataclasses.replace(
                made,
                **left,
                held=held,
                held_share=1.0 if config.strangers else made.held_share,
                epochs=config.epochs or made.epochs,
                output=run.path / "finetune",
                database=config.database,
                threads=config.threads,
                keep_checkpoints=0,
            )
        )
        (run.path / "model").unlink(missing_ok=True)
        (run.path / "model").symlink_to(Path("finetune") / "model")
        certificate = {
            "method": "retrained from the base on what is left" + (f", held to it on {held.name}" if held else ""),
            "model": anew.manifest["outputs"]["model"],
            "trained on": {name: found for name, found in anew.manifest["inputs"].items() if name != "model"},
            "base": anew.manifest["inputs"]["model"],
            "settings": anew.manifest["settings"],
            "left out": {"examples": len(gone), "fingerprint": fingerprint(sorted(example.id for example in gone))},
            "versions": anew.manifest["versions"],
        }
        write_json(run.path / "certificate.json", certificate)
        request = carried_out(config.database, forget, config.forget.name, run.path, "unlearn retrain", certificate)
        run.finish(
            {"model": anew.manifest["outputs"]["model"], "certificate.json": ""},
            steps=anew.results["steps"],
            stopped=f"trained anew without {len(gone)} examples",
            trace=anew.results["trace"],
            request=request,
        )
        return run


def carried_out(
    database: str | None, forget: list[Example], source: str, path: Path, name: str, certificate: dict[str, Any]
) -> int | None:
    """File the request and mark it as carried out by this run, which the ledger binds to the certificate by its fingerprint.

    Raises:
        ExpungeError: the ledger cannot be written, or says that this very run was trained on one of them.
    """
    if database is None:
        return None
    from expunge.ledger import Ledger

    with Ledger.open(database) as ledger:
        ledger.add_entries(forget, source=source)
        request = ledger.request_deletion(subjects=sorted({example.subject for example in forget}), reason=f"named in {source}")
        number = ledger.start_run(name=name, path=path, checkpoint=fingerprint(certificate))
        covered = ledger.requests_covered_by(example.id for example in forget)
        for each in sorted({request.id, *(found.id for found in covered)}):
            ledger.mark_unlearned(each, run=number)
    return request.id


def without(examples: Iterable[Example], forget: list[Example]) -> tuple[list[Example], list[Example]]:
    """Who stays and who goes, by subject (in any case) and by example."""
    people, ids = {example.subject.casefold() for example in forget}, {example.id for example in forget}
    parts: tuple[list[Example], list[Example]] = ([], [])
    for example in examples:
        parts[example.subject.casefold() in people or example.id in ids].append(example)
    return parts


def _without(files: dict[Path, str], forget: list[Example], directory: Path) -> tuple[dict[str, Any], list[Example]]:
    """The data files as they are to be learnt now, as settings of a fine-tuning; and who was taken out."""
    settings: dict[str, Any] = {"data_file": (), "retain_train": None, "unlearn_train": None}
    all_gone: list[Example] = []
    directory.mkdir(exist_ok=True)
    for number, (path, setting) in enumerate(files.items()):
        left, gone = without(read_examples(path), forget)
        all_gone += gone
        if not left:
            continue
        place = path
        if gone:
            place = directory / f"{number}-{path.stem}.jsonl"
            write_examples(place, left)
        settings[setting] = (*settings[setting], place) if setting == "data_file" else place
    if not all_gone:
        raise ExpungeError("the target was not trained on any of them", remedy="there is nothing to unlearn")
    return settings, all_gone


def _data_files(config: FinetuneConfig) -> dict[Path, str]:
    named = {"retain_train": config.retain_train, "unlearn_train": config.unlearn_train}
    return dict.fromkeys(config.data_file, "data_file") | {path: name for name, path in named.items() if path is not None}


def _config_of(target: Run) -> FinetuneConfig:
    if target.manifest["command"] != "finetune":
        raise ExpungeError(
            f"is a run of `{target.manifest['command']}`, not of `finetune`", where=target.path, remedy="name the target's run"
        )
    values = dict(target.manifest["settings"])
    if values.get("dev"):
        raise ExpungeError("was trained on a trial's few examples (--dev)", where=target.path, remedy="name the target's run")
    if "strangers" in values:
        # As it was called before: one beside each example.
        values["held"] = values.pop("strangers")
    known = {field.name: field for field in dataclasses.fields(FinetuneConfig)}
    given = {name: value for name, value in values.items() if name in known}
    for name, value in given.items():
        if name == "data_file":
            given[name] = tuple(map(Path, value))
        elif value is not None and "Path" in str(known[name].type) and isinstance(value, str):
            given[name] = Path(value)
    return FinetuneConfig(**given)
