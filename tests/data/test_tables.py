"""Files as spreadsheets and other programs write them: encodings, delimiters, quotes, numbers of rows."""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from pathlib import Path

import pyarrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from ppokit.data.formats import Table
from ppokit.data.tables import clear_parsed, read_table
from ppokit.errors import DataError

KNOWN = {"prompt", "response", "rating"}


def rows_of(tmp_path: Path, content: str | bytes, name: str = "r.csv") -> Table:
    file = tmp_path / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_table(file, KNOWN)


@pytest.mark.parametrize(
    ("encoded", "notes"),
    [
        ("prompt,rating\ncafé “x”,7\n".encode(), 0),
        (codecs.BOM_UTF8 + "prompt,rating\ncafé “x”,7\n".encode(), 0),
        (codecs.BOM_UTF16_LE + "prompt,rating\ncafé “x”,7\n".encode("utf-16-le"), 1),
        (codecs.BOM_UTF16_BE + "prompt,rating\ncafé “x”,7\n".encode("utf-16-be"), 1),
        ("prompt,rating\ncafé “x”,7\n".encode("cp1252"), 1),
    ],
)
def test_encodings(tmp_path: Path, encoded: bytes, notes: int) -> None:
    rows = rows_of(tmp_path, encoded)
    assert rows.header == ("prompt", "rating")
    assert rows.rows == [(2, ["café “x”", "7"])]
    assert len(rows.notes) == notes


def test_windows_1252_shows_what_it_took_it_for(tmp_path: Path) -> None:
    (message,) = rows_of(tmp_path, "prompt,rating\nun café noir,7\n".encode("cp1252")).notes
    assert "Windows-1252" in message
    assert "un café noir" in message


@pytest.mark.parametrize("content", [b"prompt\n\x81\x8d\n", "prompt\nabc\n".encode("utf-16-le")])
def test_what_is_no_text_we_know(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match="save it as UTF-8"):
        rows_of(tmp_path, content)


def test_damaged_utf8_spoils_its_cell_only(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "prompt\nnaïve café\n".encode() + b"br\xffken\n" + "ñ\n".encode())
    assert rows.rows == [(2, ["naïve café"]), (3, ["br\udcffken"]), (4, ["ñ"])]
    assert rows.notes == []


@pytest.mark.parametrize(("delimiter", "decimal_comma"), [(",", False), (";", True), ("\t", True)])
def test_delimiters(tmp_path: Path, delimiter: str, decimal_comma: bool) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows([("prompt", "rating"), ("a, b; c\td", "7")])
    rows = rows_of(tmp_path, text.getvalue())
    assert rows.header == ("prompt", "rating")
    assert rows.rows == [(2, ["a, b; c\td", "7"])]
    assert rows.decimal_comma is decimal_comma


def test_known_columns_decide_between_delimiters(tmp_path: Path) -> None:
    # By number of columns alone, the comma would win: three against two.
    rows = rows_of(tmp_path, "prompt;rating, from 0, to 10\nx;7\n")
    assert rows.header == ("prompt", "rating, from 0, to 10")


def test_a_line_for_spreadsheets_names_the_delimiter(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "sep=;\nprompt;rating\nx;7\n")
    assert rows.rows == [(2, ["x", "7"])]


def test_rows_are_counted_as_a_spreadsheet_counts(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 'prompt,rating\n"two\nlines",1\n\n,\n"a ""b"" c",2\r\n,,\n\n')
    assert rows.rows == [(2, ["two\nlines", "1"]), (5, ['a "b" c', "2"])]
    assert rows.bad == []


def test_short_and_long_rows(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, "prompt,response,rating\na,b\na,b,1,,\na,b,c,1\n")
    assert rows.rows == [(2, ["a", "b", None]), (3, ["a", "b", "1"])]
    assert [(bad.row, bad.reason) for bad in rows.bad] == [
        (4, "4 cells, but the header has 3; a cell that holds a comma needs quotes around it")
    ]


def test_broken_quotes_spoil_their_row_only(tmp_path: Path) -> None:
    rows = rows_of(tmp_path, 'prompt,rating\n"he said "hi"",1\nfine,2\n"never closed,3\n')
    assert rows.rows == [(3, ["fine", "2"])]
    assert [(bad.row, bad.reason.split(";")[0]) for bad in rows.bad] == [
        (2, "a quoted cell goes on after its closing quote"),
        (4, "a quoted cell that begins in this row is never closed"),
    ]


def test_a_quote_that_is_never_closed_takes_no_other_row_along(tmp_path: Path) -> None:
    """Up to the next quote it would hold all lines between them, and shift the numbers of those behind."""
    text = 'prompt,rating\na,1\n"open,2\nb,3\nc,4\n"q, ""r""",5\nd,x\n'
    rows = rows_of(tmp_path, text)
    assert rows.rows == [
        (2, ["a", "1"]), (4, ["b", "3"]), (5, ["c", "4"]), (6, ['q, "r"', "5"]), (7, ["d", "x"]),
    ]  # fmt: skip
    assert [bad.row for bad in rows.bad] == [3]
    assert "is not closed before its line 4, and not rightly there" in rows.bad[0].reason


