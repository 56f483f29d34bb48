"""What every audited model does with every set: recorded now, or kept from an earlier audit."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.errors import ExpungeError
from expunge.files import fingerprint
from expunge.processes import cores
from expunge.progress import Bar, progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from expunge.audit.measure import Answered, Place
    from expunge.batching import Tokenized
    from expunge.evidence import EvidenceStore
    from expunge.examples import Example
    from expunge.metrics import Part
    from expunge.recipes.audit_config import AuditConfig
    from expunge.runs import Run

# Raise it when the passes change what they record, so that no old evidence is taken for new.
_EVIDENCE = 2


class AskedSet(NamedTuple):
    """A set of an audit."""

    name: str
    file: Path
    examples: Sequence[Example]
    fingerprint: str


class Recorded(NamedTuple):
    """What `record` found."""

    answered: dict[Place, list[Answered]]
    sets: list[AskedSet]
    """The sets as they were asked, less what does not fit the models."""
    warnings: list[str]
    """What a reader must know of the evidence."""


class _Plan(NamedTuple):
    """What is to be done with one set."""

    set: AskedSet
    tokens: Sequence[Tokenized]
    """Empty where the models are asked elsewhere."""
    passes: Mapping[str, int]
    most: int
    """New tokens at which an answer is cut."""


def record(
    config: AuditConfig,
    run: Run,
    models: Mapping[str, str],
    fingerprints: Mapping[str, str],
    sets: Sequence[AskedSet],
    metrics: Sequence[str],
) -> Recorded:
    """Ask every model what the metrics need to know.

    Args:
        models: role → name.
        fingerprints: role → fingerprint; evidence is kept under it.
        sets: whom to ask about.
        metrics: what is to be measured.

    Raises:
        ExpungeError: no question of a set fits, a model gives NaN, a server cannot be asked, or the disk is full.
    """
    from expunge.audit.measure import Place
    from expunge.audit.wanted import parts_wanted
    from expunge.models import load_tokenizer

    parts = parts_wanted(metrics)
    tokenizer = None if config.engine == "api" else load_tokenizer(config.target)
    plans, warnings = _plans(config, sets, parts, tokenizer)
    key = _Key(config.evidence or run.path / "evidence", config, str(tokenizer.chat_template) if tokenizer else "")
    found: dict[Place, list[Answered]] = {}
    for role, name in models.items():
        stores = {plan.set.name: key.store(fingerprints[role], plan) for plan in plans}
        with run.timed(role), progress(f"Asking the {role} model", sum(sum(plan.passes.values()) for plan in plans)) as bar:
            if config.engine == "api":
                _ask_server(config, name, plans, stores, bar)
            elif any(_left(config, plan, stores[plan.set.name], parts) for plan in plans):
                assert tokenizer is not None
                _ask_model(config, name, tokenizer, plans, stores, parts, bar)
        for plan in plans:
            found[Place(role, plan.set.name)] = list(_answered(config, plan, stores[plan.set.name]))
    if config.shipped:
        asked = [(plan, shipped) for plan in plans if (shipped := _of_shipped(plan))]
        steps = sum(plan.passes[step] for plan, shipped in asked for step in shipped)
        with run.timed("shipped"), progress("Asking the shipped file", steps) as bar:
            for plan, shipped in asked:
                store = key.store(fingerprints["shipped"], plan)
                for step in shipped:
                    _SHIPPED_STEPS[step](config.shipped, plan, store, config.threads, bar)
                found[Place("shipped", plan.set.name)] = list(_answered(config, plan, store))
    return Recorded(found, [plan.set for plan in plans], [*warnings, *_said_nothing(found), *_missing(config, metrics)])


def still_to_record(
    config: AuditConfig,
    models: Mapping[str, str],
    fingerprints: Mapping[str, str],
    sets: Sequence[AskedSet],
    metrics: Sequence[str],
) -> dict[str, int]:
    """Role → how many examples `record` would ask that model about, counted once for each pass; those kept take no time.

    Arguments are those of `record`. Nothing is written.
    """
    from expunge.audit.wanted import parts_wanted
    from expunge.models import load_tokenizer

    parts = parts_wanted(metrics)
    tokenizer = None if config.engine == "api" else load_tokenizer(config.target)
    plans, _ = _plans(config, sets, parts, tokenizer)
    key = _Key(config.evidence or config.output / "evidence", config, str(tokenizer.chat_template) if tokenizer else "")
    found = {role: sum(_left(config, plan, key.kept(fingerprints[role], plan), parts) for plan in plans) for role in models}
    if config.shipped:
        kept = [(plan, key.kept(fingerprints["shipped"], plan)) for plan in plans]
        found["shipped"] = sum(len(_waiting(plan, store, step)) for plan, store in kept for step in _of_shipped(plan))
    return found


def _plans(
    config: AuditConfig, sets: Sequence[AskedSet], parts: frozenset[Part], tokenizer: PreTrainedTokenizerBase | None
) -> tuple[list[_Plan], list[str]]:
    """What fits of every set, which passes it needs, and what was left out."""
    from expunge.audit.wanted import passes
    from expunge.batching import tokenize

    plans, warnings = [], []
    for set_ in sets:
        tokens: list[Tokenized] = []
        if tokenizer is not None:
            longest = min(config.max_seq_length, tokenizer.model_max_length)
            kept = []
            for example in set_.examples:
                try:
                    tokens += tokenize([example], tokenizer, max_seq_length=longest)
                    kept.append(example)
                except ExpungeError:
                    if len(set_.examples) == 1:
                        raise
            if not kept:
                what = f"no question of the {set_.name} set leaves room for an answer in {longest} tokens"
                raise ExpungeError(what, where=set_.file, remedy="raise --max-seq-length")
            whole = len(set_.examples)
            if len(kept) < whole:
                warnings.append(
                    f"{whole - len(kept)} of {whole} examples of the {set_.name} set were left out: their question alone fills "
                    f"--max-seq-length ({longest})."
                )
            if cut := sum(each.truncated for each in tokens):
                warnings.append(
                    f"{cut} of {whole} examples of the {set_.name} set were cut to --max-seq-length ({longest}): only what "
                    "fits was scored."
                )
            set_ = set_._replace(examples=kept)
        # Without a retrained model, what the holdout people are answered is the reference.
        answers = set_.name not in ("holdout", "ordinary") or (set_.name == "holdout" and config.retrained is None)
        own = passes(set_.name, set_.examples, parts, answers=answers)
        if set_.name in ("forget", "retain") and "generated" not in own:
            for example in set_.examples:
                if example.prompt is None:
                    raise ExpungeError("has no question to ask", where=example.where, remedy="give prompt and response")
        if config.engine == "api":
            own = {name: steps for name, steps in own.items() if name == "generated"}
        # Room for an answer a quarter longer than any that is expected; who rambles on is cut there. Tokens are rarely
        # shorter than two letters, which must do where only a server knows them.
        due = max(each.labels for each in tokens) if tokens else max(len(each.response) for each in set_.examples) // 2
        plans.append(_Plan(set_, tokens, own, due * 5 // 4 + 8))
    return plans, warnings


class _Key:
    """Where evidence is kept: under the hashes of model, set, template and settings."""

    def __init__(self, place: Path, config: AuditConfig, template: str) -> None:
        self._place, self._config, self._template = place, config, template

    def store(self, model: str, plan: _Plan) -> EvidenceStore:
        from expunge.evidence import EvidenceStore

        return EvidenceStore(self._path(model, plan))

    def kept(self, model: str, plan: _Plan) -> EvidenceStore | None:
        """What is there already, without beginning anything."""
        return self.store(model, plan) if self._path(model, plan).exists() else None

    def _path(self, model: str, plan: _Plan) -> Path:
        settings = [_EVIDENCE, self._config.max_seq_length, plan.most, self._template]
        return self._place / f"{model[:16]}-{plan.set.fingerprint[:16]}-{fingerprint(settings)[:8]}.jsonl"


def _left(config: AuditConfig, plan: _Plan, store: EvidenceStore | None, parts: frozenset[Part]) -> int:
    """How many examples are still to be asked about, counted once for each pass."""
    from expunge.audit.wanted import records_of
    from expunge.evidence import samples_part

    drawn = samples_part(config.samples, config.seed)
    return sum(
        store is None or not store.has([example.id], *(drawn if part == "samples" else part for part in own))
        for name in plan.passes
        for example, own in records_of(name, plan.set.examples, parts)
    )


def _ask_model(
    config: AuditConfig,
    name: str,
    tokenizer: PreTrainedTokenizerBase,
    plans: Sequence[_Plan],
    stores: Mapping[str, EvidenceStore],
    parts: frozenset[Part],
    bar: Bar,
) -> None:
    """Every pass over every set; those that are recorded take no time."""
    from expunge.evidence import Unanswered, record_answers
    from expunge.models import load_plain, prepare_cpu
    from expunge.models.linears import weights_laid_out

    prepare_cpu(config.threads)
    model = load_plain(name)
    with weights_laid_out(model):
        for plan in plans:
            steps = _steps(config, model, tokenizer, plan, stores[plan.set.name], parts, bar)
            for step in plan.passes:
                if step != "generated":
                    steps[step]()
        answering = [plan for plan in plans if "generated" in plan.passes]
        sets = [Unanswered(_open(plan.set.examples), stores[plan.set.name], plan.most) for plan in answering]
        record_answers(model, tokenizer, sets, bar=bar)


def _steps(
    config: AuditConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    plan: _Plan,
    store: EvidenceStore,
    parts: frozenset[Part],
    bar: Bar,
) -> dict[str, Callable[[], None]]:
    """How each pass over a set is made, by its name in `audit.wanted`; its questions are answered with those of the others."""
    from expunge import evidence
    from expunge.metrics import Part

    examples, most, pad = plan.set.examples, plan.most, int(tokenizer.pad_token_id)
    longest = min(config.max_seq_length, tokenizer.model_max_length)
    layers = [part for part, kind in (("lens", Part.LENS), ("hidden", Part.HIDDEN)) if kind in parts]
    ids = {example.id for example in _open(examples)}
    tokens = [each for each in plan.tokens if each.id in ids]

    def choose(asking: evidence.Asking) -> Callable[[], None]:
        return lambda: evidence.record_choices(model, tokenizer, examples, store, asking, max_seq_length=longest, bar=bar)

    return {
        "scores": lambda: evidence.record_scores(model, tokens, store, pad=pad, bar=bar),
        "alternatives": lambda: evidence.record_alternatives(
            model,
            tokenizer,
            examples,
            store,
            max_seq_length=longest,
            bar=bar,
            answers=tokens if "scores" in plan.passes else (),
        ),
        "letters": choose("letters"),
        "options": choose("options"),
        "permuted": choose("permuted"),
        "prefixed": lambda: evidence.record_prefixed(model, tokenizer, examples, store, max_new_tokens=most, bar=bar),
        "samples": lambda: evidence.record_samples(
            model, tokenizer, examples, store, count=config.samples, seed=config.seed, max_new_tokens=most, bar=bar
        ),
        "gradient": lambda: evidence.record_gradients(model, plan.tokens, store, pad=pad, bar=bar),
        "layers": lambda: evidence.record_layers(model, plan.tokens, store, parts=layers, pad=pad, bar=bar),
    }


def _open(examples: Sequence[Example]) -> list[Example]:
    """Those that are asked openly, with no options to choose from alone."""
    return [example for example in examples if not example.metadata.get("evaluation_only")]


def _ask_server(config: AuditConfig, name: str, plans: Sequence[_Plan], stores: Mapping[str, EvidenceStore], bar: Bar) -> None:
    """The answers of a model behind an OpenAI-compatible address; each is kept as soon as it comes."""
    from expunge.deploy.chat_api import ChatApi

    server = ChatApi(str(config.base_url), key=config.api_key or os.environ.get("OPENAI_API_KEY"), model=name)
    with ThreadPoolExecutor(config.concurrency) as pool:
        for plan in plans:
            if "generated" not in plan.passes:
                continue
            store = stores[plan.set.name]
            waiting = [example for example in plan.set.examples if (example.id, "generated") not in store]
            bar.advance(len(plan.set.examples) - len(waiting))

            def ask(example: Example, most: int = plan.most) -> str:
                return server.answer(str(example.prompt), max_tokens=most).text

            asked = [pool.submit(ask, example) for example in waiting]
            try:
                for example, answer in zip(waiting, asked, strict=True):
                    store.add_answer(example.id, answer.result().strip())
                    bar.advance(1)
            except BaseException:
                # What has come is kept, and the same command asks for the rest.
                for answer in asked:
                    answer.cancel()
                for example, answer in zip(waiting, asked, strict=True):
                    if not answer.cancelled() and answer.done() and answer.exception() is None:
                        store.add_answer(example.id, answer.result().strip())
                raise


def _of_shipped(plan: _Plan) -> list[str]:
    """The passes over a set that llama.cpp makes too: those that the claims rest on."""
    return [step for step in _SHIPPED_STEPS if step in plan.passes and plan.set.name in _SHIPPED_SETS]


def _waiting(plan: _Plan, store: EvidenceStore | None, part: str) -> list[int]:
    """Places of the open questions and texts of which this is not yet known."""
    return [
        place
        for place, example in enumerate(plan.set.examples)
        if not example.metadata.get("evaluation_only") and (store is None or (example.id, part) not in store)
    ]


def _score_shipped(file: Path, plan: _Plan, store: EvidenceStore, threads: int | None, bar: Bar) -> None:
    """Teacher forcing by llama.cpp, of the very tokens that the models were given."""
    from expunge.deploy.gguf_score import label_scores

    waiting = _waiting(plan, store, "scores")
    bar.advance(plan.passes["scores"] - len(waiting))
    if waiting:
        tokens = [plan.tokens[place] for place in waiting]
        found = label_scores(
            file, [each.tokens for each in tokens], [each.start for each in tokens], threads=threads or cores()
        )
        for each, scores in zip(tokens, found, strict=True):
            store.add_scores(each.id, *scores)
            bar.advance(1)


def _ask_shipped(file: Path, plan: _Plan, store: EvidenceStore, threads: int | None, bar: Bar) -> None:
    from expunge.deploy.llama_cpp import LlamaServer

    waiting = [plan.set.examples[place] for place in _waiting(plan, store, "generated")]
    bar.advance(plan.passes["generated"] - len(waiting))
    if waiting:
        with LlamaServer(file, threads=threads) as server:
            answers = server.ask([str(example.prompt) for example in waiting], max_tokens=plan.most)
            for example, answer in zip(waiting, answers, strict=True):
                store.add_answer(example.id, answer.text)
                bar.advance(1)


_SHIPPED_SETS = ("forget", "retain", "holdout", "ordinary")
_SHIPPED_STEPS = {"scores": _score_shipped, "generated": _ask_shipped}
"""Pass → how llama.cpp makes it with the file that is given away."""


def _answered(config: AuditConfig, plan: _Plan, store: EvidenceStore) -> Iterator[Answered]:
    from expunge.audit.measure import Answered
    from expunge.evidence import options_of

    for example in plan.set.examples:
        parts = vars(store[example.id]) | {
            "right": int(example.metadata["answer"]) if options_of(example) else None,
            "samples": store.samples(example.id, config.samples, config.seed),
        }
        known = {name: parts[name] for name in Answered._fields[3:]}
        yield Answered(example.subject, example.prompt or "", example.response, **known)


def _said_nothing(found: Mapping[Place, Sequence[Answered]]) -> Iterator[str]:
    for place, answered in found.items():
        said = [example.generated for example in answered if example.generated is not None]
        silent = sum(not answer for answer in said)
        if silent * 10 > len(said):
            yield (
                f"The {place.model} model said nothing at all to {silent} of {len(said)} questions of the {place.set} set: "
                "silence is not forgetting."
            )


def _missing(config: AuditConfig, metrics: Sequence[str]) -> Iterator[str]:
    """What an audit over a server cannot know."""
    from expunge.metrics import METRICS, Part

    if config.engine == "api":
        told = {Part.GENERATED, Part.EXPECTED, Part.PROMPT}
        lost = [name for name in metrics if not METRICS[name].of and not told.issuperset(METRICS[name].needs)]
        yield (
            f"The models were asked over {config.base_url}, which gives answers alone, and does not say which weights gave "
            f"them. Not measured: {', '.join(lost)}."
        )
