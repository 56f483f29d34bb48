from __future__ import annotations

import itertools
import math
import re
from xml.etree import ElementTree

import pytest

from expunge.audit.results import Score
from expunge.report import plots


def score(model: str, value: float, low: float, high: float) -> Score:
    return Score("rouge-l-recall", model, "forget", value, low, high, 4, "lower", (0.0, 1.0))


SCORES = [score("target", 0.95, 0.9, 1.0), score("unlearned", 0.3, 0.2, 0.4), score("retrained", 0.25, 0.2, 0.5)]


def test_an_axis_of_a_bounded_metric_shows_its_whole_span():
    x = plots.scale_for([0.4, 0.5], (0.0, 1.0), 100, 300)
    assert (x(0), x(0.5), x(1)) == (100, 200, 300)


def test_what_lies_outside_the_axis_is_drawn_at_its_edge():
    x = plots.Scale(0, 1, 100, 300)
    assert (x(-5), x(7), x(math.inf)) == (100, 300, 300)


def test_an_axis_of_an_unbounded_metric_holds_all_values_and_no_impossible_ones():
    x = plots.scale_for([0.01, 3.0], (0.0, None), 0, 100)
    assert 0 <= x.low <= 0.01
    assert x.high >= 3.0


def test_values_far_apart_are_drawn_on_a_logarithmic_axis():
    x = plots.scale_for([1.2, 9000.0], (1.0, None), 0, 100)
    assert x.log
    assert x.ticks() == [1, 10, 100, 1000, 10000]


@pytest.mark.parametrize("values", [[], [math.nan, math.inf], [0.0], [5.0, 5.0], [-3.0, -3.0]])
def test_an_axis_of_hardly_any_values_is_still_an_axis(values):
    x = plots.scale_for(values, (-math.inf, None), 0, 100)
    assert x.low < x.high
    assert x.ticks()


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 0.037), (-2, 3), (1e-9, 2e-9), (1000, 250_000)])
def test_ticks_are_few_round_and_on_the_axis(low, high):
    ticks = plots.Scale(low, high, 0, 100).ticks()
    assert 2 <= len(ticks) <= 9
    slack = (high - low) * 1e-6
    assert all(low - slack <= tick <= high + slack for tick in ticks)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.48123, "0.481"),
        (12.345, "12.35"),
        (123.45, "123.5"),
        (12345.6, "12,346"),
        (0.00042, "4.2e−4"),
        (3.1e7, "3.1e7"),
        (-0.5, "−0.500"),
    ],
)
def test_numbers_are_written_with_the_digits_that_matter(value, words):
    assert plots.number(value) == words


def test_a_forest_plot_is_well_formed_and_says_its_numbers_in_words():
    drawing = ElementTree.fromstring(plots.forest(SCORES, label="ROUGE-L recall, forget", chance=0.5))
    titles = [title.text for title in drawing.iter("title")]
    assert titles[0] == "target: 0.950, 95% interval 0.900 to 1.000"
    assert drawing.get("aria-label") == "ROUGE-L recall, forget"


def test_the_band_of_a_forest_plot_is_the_retrained_interval():
    drawing = ElementTree.fromstring(plots.forest(SCORES, label=""))
    band = next(item for item in drawing.iter("rect") if item.get("class") == "band")
    axis = 308 - 92
    assert float(band.get("x")) == pytest.approx(92 + 0.2 * axis, abs=0.2)
    assert float(band.get("width")) == pytest.approx(0.3 * axis, abs=0.2)


def test_the_plot_of_attacks_has_a_lane_for_each_with_the_retrained_band_under_it():
    marks = {"unlearned": (0.25, 0.2, 0.5), "target": (1.0, 0.75, 1.0), "retrained": (0.5, 0.25, 0.75)}
    drawing = plots.recovery([plots.Lane("a & b", marks), plots.Lane("alone", {"target": (0.0, 0.0, 0.0)})], label="what")
    root = ElementTree.fromstring(drawing)
    assert [text.text for text in root.findall(".//text[@class='start name']")] == ["a & b", "alone"]
    # 0 lies at 8, 1 at 372.
    (band,) = root.findall(".//rect[@class='band']")
    assert (float(band.get("x")), float(band.get("width"))) == (99, 182)
    titles = [title.text for title in root.findall(".//title")]
    assert titles[0] == "a & b, target: 1.000, 95% interval 0.750 to 1.000"
    assert [title.split(",")[1].split(":")[0] for title in titles] == [" target", " unlearned", " retrained", " target"]


def test_a_strip_has_a_dot_for_each_example_until_they_cannot_be_told_apart():
    x = plots.Scale(0, 1, 76, 308)
    few = plots.strips("target", [("forget", [n / 40 for n in range(40)])], x, label="")
    many = plots.strips("target", [("forget", [n / 9000 for n in range(9000)])], x, label="")
    dots = [len(re.findall("M", ElementTree.fromstring(drawing).find(".//path").get("d"))) for drawing in (few, many)]
    assert dots == [40, 240]


def test_names_beside_a_plot_never_lie_over_one_another():
    points = {role: (score(role, 0.9, 0.9, 0.9), score(role, 0.3, 0.3, 0.3)) for role in plots.ROLES}
    drawing = ElementTree.fromstring(plots.plane(points, x_name="x", y_name="y", label=""))
    heights = sorted(float(text.get("y")) for text in drawing.iter("text") if text.text in plots.ROLES)
    assert all(below - above >= 16 for above, below in itertools.pairwise(heights))


def test_a_curve_goes_through_its_points_and_says_where_it_starts_and_ends():
    line = plots.Series("forget loss", ((0.0, 0.0), (5.0, 2.0), (10.0, 1.0)))
    drawing = ElementTree.fromstring(plots.curves([line], label="loss"))
    assert [title.text for title in drawing.iter("title")] == ["forget loss: 0.000 at the start, 1.000 at the end"]
    heights = [float(point.split(" ")[1]) for point in drawing.find(".//path").get("d")[1:].split("L")]
    assert heights[0] - heights[1] == pytest.approx(2 * (heights[2] - heights[1]), abs=0.2)


def test_a_long_run_is_thinned_but_keeps_its_end():
    line = plots.Series("loss", tuple((float(n), 1 / (n + 1)) for n in range(50_000)))
    drawing = plots.curves([line], label="loss")
    assert len(drawing) < 10_000
    assert "2.0e−5 at the end" in drawing


def test_a_quantile_lies_between_neighbours():
    assert plots.quantile([1.0, 2.0, 4.0], 0.75) == 3.0
