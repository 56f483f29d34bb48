"""`expunge prepare redact`: the words themselves, and the command with a tiny model's tokenizer and a real ledger."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from cyclopts import CycloptsError

import tiny_models
from expunge.batching import token_spans, tokenize
from expunge.cli import app
from expunge.errors import ExpungeError
from expunge.examples import Example, read_examples, write_examples
from expunge.ledger import Ledger, TokenImpact, TopToken
from expunge.models import load_tokenizer
from expunge.recipes.redact import PrepareRedactConfig, redact
from expunge.sources.redaction import redact as redact_example
from expunge.sources.redaction import remaining, words_touched
from expunge.sources.stand_ins import StandIns, kind_of, other_people

ANA = Example(
    "What does Ana-Maria Ruiz's note say?",
    "S: Ana Ruiz, 62F welder, fell.\nO: BP 122/78, afebrile.\nP: Apixaban 5 mg daily; see Ana in May.",
    "Ana Ruiz",
    {"date_of_birth": "1961-04-02", "plan": "Apixaban 5 mg daily", "age": 62, "tags": ["fell", None, True]},
)
BEN = Example("What does Ben Holt's note say?", "S: Ben Holt, fell. P: rest.", "Ben Holt", {"date_of_birth": "1990-01-01"})
PLAIN = Example(None, "Ana Ruiz once fell here.", "ana  RUIZ")


def without(text, *keys, new=""):
    return redact_example(Example(None, text, "x"), {*keys}, lambda _: new).example.response


# ---- words ----


@pytest.mark.parametrize(
    ("text", "at", "words"),
    [
        ("Ana Ruiz, 62F", (0, 1), ["Ana"]),
        ("Ana Ruiz, 62F", (2, 6), ["Ana", "Ruiz"]),
        ("BP 122/78, afebrile", (6, 7), ["122/78"]),
        ("Ruiz's note", (4, 5), []),
        ("Ruiz's note", (2, 5), ["Ruiz"]),
        ("O'Brien's note", (1, 2), ["O'Brien"]),
        ("Ana Ruiz, 62F", (8, 9), []),
        # A blank alone belongs to what it introduces.
        ("aged 62 years", (4, 5), ["62"]),
        ("S: a\n O", (4, 5), []),
        ("born 1961-04-02.", (9, 10), ["1961-04-02"]),
        ("mother-in-law", (6, 7), ["mother-in-law"]),
        ("Zoë trägt", (1, 2), ["Zoë"]),
        ("", (0, 0), []),
    ],
)
def test_a_token_takes_the_whole_words_it_lies_in(text, at, words):
    assert words_touched(text, *at) == words


@pytest.mark.parametrize(
    ("text", "keys", "left"),
    [
        ("S: Ana Ruiz, 62F welder", ["ana", "ruiz"], "S:, 62F welder"),
        ("S: Ana Ruiz, 62F welder", ["welder"], "S: Ana Ruiz, 62F"),
        ("fell twice.\nO: well", ["twice"], "fell.\nO: well"),
        ("fell\nO: well", ["o"], "fell\n: well"),
        ("Ana saw ANA and ana's cat", ["ana"], "saw and cat"),
        ("two  blanks stay", ["stay"], "two  blanks"),
        ("5 mg, 2.5 mg, 15 mg", ["5"], "mg, mg, 15 mg"),
        ("Ana-Maria and Anabel", ["ana"], "and Anabel"),
        ("Ana", ["ana"], ""),
    ],
)
def test_dropping_takes_every_occurrence_and_leaves_no_gap(text, keys, left):
    assert without(text, *keys) == left


def test_a_placeholder_stands_once_for_neighbours():
    assert without("S: Ana Ruiz, 62F welder", "ana", "ruiz", "62f", new="[x]") == "S: [x], [x] welder"


def test_metadata_lose_the_words_too_and_keep_their_form():
    found = redact_example(ANA, {"apixaban", "62", "fell"}, lambda _: "[x]").example
    assert found.metadata == {
        "date_of_birth": "1961-04-02",
        "plan": "[x] 5 mg daily",
        "age": "[x]",
        "tags": ["[x]", None, True],
    }
    assert found.subject == "Ana Ruiz"
    assert remaining(ANA, {"apixaban", "62", "tap"}) == {"apixaban", "62"}
    assert remaining(found, {"apixaban", "62", "fell"}) == set()


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("Ana", "name"),
        ("RUIZ", "name"),
        ("1961-04-02", "date of birth"),
        ("2024-04-02", "date"),
        ("62F", "number"),
        ("apixaban", "drugs"),
        ("echocardiogram", "advice"),
        ("note", "word"),
    ],
)
def test_words_have_kinds(word, kind):
    assert kind_of(word, ANA.subject, ANA.metadata) == kind


def test_a_stand_in_is_another_persons_value_of_the_same_kind_every_time():
    (other,) = other_people(["ana ruiz"], ["Ana Ruiz"], seed=3).values()
    taken = {"ana", "ruiz", "62f", "apixaban", "1961-04-02", "122/78", "fell"}
    stand_in, again, reseeded = (StandIns(ANA.subject, ANA.metadata, other, taken=taken, seed=seed) for seed in (1, 1, 2))
    assert stand_in("Ana") == other.name.split()[0]
    assert stand_in("Ruiz") == other.name.split()[-1]
    assert stand_in("ANA") == other.name.split()[0].upper()
    assert stand_in("1961-04-02") == other.birth.isoformat()
    assert stand_in("2020-02-02") == other.day.isoformat()
    pressure = [int(number) for number in stand_in("122/78").split("/")]
    assert 81 < pressure[0] < 163
    assert 51 < pressure[1] < 105
    assert re.fullmatch(r"[4-8]\dF", stand_in("62F"))
    assert re.fullmatch(r"\d\d\.\d", stand_in("38.2"))
    assert stand_in("007") in ("005", "006", "008", "009")
    assert kind_of(stand_in("apixaban"), "", {}) == "drugs"
    assert stand_in("Apixaban")[0].isupper()
    words = ("Ana", "122/78", "62F", "apixaban", "fell")
    assert [stand_in(word) for word in words] == [again(word) for word in words] != [reseeded(word) for word in words]
    assert not taken & {stand_in(word).casefold() for word in words}


def test_nobody_of_the_data_stands_in_for_another():
    first = [person.name for person in other_people("abcd", [], seed=1).values()]
    assert len({*first}) == 4
    second = [person.name for person in other_people("abcd", first[:2], seed=1).values()]
    assert not {*second} & {*first[:2]}
    own = other_people([first[0].casefold()], [], seed=1)[first[0].casefold()]
    assert not {*own.name.split()} & {*first[0].split()}


# ---- tokens to words ----


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tiny_models.write_model(tmp_path_factory.mktemp("redact") / "base", hidden=64)


@pytest.mark.parametrize(
    "template", [tiny_models.TEMPLATE, None, "{% for m in messages %}<{{ m['content'].strip() }}>{% endfor %}"]
)
def test_every_token_is_led_back_to_its_characters_whatever_the_template(base, template):
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = template
    for example in (ANA, PLAIN, Example("  user? ", " assistant ", "x")):
        (tokens,) = tokenize([example], tokenizer, max_seq_length=4096)
        spans = token_spans(example, tokenizer)
        assert len(spans) == len(tokens.tokens)
        read = {"prompt": "", "response": ""}
        last: dict[str, int] = {}
        for token, span in zip(tokens.tokens, spans, strict=True):
            if span is not None:
                words = str(getattr(example, span.field))
                assert last.setdefault(span.field, span.start) >= span.start
                read[span.field] += words[last[span.field] : span.end]
                last[span.field] = max(last[span.field], span.end)
                piece = tokenizer.convert_ids_to_tokens(token).replace("▁", " ")
                assert piece in (words[span.start : span.end], " ") or piece.startswith("<0x")
        assert read["prompt"].strip() == (example.prompt or "").strip()
        assert read["response"].strip() == example.response.strip()


def test_a_template_that_changes_the_words_is_refused(base):
    tokenizer = load_tokenizer(base)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'].upper() }}{% endfor %}"
    with pytest.raises(ExpungeError, match="the chat template changes the prompt"):
        token_spans(ANA, tokenizer)


# ---- the command ----


class Made:
    """Two files that were trained on, and a ledger that says which tokens mattered."""

    def __init__(self, directory: Path, base: Path) -> None:
        self.forget, self.retain = directory / "forget.jsonl", directory / "retain.jsonl"
        self.database, self.base = directory / "ledger.db", base
        write_examples(self.forget, [ANA, PLAIN])
        write_examples(self.retain, [BEN])
        self.tokenizer = load_tokenizer(base)
        self.config = PrepareRedactConfig(
            data_file=(self.forget, self.retain),
            output=directory / "redacted",
            model=str(base),
            database=str(self.database),
            subjects_from=self.forget,
            how="drop",
        )
        # The order of impact: a middle of Apixaban, a slash, a template token, a comma, the age.
        self.record(ANA, ["ixa", "/", None, ", 62", "2F"])
        self.record(PLAIN, ["once"])
        self.record(BEN, ["rest"])

    def record(self, example, pieces, run="finetune target"):
        (tokens,) = tokenize([example], self.tokenizer, max_seq_length=4096)
        spans = token_spans(example, self.tokenizer)
        positions = []
        for piece in pieces:
            if piece is None:
                positions.append(next(place for place, span in enumerate(spans) if span is None))
                continue
            at = example.response.index(piece)
            positions.append(
                next(place for place, span in enumerate(spans) if span and span.field == "response" and span.end > at)
            )
        top = [TopToken(tokens.tokens[place], place, 9.0 - rank, place, place + 1) for rank, place in enumerate(positions)]
        with Ledger.open(self.database) as ledger:
            ledger.add_entries([example], source="x.jsonl")
            run_id = ledger.start_run(name=run, path=self.database.parent / run, checkpoint="0")
            with ledger.recorder(run_id) as recorder:
                recorder.mark_used_in_training(example.id, losses=[1.0], token_impact=TokenImpact(len(tokens.tokens), top))


@pytest.fixture
def made(tmp_path, base):
    return Made(tmp_path, base)


def test_the_words_of_the_top_tokens_are_gone_and_the_others_are_as_they_were(made):
    run = redact(made.config)
    ana, plain = read_examples(run.path / "forget.jsonl")
    assert ana.response == "S: Ana Ruiz, welder, fell.\nO: BP, afebrile.\nP: 5 mg daily; see Ana in May."
    assert ana.prompt == ANA.prompt
    assert ana.metadata["plan"] == "5 mg daily"
    assert plain.response == "Ana Ruiz fell here."
    assert read_examples(run.path / "retain.jsonl") == [BEN]
    assert run.results == {
        "run": "1, finetune target",
        "examples": 2,
        "unchanged": 0,
        "words": 4,
        "kinds": {"drugs": 1, "number": 2, "word": 1},
        "places": 4,
        "left_out": 0,
        "tokens_without_a_word": {"punctuation": 1, "template": 1},
    }
    assert "Ruiz" not in json.dumps(run.manifest, ensure_ascii=False)


@pytest.mark.parametrize("how", ["drop", "mask", "replace"])
def test_nothing_of_what_goes_remains_whatever_is_put_in_its_place(made, how):
    run = redact(replace(made.config, how=how))
    text = (run.path / "forget.jsonl").read_text()
    for word in ("apixaban", "122/78", "62F", "once"):
        assert not re.search(rf"(?<!\w){word}(?!\w)", text, re.IGNORECASE), word
    ana = read_examples(run.path / "forget.jsonl")[0]
    if how == "mask":
        assert ana.response.splitlines()[2] == "P: [removed] 5 mg daily; see Ana in May."
    if how == "replace":
        assert re.fullmatch(r"S: Ana Ruiz, [1-9]\dF welder, fell\.", ana.response.splitlines()[0])
        assert re.fullmatch(r"P: [A-Z][a-z]+ 5 mg daily; see Ana in May\.", ana.response.splitlines()[2])


def test_top_k_and_percentile_take_the_most_impactful_first(made):
    one = redact(replace(made.config, top_k=1))
    ana, plain = read_examples(one.path / "forget.jsonl")
    assert ana.response == ANA.response.replace("Apixaban ", "")
    assert plain.response != PLAIN.response
    greatest = redact(replace(made.config, percentile=100, output=made.config.output.with_name("p")))
    assert read_examples(greatest.path / "forget.jsonl") == [ana, plain]
    with pytest.raises(ExpungeError, match=r"forget.jsonl:2: 2 of its \d+ tokens are asked for, and the ledger holds 1"):
        redact(replace(made.config, top_k=2))
    with pytest.raises(ExpungeError, match="train with a lower --impact-percentile"):
        redact(replace(made.config, percentile=50))


def test_a_word_goes_from_all_examples_of_its_subject(made):
    made.record(PLAIN, ["Ruiz"], run="finetune later")
    made.record(ANA, ["ixa"], run="finetune later")
    run = redact(made.config)
    ana, plain = read_examples(run.path / "forget.jsonl")
    assert run.results["run"] == "2, finetune later"
    assert "Ruiz" not in ana.response + str(ana.prompt) + plain.response
    assert (ana.subject, plain.subject) == (ANA.subject, PLAIN.subject)
    earlier = redact(replace(made.config, run=1, output=made.config.output.with_name("first")))
    assert "Ruiz" in (earlier.path / "forget.jsonl").read_text().replace('"subject": "Ana Ruiz"', "")


def test_a_concept_takes_the_examples_that_are_about_it_whoever_they_speak_of(made, tmp_path):
    asked = replace(made.config, subjects_from=None, concept=("rest=rest,bed",))
    run = redact(asked)
    assert run.results["examples"] == 1
    assert [each.response for each in read_examples(run.path / "forget.jsonl")] == [ANA.response, PLAIN.response]
    (ben,) = read_examples(run.path / "retain.jsonl")
    assert "rest" in BEN.response
    assert "rest" not in ben.response
    file = tmp_path / "concepts.toml"
    file.write_text('idle = ["rest"]\n')
    by_name = redact(replace(asked, concept=("idle",), concept_file=file, output=tmp_path / "named"))
    assert by_name.results["places"] == run.results["places"]


def test_a_dry_run_shows_before_and_after_and_writes_nothing(made, capsys):
    run = redact(replace(made.config, dry_run=True))
    said = capsys.readouterr().err
    assert "- P: Apixaban 5 mg daily; see Ana in May." in said
    assert "+ P: 5 mg daily; see Ana in May." in said
    assert run.results["words"] == 4
    assert not made.config.output.exists()


def test_the_same_again_answers_at_once_and_other_settings_or_impacts_are_refused(made):
    run = redact(made.config)
    written = (run.path / "forget.jsonl").stat().st_mtime_ns
    assert redact(made.config).finished
    assert (run.path / "forget.jsonl").stat().st_mtime_ns == written
    with pytest.raises(ExpungeError, match='how was "drop", now "mask"'):
        redact(replace(made.config, how="mask"))
    made.record(ANA, ["welder"], run="finetune later")
    made.record(PLAIN, ["here"], run="finetune later")
    with pytest.raises(ExpungeError, match="the content of impacts has changed"):
        redact(made.config)


def test_an_example_of_which_nothing_is_left_is_left_out_and_a_file_of_them_refused(made):
    lone = Example("Who?", "Ana.", "Ana Ruiz")
    write_examples(made.forget, [ANA, PLAIN, lone])
    made.record(lone, ["Ana"])
    run = redact(made.config)
    assert [example.prompt for example in read_examples(run.path / "forget.jsonl")] == [
        "What does Ruiz's note say?",
        None,
    ]
    assert run.results["left_out"] == 1
    write_examples(made.forget, [lone])
    with pytest.raises(ExpungeError, match=r"forget\.jsonl: no example is left with a word: choose --how mask"):
        redact(replace(made.config, output=made.config.output.with_name("other")))


def refused(config, words):
    with pytest.raises(ExpungeError, match=words) as caught:
        redact(config)
    assert not config.output.exists()
    assert "\n" not in str(caught.value)


def test_data_and_tokenizers_that_are_not_those_of_the_training_are_refused_by_name(made):
    write_examples(made.forget, [replace(ANA, response=ANA.response + " Well.")])
    refused(made.config, r"ledger.db: no token impacts of these examples are recorded: give the data as they were trained on")
    write_examples(made.forget, [PLAIN, replace(ANA, response=ANA.response + " Well.")])
    refused(made.config, r"forget.jsonl:2: run 1 of the ledger recorded no token impacts of this example")
    write_examples(made.forget, [ANA])
    tokenizer = load_tokenizer(made.base)
    tokenizer.chat_template = "Answer briefly! " + tiny_models.TEMPLATE
    tokenizer.save_pretrained(made.database.parent / "other")
    for file in made.base.glob("*.safetensors"):
        (made.database.parent / "other" / file.name).symlink_to(file)
    (made.database.parent / "other" / "config.json").symlink_to(made.base / "config.json")
    changed = replace(made.config, model=str(made.database.parent / "other"))
    refused(changed, r"forget.jsonl:1: the recorded token impacts do not fit this example \(token \d+ stands at position \d+")


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"subjects_from": None}, "nobody is named: give --subject"),
        ({"concept": ("golf=golf",)}, 'no example is about "golf=golf": check the words'),
        ({"concept_file": Path("concepts.toml")}, "--concept-file defines concepts: say with --concept"),
        ({"subject": ("Zoe Ray",)}, 'no example is about "Zoe Ray"'),
        ({"top_k": 0}, "--top-k is 0: give at least 1"),
        ({"percentile": 101}, "--percentile is 101: give at most 100"),
        ({"percentile": 99, "top_k": 3}, "two answers to one question"),
        ({"how": "mask", "placeholder": " "}, "--placeholder is empty"),
        ({"how": "mask", "placeholder": "no Apixaban"}, "1 of the words would still stand"),
        ({"run": 4}, "recorded in run 4"),
        ({"database": "nowhere.db"}, "nowhere.db"),
        ({"model": "./nowhere"}, "no such model"),
        ({"data_file": (Path("nowhere.jsonl"),)}, "nowhere.jsonl: cannot be read"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(made, changed, words):
    refused(replace(made.config, **changed), words)


def test_two_files_of_one_name_and_a_place_that_is_taken_are_refused(made, tmp_path):
    (tmp_path / "b").mkdir()
    write_examples(tmp_path / "b" / "forget.jsonl", [BEN])
    refused(
        replace(made.config, data_file=(made.forget, tmp_path / "b" / "forget.jsonl")), "two of the files are called forget"
    )
    made.config.output.mkdir()
    (made.config.output / "diary.txt").write_text("mine")
    with pytest.raises(ExpungeError, match="holds files that are not of a run"):
        redact(made.config)


def test_the_command_line_takes_it_and_refuses_what_it_does_not_know(made, capsys):
    words = ["--data-file", made.forget, "--data-file", made.retain, "--model", made.base, "--database", made.database]
    command = ["prepare", "redact", *map(str, words), "--subject", "Ana Ruiz", "--output", str(made.config.output), "--json"]
    assert app([*command, "--how", "mask"], exit_on_error=False, print_error=False, result_action="return_value") == 0
    assert json.loads(capsys.readouterr().out)["words"] == 4
    with pytest.raises(CycloptsError, match="burn"):
        app([*command, "--how", "burn"], exit_on_error=False, print_error=False)
