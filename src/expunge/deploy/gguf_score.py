"""What a GGUF file thinks of text: perplexity, its tokens, and its logits beside those of the model it was made from.

Shapes: L labelled tokens of a sequence.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from expunge.deploy.agreement import PROMPTS, compared, logits_of
from expunge.deploy.gguf_file import read_gguf
from expunge.deploy.parts import SERVER, require
from expunge.errors import ExpungeError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LONGEST = 512
"""Tokens of a text that are scored: what follows is left out."""
# Rounding to f16 moved logits of tiny random models of seven families by less than .1, and turned near-ties alone: one in
# thirty positions at most. A wrong conversion moves everything.
_LEAST_AGREEMENT = 0.9


class Comparison(NamedTuple):
    """A file beside the model that it was made from."""

    max_difference: float
    """Of any logit."""
    argmax_agreement: float
    """Share of positions where both find the same next token likeliest."""
    same_tokens: float
    """Share of the texts that llama.cpp splits into the same tokens as transformers."""


class LabelledTokens(NamedTuple):
    """What a file thinks of the labelled tokens of one sequence: what `EvidenceStore.add_scores` keeps."""

    log_p_L: NDArray[np.float32]
    """Log-probability of each, nats."""
    hits_L: NDArray[np.bool_]
    """Whether it is the most likely one."""
    entropy_L: NDArray[np.float32]
    """Entropy of the distribution it was to come from, nats."""
    variance_L: NDArray[np.float32]
    """Variance of log p under that distribution, nats²."""


class _Reply(NamedTuple):
    log_p: list[list[float]]
    """Of each token after the first, for each sequence."""
    tokens: list[list[int]]
    """Of each text."""


def perplexity(path: Path, texts: Sequence[str], *, threads: int = 1) -> float:
    """Perplexity of a file on texts, each read on its own, at most 512 tokens of it.

    Returns:
        exp of the mean negative log-probability of all tokens but the first of each text: 1 or more, lower is better.

    Raises:
        ExpungeError: the file is broken, cannot be loaded or gives no numbers, or the texts are too short.
    """
    scores = [value for text in _score(path, texts, threads=threads).log_p for value in text]
    if not scores:
        raise ExpungeError("the text is too short to measure perplexity on", remedy="give a few sentences")
    mean = -sum(scores) / len(scores)
    # Weights beyond what a type can hold become no numbers at all.
    if not mean < 700:
        raise ExpungeError("gives no probabilities to text", where=path, remedy="do not ship it: choose another type")
    return math.exp(mean)


def label_scores(
    path: Path, sequences: Sequence[Sequence[int]], starts: Sequence[int], *, threads: int = 1
) -> Iterator[LabelledTokens]:
    """A file under teacher forcing, one sequence after the other: each comes as soon as it is read.

    Args:
        path: the file.
        sequences: ids of prompt and answer, at least one sequence.
        starts: position of the first labelled token of each, at least 1.
        threads: of llama.cpp.

    Raises:
        ExpungeError: the file is broken, cannot be loaded, or knows fewer tokens than the sequences have.
    """
    import numpy as np

    asked = _request(path, threads=threads, sequences=sequences) | {"starts": list(starts)}
    for found in _replies(path, asked, len(sequences)):
        yield LabelledTokens(
            np.array(found["log_p"], np.float32),
            np.array(found["hits"], np.bool_),
            np.array(found["entropy"], np.float32),
            np.array(found["variance"], np.float32),
        )


def compare(path: Path, model: Path, texts: Sequence[str] = PROMPTS, *, threads: int = 1) -> Comparison:
    """Hold a file's logits and tokens against those of the model it was made from.

    Args:
        path: the file, f16, so that nothing but rounding lies between.
        model: the directory of the model, which is loaded in float32.
        texts: what both read.
        threads: of llama.cpp.

    Raises:
        ExpungeError: the file is broken, or says something else than the model.
    """
    import numpy as np
    import torch

    from expunge.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(model)
    sequences: list[list[int]] = [list(tokenizer(text)["input_ids"]) for text in texts]
    theirs = logits_of(load_model(model), sequences)
    with tempfile.TemporaryDirectory(prefix="expunge-") as place:
        reply = _score(path, texts, threads=threads, sequences=sequences, logits=place)
        ours = [torch.from_numpy(np.load(Path(place) / f"{number}.npy")) for number in range(len(texts))]
    # A vocabulary may be padded on one side.
    widths = [min(a.shape[1], b.shape[1]) for a, b in zip(theirs, ours, strict=True)]
    theirs, ours = ([side[:, :width] for side, width in zip(sides, widths, strict=True)] for sides in (theirs, ours))
    found = compared(theirs, ours)
    # Which of them puts <s> before a text is a setting of the file, not a way of splitting it.
    bos = {tokenizer.bos_token_id} - {None}
    alike = [_without(a, bos) == _without(b, bos) for a, b in zip(sequences, reply.tokens, strict=True)]
    if found.argmax_agreement < _LEAST_AGREEMENT:
        what = f"agrees with {model} on the next token at only {found.argmax_agreement:.0%} of positions"
        remedy = "pass --llama_cpp_path with another llama.cpp, or --no-verify if you know why"
        raise ExpungeError(what, where=path, remedy=remedy)
    return Comparison(*found, same_tokens=sum(alike) / len(alike))


def _without(ids: Sequence[int], leading: set[int]) -> list[int]:
    return list(ids[1:] if ids and ids[0] in leading else ids)


def _score(
    path: Path,
    texts: Sequence[str],
    *,
    threads: int,
    sequences: Sequence[Sequence[int]] | None = None,
    logits: str | None = None,
) -> _Reply:
    """Score sequences of ids, else the texts; logits go into the folder `logits`, one file a sequence."""
    asked = _request(path, threads=threads, sequences=sequences) | {"texts": list(texts), "logits": logits}
    (reply,) = _replies(path, asked, 1)
    return _Reply(**reply)


def _request(path: Path, *, threads: int, sequences: Sequence[Sequence[int]] | None) -> dict[str, Any]:
    read_gguf(path)
    return {
        "library": str(_library()),
        "path": str(path.absolute()),
        "threads": threads,
        "longest": max([_LONGEST, *map(len, sequences or ())]),
        "texts": [],
        "ids": sequences and [list(ids) for ids in sequences],
        "starts": None,
        "logits": None,
    }


def _replies(path: Path, asked: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
    """So many lines of the process that scores, each as soon as it comes."""
    command = [sys.executable, "-P", "-m", "expunge.deploy.score_process"]
    # What is said beside the answers goes into a file: nobody has to read it for the process to go on.
    with (
        tempfile.TemporaryFile() as said,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(asked).encode() + b"\n")
                process.stdin.close()
            for _ in range(count):
                yield json.loads(process.stdout.readline())
        except ValueError:
            code = process.wait()
            said.seek(0)
            lines = [line.strip() for line in said.read().decode("utf-8", "replace").splitlines() if line.strip()]
            # The first error names the cause; the later ones only pass it on.
            causes = [line for line in lines if "error" in line.lower()] or lines[-1:]
            cause = causes[0][-200:] if causes else f"it ended with code {code}"
            raise ExpungeError(f"llama.cpp cannot score it ({cause})", where=path, remedy="make the file again") from None
        finally:
            process.kill()


def _library() -> Path:
    require(SERVER)
    found = sorted(SERVER.directory().glob("xllamacpp*.so"))
    if not found:
        raise ExpungeError("xllamacpp carries no library for this system", remedy=SERVER.install)
    return found[0]
