"""Argilla's and Label Studio's CSV: what they write is read, what is written comes back, formulas stay."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path

import datasets
import pandas
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ppokit.errors import DataError
from ppokit.ratings.exporting import export, harmless, restored
from ppokit.ratings.importing import import_table
from ppokit.ratings.names import Tool
from ppokit.ratings.records import Pair, Rating, RatingColumns, RatingTable
from ppokit.ratings.table import read_ratings
from ppokit.ratings.writing import write_csv, write_table

RISKY = ("=cmd|' /C calc'!A0", "+1", "-1", "@SUM(A1)", "\tx", "\rx", "\n=1", "＝1", "'=1", "''-x")


def cells(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def told(table: RatingTable) -> Counter[tuple[object, ...]]:
    ratings = [(r.prompt, r.response, r.rating, r.rater, r.item) for r in table.ratings]
    return Counter([*ratings, *((p.prompt, p.chosen, p.rejected, p.rater, p.item) for p in table.pairs)])


@pytest.mark.parametrize("text", RISKY)
def test_formulas(text: str) -> None:
    assert harmless(text) == f"'{text}"
    assert restored(harmless(text)) == text


@pytest.mark.parametrize("text", ["", "plain", "'quoted'", "a=b", " =x", "'", "5 - 3"])
def test_what_is_no_formula_stays(text: str) -> None:
    assert harmless(text) == text
    assert restored(text) == text


@settings(max_examples=300, deadline=None)
@given(st.text("'=+-@\t\r\nab", max_size=6))
def test_no_text_is_lost(text: str) -> None:
    assert restored(harmless(text)) == text
    assert harmless(text)[:1] not in ("=", "+", "-", "@", "\t", "\r", "\n")


TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc")) | st.sampled_from("\n\r\t=+-@'\""), max_size=10)
FILLED = TEXT.filter(str.strip)
NAME = TEXT.map(str.strip)
RATINGS = st.lists(
    st.tuples(FILLED, TEXT, st.integers(-20, 20) | st.floats(-10, 10).map(lambda v: round(v, 3)), NAME),
    max_size=8,
    min_size=1,
)


@settings(max_examples=60, deadline=None)
@given(RATINGS, st.sampled_from(["argilla", "label_studio", "own"]))
def test_ratings_come_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str, float, str]], tool: Tool
) -> None:
    ratings = [
        Rating(i, prompt, response, float(value), rater, f"item {prompt!r}{response!r}", None, {})
        for i, (prompt, response, value, rater) in enumerate(rows, 2)
    ]
    table = RatingTable("r.csv", ratings, [], [])
    path = tmp_path_factory.mktemp("tools") / "out.csv"
    if tool == "own":  # type: ignore[comparison-overlap]
        write_table(path, table)
        back = read_ratings(path, RatingColumns(item="item"))
    else:
        export(table, path, tool)
        back = import_table(path, tool)
    assert told(back) == told(table)


@pytest.mark.parametrize("tool", ["argilla", "label_studio"])
def test_pairs_come_back_and_the_better_is_not_always_left(tmp_path: Path, tool: Tool) -> None:
    pairs = [Pair(2, "p", "=a", "b", "ann", "1", None), Pair(3, "p", "b", "=a", "ben", "1", None)]
    pairs.append(Pair(4, "q", "z", "y", "", "2", None))
    table = RatingTable("p.csv", [], pairs, [])
    export(table, tmp_path / "out.csv", tool)
    assert told(import_table(tmp_path / "out.csv", tool)) == told(table)
    header, *rows = cells(tmp_path / "out.csv")
    firsts = {row[header.index("response_1")] for row in rows}
    assert firsts == {"'=a", "y"}


def test_forms(tmp_path: Path) -> None:
    table = RatingTable(
        "r.csv",
        [Rating(2, "p", "-r", 4.0, "ann", "i", None, {}), Rating(3, "p", "-r", 2.5, "ben", "i", None, {})],
        [],
        [],
    )
    assert export(table, tmp_path / "a.csv", "argilla") == 1
    assert cells(tmp_path / "a.csv") == [
        ["id", "prompt", "response", "rating.responses", "rating.responses.users", "rating.responses.status"],
        ["i", "p", "'-r", "[4, 2.5]", '["ann", "ben"]', '["submitted", "submitted"]'],
    ]
    assert export(table, tmp_path / "l.csv", "label_studio") == 2
    assert cells(tmp_path / "l.csv") == [
        ["annotation_id", "annotator", "id", "item", "prompt", "response", "rating"],
        ["1", "ann", "1", "i", "p", "'-r", '[{"rating": 4}]'],
        ["2", "ben", "1", "i", "p", "'-r", '[{"rating": 2.5}]'],
    ]
    assert export(table, tmp_path / "u.csv", "label_studio", unrated=True) == 1
    assert cells(tmp_path / "u.csv") == [["item", "prompt", "response"], ["i", "p", "'-r"]]
    with pytest.raises(DataError, match="is there already and is not overwritten"):
        export(table, tmp_path / "u.csv", "argilla")
    with pytest.raises(DataError, match=r"x\.csv cannot be written: .*u\.csv"):
        export(table, tmp_path / "u.csv" / "x.csv", "argilla")


# As argilla 2's `to_datasets` makes them: answers in lists, a record without answers, a draft.
RECORDS = {
    "id": ["r1", "r2", "r3", "r4"],
    "status": ["completed", "pending", "completed", "completed"],
    "prompt": ["p1", "p2", "p3", "p4"],
    "response": ["a", "b", 'it\'s\n"c"', "d"],
    "rating.responses": [[5, 4], None, [3], [1]],
    "rating.responses.users": [["u-1", "it's u2"], None, ['u"3'], ["u-1"]],
    "rating.responses.status": [["submitted", "submitted"], None, ["submitted"], ["draft"]],
}


@pytest.mark.parametrize("how", ["datasets", "pandas", "json lines"])
def test_what_argilla_writes(tmp_path: Path, how: str) -> None:
    """`Dataset.to_csv` prints lists as NumPy does, without commas; pandas as Python does."""
    datasets.disable_progress_bars()
    path = tmp_path / ("a.jsonl" if how == "json lines" else "a.csv")
    dataset = datasets.Dataset.from_dict(RECORDS)
    if how == "datasets":
        dataset.to_csv(str(path))
        assert "[5 4]" in path.read_text()
    elif how == "pandas":
        pandas.DataFrame(dataset.to_list()).to_csv(path)
        assert "[5, 4]" in path.read_text()
    else:
        dataset.to_json(str(path))
    table = import_table(path, "argilla")
    assert [(r.item, r.rating, r.rater) for r in table.ratings] == [
        ("r1", 5, "u-1"),
        ("r1", 4, "it's u2"),
        ("r3", 3, 'u"3'),
    ]
    assert table.ratings[2].response == 'it\'s\n"c"'
    assert table.notes == ["left out: rows without an answer (1) and draft answers (1)"]


def test_a_list_that_numpy_shortened(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "a.csv",
        ("prompt", "response", "rating.responses"),
        [("p", "r", "[1 2 ... 3]"), ("p", "r", "[1.]"), ("p", "s", "[nan 2]")],
    )
    table = import_table(tmp_path / "a.csv", "argilla", on_bad_row="skip")
    assert [r.rating for r in table.ratings] == [1, 2]
    assert "ends early" in table.bad_rows[0].reason
    with pytest.raises(DataError, match="row 2: a list ends early"):
        import_table(tmp_path / "a.csv", "argilla")


def test_lists_that_do_not_match(tmp_path: Path) -> None:
    header = ("prompt", "response", "rating.responses", "rating.responses.users")
    write_csv(tmp_path / "a.csv", header, [("p", "r", "[1, 2]", "['u']"), ("p", "r", "[1]", "['u']")])
    table = import_table(tmp_path / "a.csv", "argilla", on_bad_row="skip")
    assert [(b.row, b.reason) for b in table.bad_rows] == [
        (2, "2 answers, but 1 users and 2 states; expected one each")
    ]


def test_what_label_studio_writes(tmp_path: Path) -> None:
    """Columns sorted, text quoted, results as JSON, as label_studio_sdk.converter.exports.csv2 does."""
    (tmp_path / "l.csv").write_text(
        '"annotation_id","annotator","created_at","id","lead_time","prompt","response","score"\n'
        '7,"ann@example.org","2024-01-01",1,3.2,"p","r","[{""rating"": 4}]"\n'
        '8,"2","2024-01-01",1,3.2,"p","r","[{""number"": 2.5}]"\n'
        '9,"2","2024-01-01",2,3.2,"p","s","3"\n'
        '10,"2","2024-01-01",3,3.2,"p","t",""\n'
        '11,"2","2024-01-01",4,3.2,"p","t","[{""text"": [""x""]}]"\n'
        '12,"2","2024-01-01",5,3.2,"p","t","[{""rating"": 1}, {""rating"": 2}]"\n'
    )
    columns = RatingColumns(rating="score")
    table = import_table(tmp_path / "l.csv", "label_studio", columns, on_bad_row="skip")
    assert [(r.item, r.rating, r.rater, r.row) for r in table.ratings] == [
        ("1", 4, "ann@example.org", 2),
        ("1", 2.5, "2", 3),
        ("2", 3, "2", 4),
    ]
    assert [b.row for b in table.bad_rows] == [6, 7]
    assert table.notes == ["left out: rows without an answer (1)"]
    with pytest.raises(
        DataError, match=r"no column 'rating'; .*Say which column it is: --column rating=NAME"
    ):
        import_table(tmp_path / "l.csv", "label_studio")


def test_a_question_of_another_name(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("prompt", "response", "quality.responses"), [("p", "r", "[1]")])
    with pytest.raises(DataError, match=r"no column 'rating.responses'.*Say which question it is"):
        import_table(tmp_path / "a.csv", "argilla")
    assert import_table(tmp_path / "a.csv", "argilla", RatingColumns(rating="quality")).ratings[0].rating == 1


def test_no_answers(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", ("prompt", "response", "rating.responses"), [("p", "r", "")])
    with pytest.raises(DataError, match="no answer to 'rating'; left out: rows without an answer"):
        import_table(tmp_path / "a.csv", "argilla")


def test_a_choice_that_is_none(tmp_path: Path) -> None:
    header = ("prompt", "response_1", "response_2", "preference")
    write_csv(
        tmp_path / "l.csv", header, [("p", "a", "b", "so"), ("p", "a", "b", "left"), ("p", "a", "b", "tie")]
    )
    table = import_table(tmp_path / "l.csv", "label_studio", on_bad_row="skip")
    assert (table.pairs[0].chosen, table.bad_rows[0].reason) == (
        "a",
        "preference is 'so'; expected the first or the second response",
    )
    assert table.notes == ["left out: ties (1)"]
