"""JSON Lines: nested texts, odd strings, lines that are no objects; the line itself is kept."""

from __future__ import annotations

import json

import pytest
from batches import TITLE

GOOD = {"positive": 0.9, "neutral": 0.06, "negative": 0.04}
ADDED = (
    '"sentiment": "positive", "sentiment_p": 0.9, "sentiment_probabilities": '
    '{"positive": 0.9, "neutral": 0.06, "negative": 0.04}, "error": null}'
)


def test_the_line_is_kept_and_the_result_stands_at_its_end(batches):
    batch = batches(replies={"": GOOD})
    batch.write(
        "in.jsonl", '{"n":1.50,  "text":"gr\\u00fcn" }\n{"text": "b", "big": 12345678901234567890}\r\n'
    )

    assert batch.run("in.jsonl", "out.jsonl").error is None

    assert batch.read("out.jsonl") == (
        f'{{"n":1.50,  "text":"gr\\u00fcn", {ADDED}\n{{"text": "b", "big": 12345678901234567890, {ADDED}\r\n'
    )


def test_a_nested_text_is_found_by_its_path(batches, asked):
    batch = batches()
    batch.write("in.jsonl", '{"review": {"text": "nested"}}\n{"review.text": "flat"}\n')

    batch.run("in.jsonl", "out.jsonl", field="review.text")

    assert [one["prompt"].split()[-1] for one in asked()] == ["nested", "flat"]


