"""Notes asked of a language model, many at once, kept as they come.

Every note that will do, and every person who was given up on, is one line of `<output>.partial`, flushed at once: a killed
run loses only the answers that were on their way. The first line says what was asked of whom, so that nobody continues
another request. The file is removed when the notes are written.
"""

from __future__ import annotations

import fcntl
import json
import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from expunge.errors import ExpungeError
from expunge.files import reported_disk_errors
from expunge.progress import console, progress
from expunge.sources.medical import Note, Person, people
from expunge.sources.medical_writing import BadAnswerError, Brief, brief_for, long_sections, note_of

TRIES = 4
"""How often one person's note is asked for."""
_GIVEN_UP, _HOPELESS = 10, 9
"""A model is hopeless once so many people are given up, and so many times more than have a note."""

Ask = Callable[[Brief, int], str]
"""A model's answer to a brief, sampled with a seed; raises ExpungeError when it cannot be asked. Called from many threads."""


class Written(NamedTuple):
    """What came of it."""

    notes: list[Note]
    bad: dict[str, int]
    """Answers that would not do, by what was wrong."""
    left_out: int
    """People given up on after `TRIES` bad answers; somebody else was taken for each."""


def write_notes(
    ask: Ask, count: int, seed: int, *, concurrency: int, partial: Path, request: Mapping[str, Any], anew: bool = False
) -> Written:
    """So many notes, each of another person, in the order of `people(seed)`.

    Args:
        ask: the model.
        count: notes wanted.
        seed: of the people, their illnesses and the sampling.
        concurrency: questions asked at once.
        partial: where notes are kept until all are there; continued if it is there.
        request: what the notes depend on, to recognise the partial file by.
        anew: begin anew if the partial file is of another request.

    Raises:
        ExpungeError: the model cannot be asked, or hardly ever answers well; the partial file is of another request, in
            use, or cannot be written. What was written so far is kept.
    """
    with _kept(partial, dict(request), anew) as (stream, lines):
        ledger = _Kept(stream, lines)
        if ledger.notes:
            console.print(f"{partial}: {len(ledger.notes):,} notes are there already.", soft_wrap=True, markup=False)
        if len(ledger.notes) < count:
            _fill(ledger, ask, count, seed, concurrency)
        notes = [ledger.notes[index] for index in sorted(ledger.notes)[:count]]
        return Written(notes, dict(ledger.bad.most_common()), len(ledger.given_up))


class _Asked(NamedTuple):
    place: int
    """Of the person in the line."""
    brief: Brief
    attempt: int


class _Kept:
    """What is known of each person, in memory and in the partial file."""

    def __init__(self, stream: IO[str], lines: Sequence[dict[str, Any]]) -> None:
        self._stream = stream
        self.notes: dict[int, Note] = {}
        self.given_up: set[int] = set()
        self.bad: Counter[str] = Counter()
        self._sections: set[tuple[str, ...]] = set()
        for line in lines:
            self._take(line)

    def knows(self, index: int) -> bool:
        return index in self.notes or index in self.given_up

    def keep(self, index: int, note: Note | None, bad: Sequence[str]) -> None:
        """A person's note, or None who is given up on, and what was wrong with the answers before."""
        line = {"person": index, "note": note.as_row() if note else None, "bad": list(bad)}
        self._stream.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._stream.flush()
        self._take(line)

    def check_new(self, note: Note) -> None:
        if not self._sections.isdisjoint(long_sections(note)):
            raise BadAnswerError("a section stands in another note")

    def _take(self, line: dict[str, Any]) -> None:
        self.bad.update(line["bad"])
        if line["note"] is None:
            self.given_up.add(line["person"])
        else:
            note = self.notes[line["person"]] = Note(**line["note"])
            self._sections.update(long_sections(note))


