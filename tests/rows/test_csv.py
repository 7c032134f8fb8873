"""CSV and TSV: any dialect in, the same bytes out, and our columns at the end."""

from __future__ import annotations

import csv
import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcli.errors import UsageError
from llmcli.rows.columns import ResultColumns
from llmcli.rows.csv_reader import Dialect, sniff

GOOD = {"positive": 0.9, "neutral": 0.06, "negative": 0.04}


def test_records_are_put_out_as_they_stood(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", 'id,"text",note\r\n1,"so ""good"", really",\'x\'\r\n02, spaced ,"y"\r\n')

    assert batch.run("in.csv", "out.csv").code == 0

    assert batch.read("out.csv") == (
        'id,"text",note,sentiment,sentiment_p,error\r\n'
        '1,"so ""good"", really",\'x\',positive,0.9000,\r\n'
        '02, spaced ,"y",positive,0.9000,\r\n'
    )


def test_a_newline_inside_quotes_belongs_to_the_text(batches, asked):
    batch = batches()
    batch.write("in.csv", 'id,text\n1,"two\nlines"\n2,one\n')

    batch.run("in.csv", "out.csv")

    assert [one["prompt"] for one in asked()] == ["Sentiment?\n\ntwo\nlines", "Sentiment?\n\none"]
    assert len(list(csv.reader(io.StringIO(batch.read("out.csv"))))) == 3


def test_answers_are_quoted_only_where_they_must_be(batches):
    from batches import TITLE

    batch = batches(TITLE, replies={"one": 'He said "yes", then no', "two": "Plain", "three": "two\nlines"})
    batch.write("in.csv", "text;id\none;1\ntwo;2\nthree;3\n")

    batch.run("in.csv", "out.csv")

    assert batch.read("out.csv") == (
        'text;id;title;error\none;1;"He said ""yes"", then no";\ntwo;2;Plain;\nthree;3;"two\nlines";\n'
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id;text\n1;good, really\n2;bad\n", ";"),
        ("id\ttext\n1\tgood, really; yes\n", "\t"),
        ("id|text\n1|good\n", "|"),
        ("text\ngood\nbad\n", ","),
        ("id,text\n", ","),
        ('id,text\n1,"a;b;c"\n2,"d;e;f"\n', ","),
    ],
)
def test_the_delimiter_is_found(content, expected):
    assert expected == sniff(content, True).delimiter


def test_a_tsv_without_quoting_keeps_its_stray_quotes(batches, asked):
    batch = batches()
    content = 'id\ttext\n1\t5" disk\n2\t"Great\n3\tok\n4\tfine\n'
    batch.write("in.tsv", content)

    assert batch.run("in.tsv", "out.tsv").code == 0

    assert asked()[1]["prompt"].split("\n\n")[1] == '"Great'
    assert [line.rsplit("\t", 3)[0] for line in batch.read("out.tsv").splitlines()] == content.splitlines()


def test_the_dialect_can_be_set(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", "id:text\n1:'a:b'\n")

    batch.run("in.csv", "out.csv", delimiter=":", quote="'")

    assert batch.read("out.csv") == "id:text:sentiment:sentiment_p:error\n1:'a:b':positive:0.9000:\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": ";;"}, "one character is needed"),
        ({"delimiter": "\n"}, "one character is needed"),
        ({"quote": "ab"}, "one character is needed"),
        ({"delimiter": "'", "quote": "'"}, "are the same character"),
    ],
)
def test_a_dialect_that_cannot_be_is_a_usage_error(batches, options, message):
    batch = batches()
    batch.write("in.csv", "id,text\n1,fine\n")

    done = batch.run("in.csv", **options)

    assert done.code == 2
    assert message in str(done.error)


@pytest.mark.parametrize("kind", ["jsonl", "lines"])
@pytest.mark.parametrize(
    ("options", "option"),
    [({"delimiter": ";"}, "--delimiter"), ({"quote": "'"}, "--quote"), ({"header": False}, "--no-header")],
)
def test_an_option_of_csv_is_refused_where_there_is_none(batches, kind, options, option):
    batch = batches()
    batch.write("in.txt", '{"text": "fine"}\n')

    done = batch.run("in.txt", input_format=kind, **options)

    assert done.code == 2
    assert f"{option} is for CSV, and " in str(done.error)


