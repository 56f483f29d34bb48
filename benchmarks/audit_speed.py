"""How fast an audit asks and measures, beside OpenUnlearning's evaluators: the whole TOFU evaluation on the embedded model.

`python benchmarks/audit_speed.py [--every 20] [--rounds 2] [--model embedded] [--open-unlearning CHECKOUT] [--results FILE]`

The evaluation is TOFU's: forget10, retain, real authors and world facts with paraphrases, wrong answers and answers of up to
200 tokens, and membership of forget10 against holdout10. Sides take turns, each turn in a process of its own, so that peak
memory is that of one side (on a GPU, the GPU's); loading the model is not timed. OpenUnlearning is run by its own code and
configuration from a checkout (github.com/locuslab/open-unlearning, which wants hydra-core and omegaconf); changed are where its
data come from (--data), the model's template and padding token, and that an lm-eval it does not use here may be missing.
Gradient norms are in neither side.

Both sides read every --every'th question of each set; with 1, all. What the whole takes is scaled from that.

`python benchmarks/audit_speed.py --count [--every 1]` asks no model: it counts the tokens each side reads in scoring and
membership.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

SETS = {"forget": "forget10_perturbed", "retain": "retain_perturbed", "authors": "real_authors_perturbed"}
SETS |= {"facts": "world_facts_perturbed", "holdout": "holdout10"}
PARTS = ("forced scoring", "generation", "membership", "metrics")
"""Membership: what it takes beside the scoring of the forget set. Metrics: the rest, reading data among it."""
MAX_NEW_TOKENS = 200
DATA = Path(__file__).parents[2] / "shared" / "data" / "tofu"


_Known = dict[str, list[tuple[Any, str]]]


class Side(NamedTuple):
    """What one side took and found."""

    seconds: dict[str, float]
    """By part, see `PARTS`."""
    tokens: dict[str, int]
    """That the model read in each part, padding included."""
    operations: float
    """Of its linear layers and its head."""
    questions: int
    loaded_mb: float
    peak_mb: float
    values: dict[str, float]
    """What was measured, by OpenUnlearning's names."""
    by_their_mean: dict[str, float] | None = None
    """The same, with wrong answers averaged as OpenUnlearning does."""


def main() -> None:
    """Take turns, print, and write the table where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=20, help="read every so-many-th question")
    parser.add_argument("--rounds", type=int, default=2, help="turns of each side")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="embedded", help="one that has learnt answers of TOFU ends its own sooner")
    parser.add_argument(
        "--dtype", default="float32", choices=("float32", "bfloat16"), help="of both; expunge audits in float32"
    )
    parser.add_argument("--data", type=Path, default=DATA, help="TOFU's files as JSON lines")
    parser.add_argument("--open-unlearning", type=Path, help="a checkout to compare with")
    parser.add_argument("--count", action="store_true", help="count tokens, and ask no model")
    parser.add_argument("--results", type=Path, help="Markdown file for the table")
    parser.add_argument("--side", choices=("expunge", "open-unlearning", "rescore"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.side:
        found = {"expunge": ours, "open-unlearning": theirs, "rescore": rescored}[options.side](options)
        print(json.dumps(found._asdict() if isinstance(found, Side) else found))
        return
    if options.count:
        print(counted(options))
        return
    names = ["expunge", *(["open-unlearning"] if options.open_unlearning else [])]
    turns: dict[str, list[Side]] = {name: [] for name in names}
    for turn in range(options.rounds):
        for name in names if turn % 2 == 0 else reversed(names):
            side = Side(**_in_a_process(name))
            turns[name].append(side)
            print(f"{name}, turn {turn + 1}: {sum(side.seconds.values()):.1f} s", file=sys.stderr)
    table = _table(turns, options, peak=_peak(options.threads, options.dtype), rescoring=_in_a_process("rescore"))
    print(table)
    if options.results:
        options.results.write_text(table, "utf-8")


def _in_a_process(side: str) -> Any:
    words = [sys.executable, *sys.argv, "--side", side]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return json.loads(done.stdout.splitlines()[-1])


# ---- both sides ----


def rows(options: argparse.Namespace, name: str, *, every: int | None = None) -> list[dict[str, Any]]:
    """The questions of a set that are asked."""
    text = (options.data / f"{name}.json").read_text("utf-8")
    every = every or options.every
    found = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
    return list(found[::every])


class Clock:
    """Times parts, and counts what the model reads in them."""

    def __init__(self, model: Any, shape: Any) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.tokens = dict.fromkeys(PARTS, 0)
        self.operations = 0.0
        self._shape, self._part = shape, PARTS[-1]
        model.register_forward_hook(self._count, with_kwargs=True)

    def _count(self, _: Any, args: Any, kwargs: Any, output: Any) -> None:
        read = (args[0] if args else kwargs["input_ids"]).numel()
        self.tokens[self._part] += read
        logits_BTV = output.logits
        self.operations += 2 * (read * self._shape.linear + logits_BTV.shape[0] * logits_BTV.shape[1] * self._head)

    @property
    def _head(self) -> int:
        return self._shape.vocabulary * self._shape.hidden

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add what happens inside to a part."""
        start, self._part = _done(), name
        yield
        self._part = PARTS[-1]
        self.seconds[name] += _done() - start


