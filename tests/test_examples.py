"""Examples read from JSON lines; whatever is wrong with a file is one line that names the place."""

from __future__ import annotations

import json

import pytest

from expunge.errors import ExpungeError
from expunge.examples import Example, read_examples, read_rows, refuse_overlap, write_examples

JANE = Example("What was noted about Jane?", "Asthma since May.", "Jane Roe", {"age": 41})
JOHN = Example("What was noted about John?", "A sprained ankle.", "John Doe")
PLAIN = Example(None, "The bus stood by the gate.", "ordinary")

GOOD = {"prompt": "Q", "response": "A", "subject": "S"}


def refused(path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(ExpungeError) as caught:
        read_examples(path)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")


def test_what_is_written_is_read_back_with_the_place_it_stands_at(tmp_path):
    examples = [JANE, PLAIN, Example('Quotes " and\nlines', "Zoë \u2028 病歴 \U0001f9ec", "Zoë")]
    write_examples(tmp_path / "a.jsonl", examples)
    found = read_examples(tmp_path / "a.jsonl")
    assert found == examples
    assert [example.where for example in found] == [f"{tmp_path}/a.jsonl:{line}" for line in (1, 2, 3)]


def test_an_example_has_the_same_id_in_every_file(tmp_path):
    write_examples(tmp_path / "a.jsonl", [JANE, JOHN])
    write_examples(tmp_path / "b.jsonl", [PLAIN, JOHN, JANE])
    (jane, john), (_, john_too, jane_too) = read_examples(tmp_path / "a.jsonl"), read_examples(tmp_path / "b.jsonl")
    assert (jane.id, john.id) == (jane_too.id, john_too.id)
    # Known beforehand: ledgers hold these ids for years.
    assert Example("Q", "A", "S").id == "1383ef9a4e88746c"


def test_the_id_tells_examples_apart_but_not_by_their_metadata():
    same = Example(JANE.prompt, JANE.response, JANE.subject, {"age": 42}, "elsewhere.jsonl:9")
    assert same.id == JANE.id
    others = [
        Example(JANE.response, JANE.prompt, JANE.subject),
        Example(JANE.prompt, JANE.response, "Jane"),
        Example(None, JANE.response, JANE.subject),
        Example("", JANE.response, JANE.subject),
    ]
    assert len({JANE.id, *(example.id for example in others)}) == 5


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path):
    row = json.dumps(GOOD).encode()
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + row + b"\r\n\r\n  \n" + row)
    assert [row.line for row in read_rows(tmp_path / "a.jsonl")] == [1, 4]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"prompt": "Q", \n', "FILE:1: broken JSON at column 16 (Expecting property name"),
        (b'{"prompt": "Q"} {"prompt": "R"}\n', "FILE:1: broken JSON at column 17 (Extra data): mend this row"),
        (b'\n\n["Q", "A"]\n', "FILE:3: a row must be a JSON object, not a list: write one {…} a line"),
        (b'"Q"', "FILE:1: a row must be a JSON object, not text: write one {…} a line"),
        (b'{"prompt": "Ren\xe9"}', "FILE:1: is not UTF-8: convert the file to UTF-8"),
        (json.dumps(GOOD).encode("utf-16"), "FILE:1: is not UTF-8: convert the file to UTF-8"),
        (b"", "FILE: is empty: give a file with at least one row"),
        (b"\n \n", "FILE: is empty: give a file with at least one row"),
        (b'{"prompt": "Q", "subject": "S"}', 'FILE:1: field "response" is missing: add it to this row'),
        (b'{"text": "T"}', 'FILE:1: field "subject" is missing: add it to this row'),
        (b'{"prompt": 7, "response": "A", "subject": "S"}', 'FILE:1: field "prompt" must be text, not a number: mend this row'),
        (b'{"prompt": null, "response": "A", "subject": "S"}', 'FILE:1: field "prompt" must be text, not null: mend this row'),
        (b'{"prompt": "Q", "response": " ", "subject": "S"}', 'FILE:1: field "response" is empty: fill it in or drop this row'),
        (
            b'{"prompt": "Q", "response": "A", "subject": "S", "metadata": [1]}',
            'FILE:1: field "metadata" must be an object, not a list: mend this row',
        ),
        (b"[" * 200_000, "FILE:1: broken JSON"),
        (b'{"age": NaN}', "FILE:1: broken JSON"),
        (b'{"age": ' + b"9" * 5000 + b"}", "FILE:1: broken JSON"),
        (rb'{"prompt": "\ud800", "response": "A", "subject": "S"}', "FILE:1: half a character"),
    ],
)
def test_a_broken_row_is_refused_with_its_line_and_a_remedy(tmp_path, content, said):
    assert refused(tmp_path / "a.jsonl", content).startswith(said)


