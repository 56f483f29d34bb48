from __future__ import annotations

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest

import chromium
import made_audits
from chromium import OpenInChromium
from expunge.audit.assemble import assemble
from expunge.audit.measure import Answered, Place
from expunge.audit.results import AttackResult, Audit, Claim
from expunge.report import render
from expunge.report.page import metric_name

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


@pytest.fixture(scope="module")
def shown(page_file, chromium_browser):
    """The page in a window, for tests that only look."""
    opened = chromium.open_page(chromium_browser, page_file)
    yield opened.page
    opened.page.context.close()


@pytest.fixture(scope="module")
def attacked(audit):
    return attacked_audit(audit)


def attacked_audit(audit: Audit) -> Audit:
    """Some attacks on top: of words, of weights, on two checkpoints, and one of a name nobody knows."""
    people = sorted({answer.subject for answer in audit.answers if answer.set == "forget"})
    values = {"target": 0.97, "unlearned": 0.31, "retrained": 0.33, "shipped": 0.52}
    rulings = {"unlearned": "pass", "shipped": "fail"}
    found = [
        AttackResult(
            attack,
            variant,
            role,
            values[role],
            values[role] - 0.08,
            min(1.0, values[role] + 0.09),
            len(people),
            tuple(values[role] - 0.01 * number for number in range(len(people))),
            tuple(f"{person} was seen for nothing {variant}." for person in people),
            tuple(people),
            48,
            rulings.get(role),
        )
        for attack, variant in (
            ("prefix", ""),
            ("quantize kinds=nf4", "nf4"),
            ("relearn", "after"),
            ("extraction", ""),
            ("extraction", "alone"),
            ("a <b>new</b> one", ""),
        )
        for role in made_audits.ROLES
        if (role, variant) != ("shipped", "nf4")
    ]
    claim = Claim("robust", "unlearned", "pass", "under each attack", "prefix: fine; relearn: fine too", audit.claims[0].scores)
    return replace(audit, attacks=tuple(found), claims=(*audit.claims, claim))


# Contrast of each word with what it stands on, by the formula of WCAG 2.2; 4.5 is asked of text of any size.
FAINT_WORDS = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = colour => { const [r, g, b] = parts(colour).slice(0, 3).map(c => c / 255)
    .map(c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  const ground = element => { for (; element; element = element.parentElement) {
    const colour = getComputedStyle(element).backgroundColor; if ((parts(colour)[3] ?? 1) > 0) return colour; } };
  const faint = new Set();
  const words = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (words.nextNode()) {
    const element = words.currentNode.parentElement, style = getComputedStyle(element);
    if (!words.currentNode.data.trim() || !element.checkVisibility() || ["title", "STYLE"].includes(element.tagName)) continue;
    const inPlot = element.closest("svg");
    const [a, b] = [light(inPlot ? style.fill : style.color), light(ground(inPlot ? inPlot.parentElement : element))];
    const contrast = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (contrast < 4.5) faint.add(`${words.currentNode.data.trim().slice(0, 30)} ${contrast.toFixed(2)}`);
  }
  return [...faint];
}"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_opens_offline_without_errors_and_can_be_read_at_any_width(
    page_file, hostile_file, open_in_chromium: OpenInChromium, width, dark
):
    for path in [page_file, hostile_file] if dark == (width > 1000) else [page_file]:
        opened = open_in_chromium(path, width=width, dark=dark)
        assert (opened.console_errors, opened.page_errors) == ([], [])
        assert opened.requests == [path.as_uri()]
        assert opened.sideways == 0
        assert opened.colours() > 200
        assert opened.page.evaluate(FAINT_WORDS) == []


def test_dark_and_light_are_different_pages(page_file, open_in_chromium: OpenInChromium):
    grounds = {
        open_in_chromium(page_file, dark=dark).page.evaluate("getComputedStyle(document.body).backgroundColor")
        for dark in (False, True)
    }
    assert len(grounds) == 2


def test_without_javascript_everything_works_the_same(page_file, open_in_chromium: OpenInChromium):
    page = open_in_chromium(page_file, javascript=False).page
    assert page.locator(".headline").count() == 2
    assert page.locator("table.scores").is_visible()
    forget, retain = page.locator(".set-panel").nth(0), page.locator(".set-panel").nth(1)
    assert forget.is_visible()
    assert not retain.is_visible()
    page.locator("fieldset", has_text="Set").last.get_by_text("retain", exact=True).click()
    assert retain.is_visible()
    assert not forget.is_visible()