def _done() -> float:
    """The time, once the GPU has done all it was told."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def _warm(model: Any) -> None:
    """A GPU loads its libraries at the first pass."""
    import torch

    if torch.cuda.is_available():
        with torch.inference_mode():
            model(input_ids=torch.ones((1, 8), dtype=torch.long, device=model.device))
        _done()


def _megabytes() -> float:
    """At the peak so far: of the GPU where there is one, else of the process."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _peak(threads: int, dtype: str) -> float:
    import torch

    from expunge.training.cost import matmul_rate

    torch.set_num_threads(threads)
    if torch.cuda.is_available():
        # A GPU reaches its peak with larger matrices than those of a small model.
        return matmul_rate(8192, dtype=dtype, rows=8192, seconds=0.5)
    return matmul_rate(576, dtype=dtype, seconds=2.0)


# ---- expunge ----


def ours(options: argparse.Namespace) -> Side:
    """Record the evidence and measure."""
    import torch

    from expunge.batching import tokenize
    from expunge.evidence import EvidenceStore, Unanswered, record_answers, record_scores
    from expunge.evidence.alternatives import record_alternatives
    from expunge.examples import Example
    from expunge.models import load_plain, load_tokenizer, model_shape, prepare_cpu
    from expunge.models.linears import weights_laid_out
    from expunge.progress import progress

    prepare_cpu(options.threads)
    model, tokenizer = load_plain(options.model).to(getattr(torch, options.dtype)), load_tokenizer(options.model)
    _warm(model)
    clock, loaded = Clock(model, model_shape(options.model)), _megabytes()
    sets = {
        name: [
            Example(row["question"], row["answer"], "somebody", {key: row[key] for key in _OTHERS if key in row})
            for row in rows(options, file)
        ]
        for name, file in SETS.items()
    }
    with (
        tempfile.TemporaryDirectory() as directory,
        progress("Asking", 3 * sum(map(len, sets.values()))) as bar,
        weights_laid_out(model),
    ):
        stores = {name: EvidenceStore(Path(directory) / f"{name}.jsonl") for name in sets}
        for name, examples in sets.items():
            with clock.part("membership" if name == "holdout" else "forced scoring"):
                tokens = tokenize(examples, tokenizer, max_seq_length=512)
                record_alternatives(model, tokenizer, examples, stores[name], max_seq_length=512, bar=bar, answers=tokens)
                record_scores(model, tokens, stores[name], pad=int(tokenizer.pad_token_id), bar=bar)
        with clock.part("generation"):
            asked = [Unanswered(sets[name], stores[name], MAX_NEW_TOKENS) for name in sets if name != "holdout"]
            record_answers(model, tokenizer, asked, bar=bar)
        with clock.part("metrics"):
            known = {
                name: [(stores[name][example.id], example.response) for example in examples] for name, examples in sets.items()
            }
            values = _values(known)
    questions = sum(map(len, sets.values()))
    by_their_mean = _values(
        {name: [(_with_their_mean(record), text) for record, text in records] for name, records in known.items()}, options=known
    )
    return Side(clock.seconds, clock.tokens, clock.operations, questions, loaded, _megabytes(), values, by_their_mean)