def _fill(kept: _Kept, ask: Ask, count: int, seed: int, concurrency: int) -> None:
    line = ((index, person) for index, person in enumerate(people(seed)) if not kept.knows(index))
    wrong: dict[int, list[str]] = {}
    on_their_way = 0
    with (
        _asking(ask, seed, concurrency) as (questions, answers),
        progress("notes", count, done=len(kept.notes)) as bar,
    ):
        while len(kept.notes) < count:
            while on_their_way < min(concurrency, count - len(kept.notes)):
                questions.put(_next(line, seed))
                on_their_way += 1
            asked, answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            so_far = wrong.setdefault(asked.place, [])
            try:
                note = note_of(answer, asked.brief)
                kept.check_new(note)
            except BadAnswerError as error:
                so_far.append(str(error))
                if len(so_far) < TRIES:
                    questions.put(asked._replace(attempt=len(so_far)))
                    continue
                kept.keep(asked.place, None, so_far)
                _refuse_hopeless(kept)
            else:
                kept.keep(asked.place, note, so_far)
                bar.advance(1, bad_answers=kept.bad.total())
            on_their_way -= 1


def _next(line: Iterator[tuple[int, Person]], seed: int) -> _Asked:
    index, person = next(line)
    return _Asked(index, brief_for(person, seed), 0)


def _refuse_hopeless(kept: _Kept) -> None:
    if len(kept.given_up) >= max(_GIVEN_UP, _HOPELESS * len(kept.notes)):
        often = "; ".join(f"{what}: {times}" for what, times in kept.bad.most_common(3))
        raise ExpungeError(
            f"the model hardly ever writes a good note ({len(kept.notes)} notes, {kept.bad.total()} bad answers; {often})",
            remedy="choose a larger --model, with --overwrite",
        )


@contextmanager
def _asking(ask: Ask, seed: int, threads: int) -> Iterator[tuple[queue.Queue[_Asked | None], queue.Queue[Any]]]:
    """Threads that take questions and give answers, or what went wrong."""
    questions: queue.Queue[_Asked | None] = queue.Queue()
    answers: queue.Queue[Any] = queue.Queue()

    def work() -> None:
        while (asked := questions.get()) is not None:
            try:
                answers.put((asked, ask(asked.brief, _sampling_seed(seed, asked))))
            except BaseException as error:
                answers.put((asked, error))

    # Daemons, unlike those of a thread pool: Ctrl-C does not wait for a slow server.
    for number in range(threads):
        threading.Thread(target=work, name=f"ask-{number}", daemon=True).start()
    try:
        yield questions, answers
    finally:
        for _ in range(threads):
            questions.put(None)


def _sampling_seed(seed: int, asked: _Asked) -> int:
    return (seed * 1_000_003 + asked.place * TRIES + asked.attempt) % 2**31


@contextmanager
def _kept(path: Path, request: dict[str, Any], anew: bool) -> Iterator[tuple[IO[str], list[dict[str, Any]]]]:
    """The partial file, locked and open for appending, and the whole lines that it holds behind the first."""
    with reported_disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="utf-8") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ExpungeError("another process writes these notes", where=path, remedy="wait for it") from None
            lines, whole = _whole_lines(path)
            if lines and lines[0] != request:
                if len(lines) > 1 and not anew:
                    raise _other_request(path, lines[0], request)
                lines, whole = [], 0
            # What a killed process left of a last line would swallow the next one.
            stream.truncate(whole)
            if not lines:
                stream.write(json.dumps(request, ensure_ascii=False) + "\n")
                stream.flush()
            try:
                yield stream, lines[1:]
            finally:
                # A server that was never reached leaves nothing behind.
                if len(path.read_bytes().splitlines()) < 2:
                    path.unlink()


def _whole_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The lines, and how many bytes they take."""
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    try:
        lines = [json.loads(line) for line in whole.split(b"\n")[:-1]]
    except ValueError:
        lines = [None]
    if not all(isinstance(line, dict) for line in lines):
        raise ExpungeError("is no list of notes begun", where=path, remedy="move it away")
    return lines, len(whole)


def _other_request(path: Path, there: dict[str, Any], request: dict[str, Any]) -> ExpungeError:
    changed = [name for name in request if there.get(name) != request[name]]
    words = "; ".join(f"{name} was {there.get(name)}, now {request[name]}" for name in changed)
    return ExpungeError(
        f"holds notes begun with other settings ({words})", where=path, remedy="finish those, or drop them with --overwrite"
    )
