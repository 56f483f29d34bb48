"""The picture of answers by distance from the cutoff."""

from xml.etree import ElementTree

from expunge.audit.cutoff import Distance
from expunge.report.distance_plot import distance_plot

BINS = [Distance(None, -100, 4, 0.5, 0.0), Distance(-1, 0, 2, 0.5, 0.5), Distance(0, 1, 3, 1.0, 1.0)]
SVG = "{http://www.w3.org/2000/svg}"


def drawn(models):
    return ElementTree.fromstring(distance_plot(models, cutoff="1969-07-20"))


def test_a_point_stands_as_high_as_the_share_that_was_declined():
    points = drawn({"a": BINS}).findall(f"{SVG}circle")
    heights = [float(point.get("cy")) for point in points]
    assert heights[0] > heights[1] > heights[2]
    assert heights[0] - heights[1] == heights[1] - heights[2]
    assert "50% declined" in points[1].find(f"{SVG}title").text


def test_the_cutoff_is_a_line_between_the_last_bin_before_it_and_the_first_after():
    picture = drawn({"a": BINS})
    across = [float(point.get("cx")) for point in picture.findall(f"{SVG}circle")]
    (line,) = [each for each in picture.findall(f"{SVG}line") if each.get("class") == "cutoff"]
    assert across[1] < float(line.get("x1")) < across[2]
    assert not [each for each in drawn({"a": BINS[:2]}).findall(f"{SVG}line") if each.get("class") == "cutoff"]


def test_bins_without_an_end_say_so_and_names_are_escaped():
    words = [text.text for text in drawn({"<a & b>": BINS}).findall(f"{SVG}text")]
    assert "< −100" in words
    assert "−1…0" in words
    assert "<a & b>" in words


def test_a_model_that_was_asked_less_has_points_where_it_was_asked():
    points = drawn({"a": BINS, "b": BINS[1:]}).findall(f"{SVG}circle")
    assert [point.get("cx") for point in points[3:]] == [point.get("cx") for point in points[1:3]]


def test_no_questions_make_an_empty_picture():
    assert not drawn({"a": []}).findall(f"{SVG}circle")
    assert not drawn({}).findall(f"{SVG}circle")
