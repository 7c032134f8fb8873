"""table: columns line up on a terminal of any width, and a pipe gets tabs."""

from hypothesis import given
from hypothesis import strategies as st

from llmcli.output.table import cells, fit, table

ROWS = [["starter", "9", "the built-in model"], ["お茶", "1200", "another\tone"]]


def test_a_terminal_gets_aligned_columns_cut_to_its_width():
    assert list(table(["name", "MB", "what"], ROWS, terminal=True, width=26, right=[1])) == [
        "name       MB  what",
        "starter     9  the built-…",
        "お茶     1200  another\\to…",
    ]


def test_a_long_name_gives_way_to_the_last_column_where_it_may_be_cut():
    row = ["1", "some-publisher/some-long-model-name-Q4_K_M", "How to get to the station"]
    header = ["ID", "MODEL", "TITLE"]

    assert [
        list(table(header, [row], terminal=True, width=width, cut=(1,)))[1] for width in (50, 30, 90)
    ] == [
        "1   some-publisher/some…  How to get to the stati…",
        "1   some-publis…  How to get…",
        "1   some-publisher/some-long-model-name-Q4_K_M  How to get to the station",
    ]


def test_a_pipe_gets_tabs_and_everything():
    assert list(table(["name", "MB", "what"], ROWS, terminal=False, width=10)) == [
        "name\tMB\twhat",
        "starter\t9\tthe built-in model",
        "お茶\t1200\tanother\\tone",
    ]


def test_a_table_without_rows_is_its_header():
    assert list(table(["name", "MB"], [], terminal=True)) == ["name  MB"]


@given(st.text(), st.integers(0, 40))
def test_a_cut_text_never_exceeds_its_cells(text, width):
    assert cells(fit(text, width)) <= width


def test_escape_sequences_in_a_cell_are_shown():
    assert list(table(["name"], [["\x1b[2J"]], terminal=True)) == ["name", "␛[2J"]