def test_every_choice_stands_once_and_shows_its_own_panel(page_file, open_in_chromium: OpenInChromium):
    page = open_in_chromium(page_file).page
    for choices in page.locator("fieldset").all():
        labels = choices.locator("label")
        assert len(set(labels.all_inner_texts())) == labels.count() > 1
        for label in labels.all():
            label.click()
            panel = label.get_attribute("for").rsplit("-", 1)
            assert page.locator(f".{panel[0]}-panel-{panel[1]}").is_visible()
            assert page.locator(f".{panel[0]}-panel:visible").count() == 1


def test_on_paper_no_panel_is_left_out(page_file, open_in_chromium: OpenInChromium):
    page = open_in_chromium(page_file, dark=True).page
    page.emulate_media(media="print")
    assert all(panel.is_visible() for panel in page.locator(".set-panel, .metric-panel, .forest-panel").all())
    assert not page.locator("nav").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    last = page.locator("details.question p").last
    assert last.is_visible()


def test_every_heading_table_and_plot_can_be_heard(shown):
    assert shown.locator("h1").count() == 1
    assert shown.locator("table:not(:has(th[scope]))").count() == 0
    assert shown.locator("svg:not([aria-hidden=true]):not([role=img][aria-label])").count() == 0
    levels = [int(name[1]) for name in shown.locator("h1, h2, h3, h4").evaluate_all("all => all.map(h => h.tagName)")]
    assert all(below - above <= 1 for above, below in itertools.pairwise(levels))


def test_hostile_text_stays_text(hostile_file, open_in_chromium: OpenInChromium):
    page = open_in_chromium(hostile_file).page
    assert page.locator("script, img, iframe, object, link").count() == 0
    assert page.locator("h1").inner_text() == "<script>alert(0)</script>"
    assert "<script>alert(1)</script>" in page.locator(".warnings").inner_text()
    assert "{{ 7*7 }}" in page.locator(".warnings").inner_text()
    assert "病歴" in page.locator(".question").first.inner_text()


def test_the_page_is_small(page_file, hostile_file):
    assert page_file.stat().st_size < 1_000_000
    assert hostile_file.stat().st_size < 2_000_000


def test_every_ruling_stands_at_the_top_with_its_rule_and_its_numbers(shown, audit):
    assert [words.split("\n") for words in shown.locator(".headline").all_inner_texts()] == [
        ["Unlearned model", "Pass", "all 3 claims proven"],
        ["Shipped file", "Fail", "of 3 claims: 1 proven, 1 failed, 1 not provable"],
    ]
    for card, claim in zip(shown.locator(".claim").all(), audit.claims, strict=True):
        words = card.inner_text()
        assert {"pass": "Pass", "fail": "Fail", "not provable": "Not provable"}[claim.ruling] in words
        assert claim.rule in words
        assert claim.reason in words
        assert all(f"{score.value:.3f}" in card.text_content() for score in claim.scores)


def test_a_warning_stands_before_the_claims(hostile_file):
    page = hostile_file.read_text("utf-8")
    assert 0 < page.index("this audit proves nothing") < page.index('class="claims"')


def test_every_score_stands_in_the_table_with_its_interval(shown, audit):
    table = shown.locator("table.scores").inner_text()
    for score in audit.scores:
        words = (score.value, score.low, score.high) if score.value < 10 else ()
        assert all(f"{number:.3f}" in table for number in words)


def test_the_runs_are_told_with_their_times_and_a_file_can_be_followed(page_file):
    page = re.sub(r"\s+", " ", page_file.read_text("utf-8"))
    assert "The request was carried out by <code>expunge unlearn npo</code> on 2 March 2026, 09:12 UTC in 1 min 36 s" in page
    assert "Where it stopped: step 38: the forget set&#39;s loss has reached that of people never trained on" in page
    assert "= unlearn/model" in page
    assert "2.13.0, 2.13.1 <strong>differs between stages</strong>" in page


def test_without_quotations_no_person_is_named(audit):
    people = {"people": [answer.subject for answer in audit.answers[:3]]}
    manifests = {name: {**manifest, "results": people, "settings": people} for name, manifest in MANIFESTS.items()}
    page = render(audit, manifests, title="a", quoted=0)
    assert not any(answer.subject in page for answer in audit.answers)


def test_a_number_of_questions_is_spread_over_the_sets(audit):
    page = render(audit, MANIFESTS, title="a", quoted=9)
    assert page.count('<details class="question"') == 9
    assert page.count("set-panel set-panel-") == 3
    assert "51 further" in re.sub(r"\s+", " ", page)


def test_the_same_audit_gives_the_same_page(audit):
    assert render(audit, MANIFESTS, title="a") == render(audit, MANIFESTS, title="a")


