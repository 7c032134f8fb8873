"""Parquet: types, nulls and metadata stay; other formats go in and come out."""

from __future__ import annotations

import datetime
import json

import pytest
from batches import TITLE

arrow = pytest.importorskip("pyarrow", reason="pyarrow is not installed (the extra llmcli[parquet])")
parquet = pytest.importorskip("pyarrow.parquet")

GOOD = {"positive": 0.9, "neutral": 0.06, "negative": 0.04}


def write(path, **columns):
    table = arrow.table(columns)
    parquet.write_table(table.replace_schema_metadata({"made": "by us"}), path)
    return table


def test_columns_keep_their_order_types_and_nulls(batches, work):
    batch = batches(replies={"": GOOD})
    table = write(
        work / "in.parquet",
        id=arrow.array([1, None], arrow.int16()),
        text=arrow.array(["good", None], arrow.large_string()),
        at=arrow.array([datetime.datetime(2026, 1, 2), None], arrow.timestamp("ms", "UTC")),
        tags=arrow.array([["a", "b"], []], arrow.list_(arrow.string())),
        kind=arrow.array(["x", "x"]).dictionary_encode(),
    )

    assert batch.run("in.parquet", "out.parquet", probabilities=True).error is None

    written = parquet.read_table(work / "out.parquet")
    assert written.select(table.column_names).to_pylist() == table.to_pylist()
    assert written.schema.types[:5] == table.schema.types
    assert written.schema.metadata[b"made"] == b"by us"
    assert written.column_names[5:] == [
        "sentiment", "sentiment_p", "sentiment_positive", "sentiment_neutral", "sentiment_negative", "error",
    ]  # fmt: skip
    assert written["sentiment"].to_pylist() == ["positive", ""]
    assert written["sentiment_p"].to_pylist() == [0.9, None]


def test_many_batches_and_a_limit(batches, work):
    batch = batches(TITLE, replies={}, default="{last}")
    write(work / "in.parquet", text=[f"t{number}" for number in range(5000)])

    assert batch.run("in.parquet", "out.parquet", limit=4500).error is None

    written = parquet.read_table(work / "out.parquet")
    assert written["title"].to_pylist() == [f"t{number}" if number else "t0" for number in range(4500)]


def test_a_nested_text_is_found_by_its_path(batches, work, asked):
    batch = batches()
    write(work / "in.parquet", review=[{"text": "deep", "n": 1}, None])

    assert batch.run("in.parquet", "out.parquet", field="review.text").error is None
    assert len(asked()) == 1
    assert asked()[0]["prompt"].endswith("deep")


def test_a_text_column_is_told_from_others(batches, work):
    batch = batches()
    write(work / "in.parquet", id=[1], tags=[["a"]])

    assert batch.run("in.parquet").code == 2
    assert "holds list" in str(batch.run("in.parquet", field="tags").error)


def test_a_column_of_ours_is_refused(batches, work):
    batch = batches()
    write(work / "in.parquet", text=["a"], error=["b"])

    assert batch.run("in.parquet", "out.parquet").code == 2


def test_a_file_that_is_no_parquet_is_unreadable(batches):
    batch = batches()
    batch.write("in.parquet", b"PAR1 and then nothing")

    assert batch.run("in.parquet").code == 65


def test_a_table_becomes_parquet_and_parquet_a_table(batches, work):
    batch = batches(TITLE, replies={"": "T"})
    batch.write("in.jsonl", '{"text": "a", "n": 1}\n{"text": "b", "n": 2.5, "ok": null, "l": [1]}\n')

    assert batch.run("in.jsonl", "mid.parquet").error is None
    assert batch.run("mid.parquet", "out.csv", name="again", error_name="wrong").error is None

    assert parquet.read_schema(work / "mid.parquet").field("n").type == arrow.float64()
    assert batch.read("out.csv") == ("text,n,ok,l,title,error,again,wrong\na,1.0,,,T,,T,\nb,2.5,,[1],T,,T,\n")


