"""What models answer to an attack: asked now, or kept from an earlier time, and measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from expunge.audit.attacks import Chosen, Given, Prompt, Scene, Version
from expunge.errors import ExpungeError, at_least
from expunge.examples import Example
from expunge.files import fingerprint
from expunge.progress import Bar
from expunge.runs import settings_of

if TYPE_CHECKING:
    from expunge.audit.results import AttackResult
    from expunge.deploy.chat_api import ChatApi
    from expunge.evidence import EvidenceStore

# Raise it when a model is asked in another way, so that no old answer is taken for a new one.
_EVIDENCE = 2
_TOGETHER = 48


class Plan(NamedTuple):
    """Whom an attack asks about, and in which words."""

    chosen: Chosen
    asked: Sequence[Example]
    prompts: Sequence[Sequence[Prompt]]
    """The ways to ask about each."""
    given: Given

    @property
    def questions(self) -> int:
        """How many there are, of each model and each change of its weights."""
        return sum(map(len, self.prompts))

    @property
    def begins(self) -> bool:
        """Whether answers are begun for the model."""
        return any(prompt.begun for ways in self.prompts for prompt in ways)


class Attacked(NamedTuple):
    """A model under attack."""

    role: str
    name: str
    fingerprint: str
    kind: Literal["weights", "file", "server"] = "weights"
    """Read here, a GGUF file asked in llama.cpp, or the name of a model behind a server; the latter two only answer."""


class Conditions(NamedTuple):
    """How the models are asked."""

    evidence: Path
    """Where answers are kept."""
    work: Path
    """Where an attack may leave files, in a folder for each role."""
    max_seq_length: int
    threads: int | None
    load: Callable[[str], Any]
    """Name → the model as it is."""
    server: Callable[[str], ChatApi] | None = None
    """Name → where that model is asked, if it is behind a server."""
    concurrency: int = 1
    """Questions put to a server at once."""


def plan_attack(chosen: Chosen, given: Given, bar: Bar | None = None) -> Plan:
    """What is to be asked; the bar advances by every example.

    Raises:
        ExpungeError: the attack lacks something, a setting makes no sense, or there is nothing to ask.
    """
    attack, settings = chosen.attack, chosen.settings
    at_least(0, **{name: value for name, value in vars(settings).items() if isinstance(value, int | float)})
    asked, prompts = list(attack.asks(settings, given)), []
    for example in asked:
        prompts.append(attack.prompts(settings, example, given) if attack.prompts else [Prompt(str(example.prompt))])
        if bar is not None:
            bar.advance()
    if not asked or not all(prompts):
        raise ExpungeError(f"{chosen.label} asks nothing", remedy="raise its settings")
    return Plan(chosen, asked, prompts, given)


def questions_of(examples: Sequence[Example]) -> list[Example]:
    """Those that have a question: what attacks ask about."""
    return [example for example in examples if example.prompt is not None]


def versions_of(plan: Plan, model: Attacked, conditions: Conditions) -> list[Version]:
    """The model as it is, or the changed copies of it, none of them made yet.

    Raises:
        ExpungeError: such copies cannot be made here.
    """
    attack, settings = plan.chosen.attack, plan.chosen.settings
    if attack.versions is None:
        return [Version("", partial(conditions.load, model.name))]
    scene = Scene(model.name, plan.given, conditions.work / model.role, conditions.max_seq_length, conditions.threads)
    # What the target is taught again tells nothing: it knows already.
    return [one for one in attack.versions(settings, scene) if (model.role, one.name) != ("target", "after")]


def answered(plan: Plan, model: Attacked, conditions: Conditions, bar: Bar) -> Iterator[AttackResult]:
    """What the attack gets out of one model, for each change of its weights.

    The bar advances by every question of every version. What is kept takes no time; a killed attack goes on where it stopped.
    """
    from expunge.batching import tokenize
    from expunge.evidence import EvidenceStore
    from expunge.models import load_tokenizer, prepare_cpu

    if model.kind == "weights":
        prepare_cpu(conditions.threads)
        tokenizer = load_tokenizer(model.name)
        due = max(each.labels for each in tokenize(plan.asked, tokenizer, max_seq_length=conditions.max_seq_length))
    else:
        # Tokens are rarely shorter than two letters, which must do where the tokenizer is elsewhere.
        tokenizer, due = None, max(len(example.response) for example in plan.asked) // 2
    # Room for an answer a quarter longer than any that is expected, as in an audit.
    most = due * 5 // 4 + 8
    keyed = [(f"{one.id}/{n}", way) for one, ways in zip(plan.asked, plan.prompts, strict=True) for n, way in enumerate(ways)]
    for version in versions_of(plan, model, conditions):
        store = EvidenceStore(conditions.evidence / f"{_name(plan, model, version, keyed, most, tokenizer)}.jsonl")
        if all((key, "generated") in store for key, _ in keyed):
            bar.advance(len(keyed))
        elif tokenizer is not None:
            made = version.make()
            if isinstance(made, Path):
                _ask_file(made, keyed, store, most, conditions.threads, bar)
            else:
                _ask_model(made, tokenizer, keyed, store, most, bar)
        elif model.kind == "file":
            _ask_file(Path(model.name), keyed, store, most, conditions.threads, bar)
        else:
            assert conditions.server is not None
            _ask_server(conditions.server(model.name), conditions.concurrency, keyed, store, most, bar)
        yield _measured(plan, version.name, model.role, store)


def _name(plan: Plan, model: Attacked, version: Version, keyed: Sequence[tuple[str, Prompt]], most: int, tokenizer: Any) -> str:
    """Under which answers are kept: by the weights, the very questions, and whatever changes the weights."""
    attack, settings = plan.chosen.attack, plan.chosen.settings
    content: list[Any] = [_EVIDENCE, most, str(tokenizer.chat_template) if tokenizer else model.kind, keyed]
    if attack.versions:
        sets = [[example.id for example in set_] for set_ in (plan.given.forget, plan.given.others)]
        content += [attack.name, settings_of(settings), plan.given.seed, sets]
    end = f"-{version.name}" if version.name else ""
    return f"{model.fingerprint[:16]}-{attack.name}-{fingerprint(content)[:16]}{end}"


def _ask_model(
    model: Any, tokenizer: Any, keyed: Sequence[tuple[str, Prompt]], store: EvidenceStore, most: int, bar: Bar
) -> None:
    from expunge.batching import prompt_tokens
    from expunge.evidence import batches_of_prompts, end_tokens, generate

    tokens = [
        [*prompt_tokens(prompt.question, tokenizer), *tokenizer(prompt.begun, add_special_tokens=False)["input_ids"]]
        if prompt.begun
        else prompt_tokens(prompt.question, tokenizer)
        for _, prompt in keyed
    ]
    ends = end_tokens(model, tokenizer)
    # Batches are composed of the whole, never of what is left: a resumed attack rounds as an undisturbed one does.
    for places in batches_of_prompts(tokens, _TOGETHER):
        if not all((keyed[place][0], "generated") in store for place in places):
            answers = generate(model, [tokens[place] for place in places], max_new_tokens=most, ends=ends)
            for place, words in zip(places, answers, strict=True):
                store.add_answer(keyed[place][0], str(tokenizer.decode(words, skip_special_tokens=True)).strip())
        bar.advance(len(places))


def _ask_file(
    file: Path, keyed: Sequence[tuple[str, Prompt]], store: EvidenceStore, most: int, threads: int | None, bar: Bar
) -> None:
    from expunge.deploy.llama_cpp import LlamaServer

    with LlamaServer(file, threads=threads) as server:
        waiting = [(key, prompt) for key, prompt in keyed if (key, "generated") not in store]
        bar.advance(len(keyed) - len(waiting))
        answers = server.ask([prompt.question for _, prompt in waiting], max_tokens=most)
        for (key, _), answer in zip(waiting, answers, strict=True):
            store.add_answer(key, answer.text)
            bar.advance()


def _ask_server(
    server: ChatApi, together: int, keyed: Sequence[tuple[str, Prompt]], store: EvidenceStore, most: int, bar: Bar
) -> None:
    waiting = [(key, prompt) for key, prompt in keyed if (key, "generated") not in store]
    bar.advance(len(keyed) - len(waiting))
    pool = ThreadPoolExecutor(together)
    try:
        answers = pool.map(lambda one: server.answer(one[1].question, max_tokens=most).text.strip(), waiting)
        for (key, _), said in zip(waiting, answers, strict=True):
            store.add_answer(key, said)
            bar.advance()
    finally:
        pool.shutdown(cancel_futures=True)


def _measured(plan: Plan, variant: str, role: str, store: EvidenceStore) -> AttackResult:
    """The best answer to each example, and the mean with its interval."""
    import numpy as np

    from expunge.audit import bootstrap
    from expunge.audit.results import AttackResult
    from expunge.metrics.rouge_l import rouge_l_recall

    best: list[tuple[float, str]] = []
    for example, ways in zip(plan.asked, plan.prompts, strict=True):
        said = [str(store[f"{example.id}/{n}"].generated) for n in range(len(ways))]
        recall = rouge_l_recall(said, [way.expected or example.response for way in ways])
        best.append((float(recall.max()), said[int(recall.argmax())]))
    values = np.array([value for value, _ in best])
    subjects = tuple(example.subject for example in plan.asked)
    interval = bootstrap.mean_interval(values, subjects, seed=plan.given.seed)
    answers = tuple(answer for _, answer in best)
    return AttackResult(plan.chosen.label, variant, role, *interval, tuple(values.tolist()), answers, subjects, plan.questions)