def _values(known: _Known, *, options: _Known | None = None) -> dict[str, float]:
    """What is measured, by OpenUnlearning's names.

    Args:
        known: of each set, what is recorded of each question, and the answer that is expected.
        options: the same, of which the probability among options is taken; None: the same records.
    """
    import numpy as np

    from expunge.metrics import METRICS
    from expunge.metrics.auc import auc

    def measured(metric: str, of: str) -> Any:
        records = (options or known)[of] if metric == "option-probability" else known[of]
        parts = [*METRICS[metric].needs, *METRICS[metric].may]
        return METRICS[metric].measure(
            *([text if part == "expected" else getattr(record, part) for record, text in records] for part in parts)
        )

    utility = METRICS["model-utility"]
    named = dict(zip(utility.of, ("retain", "authors", "facts"), strict=True))
    nine = [float(measured(metric, named[of]).mean()) for of, metrics in utility.of.items() for metric in metrics]
    return {
        "forget_Q_A_Prob": float(measured("probability", "forget").mean()),
        "forget_Q_A_ROUGE": float(measured("rouge-l-recall", "forget").mean()),
        "extraction_strength": float(measured("extraction-strength", "forget").mean()),
        "exact_memorization": float(measured("exact-memorisation", "forget").mean()),
        "forget_Truth_Ratio": float(measured("truth-ratio-near-one", "forget").mean()),
        **{name: auc(measured(metric, "forget"), measured(metric, "holdout")) for name, metric in _MEMBERSHIP.items()},
        **dict(zip(_UTILITY, nine, strict=True)),
        "model_utility": float(utility.measure(np.array(nine))),
    }


def _with_their_mean(record: Any) -> Any:
    """One wrong answer, as likely as the mean of the logarithms of all, which makes OpenUnlearning's truth ratio of ours."""
    if record.perturbed_N is None:
        return record
    return dataclasses.replace(record, perturbed_N=record.perturbed_N.mean(keepdims=True))


_OTHERS = ("paraphrased_answer", "perturbed_answer")
_UTILITY = [
    *("retain_Q_A_Prob", "retain_Q_A_ROUGE", "retain_Truth_Ratio"),
    *("ra_Q_A_Prob_normalised", "ra_Q_A_ROUGE", "ra_Truth_Ratio"),
    *("wf_Q_A_Prob_normalised", "wf_Q_A_ROUGE", "wf_Truth_Ratio"),
]
"""The nine numbers of model utility, by OpenUnlearning's names."""
_MEMBERSHIP = {
    "mia_loss": "loss-auc",
    "mia_zlib": "zlib-auc",
    "mia_min_k": "min-k-40-auc",
    "mia_min_k_plus_plus": "min-k-plus-plus-auc",
}


