from __future__ import annotations

import re
from dataclasses import replace

import made_audits
import pytest
from conftest import OpenInChromium

from expunge.audit.results import Audit
from expunge.report import render

MANIFESTS = made_audits.manifests()


@pytest.fixture(scope="module")
def audit() -> Audit:
    return made_audits.audit()


@pytest.fixture(scope="module")
def page_file(audit, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render(audit, MANIFESTS, title="Four patients"), "utf-8")
    return path


@pytest.fixture(scope="module")
def hostile_file(audit, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "hostile.html"
    path.write_text(render(made_audits.hostile(audit), MANIFESTS, title="<script>alert(0)</script>"), "utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_offline_without_errors_and_never_scrolls_sideways(
    page_file, hostile_file, open_in_chromium: OpenInChromium, width, dark
):
    for path in (page_file, hostile_file):
        opened = open_in_chromium(path, width=width, dark=dark)
        assert (opened.console_errors, opened.page_errors, opened.outside_requests) == ([], [], [])
        assert opened.requests == [path.as_uri()]
        assert opened.sideways == 0
        assert opened.colours() > 200


def test_the_page_is_small(page_file, hostile_file):
    assert page_file.stat().st_size < 1_000_000
    assert hostile_file.stat().st_size < 2_000_000


def test_the_same_audit_gives_the_same_page(audit):
    assert render(audit, MANIFESTS, title="a") == render(audit, MANIFESTS, title="a")


def test_hostile_text_stays_text(hostile_file, open_in_chromium: OpenInChromium):
    opened = open_in_chromium(hostile_file)
    assert opened.page.locator("script, img, iframe, object, link").count() == 0
    assert opened.page.locator("h1").inner_text() == "<script>alert(0)</script>"
    assert "<script>alert(1)</script>" in opened.page.locator(".warnings").inner_text()
    assert "{{ 7*7 }}" in opened.page.locator(".warnings").inner_text()


def test_without_quotations_no_person_is_named(audit):
    page = render(audit, MANIFESTS, title="a", quoted=0)
    assert not any(answer.subject in page for answer in audit.answers)


def test_a_number_of_questions_is_spread_over_the_sets(audit):
    page = render(audit, MANIFESTS, title="a", quoted=9)
    assert page.count('<details class="question"') == 9
    assert "51 further" in re.sub(r"\s+", " ", page)


def test_an_audit_of_nothing_still_makes_a_page():
    empty = Audit(models=(), sets=(), scores=(), claims=(), answers=())
    assert "not asked to prove any claim" in render(empty, {}, title="Nothing")


def test_infinite_and_missing_numbers_do_not_break_a_plot(audit):
    scores = tuple(replace(score, high=float("inf"), values=(float("nan"), *score.values)) for score in audit.scores)
    page = render(replace(audit, scores=scores), {"odd": {}}, title="Odd")
    assert "∞" in page
    assert not re.search(r'="[^"]*\b(nan|inf)\b', page)
