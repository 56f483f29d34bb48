"""Examples and token impacts to record."""

import random

from expunge.examples import Example
from expunge.ledger import TokenImpact, TopToken


def make_examples(count, people=10):
    return [
        Example(
            f"What ails person {i % people}?",
            f"Answer number {i}.",
            f"Person {i % people}",
            {"visit": i},
            where=f"/n.jsonl:{i + 1}",
        )
        for i in range(count)
    ]


def make_impact(seed, tokens=6, total=120):
    rng = random.Random(seed)
    return TokenImpact(
        total,
        [
            TopToken(rng.randrange(500), position, rng.random(), max(0, position - 3), min(total, position + 4))
            for position in sorted(rng.sample(range(total), tokens))
        ],
    )