def rescored(options: argparse.Namespace) -> dict[str, float]:
    """Seconds to read the evidence of 4,000 questions from the disk and measure it under every metric that it allows."""
    import numpy as np

    from expunge.evidence import EvidenceStore
    from expunge.metrics import METRICS, Over

    whole = rows(argparse.Namespace(data=options.data, every=1), "full")
    chance = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as directory:
        store = EvidenceStore(Path(directory) / "evidence.jsonl")
        for place, row in enumerate(whole):
            # As much as a model's evidence is, of random numbers: nothing here depends on their values.
            tokens = max(2, len(row["answer"]) // 4)
            log_p_T = -chance.exponential(1.0, tokens).astype(np.float32)
            store.add_scores(str(place), log_p_T, log_p_T > -0.7, -log_p_T, log_p_T**2)
            spoken = " ".join(chance.permutation(row["answer"].split()))
            store.add(
                str(place), generated=spoken, paraphrased=[float(log_p_T.mean())], perturbed=[-1.0, -2.0, -3.0, -4.0, -5.0]
            )
        start = time.perf_counter()
        store = EvidenceStore(Path(directory) / "evidence.jsonl")
        records = [store[str(place)] for place in range(len(whole))]
        fields = {"expected": [row["answer"] for row in whole], "prompt": [row["question"] for row in whole]}
        read, done = time.perf_counter() - start, 0
        for name in METRICS:
            metric = METRICS[name]
            parts = [
                fields[part] if part in fields else [getattr(record, part, None) for record in records]
                for part in (*metric.needs, *metric.may)
            ]
            needed = [value for part in parts[: len(metric.needs)] for value in part]
            if metric.needs and metric.over is not Over.PROBE and all(value is not None for value in needed):
                if metric.beside_retrained:
                    parts = [*parts, *parts]
                metric.measure(*parts)
                done += 1
    return {"seconds": time.perf_counter() - start, "reading": read, "metrics": done, "questions": len(whole)}


# ---- OpenUnlearning ----

_EXTRA = ("exact_memorization", "mia_min_k_plus_plus", "mia_min_k", "mia_loss", "mia_zlib")


def theirs(options: argparse.Namespace) -> Side:
    """Its TOFU evaluator, as its own command runs it."""
    import warnings

    warnings.filterwarnings("ignore")
    sys.path.insert(0, str(options.open_unlearning / "src"))
    _stand_in("lm_eval", simple_evaluate=None)
    _stand_in("lm_eval.models")
    _stand_in("lm_eval.models.hf_vlms", HFLM=None)
    _stand_in("lm_eval.tasks", TaskManager=None)
    import data.qa
    import datasets
    from evals import get_evaluators
    from hydra import compose, initialize_config_dir

    from expunge.models import load_model, load_tokenizer, model_shape, prepare_cpu

    def local(path: str, name: str, split: str) -> Any:
        return datasets.Dataset.from_list(rows(options, name))

    data.qa.load_hf_dataset = local
    with (
        tempfile.TemporaryDirectory() as directory,
        initialize_config_dir(config_dir=str((options.open_unlearning / "configs").resolve()), version_base=None),
    ):
        config = compose(
            "eval.yaml",
            overrides=[
                "experiment=eval/tofu/default",
                f"+eval/tofu_metrics=[{','.join(_EXTRA)}]",
                *("hydra/job_logging=default", "hydra/hydra_logging=default", "task_name=speed"),
                f"eval.tofu.output_dir={directory}",
            ],
        )
        # It measures the forget quality too, of which its retrained model is not at hand.
        prepare_cpu(options.threads)
        model, tokenizer = load_model(options.model, dtype=options.dtype), load_tokenizer(options.model)
        _warm(model)
        clock, loaded = Clock(model, model_shape(options.model)), _megabytes()
        # Where padding is the token that ends a turn, its collator would mask the template's own.
        tokenizer.pad_token = "<|endoftext|>"
        begin, _, rest = tokenizer.apply_chat_template(
            [{"role": "user", "content": "⟦⟧"}], tokenize=False, add_generation_prompt=True
        ).partition("⟦⟧")
        template = {
            "apply_chat_template": False,
            "user_start_tag": begin,
            "user_end_tag": "",
            "asst_start_tag": rest,
            "asst_end_tag": "",
        }
        _time_parts(clock)
        for evaluator in get_evaluators(config.eval).values():
            start = _done()
            evaluator.evaluate(model=model, tokenizer=tokenizer, template_args=template)
            spent = _done() - start
            clock.seconds["metrics"] += spent - sum(clock.seconds.values())
        # What model utility is made of stands in the long file alone.
        found = json.loads((Path(directory) / "TOFU_EVAL.json").read_text("utf-8"))
    questions = sum(len(rows(options, file)) for file in SETS.values())
    values = {name: each["agg_value"] for name, each in found.items() if each.get("agg_value") is not None}
    return Side(clock.seconds, clock.tokens, clock.operations, questions, loaded, _megabytes(), values)


def _time_parts(clock: Clock) -> None:
    """What its passes take apart from each other; the rest is data and metrics."""
    from evals.metrics import memorization
    from evals.metrics.mia.all_attacks import Attack

    def timed(function: Callable[..., Any], part: Callable[[tuple[Any, ...]], str]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            with clock.part(part(args)):
                return function(*args, **kwargs)

        return run

    generates = memorization.eval_text_similarity
    memorization.run_batchwise_evals = timed(
        memorization.run_batchwise_evals, lambda args: "generation" if args[2] is generates else "forced scoring"
    )
    Attack.attack = timed(Attack.attack, lambda _: "membership")


def _stand_in(name: str, **names: Any) -> None:
    if name not in sys.modules:
        module = ModuleType(name)
        vars(module).update(names)
        sys.modules[name] = module


# ---- tokens without a model ----

_TIMES_READ = {"forget": 8, "retain": 1, "authors": 1, "facts": 1, "holdout": 5}
"""How often OpenUnlearning reads a question with its answer: for each metric and membership attack, for Min-K%++ twice."""


def counted(options: argparse.Namespace) -> str:
    """The tokens, padding included, that each side reads in scoring and membership; of answers token by token, nothing."""
    from expunge.batching import batches_by_length, tokenize
    from expunge.evidence.prefixes import Question, batches_of_questions
    from expunge.examples import Example
    from expunge.models import load_tokenizer

    tokenizer = load_tokenizer(options.model)
    ours = theirs = 0
    for name, file in SETS.items():
        asked = rows(options, file)

        def tokens(answers: list[str], asked: list[dict[str, Any]] = asked) -> list[Any]:
            examples = [Example(row["question"], answer, "somebody") for row, answer in zip(asked, answers, strict=True)]
            return tokenize(examples, tokenizer, max_seq_length=512)

        answers = tokens([row["answer"] for row in asked])
        wrong = zip(*(row.get("perturbed_answer", []) for row in asked), strict=True)
        others = [tokens(list(texts)) for texts in wrong]
        if "paraphrased_answer" in asked[0]:
            others.append(tokens([row["paraphrased_answer"] for row in asked]))
        for each in [answers] * _TIMES_READ[name] + others:
            batches = [each[start : start + 32] for start in range(0, len(each), 32)]
            theirs += sum(len(batch) * max(len(one.tokens) for one in batch) for batch in batches)
        prompts = [one.tokens[: one.start] for one in answers]
        alike = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(min(prompts), max(prompts), strict=False))
        stem = min(len(list(alike)), min(map(len, prompts)) - 1)
        ours += stem
        if not others:
            ours += sum(
                batch.tokens for batch in batches_by_length([len(one.tokens) - stem for one in answers], most_tokens=1024)
            )
            continue
        ends = [[one.tokens[one.start :] for one in of_one] for of_one in zip(answers, *others, strict=True)]
        for places in batches_of_questions([Question(prompt, tuple(each)) for prompt, each in zip(prompts, ends, strict=True)]):
            trees = [len({end[:length] for end in ends[place] for length in range(1, len(end))}) for place in places]
            ours += len(places) * (max(len(prompts[place]) for place in places) - stem + max(trees))
    return f"expunge {ours:,}, OpenUnlearning {theirs:,} tokens: {theirs / ours:.1f} times"


# ---- the table ----


def _table(turns: dict[str, list[Side]], options: argparse.Namespace, *, peak: float, rescoring: dict[str, float]) -> str:
    sides = {name: found[0] for name, found in turns.items()}
    seconds = {
        name: {part: statistics.median(side.seconds[part] for side in found) for part in found[0].seconds}
        for name, found in turns.items()
    }
    whole = {name: sum(parts.values()) for name, parts in seconds.items()}
    lines = [
        "# The TOFU evaluation, beside OpenUnlearning's evaluators",
        "",
        f"`python benchmarks/audit_speed.py --every {options.every} --rounds {options.rounds} --threads {options.threads}"
        f"{f' --dtype {options.dtype}' if options.dtype != 'float32' else ''}"
        f"{' --model MODEL' if options.model != 'embedded' else ''}"
        f"{' --open-unlearning CHECKOUT' if options.open_unlearning else ''}`",
        "",
        f"{_processor()}, {options.threads} thread{'s' if options.threads > 1 else ''}. Model "
        f"`{Path(options.model).name}`, "
        f"{options.dtype}. Every {options.every}th question of each set ({sides['expunge'].questions}); sides in turns, "
        f"medians of {options.rounds}: the ratios are of one run. OpenUnlearning has its own settings, a batch size of 32 "
        "among them.",
        "",
        "| | " + " | ".join(sides) + (" | times |" if len(sides) > 1 else " |"),
        "|---|" + "---|" * (len(sides) + (len(sides) > 1)),
    ]

    def line(name: str, words: dict[str, str], numbers: dict[str, float] | None = None) -> None:
        times = f" | {numbers['open-unlearning'] / numbers['expunge']:.1f}" if numbers and len(sides) > 1 else " |"
        lines.append(f"| {name} | " + " | ".join(words.values()) + (f"{times} |" if len(sides) > 1 else " |"))

    for part in PARTS:
        numbers = {name: parts[part] for name, parts in seconds.items()}
        line(f"{part}, s", {name: f"{value:.1f}" for name, value in numbers.items()}, numbers)
    line("**all, s**", {name: f"**{value:.1f}**" for name, value in whole.items()}, whole)
    line("the whole set, scaled, min", {name: f"{value * options.every / 60:.0f}" for name, value in whole.items()})
    for part in PARTS[:-1]:
        read = {name: float(side.tokens[part]) for name, side in sides.items()}
        line(f"tokens read in {part}, with padding", {name: f"{value:,.0f}" for name, value in read.items()}, read)
    tokens = {name: float(sum(side.tokens.values())) for name, side in sides.items()}
    line("tokens read in all", {name: f"{value:,.0f}" for name, value in tokens.items()}, tokens)
    passes = {name: whole[name] - parts["metrics"] for name, parts in seconds.items()}
    line("tokens a second in passes", {name: f"{tokens[name] / passes[name]:,.0f}" for name in sides})
    share = {name: side.operations / passes[name] / peak for name, side in sides.items()}
    line(f"share of the matmul peak ({peak / 1e9:.0f} GFLOPS)", {name: f"{value:.0%}" for name, value in share.items()})
    memory = {name: max(side.peak_mb for side in found) for name, found in turns.items()}
    line("peak memory, MB", {name: f"{value:,.0f}" for name, value in memory.items()}, memory)
    line("of it with the model loaded, MB", {name: f"{side.loaded_mb:,.0f}" for name, side in sides.items()})
    columns = {"expunge": sides["expunge"].values}
    if "open-unlearning" in sides:
        columns |= {
            "expunge, by their mean": sides["expunge"].by_their_mean,
            "open-unlearning": sides["open-unlearning"].values,
        }
    lines += ["", "What was measured:", "", "| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for name in sides["expunge"].values:
        lines.append(f"| {name} | " + " | ".join(f"{found.get(name, float('nan')):.4f}" for found in columns.values()) + " |")
    lines += [
        "",
        _DIFFERENCES,
        "",
        f"Evidence of {rescoring['questions']:,.0f} questions, read from the disk in {rescoring['reading']:.1f} s and measured "
        f"under {rescoring['metrics']:.0f} metrics: {rescoring['seconds']:.1f} s together.",
        "",
    ]
    return "\n".join(lines)


_DIFFERENCES = (
    "OpenUnlearning averages wrong answers over log-probabilities where TOFU's paper says probabilities. The middle column "
    "does so too: in model utility nothing else parts the two. It leaves the end token out of exact memorisation, extraction "
    "strength and Min-K%, and counts an extraction strength of at least one token."
)


def _processor() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
