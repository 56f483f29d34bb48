"""Generate: synthetic notes of people who do not exist, as one JSON-lines file.

From the phrase book (`template`), or from a language model behind an OpenAI-compatible address (`openai`) or on Tinker
(`tinker`). Models are told whose note to write, and what they answer is checked: see `expunge.sources.medical_writing`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from expunge.errors import ExpungeError, at_least
from expunge.examples import write_rows
from expunge.files import fingerprint, reported_disk_errors
from expunge.progress import console

if TYPE_CHECKING:
    from expunge.recipes.generate_engines import Ask
    from expunge.sources.medical import Note

_SHOWN = 5
_LM_STUDIO = "http://localhost:1234/v1"


@dataclass(frozen=True, kw_only=True)
class GenerateMedicalConfig:
    """Synthetic SOAP notes: unique people whose ages, sexes, dates and illnesses agree."""

    output: Path
    """The JSON-lines file to write."""
    n_record: int = 40
    """Notes to write, each of another person."""
    engine: Literal["template", "openai", "tinker"] = "template"
    """Who writes: a phrase book, without a network; a model behind an OpenAI-compatible address (LM Studio, llama.cpp,
    vLLM); or a model on Tinker."""
    model: str = "meta-llama/Llama-3.1-8B-Instruct"
    """The model's name at the address or on Tinker; the template engine has none."""
    api_key: str | None = field(default=None, repr=False)
    """Key for the address or Tinker; where not given, OPENAI_API_KEY or TINKER_API_KEY of the environment. Never written."""
    base_url: str | None = None
    """The address; where not given, OPENAI_BASE_URL or LM Studio's http://localhost:1234/v1, and Tinker's own for Tinker."""
    concurrency: int = 8
    """Questions asked at once."""
    seed: int = 42
    """Another seed, other people. The first notes of a seed are the same whatever their number, if the template writes them."""
    overwrite: bool = False
    """Replace the file if it is there and holds something else; begin anew what was begun with other settings."""
    dry_run: bool = False
    """Print the first notes, or the first question and how many there would be, and write nothing."""


class Generated(NamedTuple):
    """What was written."""

    file: Path
    notes: int
    """In the file; 0 after a dry run."""
    bad_answers: dict[str, int]
    """Answers of the model that would not do, by what was wrong; all were asked again."""
    left_out: int
    """People whose note the model never got right; others were taken in their place."""
    sample: str = ""
    """Of a dry run: the first notes, or the first question and how many there would be."""


def generate_medical(config: GenerateMedicalConfig) -> Generated:
    """Write the notes, or find that they stand there already.

    Raises:
        ExpungeError: a number is out of range, the file holds something else or cannot be written, or the model cannot be
            asked or hardly ever answers well. Good notes are kept beside the file then, and the same command continues.
    """
    if config.output.is_dir():
        raise ExpungeError("is a directory", where=config.output, remedy="name a file inside it, such as notes.jsonl")
    return _from_template(config) if config.engine == "template" else _from_model(config)


def _from_template(config: GenerateMedicalConfig) -> Generated:
    from expunge.sources.medical import generate_notes

    notes = generate_notes(min(config.n_record, _SHOWN) if config.dry_run else config.n_record, config.seed)
    if config.dry_run:
        return Generated(config.output, 0, {}, 0, "\n".join(json.dumps(note.as_row(), ensure_ascii=False) for note in notes))
    there = _there(config.output)
    if there == notes:
        return _already(config, len(notes))
    if there is not None and not config.overwrite:
        raise _something_else(config.output)
    return _written(config.output, notes, {}, 0)