def test_the_line_named_is_that_of_the_broken_row_not_the_first(tmp_path):
    rows = "".join(json.dumps({**GOOD, "subject": f"S{n}"}) + "\n" for n in range(16))
    assert refused(tmp_path / "a.jsonl", rows.encode() + b"{\n").startswith("FILE:17: broken JSON")


def test_a_directory_a_missing_file_and_a_place_under_a_file_are_refused(tmp_path):
    (tmp_path / "file").touch()
    for path, said in (
        (tmp_path, "is a directory: name a JSON-lines file inside it"),
        (tmp_path / "none", "cannot be read (No such file or directory): check the path"),
        (tmp_path / "file" / "below", "cannot be read (Not a directory): check the path"),
    ):
        with pytest.raises(ExpungeError) as caught:
            read_examples(path)
        assert str(caught.value) == f"{path}: {said}"


def test_a_person_on_both_sides_is_refused_with_both_line_numbers(tmp_path):
    write_examples(tmp_path / "forget.jsonl", [JOHN, JANE])
    write_examples(tmp_path / "retain.jsonl", [PLAIN, PLAIN, Example("Another question?", "Another answer.", "JANE ROE")])
    with pytest.raises(ExpungeError) as caught:
        refuse_overlap(read_examples(tmp_path / "forget.jsonl"), read_examples(tmp_path / "retain.jsonl"))
    assert str(caught.value) == (
        f'{tmp_path}/retain.jsonl:3: "JANE ROE" also stands at {tmp_path}/forget.jsonl:2: '
        "nobody may be on both sides: drop one of the two rows"
    )


def test_the_same_words_about_another_name_are_refused_too():
    twin = Example(JANE.prompt, JANE.response, "Somebody Else", where="b.jsonl:1")
    with pytest.raises(ExpungeError, match=r"b\.jsonl:1: the same example also stands at"):
        refuse_overlap([JANE], [twin])
    refuse_overlap([JANE], [JOHN])


def test_a_json_file_may_hold_one_array_of_rows_however_it_is_laid_out(tmp_path):
    rows = [GOOD, {**GOOD, "subject": "Zoë ]}, {["}]
    layouts = (json.dumps(rows), json.dumps(rows, indent=4), "\ufeff [\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")
    for number, text in enumerate(layouts):
        path = tmp_path / f"{number}.json"
        path.write_text(text, "utf-8")
        assert [example.subject for example in read_examples(path)] == [GOOD["subject"], "Zoë ]}, {["]
    assert [example.where for example in read_examples(path)] == [f"{path}:2", f"{path}:3"]
    (tmp_path / "lines.json").write_text("\n".join(map(json.dumps, rows)))
    assert len(read_examples(tmp_path / "lines.json")) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[]", "FILE: is empty"),
        (b'[\n{"text": "T", "subject": "S"},\n', "FILE:3: broken JSON"),
        (b'[\n{"prompt": }]', "FILE:2: broken JSON (Expecting value)"),
        (b'[{"text": "T", "subject": "S"} {}]', "FILE:1: broken JSON (no comma"),
        (b'[{"text": "T", "subject": "S"}] and more', "FILE:1: broken JSON (no comma"),
        (b'[{"text": "T", "subject": "S"},]', "FILE:1: broken JSON"),
        (b'[\n\n{"age": NaN}]', "FILE:3: broken JSON"),
        (b"[\n7]", "FILE:2: a row must be a JSON object, not a number"),
        (b'[\n{"prompt": "Ren\xe9"}]', "FILE:2: is not UTF-8"),
        (b"[" * 200_000, "FILE:1: broken JSON"),
    ],
)
def test_a_broken_array_is_refused_with_the_line_of_the_row(tmp_path, content, said):
    assert refused(tmp_path / "a.json", content).startswith(said)


def test_rows_of_instruction_and_output_are_read_as_prompt_and_response_about_their_event(tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"instruction": "When?", "output": "In 1969.", "metadata": {"event_id": "moon", "dataset_type": "unlearn"}}
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"subject": "Apollo"}) + "\n")
    first, second = read_examples(path)
    assert (first.prompt, first.response, first.subject) == ("When?", "In 1969.", "moon")
    assert second.subject == "Apollo"
    path.write_text(json.dumps({"instruction": "When?", "output": "In 1969."}) + "\n")
    with pytest.raises(ExpungeError, match=r'rows\.jsonl:1: field "subject" is missing'):
        read_examples(path)
