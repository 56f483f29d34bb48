"""`expunge attack NAME`: try to get the forgotten back, from the unlearned model and from one that never knew it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from expunge.audit.attacks import ATTACKS, Attack, Prompt, Scene, Version
from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, read_examples, refuse_overlap
from expunge.files import fingerprint, sha256, write_json
from expunge.progress import Bar, progress
from expunge.runs import Run, settings_of

if TYPE_CHECKING:
    from expunge.audit.results import AttackResult
    from expunge.evidence import EvidenceStore

ATTACK = "attack.json"
# Raise it when a model is asked in another way, so that no old answer is taken for a new one.
_EVIDENCE = 1
_TOGETHER = 48


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """Whom to attack, and about what."""

    unlearned: str
    """The model that is claimed to have forgotten."""
    retrained: str
    """The reference that never saw the forget set; attacked in the same way."""
    forget: Path
    """Questions and answers that must be gone."""
    output: Path
    """Run directory; results go to its `attack.json`."""
    target: str | None = None
    """The model that knows everything: what the attack gets where there is something to get. Without it nothing is proved."""
    others: Path | None = None
    """Questions and answers that are no secret, such as the retain set: shown as examples, or learnt."""
    evidence: Path | None = None
    """Folder that keeps the answers, to be shared between attacks; the run's own `evidence` when not given."""
    sample: int | None = None
    """Attack only the first so many examples."""
    max_seq_length: int = 512
    """Longest example in tokens."""
    seed: int = 0
    """Fixes what is drawn, and the bootstrap."""
    threads: int | None = None
    """Threads to compute with; one a core when not given."""
    dry_run: bool = False
    """Say what would be asked, and write nothing."""


def attack(config: AttackConfig, name: str, settings: Any) -> Run | dict[str, Any]:
    """Ask every model, measure, rule; resumes if killed, answers at once if done. A dry run returns what would be asked."""
    from expunge.models import check_readable, model_fingerprint

    attack_ = ATTACKS[name]
    at_least(1, max_seq_length=config.max_seq_length, threads=config.threads, sample=config.sample)
    at_least(0, seed=config.seed)
    at_least(0, **{name: value for name, value in vars(settings).items() if isinstance(value, int | float)})
    forget = [example for example in read_examples(config.forget) if example.prompt is not None][: config.sample]
    if not forget:
        raise ExpungeError("has no question to ask", where=config.forget, remedy="give examples with prompt and response")
    others = read_examples(config.others) if config.others else []
    refuse_overlap(forget, others)
    models = {"unlearned": config.unlearned, "retrained": config.retrained}
    models |= {"target": config.target} if config.target else {}
    for model in models.values():
        check_readable(model)
    asked, prompts = _prompts(attack_, settings, forget, others, config.seed)
    if config.dry_run:
        return {"attack": name, "models": models, "examples": len(asked), "prompts_a_model": sum(map(len, prompts))}
    fingerprints = {role: model_fingerprint(model) for role, model in models.items()}
    inputs = fingerprints | {"forget": sha256(config.forget)} | ({"others": sha256(config.others)} if config.others else {})
    own = settings_of(config, without=("output", "evidence", "threads", "dry_run", "forget", "others", *models))
    with Run.open(config.output, f"attack {name}", own | {"attack": settings_of(settings)}, inputs) as run:
        if run.finished:
            return run
        results: list[AttackResult] = []
        for role, model in models.items():
            scene = Scene(model, forget, others, run.path / "work" / role, config.max_seq_length, config.seed, config.threads)
            kept = fingerprint([_EVIDENCE, name, settings_of(settings), own, inputs["forget"], inputs.get("others")])[:16]
            place = (config.evidence or run.path / "evidence") / f"{fingerprints[role][:16]}-{name}-{kept}"
            with run.timed(role):
                results += _attacked(attack_, settings, role, scene, asked, prompts, place)
            shutil.rmtree(scene.work, ignore_errors=True)
        found = _judged(name, results, asked, config.seed)
        write_json(run.path / ATTACK, found)
        shutil.rmtree(run.path / "work", ignore_errors=True)
        table = {f"{each.model} {each.variant}".strip(): round(each.value, 4) for each in results}
        more = {"robustness": found["robustness"]} if "robustness" in found else {}
        claim = found["claim"]
        run.finish({ATTACK: ""}, attack=name, recall=table, **more, ruling=claim["ruling"], reason=claim["reason"])
        return run


def _prompts(
    attack_: Attack, settings: Any, forget: Sequence[Example], others: Sequence[Example], seed: int
) -> tuple[list[Example], list[list[Prompt]]]:
    """Who is asked about, and in which words."""
    if attack_.prompts is not None:
        return list(forget), [attack_.prompts(settings, example, others) for example in forget]
    asked = list(forget)
    if getattr(settings, "data", None) == "half":
        from expunge.audit.attacks.relearn import halves

        asked = halves(forget, seed)[1]
    return asked, [[Prompt(str(example.prompt))] for example in asked]