def _from_model(config: GenerateMedicalConfig) -> Generated:
    from expunge.recipes.generate_engines import TRIES, write_notes
    from expunge.sources.medical import people
    from expunge.sources.medical_writing import INSTRUCTED, brief_for, messages_for

    at_least(1, n_record=config.n_record, concurrency=config.concurrency)
    if config.dry_run:
        messages = messages_for(brief_for(next(people(config.seed)), config.seed))
        sample = "\n\n".join(f"{message['role']}: {message['content']}" for message in messages)
        sample += f"\n\n{config.n_record:,} such questions to {config.model}; up to {TRIES} for a person if answers are bad."
        return Generated(config.output, 0, {}, 0, sample)
    there = _there(config.output)
    if there is not None and not config.overwrite:
        if len(there) == config.n_record and _are_first_people(there, config.seed):
            return _already(config, len(there))
        raise _something_else(config.output)

    partial = config.output.with_name(config.output.name + ".partial")
    request = {
        "engine": config.engine,
        "model": config.model,
        "seed": config.seed,
        "prompt": fingerprint(INSTRUCTED)[:16],
    }
    with _engine(config) as ask:
        found = write_notes(
            ask,
            config.n_record,
            config.seed,
            concurrency=config.concurrency,
            partial=partial,
            request=request,
            anew=config.overwrite,
        )
    generated = _written(config.output, found.notes, found.bad, found.left_out)
    with reported_disk_errors(partial):
        partial.unlink(missing_ok=True)
    return generated


@contextmanager
def _engine(config: GenerateMedicalConfig) -> Iterator[Ask]:
    from expunge.deploy.chat_api import ChatApi
    from expunge.deploy.tinker_api import TinkerApi
    from expunge.sources.medical_writing import MAX_TOKENS, SCHEMA, TEMPERATURE, Brief, messages_for

    def asking(api: ChatApi | TinkerApi) -> Ask:
        def ask(brief: Brief, seed: int) -> str:
            sampling: dict[str, Any] = {"max_tokens": MAX_TOKENS, "temperature": TEMPERATURE, "seed": seed}
            return api.write(messages_for(brief), schema=SCHEMA, **sampling).text

        return ask

    if config.engine == "tinker":
        with TinkerApi(config.model, key=config.api_key, url=config.base_url) as api:
            yield asking(api)
    else:
        url = config.base_url or os.environ.get("OPENAI_BASE_URL") or _LM_STUDIO
        yield asking(ChatApi(url, key=config.api_key or os.environ.get("OPENAI_API_KEY"), model=config.model))


def _there(path: Path) -> list[Note] | None:
    """The notes that the file holds; none where it holds something else; None where there is no file."""
    from expunge.sources.medical import read_notes

    with reported_disk_errors(path):
        if not path.exists():
            return None
    try:
        return read_notes(path)
    except ExpungeError:
        return []


def _are_first_people(notes: list[Note], seed: int) -> bool:
    """Whether these are people of the seed in their order, some of them perhaps left out."""
    from expunge.sources.medical import people

    line = ((each.name, each.birth.isoformat(), each.day.isoformat()) for each in islice(people(seed), 20 * len(notes)))
    # `in` goes on where it stopped.
    return all((note.client_name, note.date_of_birth, note.date) in line for note in notes)


def _already(config: GenerateMedicalConfig, count: int) -> Generated:
    words = "these" if config.engine == "template" else "notes of these people"
    console.print(f"{config.output} holds {words} already ({count:,} notes).", soft_wrap=True, markup=False)
    return Generated(config.output, count, {}, 0)


def _something_else(path: Path) -> ExpungeError:
    return ExpungeError("holds something else", where=path, remedy="choose another --output or pass --overwrite")


def _written(path: Path, notes: list[Note], bad: dict[str, int], left_out: int) -> Generated:
    write_rows(path, (note.as_row() for note in notes))
    words = f"{path}: {len(notes):,} notes"
    if bad:
        words += f"; {sum(bad.values()):,} bad answers ({', '.join(f'{what}: {times}' for what, times in bad.items())})"
    if left_out:
        words += f"; {left_out:,} people were left out for others"
    console.print(f"{words}.", soft_wrap=True, markup=False)
    return Generated(path, len(notes), bad, left_out)