def test_a_column_of_json_is_what_all_its_values_are(batches, work):
    batch = batches(TITLE, replies={"": "T"})
    rows = [{"text": f"t{n}", "id": 2**60 + n, "n": n, "mixed": n, "huge": 2**70} for n in range(3000)]
    rows[2999] |= {"mixed": "many", "n": 0.5}
    batch.write("in.jsonl", "".join(json.dumps(row) + "\n" for row in rows))

    assert batch.run("in.jsonl", "out.parquet").error is None

    written = parquet.read_table(work / "out.parquet")
    kinds = [arrow.int64(), arrow.float64(), arrow.string(), arrow.string()]
    assert written.select(["id", "n", "mixed", "huge"]).schema.types == kinds
    assert written["id"].to_pylist() == [row["id"] for row in rows]
    assert written["mixed"].to_pylist()[2998:] == ["2998", "many"]


def test_no_rows_make_an_empty_file(batches, work):
    batch = batches(TITLE)
    batch.write("in.csv", "id,text\n")

    assert batch.run("in.csv", "out.parquet").error is None
    assert parquet.read_table(work / "out.parquet").column_names == ["id", "text", "title", "error"]


def test_parquet_from_a_pipe_is_refused(batches):
    assert batches().run(None, stdin=b"PAR1", input_format="parquet").code == 2


def test_values_that_python_has_none_for_are_text(batches, work):
    batch = batches(replies={"": GOOD})
    table = arrow.table({
        "text": arrow.array(["a", "b"]),
        "at": arrow.array([1, 2], arrow.timestamp("ns")),
        "took": arrow.array([1, None], arrow.duration("ns")),
        "far": arrow.array([300_000_000_000, 0], arrow.timestamp("s")),  # the year 11476
        "zone": arrow.array([0, 1], arrow.timestamp("us", "Nowhere/Land")),
        "part": arrow.array([float("nan"), 0.5]),
        "raw": arrow.array([b"\xff", b"abc"]),
    })  # fmt: skip
    parquet.write_table(table, work / "in.parquet")

    assert batch.run("in.parquet", "out.jsonl").error is None
    assert batch.run("in.parquet", "out.csv").error is None

    first, second = [json.loads(line) for line in batch.read("out.jsonl").splitlines()]
    assert first["at"].startswith("1970-01-01 00:00:00.000000001") and second["took"] is None
    assert (first["part"], second["part"]) == (None, 0.5)
    assert (first["raw"], second["raw"]) == ("/w==", "abc")
    assert first["far"].startswith("11476-") and second["far"].startswith("1970-")


def test_text_that_is_not_utf_8_is_that_rows_error(batches, work):
    batch = batches(replies={"": GOOD})
    bad = arrow.array([b"good", b"caf\xe9"]).view(arrow.binary()).cast(arrow.binary())
    text = arrow.Array.from_buffers(arrow.string(), 2, bad.buffers())
    parquet.write_table(arrow.table({"text": text, "note": text}), work / "in.parquet")

    assert batch.run("in.parquet", "out.jsonl").code == 3

    first, second = [json.loads(line) for line in batch.read("out.jsonl").splitlines()]
    assert (first["sentiment"], first["note"]) == ("positive", "good")
    assert "is not UTF-8" in second["error"] and second["note"] == "caf\ufffd"


def test_two_columns_of_one_name_are_both_kept(batches, work):
    batch = batches(replies={"": GOOD})
    columns = [arrow.array(["a"]), arrow.array([1]), arrow.array([2])]
    table = arrow.Table.from_arrays(columns, ["text", "id", "id"])
    parquet.write_table(table, work / "in.parquet")

    assert batch.run("in.parquet", "out.jsonl").error is None

    [row] = map(json.loads, batch.read("out.jsonl").splitlines())
    assert (row["id"], row["id_2"]) == (1, 2)


def test_a_nested_value_that_python_has_none_for_keeps_the_others(batches, work):
    batch = batches(replies={"": GOOD})
    at = arrow.timestamp("ns")
    table = arrow.table({
        "text": ["a"],
        "times": arrow.array([[1_000_000_001]], arrow.list_(at)),
        "pair": arrow.array([{"n": 1, "at": 10**9 + 1}], arrow.struct([("n", arrow.int64()), ("at", at)])),
        "map": arrow.array([[("k", 1_000_000_001)]], arrow.map_(arrow.string(), at)),
    })  # fmt: skip
    parquet.write_table(table, work / "in.parquet")

    assert batch.run("in.parquet", "out.jsonl").error is None

    [row] = map(json.loads, batch.read("out.jsonl").splitlines())
    assert row["times"][0].endswith("01.000000001") and row["pair"]["n"] == 1
    assert "1970-01-01 00:00:01.000000001" in row["map"]