def test_columns_whose_names_have_blanks_around_them_are_shown_with_them(batches):
    batch = batches()
    batch.write("in.csv", "id, text \n1,fine\n")

    assert "--field one of: id, ' text '" in str(batch.run("in.csv").error)
    assert batch.run("in.csv", field=" text ").code == 0


def test_ragged_lines_are_errors_of_their_rows(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", "id,text,n\n1,fine,1\n2,short\n3,a,b,c\n4,fine,4\n")

    done = batch.run("in.csv", "out.csv")

    assert done.code == 3
    assert "2 of 4 rows failed: 2 unreadable" in str(done.error)
    rows = list(csv.DictReader(io.StringIO(batch.read("out.csv"))))
    assert [row["id"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["sentiment"] for row in rows] == ["positive", "", "", "positive"]
    assert (rows[1]["text"], rows[2]["n"]) == ("short", "b,c")
    assert "row 2 has 2 cells, the header has 3" in rows[1]["error"]
    assert "row 3 has 4 cells, the header has 3" in rows[2]["error"]


def test_a_quote_that_is_never_closed_costs_one_row(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", 'id,text\n1,fine\n2,"oh\n3,fine\n4,fine\n')

    done = batch.run("in.csv", "out.csv")

    assert done.code == 3
    rows = list(csv.DictReader(io.StringIO(batch.read("out.csv"))))
    assert [row["sentiment"] for row in rows] == ["positive", "", "positive", "positive"]
    assert "row 2 opens a quote that is never closed" in rows[1]["error"]


def test_a_quote_that_swallows_more_than_a_row_may_have_costs_one_row(batches):
    batch = batches(replies={"": GOOD})
    rest = "".join(f"{number},fine\n" for number in range(3, 200))
    batch.write("in.csv", 'id,text\n1,fine\n2,"oh\n' + rest)

    done = batch.run("in.csv", "out.csv", row_limit=500)

    assert "1 of 199 rows failed" in str(done.error)
    assert "row 2 opens a quote" in batch.read("out.csv").splitlines()[2]


def test_a_row_beyond_the_limit_is_its_error_and_is_not_held_in_memory(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", "id,text\n1,fine\n2," + "x" * 5000 + "\n3,fine\n")

    done = batch.run("in.csv", "out.csv", row_limit=1000)

    assert "1 of 3 rows failed" in str(done.error)
    lines = batch.read("out.csv").splitlines()
    assert len(lines) == 4
    assert lines[2].endswith("row 2 is longer than 1,000 characters") or "longer than 1,000" in lines[2]


def test_bad_utf_8_is_an_error_of_its_row_and_its_bytes_are_kept(batches, work):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", b"id,text\n1,caf\xe9\n2,caf\xc3\xa9\n")

    done = batch.run("in.csv", "out.csv")

    assert done.code == 3
    first, second = (work / "out.csv").read_bytes().splitlines()[1:]
    assert first.startswith(b"1,caf\xe9,,,")
    assert b"row 1 is not utf-8: byte 0xe9" in first
    assert b"--encoding cp1252" in first
    assert second.startswith(b"2,caf\xc3\xa9,positive")


def test_another_encoding_is_read_by_its_name_and_written_as_utf_8(batches, asked):
    batch = batches()
    batch.write("in.csv", "id,text\n1,café für 5 €\n".encode("cp1252"))

    assert batch.run("in.csv", "out.csv", encoding="cp1252").code == 0

    assert "café für 5 €" in asked()[0]["prompt"]
    assert "café für 5 €" in batch.read("out.csv")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_is_no_part_of_the_first_column(batches, asked, encoding):
    batch = batches()
    batch.write("in.csv", "text,id\nGrüße,1\n".encode(encoding))

    assert batch.run("in.csv", "out.csv").code == 0

    assert asked()[0]["prompt"].endswith("Grüße")
    assert batch.read("out.csv").startswith("\ufefftext,id,sentiment")


def test_gzip_is_read_and_written_by_the_ending(batches, work):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv.gz", gzip.compress(b"id,text\n1,fine\n"))

    assert batch.run("in.csv.gz", "out.csv.gz").code == 0

    content = gzip.decompress((work / "out.csv.gz").read_bytes())
    assert content == b"id,text,sentiment,sentiment_p,error\n1,fine,positive,0.9000,\n"


def test_a_gzip_file_that_is_cut_is_unreadable(batches):
    batch = batches()
    packed = gzip.compress("".join(f"{n},{n * 7919}\n" for n in range(9999)).encode())
    batch.write("in.csv.gz", packed[: len(packed) // 2])

    done = batch.run("in.csv.gz", "out.csv", field="0", header=False)

    assert done.code == 2 or done.code == 65


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"PAR1....", "Parquet"), (b"PK\x03\x04..", "Excel"), (b"\x1f\x8b..", "gzip"), (b"a\x00b", "binary")],
)
def test_what_is_no_text_is_refused_by_its_kind(batches, content, word):
    batch = batches()
    batch.write("in.csv", content)

    done = batch.run("in.csv")

    assert done.code == 65
    assert word in str(done.error)


def test_an_empty_file_has_no_header(batches):
    batch = batches()
    batch.write("in.csv", "")

    assert batch.run("in.csv").code == 65


def test_a_header_alone_is_no_rows(batches):
    batch = batches()
    batch.write("in.csv", "id,text\n")

    assert batch.run("in.csv", "out.csv").code == 0
    assert batch.read("out.csv") == "id,text,sentiment,sentiment_p,error\n"


def test_without_a_header_columns_are_numbered(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", "1,fine\n2,good\n")

    assert batch.run("in.csv", "out.csv", header=False, field="2").code == 0
    assert batch.read("out.csv") == "1,fine,positive,0.9000,\n2,good,positive,0.9000,\n"


def test_columns_of_one_name_keep_their_values(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", "id,,id,text,\n1,a,2,fine,b\n")

    assert [batch.run("in.csv", name).code for name in ("out.csv", "out.tsv", "out.jsonl")] == [0, 0, 0]

    assert batch.read("out.csv").startswith("id,,id,text,,sentiment")
    assert batch.read("out.tsv").splitlines()[0].split("\t")[:5] == ["id", "", "id_2", "text", "_2"]
    record = json.loads(batch.read("out.jsonl"))
    assert [record[key] for key in ("id", "", "id_2", "_2")] == ["1", "a", "2", "b"]


def test_a_column_that_is_not_there_is_told_with_those_that_are(batches):
    batch = batches()
    batch.write("in.csv", "id,review\n1,fine\n")

    for options in ({}, {"field": "txt"}):
        done = batch.run("in.csv", **options)
        assert done.code == 2
        assert "id, review" in done.error.hint


def test_the_only_column_is_the_text(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", "review\nfine\n")

    batch.run("in.csv", "out.csv")

    assert batch.read("out.csv") == "review,sentiment,sentiment_p,error\nfine,positive,0.9000,\n"


def test_two_columns_of_the_text_s_name_are_refused(batches):
    batch = batches()
    batch.write("in.csv", "text,text\na,b\n")

    assert batch.run("in.csv").code == 2


def test_a_last_line_without_its_end_gets_one(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", "id,text\n1,fine")

    batch.run("in.csv", "out.csv")

    assert batch.read("out.csv").endswith("1,fine,positive,0.9000,\n")


def test_probabilities_get_a_column_for_each_label(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", "id,text\n1,fine\n")

    batch.run("in.csv", "out.csv", probabilities=True, name="mood")

    assert batch.read("out.csv") == (
        "id,text,mood,mood_p,mood_positive,mood_neutral,mood_negative,error\n"
        "1,fine,positive,0.9000,0.9000,0.0600,0.0400,\n"
    )


@pytest.mark.parametrize(
    ("header", "options", "hint"),
    [
        ("text,sentiment", {}, "--as"),
        ("text,sentiment_p", {}, "--as"),
        ("text,error", {}, "--error-as"),
        ("text,mood", {"name": "mood"}, "--as"),
    ],
)
def test_a_column_of_ours_in_the_input_is_a_usage_error_before_the_first_row(
    batches, asked, header, options, hint
):
    batch = batches()
    batch.write("in.csv", f"{header}\na,b\n")

    done = batch.run("in.csv", "out.csv", **options)

    assert done.code == 2
    assert hint in done.error.hint
    assert asked() == []
    assert batch.names() == ["in.csv"]


def test_result_columns_of_one_name_say_what_to_do():
    with pytest.raises(UsageError, match="--as NAME and --error-as NAME"):
        ResultColumns("mood", error="mood").check([], "in.csv")
    with pytest.raises(UsageError, match="without --probabilities"):
        ResultColumns("size", labels=("p", "q"), probabilities=True).check([], "in.csv")
    ResultColumns("size", labels=("p", "q")).check([], "in.csv")


CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(CELLS, CELLS, CELLS), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
)
def test_whatever_a_csv_writer_wrote_comes_out_with_three_cells_more(
    tmp_path_factory, rows, delimiter, end, quoting
):
    import json

    from batches import Batches

    folder = tmp_path_factory.mktemp("csv")
    (folder / "script.json").write_text(json.dumps({"default": GOOD}))
    batch = Batches(folder, f"scripted:{folder / 'script.json'}")
    made = io.StringIO()
    writer = csv.writer(made, delimiter=delimiter, lineterminator=end, quoting=quoting)
    writer.writerow(["id", "text", "note"])
    writer.writerows(rows)
    batch.write("in.csv", made.getvalue())

    done = batch.run("in.csv", "out.csv", delimiter=delimiter)

    assert done.error is None
    written = list(csv.reader(io.StringIO(batch.read("out.csv"), newline=""), delimiter=delimiter))
    assert [list(row) for row in rows] == [row[:3] for row in written[1:]]
    assert {6} == {len(row) for row in written}


def test_a_cell_of_a_file_without_quoting_cannot_break_its_line():
    assert Dialect("\t", "").cell("a\tb\nc") == "a b c"


@pytest.mark.parametrize(("name", "delimiter"), [("in.csv", ","), ("in.tsv", "\t")])
def test_two_stray_quotes_cost_two_rows_and_not_those_between(batches, asked, name, delimiter):
    rows = ["id,text", *(f"{n},fine {n}" for n in range(1, 20)), '20,"oops start', "21,kept A", "22,kept B"]
    rows += ['23,"oops two', "24,last"]
    batch = batches(replies={"": GOOD})
    batch.write(name, "\n".join(rows).replace(",", delimiter) + "\n")

    done = batch.run(name, "out.jsonl", delimiter=delimiter, quote='"')

    written = [json.loads(line) for line in batch.read("out.jsonl").splitlines()]
    assert done.code == 3
    assert [int(row["id"].split(delimiter)[0]) for row in written] == list(range(1, 25))
    assert [row["id"][:2] for row in written if row["error"]] == ["20", "23"]
    assert {"kept A", "kept B", "last"} <= {one["prompt"].rpartition("\n")[2] for one in asked()}


def test_the_name_of_an_encoding_may_be_written_in_any_way(batches, work):
    """A byte that is no UTF-8 comes out as it went in, also where UTF-8 was asked for by name."""
    (work / "in.csv").write_bytes(b"id,text\n1,good\n2,caf\xe9\n")
    batch = batches(replies={"": GOOD})

    assert batch.run("in.csv", "out.csv", encoding="UTF-8").code == 3
    assert b"2,caf\xe9," in (work / "out.csv").read_bytes()


def test_a_broken_character_of_utf_16_is_that_rows_error(batches, work):
    body = "id,text\n1,good\n2,ba".encode("utf-16-le") + b"\x3d\xd8" + "d\n3,fine\n".encode("utf-16-le")
    (work / "in.csv").write_bytes(b"\xff\xfe" + body)
    batch = batches(replies={"": GOOD})

    assert batch.run("in.csv", "out.csv").code == 3
    rows = list(csv.DictReader(io.StringIO(batch.read("out.csv"))))
    assert [row["sentiment"] for row in rows] == ["positive", "", "positive"]
    assert "is not utf-16: at character 4" in rows[1]["error"]


def test_blanks_after_a_quote_that_closes_are_no_fault(batches):
    batch = batches(replies={"": GOOD})
    batch.write("in.csv", 'id,text,n\n1,"a\nb" ,x\n2,x,"c\nd" \n3,e,f\n')

    assert batch.run("in.csv", "out.csv").code == 0
    assert [row["id"] for row in csv.DictReader(io.StringIO(batch.read("out.csv")))] == ["1", "2", "3"]