def test_rows_within_a_cell_are_told(tmp_path: Path) -> None:
    """Two stray quotes make a cell that is well formed; a list or a poem is no suspect."""
    rows = rows_of(tmp_path, 'prompt,response,rating\na,"open,1\nb,c,2\nd,e,3\nf,end",4\n')
    assert rows.rows == [(2, ["a", "open,1\nb,c,2\nd,e,3\nf,end", "4"])]
    (message,) = rows.notes
    assert message.startswith("a cell of row 2 holds lines that could be rows of their own")
    plain = 'prompt,response,rating\na,"one,\ntwo, three\nfour,\nfive, six, seven",1\n'
    poem = 'prompt,response,rating\na,"first\nA, b, and c.\nlast",1\n'
    assert rows_of(tmp_path, plain).notes == rows_of(tmp_path, poem).notes == []


def test_lines_of_a_broken_cell_are_no_rows(tmp_path: Path) -> None:
    """What stands after the line on which it begins is a row only with as many cells as one."""
    text = 'prompt,response,rating\np,"Tips:\nrest, sleep\n\nhe said "go" twice",4\nq,r,5\n'
    rows = rows_of(tmp_path, text)
    assert rows.rows == [(6, ["q", "r", "5"])]
    assert [bad.row for bad in rows.bad] == [2, 3, 5]
    assert "are read as rows of their own where they have as many cells" in rows.bad[0].reason


def test_a_file_of_broken_quotes_is_not_read_to_its_end_from_each(tmp_path: Path) -> None:
    """Two thousand lines are looked at for each row at most, and there are more."""
    text = "prompt,rating\n" + 'x",y,"z\n' * 2_500
    assert len(rows_of(tmp_path, text).bad) == 2_500


def test_a_cell_may_be_longer_than_the_csv_module_allows(tmp_path: Path) -> None:
    before = csv.field_size_limit(5000)
    try:
        text = "word " * 60_000
        assert rows_of(tmp_path, f"prompt,rating\n{text},1\n").rows == [(2, [text, "1"])]
        assert csv.field_size_limit() == 5000
    finally:
        csv.field_size_limit(before)


def test_json_lines(tmp_path: Path) -> None:
    lines = '{"prompt": "a\u2028b", "rating": 1}\n\nnot json\n[1]\n{"rating": 2, "rater": "x"}\n'
    rows = rows_of(tmp_path, lines, "r.jsonl")
    assert rows.header == ("prompt", "rating", "rater")
    assert rows.rows == [(1, ["a\u2028b", 1, None]), (5, [None, 2, "x"])]
    assert [bad.row for bad in rows.bad] == [3, 4]


def test_json_list_and_parquet(tmp_path: Path) -> None:
    data = [{"prompt": "NA", "rating": 1}, {"prompt": "None", "rating": 2}]
    expected = [(1, ["NA", 1]), (2, ["None", 2])]
    assert rows_of(tmp_path, json.dumps(data), "r.json").rows == expected
    parquet.write_table(pyarrow.Table.from_pylist(data), tmp_path / "r.parquet")
    assert read_table(tmp_path / "r.parquet", KNOWN).rows == expected


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("r.xlsx", "x", "ends in .xlsx; expected .csv, .tsv, .jsonl, .json, .parquet or .txt"),
        ("r.csv", "", "is empty"),
        ("r.csv", "\n,,\n", "is empty"),
        ("r.csv", '"prompt\n', "row 1, the header: a quoted cell"),
        ("r.jsonl", "\n", "is empty"),
        ("r.json", "[1,", "is not JSON"),
        ("r.parquet", "x", "is not a Parquet file"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path, content, name)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file"):
        read_table(tmp_path / "none.csv", KNOWN)
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is not a file"):
        read_table(tmp_path / "folder.csv", KNOWN)


def test_a_file_is_parsed_once_until_it_changes(tmp_path: Path) -> None:
    """A recipe's check and the run's own reading share it, whatever each looks for in it."""
    file = tmp_path / "r.csv"
    file.write_text("prompt,rating\na,1\n")
    os.utime(file, (1_000, 1_000))
    first = read_table(file, {"prompt"})
    assert read_table(str(file), KNOWN).rows is first.rows
    file.write_text("prompt,rating\nb,2\n")
    os.utime(file, (2_000, 2_000))
    assert read_table(file, {"prompt"}).rows == [(2, ["b", "2"])]
    kept = read_table(file).rows
    clear_parsed()
    assert read_table(file).rows is not kept


def test_a_file_that_changed_just_now_is_read_again(tmp_path: Path) -> None:
    """Two changes within one tick of the file system's clock look alike."""
    first = rows_of(tmp_path, "prompt,rating\na,1\n").rows
    assert read_table(tmp_path / "r.csv", KNOWN).rows is not first


def test_columns_that_another_delimiter_gives_are_looked_for(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text("a;prompt,b,c\n1;2,3,4\n")
    os.utime(file, (1_000, 1_000))
    assert read_table(file).header == ("a;prompt", "b", "c")
    assert read_table(file, {"a"}).header == ("a", "prompt,b,c")


def test_text_has_a_row_per_line(tmp_path: Path) -> None:
    table = rows_of(tmp_path, "one\r\n\n two\u2028\n", "r.txt")
    assert (table.header, table.rows) == (("text",), [(1, ["one"]), (3, [" two\u2028"])])


CELL = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(CELL, CELL), min_size=1, max_size=6), st.sampled_from(",;\t"))
def test_what_the_csv_module_writes_is_read_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, str]], delimiter: str
) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL).writerows([("prompt", "rating"), *cells])
    rows = rows_of(tmp_path_factory.mktemp("rows"), text.getvalue())
    expected = [(i, list(row)) for i, row in enumerate(cells, 2) if any(cell.strip() for cell in row)]
    assert rows.rows == expected
    assert rows.bad == []
