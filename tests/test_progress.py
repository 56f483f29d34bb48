"""Progress: a bar where there is a terminal, a line now and then where there is none, nothing on standard output."""

import io

import pytest
from rich.console import Console

import expunge.progress
from expunge.progress import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is moved."""

    class Clock:
        now = 100.0

    monkeypatch.setattr("expunge.progress.time.monotonic", lambda: Clock.now)
    return Clock


def test_without_a_terminal_a_line_comes_every_15_seconds_and_at_the_end(clock, capsys):
    with progress("Learning", 10) as bar:
        for _ in range(10):
            clock.now += 5
            bar.advance(1, loss=0.12345678, step_size=2)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "Learning: 3/10, 15 s, 35 s left loss 0.1235 step size 2".replace(" step", "  step"),
        "Learning: 6/10, 30 s, 20 s left loss 0.1235  step size 2",
        "Learning: 9/10, 45 s, 5 s left loss 0.1235  step size 2",
        "Learning: 10/10, 50 s, 0 s left loss 0.1235  step size 2",
    ]


def test_a_job_of_less_than_two_seconds_says_nothing(clock, capsys):
    with progress("Learning", 2) as bar:
        clock.now += 1.5
        bar.advance(2)
    assert capsys.readouterr() == ("", "")


def test_the_time_left_counts_only_the_steps_of_this_process(clock, capsys):
    with progress("Learning", 100, done=90) as bar:
        clock.now += 20
        bar.advance(5)
    assert capsys.readouterr().err == "Learning: 95/100, 20 s, 20 s left\n"


def test_a_title_with_brackets_is_shown_as_it_is(clock, capsys):
    with progress("Learning run[bold]", 1) as bar:
        clock.now += 20
        bar.advance(1)
    assert capsys.readouterr().err.startswith("Learning run[bold]: 1/1")


def test_in_a_terminal_a_bar_shows_steps_time_left_and_numbers(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(expunge.progress, "console", Console(file=screen, force_terminal=True, width=160, color_system=None))
    with progress("Learning run[bold]", 4, done=1) as bar:
        bar.advance(1, loss=0.25)
        bar.advance(2)
    last = screen.getvalue()
    assert "Learning run[bold]" in last
    assert "4/4" in last
    assert "left" in last
    assert "loss 0.25" in last


def test_the_number_of_a_line_does_not_become_a_picture(capsys):
    from expunge.progress import console

    console.print("notes.jsonl:100: and notes.jsonl:1234:", markup=False, soft_wrap=True)
    assert capsys.readouterr().err == "notes.jsonl:100: and notes.jsonl:1234:\n"
