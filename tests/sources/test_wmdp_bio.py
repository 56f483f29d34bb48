"""Papers become sentences."""

import json

import pytest

from expunge.errors import ExpungeError
from expunge.sources.wmdp_bio import WmdpBio, make, sentences

KEYS = {"text", "source", "type", "paper_index", "sentence_index"}


@pytest.fixture
def papers(tmp_path):
    path = tmp_path / "papers.jsonl"
    rows = [
        {"title": f"Moss {number}", "text": "\n".join(
            f"In plot {number} we saw {count} kinds of moss on the stones (Fig. {count})." for count in range(2, 12)
        )}
        for number in range(12)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def made(path, sample=None, seed=42, **settings):
    return make(WmdpBio(input=str(path), **settings), sample=sample, seed=seed)


@pytest.mark.parametrize(
    "whole",
    [
        "Smith et al. showed that growth was faster (Fig. 2) than before.",
        "See Table 1 and Refs. 3-5 for all of the details.",
        "The mean was 0.05 mg/ml vs. 1.2 in controls, i.e. much lower.",
        "Dr. J. R. Brown of the U.S. Dept. of Agriculture confirmed this.",
        "We used approx. 20 mice from Jackson Lab., Bar Harbor.",
        "Growth of E. coli and S. aureus (cf. Eq. 4) stopped at 37.5 °C.",
        "Bacillus imaginarius sp. nov. isolates grew well in the dark.",
    ],
)
def test_a_sentence_with_abbreviations_numbers_and_names_stays_whole(whole):
    assert sentences(f"This came before it all. {whole} This came after it all.") == [
        "This came before it all.",
        whole,
        "This came after it all.",
    ]


def test_sentences_end_where_they_end():
    text = (
        "Methods\n\nWas it a virus at all? No, it\nwas hepatitis B. It was significant at P < 0.05. We then stopped the trial!"
    )
    assert sentences(text) == [
        "Was it a virus at all?",
        "No, it was hepatitis B.",
        "It was significant at P < 0.05.",
        "We then stopped the trial!",
    ]


def test_sentences_are_rows_and_papers_are_split_whole(papers):
    found = made(papers)
    sets = {"retain": [row for own in found.line.subjects for row in own], **found.sets}
    rows = found.files(sets)["bio_sentences.jsonl"]
    assert len(rows) == 120
    assert all(row.keys() == KEYS for row in rows)
    assert rows[11] == {
        "text": "In plot 1 we saw 3 kinds of moss on the stones (Fig. 3).",
        "source": "Moss 1",
        "type": "paper_sentence",
        "paper_index": 1,
        "sentence_index": 1,
    }
    papers_of = [{example.subject for example in examples} for examples in sets.values()]
    assert [len(each) for each in papers_of] == [9, 3]
    assert len(set.union(*papers_of)) == 12
    assert all(len({example.subject for example in own}) == 1 for own in found.line.subjects)
    assert all(example.prompt is None for example in sets["retain"])


def rows_in(found):
    """What stands in `bio_sentences.jsonl`."""
    line = [row for own in found.line.subjects for row in own]
    return found.files({"retain": line, **found.sets})["bio_sentences.jsonl"]


def test_reading_ends_with_the_last_sentence_that_is_wanted(papers):
    found = made(papers, target_size=45)
    assert len(rows_in(found)) == 45
    assert found.counts == {"papers": 5, "sentences": 45, "sentences_repeated": 0}
    assert made(papers, sample=6).counts["papers"] == 6


def test_a_sentence_of_two_papers_is_kept_in_the_first(papers):
    thanks = "The authors thank all of their colleagues."
    rows = [json.loads(line) for line in papers.read_text().splitlines()]
    papers.write_text("".join(json.dumps(row | {"text": f"{row['text']}\n\n{thanks}"}) + "\n" for row in rows))
    found = made(papers)
    assert [row["paper_index"] for row in rows_in(found) if row["text"] == thanks] == [0]
    assert found.counts["sentences_repeated"] == 11


def test_a_directory_is_read_file_by_file(papers, tmp_path):
    lines = papers.read_text().splitlines(keepends=True)
    place = tmp_path / "corpus"
    place.mkdir()
    for name, part in (("b.jsonl", lines[6:]), ("a.jsonl", lines[:6])):
        (place / name).write_text("".join(part))
    assert rows_in(made(place)) == rows_in(made(papers))


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        ('{"body": "x"}\n', {}, 'papers.jsonl:1: field "text" is missing'),
        ('{"text": "Too short."}\n', {}, "has no sentence in it"),
        ('{"text": "One paper alone is no split."}\n', {}, "1 subject is too few"),
        (None, {"target_size": 0}, "--target-size is 0"),
        (None, {"holdout_ratio": 2.0}, "--holdout-ratio is 2"),
    ],
)
def test_what_makes_no_sets_is_refused(papers, content, settings, said):
    if content is not None:
        papers.write_text(content)
    with pytest.raises(ExpungeError) as caught:
        made(papers, **settings)
    assert said in str(caught.value)