def _attacked(
    attack_: Attack, settings: Any, role: str, scene: Scene, asked: Sequence[Example], prompts: list[list[Prompt]], place: Path
) -> Iterator[AttackResult]:
    """What the attack gets out of one model, for each change of its weights."""
    from expunge.batching import tokenize
    from expunge.evidence import EvidenceStore
    from expunge.models import load_tokenizer, prepare_cpu

    prepare_cpu(scene.threads)
    tokenizer = load_tokenizer(scene.model)
    # Room for an answer a quarter longer than any that is expected, as in an audit.
    most = max(each.labels for each in tokenize(asked, tokenizer, max_seq_length=scene.max_seq_length)) * 5 // 4 + 8
    versions = attack_.versions(settings, scene) if attack_.versions else [Version("", partial(_plain, scene.model))]
    for version in versions:
        if role == "target" and version.name == "after":
            continue  # It knows already.
        store = EvidenceStore(place.with_name(f"{place.name}{f'-{version.name}' if version.name else ''}.jsonl"))
        keyed = [(f"{example.id}/{n}", p) for example, ps in zip(asked, prompts, strict=True) for n, p in enumerate(ps)]
        with progress(f"{attack_.name} {version.name} on {role}", len(keyed)) as bar:
            if all((key, "generated") in store for key, _ in keyed):
                bar.advance(len(keyed))
            else:
                _ask(version.make(), tokenizer, keyed, store, most, scene.threads, bar)
        yield _measured(attack_.name, version.name, role, asked, prompts, store, scene.seed)


def _plain(name: str) -> Any:
    from expunge.models import load_model

    model: Any = load_model(name)
    # Adapters are folded in: two small products a layer fewer for every token.
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


def _ask(
    model: Any,
    tokenizer: Any,
    keyed: Sequence[tuple[str, Prompt]],
    store: EvidenceStore,
    most: int,
    threads: int | None,
    bar: Bar,
) -> None:
    from expunge.batching import prompt_tokens
    from expunge.deploy.llama_cpp import LlamaServer
    from expunge.evidence import batches_of_prompts, end_tokens, generate

    if isinstance(model, Path):
        with LlamaServer(model, threads=threads) as server:
            waiting = [(key, prompt) for key, prompt in keyed if (key, "generated") not in store]
            bar.advance(len(keyed) - len(waiting))
            answers = server.ask([prompt.question for _, prompt in waiting], max_tokens=most)
            for (key, _), answer in zip(waiting, answers, strict=True):
                store.add_answer(key, answer.text)
                bar.advance()
        return
    tokens = [
        [*prompt_tokens(prompt.question, tokenizer), *tokenizer(prompt.begun, add_special_tokens=False)["input_ids"]]
        if prompt.begun
        else prompt_tokens(prompt.question, tokenizer)
        for _, prompt in keyed
    ]
    # Batches are composed of the whole, never of what is left: a resumed attack rounds as an undisturbed one does.
    for places in batches_of_prompts(tokens, _TOGETHER):
        if not all((keyed[place][0], "generated") in store for place in places):
            ends = end_tokens(model, tokenizer)
            answers_ = generate(model, [tokens[place] for place in places], max_new_tokens=most, ends=ends)
            for place, words in zip(places, answers_, strict=True):
                store.add_answer(keyed[place][0], str(tokenizer.decode(words, skip_special_tokens=True)).strip())
        bar.advance(len(places))


def _measured(
    name: str, variant: str, role: str, asked: Sequence[Example], prompts: list[list[Prompt]], store: EvidenceStore, seed: int
) -> AttackResult:
    """The best answer to each example, and the mean with its interval."""
    import numpy as np

    from expunge.audit import bootstrap
    from expunge.audit.results import AttackResult
    from expunge.metrics.rouge_l import rouge_l_recall

    best: list[tuple[float, str]] = []
    for example, ways in zip(asked, prompts, strict=True):
        said = [str(store[f"{example.id}/{n}"].generated) for n in range(len(ways))]
        recall = rouge_l_recall(said, [way.expected or example.response for way in ways])
        best.append((float(recall.max()), said[int(recall.argmax())]))
    values = np.array([value for value, _ in best])
    interval = bootstrap.mean_interval(values, [example.subject for example in asked], seed=seed)
    return AttackResult(name, variant, role, *interval, tuple(values.tolist()), tuple(answer for _, answer in best))


def _judged(name: str, results: Sequence[AttackResult], asked: Sequence[Example], seed: int) -> dict[str, Any]:
    from expunge.audit.attacks.relearn import relearning_robustness
    from expunge.audit.robust import robust

    claim = robust(results, [example.subject for example in asked], seed=seed)
    found: dict[str, Any] = {"attack": name, "results": [asdict(result) for result in results], "claim": asdict(claim)}
    value = {(each.variant, each.model): each.value for each in results}
    if ("after", "unlearned") in value:
        ends = [value[when, role] for role in ("retrained", "unlearned") for when in ("before", "after")]
        found["robustness"] = relearning_robustness(*ends)
    return found