def test_a_row_without_the_text_fails_alone(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.jsonl", '{"text": "a"}\n{"txt": "b"}\n{"text": ["c"]}\n{"text": null}\n{"text": 7}\n')

    done = batch.run("in.jsonl", "out.jsonl")

    assert done.code == 3
    rows = [json.loads(line) for line in batch.read("out.jsonl").splitlines()]
    assert [row["sentiment"] for row in rows] == ["positive", None, None, "", "positive"]
    assert rows[1]["error"].endswith("row 2 has no 'text'")
    assert rows[2]["error"].endswith("row 3 has a list as 'text', not a text")


def test_a_line_that_is_no_object_is_its_row_s_error_and_is_kept(batches):
    batch = batches(replies={"": GOOD})
    deep = "[" * 100_000
    batch.write("in.jsonl", f'{{"text": "a"}}\n{{"text": \n[1]\n\n{deep}\n{{"text": "b"}}\n')

    done = batch.run("in.jsonl", "out.jsonl")

    assert "3 of 5 rows failed" in str(done.error)
    rows = [json.loads(line) for line in batch.read("out.jsonl").splitlines()]
    assert [row.get("sentiment") for row in rows] == ["positive", None, None, None, "positive"]
    assert rows[1]["line"] == '{"text":'
    assert "row 3 is not a JSON object" in rows[2]["error"]


def test_a_lone_surrogate_reaches_the_model_as_a_replacement_character(batches, asked):
    batch = batches()
    line = '{"text": "odd \\ud83d end"}'
    batch.write("in.jsonl", line + "\n")

    assert batch.run("in.jsonl", "out.jsonl").error is None

    assert asked()[0]["prompt"].endswith("odd \ufffd end")
    assert batch.read("out.jsonl").startswith(line[:-1])


def test_a_very_long_line_fails_alone(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.jsonl", '{"text": "a"}\n{"text": "' + "x" * 3_000_000 + '"}\n{"text": "b"}\n')

    done = batch.run("in.jsonl", "out.jsonl")

    assert "1 of 3 rows failed" in str(done.error)
    rows = [json.loads(line) for line in batch.read("out.jsonl").splitlines()]
    assert "longer than 1,048,576 characters" in rows[1]["error"]


def test_a_key_of_ours_in_the_first_row_is_a_usage_error(batches, asked):
    batch = batches()
    batch.write("in.jsonl", '{"text": "a", "sentiment_probabilities": 1}\n')

    done = batch.run("in.jsonl", "out.jsonl")

    assert done.code == 2
    assert asked() == []
    assert [path.name for path in batch.folder.glob("out*")] == []


def test_a_key_of_ours_in_a_later_row_is_that_row_s_error_and_is_not_overwritten(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.jsonl", '{"text": "a"}\n{"text": "b", "sentiment": "mine"}\n')

    done = batch.run("in.jsonl", "out.jsonl")

    assert done.code == 3
    second = json.loads(batch.read("out.jsonl").splitlines()[1])
    assert second["sentiment"] == "mine"
    assert "already has 'sentiment'" in second["error"]


@pytest.mark.parametrize("output", ["out.jsonl", "out.csv"])
def test_a_failed_row_that_has_an_error_of_its_own_says_ours(batches, output):
    batch = batches(replies={"": GOOD})
    batch.write("in.jsonl", '{"text": "a"}\n{"text": "b", "sentiment": "mine", "error": null}\n')

    assert batch.run("in.jsonl", output).code == 3

    head, *_, second = batch.read(output).splitlines()
    assert "row 2 already has 'sentiment', 'error'" in second
    assert head.count("error") == 1


def test_a_label_s_column_in_a_later_row_is_that_row_s_error(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.jsonl", '{"text": "a"}\n{"text": "b", "sentiment_positive": "mine"}\n')

    assert batch.run("in.jsonl", "out.csv", probabilities=True).code == 3
    assert "row 2 already has 'sentiment_positive'" in batch.read("out.csv").splitlines()[2]


def test_an_empty_object_and_an_empty_file_are_fine(batches):
    batch = batches(TITLE)
    batch.write("empty.jsonl", "")
    batch.write("in.jsonl", '{"text": ""}\n{"text": "  "}\n')

    assert batch.run("empty.jsonl", "out.jsonl").code == 0
    assert batch.read("out.jsonl") == ""
    assert batch.run("in.jsonl", "out.jsonl").code == 0
    assert batch.read("out.jsonl").splitlines()[0] == '{"text": "", "title": "", "error": null}'


@pytest.mark.parametrize("field", [None, "nosuch", "a.b.c"])
def test_a_missing_field_is_told_with_the_keys_there_are(batches, field):
    batch = batches()
    batch.write("in.jsonl", '{"id": 1, "review": "x"}\n')

    done = batch.run("in.jsonl", field=field)

    assert done.code == 2
    assert "id, review" in done.error.hint


def test_as_a_table_it_has_a_column_for_every_key_of_every_row(batches):
    batch = batches(TITLE, replies={"": "T"})
    batch.write(
        "in.jsonl", '{"text": "a"}\n{"text": "b", "n": 1.5, "ok": true}\n{"text": "c", "tags": ["x"]}\n'
    )

    assert batch.run("in.jsonl", "out.csv").code == 0

    assert batch.read("out.csv") == (
        'text,n,ok,tags,title,error\na,,,,T,\nb,1.5,true,,T,\nc,,,"[""x""]",T,\n'
    )


def test_as_a_table_from_a_pipe_the_first_row_says_the_columns(batches):
    batch = batches(TITLE, replies={"": "T"})

    done = batch.run(
        None, stdin=b'{"text": "a"}\n{"text": "b", "n": 1}\n', input_format="jsonl", output_format="csv"
    )

    assert done.code == 3
    first, second = done.stdout.splitlines()[1:]
    assert first == "a,T,"
    assert "row 2 has 'n', which the first row lacks" in second


def test_csv_becomes_objects_of_strings(batches):
    batch = batches(TITLE, replies={"": "T"})
    batch.write("in.csv", "id,text\n007,a\n")

    batch.run("in.csv", "out.jsonl")

    assert json.loads(batch.read("out.jsonl")) == {"id": "007", "text": "a", "title": "T", "error": None}


def test_the_only_key_of_an_object_is_not_the_text_where_others_have_one(batches, asked):
    """Exporters leave out what is empty."""
    batch = batches(replies={"": GOOD})
    batch.write("in.jsonl", '{"id": 1}\n{"id": 2, "text": "I love it"}\n{"id": 3, "text": "bad"}\n')

    assert batch.run("in.jsonl", "out.jsonl").code == 3

    assert [one["prompt"] for one in asked()] == ["Sentiment?\n\nI love it", "Sentiment?\n\nbad"]
    first = json.loads(batch.read("out.jsonl").splitlines()[0])
    assert first["id"] == 1 and "has no 'text'" in first["error"]


def test_the_only_key_of_all_objects_is_the_text(batches, asked):
    batch = batches(replies={"": GOOD})
    batch.write("in.jsonl", '{"review": "good"}\n{"review": "bad"}\n')

    assert batch.run("in.jsonl", "out.jsonl").code == 0
    assert len(asked()) == 2


@pytest.mark.parametrize("name", ["out.csv", "out.tsv", "out.jsonl", "out.parquet"])
def test_half_a_character_in_a_value_leaves_the_output_utf_8(batches, work, name):
    batch = batches(replies={"": GOOD})
    batch.write("in.jsonl", '{"text": "a", "note": "x\\udcafy", "\\ud800k": 1}\n')

    assert batch.run("in.jsonl", name).code == 0

    if not name.endswith(".parquet"):
        assert "note" in (work / name).read_bytes().decode("utf-8")