def test_an_audit_of_nothing_still_makes_a_page():
    empty = Audit(models=(), sets=(), scores=(), claims=(), answers=())
    assert "not asked to prove any claim" in render(empty, {}, title="Nothing")


def test_infinite_and_missing_numbers_do_not_break_a_plot(audit):
    scores = tuple(replace(score, high=float("inf"), values=(float("nan"), *score.values)) for score in audit.scores)
    page = render(replace(audit, scores=scores), {"odd": {}}, title="Odd")
    assert "∞" in page
    assert not re.search(r'="[^"]*\b(nan|inf)\b', page)


@pytest.mark.parametrize("results", [{"trace": "none"}, {"trace": [1, {}]}, {"trace": [{"loss": "high"}]}, {"trace": None}])
def test_a_trace_of_another_kind_is_passed_over(audit, results):
    assert "Course of the runs" not in render(audit, {"run": {"results": results}}, title="a")


def test_what_an_audit_measures_and_claims_is_explained_in_plain_words():
    rng = np.random.default_rng(0)
    evidence = {
        Place(role, set_): [
            Answered(f"{set_} {n}", "Who?", "an answer", -rng.exponential(1.0, 9), rng.random(9) < 0.5, "an answer")
            for n in range(5)
        ]
        for role in ("target", "unlearned", "retrained")
        for set_ in ("forget", "retain", "holdout", "ordinary")
    }
    made = assemble((), (), evidence, draws=20)
    page = render(made, {}, title="a")
    for metric in {score.metric for score in made.scores}:
        assert f"<dt>{metric_name(metric)}</dt>" in page
    assert page.count("<span>Claim</span>") == len(made.claims) > 0


@pytest.mark.parametrize("width", [1280, 390])
def test_attacks_are_drawn_and_listed_beside_every_model(attacked, tmp_path, open_in_chromium: OpenInChromium, width):
    path = tmp_path / "attacked.html"
    path.write_text(render(attacked, MANIFESTS, title="Attacked"), "utf-8")
    opened = open_in_chromium(path, width=width, dark=width < 1000)
    assert (opened.console_errors, opened.page_errors, opened.sideways) == ([], [], 0)
    assert opened.requests == [path.as_uri()]
    assert opened.page.evaluate(FAINT_WORDS) == []
    section = opened.page.locator("#attacks")
    rows = [row.inner_text() for row in section.locator("tbody tr").all()]
    names = ["prefix", "quantize kinds=nf4 (nf4)", "relearn", "extraction", "a <b>new</b> one"]
    assert [row.split("\t")[0] for row in rows] == names
    assert all(word in row for row in rows for word in ("0.310", "0.230", "48", "Pass"))
    assert "Fail (shipped)" in rows[0]
    assert "–" in rows[1]
    drawn = section.locator("svg.plot")
    # Each attack and the plain question; four models each, but nobody rounded the shipped file.
    assert drawn.locator("text.name").all_text_contents() == ["the plain question", *names]
    assert drawn.locator("g.model").count() == 4 * 6 - 1
    assert "prefix, target 0.970, unlearned 0.310" in drawn.get_attribute("aria-label")
    # What it is and what it takes, in plain words; the picture of the claim is here, and not in its card.
    assert "Begin the answer for the model" in section.inner_text()
    assert "weights from before the deletion" in section.inner_text()
    card = opened.page.locator(".claim", has_text="Robust")
    assert card.locator("svg.plot").count() == 0
    assert "No attack tried gets more" in card.inner_text()


def test_attacks_quote_nobody_in_a_report_that_quotes_nobody(attacked):
    assert "What came closest" in render(attacked, {}, title="a")
    page = render(attacked, {}, title="a", quoted=0)
    assert "What came closest" not in page
    assert not any(answer.subject in page for answer in attacked.answers)


def test_an_audit_without_attacks_has_no_section_of_them(audit):
    assert "#attacks" not in render(audit, MANIFESTS, title="a")


def test_metrics_on_which_no_claim_depends_are_folded_away_and_explained_there(audit):
    first = audit.scores[0]
    further = [replace(first, metric="truth-ratio"), replace(first, set="world_facts")]
    page = render(replace(audit, scores=(*audit.scores, *further)), {}, title="t")
    shown, folded = page.split("<summary>Further scores: 2 metrics, on which no claim depends</summary>")
    assert "Truth ratio" not in shown
    assert '<th scope="row">Truth ratio</th>' in folded
    assert "<dt>Truth ratio</dt>" in folded
    assert "World facts set" in folded
    assert "Further scores" not in render(audit, {}, title="t")
