"""How fast the contamination check is: `python benchmarks/contamination_speed.py [--rows 100000]`.

Prepares `--rows` made-up notes of 40 words in three sets, among them copies, near copies and copies under another name, and
checks them, across the borders of smaller and larger forget sets too. Prints rows a second, the process's own seconds, the
peak memory, and what was found of what was planted.
"""

from __future__ import annotations

import argparse
import random
import resource
import time

from expunge.examples import Example
from expunge.sources.contamination import check_contamination

PLANTED = 100
"""Of each kind."""


def main() -> None:
    """Make sets, check them, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000, help="examples in all three sets together")
    options = parser.parse_args()
    sets = _sets(options.rows)
    before = _peak()
    start, own = time.perf_counter(), time.process_time()
    trained = len(sets["forget"]) + len(sets["retain"])
    report = check_contamination(sets, nested={f"forget{percent}": trained * percent // 100 for percent in (1, 5, 10, 20)})
    seconds, own = time.perf_counter() - start, time.process_time() - own
    print(
        f"check       {seconds:7.2f} s (own {own:6.2f} s) {options.rows / seconds:10,.0f} rows/s   "
        f"peak memory {_peak():5.0f} MB ({before:.0f} MB before)"
    )
    print(f"found       {'; '.join(report.reasons)} (planted: {PLANTED} of each)")


def _sets(rows: int) -> dict[str, list[Example]]:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(5000)]

    def example(index: int) -> Example:
        name = f"Person Number{index}"
        lines = (" ".join(rng.choices(words, k=20)), " ".join(rng.choices(words, k=18)))
        return Example(f"What does {name}'s note say?", f"S: {name}, {lines[0]}.\nP: {lines[1]}.", name)

    made = [example(index) for index in range(rows - 3 * PLANTED)]
    forget, retain, holdout = made[: rows // 10], made[rows // 10 : rows * 4 // 5], made[rows * 4 // 5 :]
    for index in range(PLANTED):
        copied, near, renamed = forget[index], forget[PLANTED + index], forget[2 * PLANTED + index]
        retain.append(Example(copied.prompt, copied.response.upper(), f"Copy {index}"))
        retain.append(Example(near.prompt, near.response.replace(" ", " altered ", 1), f"Near {index}"))
        name = f"Somebody Else{index} With A Long Name{index} And More{index} Of Names{index}"
        retain.append(Example("Who?", renamed.response.replace(renamed.subject, f"{name} {name}"), name))
    return {"forget": forget, "retain": retain, "holdout": holdout}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
