"""Sentences of biology papers from the public retain corpus of WMDP (Li et al. 2024, arXiv 2403.03218).

The corpus is made of papers on general biology, beside which hazardous knowledge is to be unlearnt. It is streamed from the
Hub: no more papers are read than give the sentences that are wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.errors import ExpungeError, at_least
from expunge.examples import Example, Row
from expunge.progress import progress
from expunge.sources import Material, Sets, source
from expunge.sources.split import Line, check_ratio, held_out, in_line, rows_of_subjects
from expunge.sources.tables import SUFFIXES, is_on_hub, read_table, rows_of

CORPUS = "bio-retain-corpus"
_SHORTEST, _LONGEST = 5, 120
"""Words of a sentence that is kept: shorter ones are headings and remains of tables, longer ones are lists."""
# Where the splitter ends a sentence too early in papers: behind these, or before a small letter or a closing bracket.
_ABBREVIATED = re.compile(
    r"\b(?:approx|ca|cf|vs|viz|resp|al|spp?|subsp|ssp|var|str|nov|gen|figs?|tabs?|eqs?|refs?|suppl|ser|nos?|vol|pp?|etc|"
    r"incl|conc|dept|univ|temp|i\.e|e\.g)\.$",
    re.IGNORECASE,
)
_GOES_ON = re.compile(r"[a-zà-öø-ÿ)\],;%]")
# Where it ends none: a number, a full stop, a new sentence.
_AFTER_NUMBER = re.compile(r"(?<=\d\.) (?=[A-Z][a-z])")


@dataclass(frozen=True, kw_only=True)
class WmdpBio:
    """Sentences of the papers of WMDP's biology retain corpus, split by paper."""

    input: str = "cais/wmdp-corpora"
    """A Hub id, or a local copy: a JSON-lines or Parquet file, or a directory of such files, with a column `text`."""
    target_size: int = 5300
    """Sentences to take; reading ends with the last one."""
    holdout_ratio: float = 0.25
    """Share of the papers that are never trained on."""


@source("wmdp-bio", WmdpBio, example="--target_size 5300 --output_dir dataset")
def make(config: WmdpBio, *, sample: int | None, seed: int) -> Material:
    """All sentences in `bio_sentences.jsonl`, and whole papers to forget, to retain and held out.

    A sentence that stands in two papers (a phrase of thanks, a licence) is kept in the first.

    Args:
        config: where the papers are, and how many sentences are wanted.
        sample: only the first so many papers.
        seed: of the split.

    Raises:
        ExpungeError: the corpus cannot be read, has no text, or has too few papers for all sets.
    """
    at_least(1, target_size=config.target_size)
    check_ratio("--holdout-ratio", config.holdout_ratio)
    examples: list[Example] = []
    seen: set[str] = set()
    papers = repeated = 0
    with progress("Sentences", config.target_size) as bar:
        for paper in _papers(config.input):
            text = paper.text("text")
            papers += 1
            kept = 0
            for sentence in sentences(text):
                key = sentence.casefold()
                if key in seen:
                    repeated += 1
                    continue
                if len(examples) == config.target_size:
                    break
                seen.add(key)
                known = {
                    "source": _source(paper, config.input),
                    "type": "paper_sentence",
                    "paper_index": papers - 1,
                    "sentence_index": kept,
                }
                kept += 1
                examples.append(Example(None, sentence, f"paper {papers - 1}", known, f"{paper.path}:{paper.line}"))
            bar.advance(kept)
            if len(examples) == config.target_size or papers == sample:
                break
    if not examples:
        raise ExpungeError("has no sentence in it", where=config.input, remedy="check the column text")
    trained, out = held_out(in_line(examples, seed), config.holdout_ratio)
    counts = {"papers": papers, "sentences": len(examples), "sentences_repeated": repeated}
    return Material(Line(trained), {"holdout": rows_of_subjects(out)}, _rows, counts)


def _rows(sets: Sets) -> dict[str, list[dict[str, Any]]]:
    rows = [{"text": example.response, **example.metadata} for examples in sets.values() for example in examples]
    rows.sort(key=lambda row: (row["paper_index"], row["sentence_index"]))
    return {"bio_sentences.jsonl": rows}


def sentences(text: str) -> list[str]:
    """The sentences of a paper's text, each on one line; headings, remains of tables and lists are left out.

    The splitter is sentencex; what it gets wrong in papers ("Refs. 3", "sp. nov.", "P < 0.05. We") is mended.
    """
    from sentencex import segment

    found: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        own: list[str] = []
        for piece in segment("en", " ".join(paragraph.split())):
            for part in _AFTER_NUMBER.split(piece.strip()):
                if own and part and (_ABBREVIATED.search(own[-1]) or _GOES_ON.match(part)):
                    own[-1] += f" {part}"
                elif part:
                    own.append(part)
        found += own
    return [sentence for sentence in found if _SHORTEST <= len(sentence.split()) <= _LONGEST and sentence[-1] in '.!?"”)]']


def _papers(place: str) -> Iterator[Row]:
    path = Path(place)
    if is_on_hub(place):
        return rows_of(place, CORPUS)
    if path.is_dir():
        tables = sorted(file for suffix in SUFFIXES for file in path.rglob(f"*{suffix}"))
        return (row for file in tables for row in read_table(file))
    return rows_of(place)


def _source(paper: Row, place: str) -> str:
    """What the paper is called: its DOI or title where the corpus says it, else the corpus."""
    for name in ("doi", "title", "source"):
        if isinstance(found := paper.value.get(name), str) and found.strip():
            return found.strip()
    return f"{place}/{CORPUS}" if is_on_hub(place) else Path(place).name
