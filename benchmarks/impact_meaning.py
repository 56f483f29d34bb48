"""Does token impact mean anything? `python benchmarks/impact_meaning.py [--run runs/demo] [--examples 8] [--positions 30]`.

Takes a finished `expunge demo`: its notes, its target, and the base under it, since fine-tuning records impacts at the first
use of a note, when little has been learnt, and unlearning when all has been. Nothing is trained. For each model:

1. How tokens rank by each estimator and by occlusion, the exact one: Spearman's rank correlation, over `--positions` tokens
   drawn from each note; also without what removing a token does to the very next one, which mostly says that a text with a
   hole in it reads badly.
2. What the top 5% of a note's tokens do when they are deleted, beside as many drawn at random from the note or its answer.
3. How many of the top 5% stand in no other note of the data: who it is about, and what they have.

Means over notes, with 95% bootstrap intervals drawn by person.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from expunge.audit.bootstrap import mean_interval
from expunge.batching import Tokenized, collate, tokenize
from expunge.evidence import score_labels
from expunge.examples import read_examples
from expunge.models import load_model, load_tokenizer, prepare_cpu, resolve_base
from expunge.progress import Bar, progress
from expunge.training.impact import ESTIMATORS, Part
from expunge.training.impact.occlusion import loss_change
from expunge.training.recording import Probe, top_share

if TYPE_CHECKING:
    from numpy.typing import NDArray

EXACT = "occlusion"
SCOPES = ("all tokens", "answer", "answer, beyond next")
RANDOM = ("random", "random of the answer")
RANDOM_DRAWS = 6

Found = dict[tuple[str, str], list[float]]
"""(column, row) → a value for each note."""


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished demo run")
    parser.add_argument("--examples", type=int, default=8, help="notes, the forget set's first")
    parser.add_argument("--positions", type=int, default=30, help="tokens of each note that are occluded, one at a time")
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    target = options.run / "target" / "model"
    if not target.is_dir():
        print(f"{options.run} holds no demo run: run `expunge demo` first, or name another --run. Nothing was measured.")
        return
    prepare_cpu(options.threads)
    examples = [row for part in ("forget", "retain") for row in read_examples(options.run / "data" / f"{part}.jsonl")]
    tokens = tokenize(examples, load_tokenizer(target), max_seq_length=512)
    count = min(options.examples, len(tokens))
    subjects = [example.subject for example in examples[:count]]
    length = np.mean([len(example.tokens) for example in tokens[:count]])
    print(f"{count} notes of {len(set(subjects))} people, {length:.0f} tokens each")
    for name, model in (("base", resolve_base(target)), ("target", target)):
        with progress(f"Measuring the {name}", count) as bar:
            show(name, measure(load_model(model), tokens, count, options.positions, bar), subjects)


def measure(model: Any, tokens: Sequence[Tokenized], count: int, positions: int, bar: Bar) -> Found:
    """All columns for the first `count` notes."""
    found: Found = {}
    rng = random.Random(0)
    notes_with = Counter(token for example in tokens for token in set(example.tokens))
    for example in tokens[:count]:
        by_estimator, next_T = cheap_impacts(model, example)
        last = len(example.tokens) - 1
        drawn = np.array(sorted(rng.sample(range(last), min(positions, last))))
        exact = loss_change(model, example, [[place] for place in drawn]).numpy()
        answer = drawn >= example.start
        for name, impact_T in by_estimator.items():
            for scope, some, change in zip(
                SCOPES, (drawn >= 0, answer, answer), (exact, exact, exact - next_T[drawn]), strict=True
            ):
                found.setdefault((scope, name), []).append(spearman(impact_T[drawn][some], np.abs(change)[some]))
            top = top_share(impact_T, 95).positions
            found.setdefault(("unique", name), []).append(alone(example, top, notes_with))
        for name, added in deletions(model, example, by_estimator, rng).items():
            found.setdefault(("deleted", name), []).append(added)
        for name, first in zip(RANDOM, (0, example.start), strict=True):
            found.setdefault(("unique", name), []).append(alone(example, range(first, last + 1), notes_with))
        bar.advance(1)
    return found


def cheap_impacts(model: Any, example: Tokenized) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float32]]:
    """From one forward and backward pass: the impacts by every estimator that needs no pass of its own, and what leaving out
    a token costs the very next one (exact where both are of the answer, since the model reads from left to right)."""
    import torch

    logits: list[Any] = []
    head = model.get_output_embeddings().register_forward_hook(lambda _module, _inputs, output: logits.append(output))
    probe = Probe(model, Part)
    probe.on = True
    batch: Any = collate([example], 0)
    scores = score_labels(model, type(batch)(*(tensor.to(model.device) for tensor in batch)))
    scores.log_p_BK.retain_grad()
    (-scores.log_p_B.sum()).backward()
    model.zero_grad()
    head.remove()
    probe.on = False
    heard = probe.heard().told_of(model, [example], [True], scores.log_p_BK)
    impacts = {name: ESTIMATORS[name].measure(heard)[0].float().cpu().numpy() for name in ESTIMATORS if name != EXACT}
    next_T = np.zeros(len(example.tokens), dtype=np.float32)
    # Position by position: what came next, as expected one token before it was due.
    early = logits[0].detach().float()[0].log_softmax(-1)[:-1]
    due = torch.tensor(example.tokens[example.start + 1 :], device=early.device)
    skipped = early.gather(1, due[:, None])[:, 0]
    next_T[example.start : -1] = (scores.log_p_BK[0, 1:].detach() - skipped).cpu().numpy()
    return impacts, next_T


def deletions(
    model: Any, example: Tokenized, by_estimator: dict[str, NDArray[np.float32]], rng: random.Random
) -> dict[str, float]:
    """Who chose the tokens → what deleting them adds to the loss of each labelled token that is left, nats."""
    chosen = {name: [top_share(impact_T, 95).positions] for name, impact_T in by_estimator.items()}
    size = max(1, -(-len(example.tokens) // 20))
    for name, first in zip(RANDOM, (0, example.start), strict=True):
        chosen[name] = [rng.sample(range(first, len(example.tokens)), size) for _ in range(RANDOM_DRAWS)]
    changes = iter(loss_change(model, example, [gap for gaps in chosen.values() for gap in gaps]).tolist())
    added = {}
    for name, gaps in chosen.items():
        left = [example.labels - sum(place >= example.start for place in gap) for gap in gaps]
        added[name] = float(np.mean([next(changes) / count for count in left]))
    return added


def alone(example: Tokenized, positions: Sequence[int], notes_with: Counter[int]) -> float:
    """Share of these tokens that no other note has."""
    return float(np.mean([notes_with[example.tokens[place]] == 1 for place in positions]))


def spearman(first: NDArray[Any], second: NDArray[Any]) -> float:
    """Rank correlation; 0 where one of them is the same for all."""
    from scipy.stats import spearmanr

    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(spearmanr(first, second).statistic)


def show(name: str, found: Found, subjects: Sequence[str]) -> None:
    """Print a model's tables."""

    def words(column: str, row: str) -> str:
        if (column, row) not in found:
            return ""
        value = mean_interval(np.array(found[column, row]), subjects)
        return f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"

    print(f"\n{name + ': correlation':<24}{SCOPES[0]:<22}{SCOPES[1]:<22}{SCOPES[2]}")
    estimators = [row for column, row in found if column == SCOPES[0]]
    for row in estimators:
        print(f"{row:<24}" + "".join(f"{words(scope, row):<22}" for scope in SCOPES).rstrip())
    print(f"{name + ': top 5%':<24}{'deleted, nats/token':<22}{'times random':<22}in no other note")
    for row in (*estimators, *RANDOM):
        times = np.mean(found["deleted", row]) / np.mean(found["deleted", RANDOM[0]])
        print(f"{row:<24}{'+' + words('deleted', row):<22}{times:<22.2f}{words('unique', row)}")


if __name__ == "__main__":
    main()
