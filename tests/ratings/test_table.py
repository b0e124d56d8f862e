"""Rows as ratings and pairs: columns, numbers, texts, items, and every bad row by its number."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from ppokit.errors import DataError, PpokitWarning
from ppokit.ratings.table import (
    Pair,
    Rating,
    RatingColumns,
    RatingTable,
    mean_ratings,
    pairs_of,
    read_for_fit,
    read_for_run,
    read_ratings,
)


def table_of(tmp_path: Path, text: str, name: str = "r.csv", **options: object) -> RatingTable:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return read_ratings(tmp_path / name, **options)  # type: ignore[arg-type]


def reasons(
    tmp_path: Path, text: str, name: str = "r.csv", columns: RatingColumns | None = None
) -> dict[int, str]:
    return {
        b.row: b.reason for b in table_of(tmp_path, text, name, columns=columns, on_bad_row="skip").bad_rows
    }


def test_ratings(tmp_path: Path) -> None:
    table = table_of(
        tmp_path,
        "split,rating,prompt,response,rater,item,fluency,note\ntrain,7,p, r ,ann,i1,3,x\n,-.5,NA,None,,,,\n",
        columns=RatingColumns(aspects=("fluency",)),
    )
    assert table.ratings[0] == Rating(2, "p", " r ", 7.0, "ann", "i1", "train", {"fluency": 3.0})
    second = table.ratings[1]
    assert (second.prompt, second.response, second.rating) == ("NA", "None", -0.5)
    assert (second.rater, second.split, second.aspects) == ("", None, {"fluency": None})
    assert table.pairs == []


def test_columns_of_other_names(tmp_path: Path) -> None:
    columns = RatingColumns(prompt="Question", response="Answer", rating="Score", rater="Who", item="Id")
    table = table_of(tmp_path, "Id,Who,Question,Answer,Score\n1,ann,q,a,3\n", columns=columns)
    assert table.ratings == [Rating(2, "q", "a", 3.0, "ann", "1", None, {})]


def test_unknown_keys_are_refused() -> None:
    with pytest.raises(ValidationError):
        RatingColumns(promt="x")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "Prompt,response,rating",
            r"no column 'prompt'; .*; did you mean 'Prompt'\? .*--column prompt=NAME",
        ),
        ("prompt,respnose,rating", r"did you mean 'respnose'\?"),
        ("prompt,response", "no column 'rating'; it has 'prompt' and 'response'. Say"),
        ("prompt,response,rating,rating", r"2 columns 'rating' \(3 and 4, from the left\)"),
        ("prompt,chosen", "no column 'response'"),
    ],
)
def test_columns_that_are_not_there(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        table_of(tmp_path, f"{header}\na,b,1,1\n")


def test_a_column_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column 'Who'; .* holds the rater"):
        table_of(tmp_path, "prompt,response,rating\np,r,1\n", columns=RatingColumns(rater="Who"))


@pytest.mark.parametrize(
    ("cell", "value"),
    [("7", 7), (" 7.50 ", 7.5), ("-3", -3), ("+2", 2), ("1e2", 100), (".5", 0.5), ("5.", 5)],
)
def test_numbers(tmp_path: Path, cell: str, value: float) -> None:
    assert table_of(tmp_path, f"prompt,response,rating\np,r,{cell}\n").ratings[0].rating == value


@pytest.mark.parametrize(
    ("cell", "reason"),
    [
        ("", "rating is empty; expected a number"),
        ("   ", "rating is empty; expected a number"),
        ("nan", "rating is 'nan' (text); expected a number"),
        ("inf", "rating is 'inf' (text); expected a number"),
        ("1e999", "rating is 1e999; expected a finite number"),
        ("8/10", "rating is '8/10' (text); expected a number"),
        ("1_000", "rating is '1_000' (text); expected a number"),
        ("٣", "rating is '٣' (text); expected a number"),
        ('"7,5"', "rating is '7,5' (text); expected a number (7.5, not 7,5: commas stand between the cells)"),
    ],
)
def test_what_is_no_number(tmp_path: Path, cell: str, reason: str) -> None:
    assert reasons(tmp_path, f"prompt,response,rating\np,r,{cell}\np,r,1\n") == {2: reason}


def test_decimal_commas_where_commas_do_not_divide(tmp_path: Path) -> None:
    table = table_of(
        tmp_path, "prompt;response;rating\np;r;7,5\np;r;1.000,5\np;r;1,2,3\np;r;7.5\n", on_bad_row="skip"
    )
    assert [r.rating for r in table.ratings] == [7.5, 7.5]
    assert [b.row for b in table.bad_rows] == [3, 4]


def test_json_types(tmp_path: Path) -> None:
    good = {"prompt": "p", "response": "r", "rating": 1, "rater": 3}
    lines = [
        good,
        good | {"rating": True},
        good | {"rating": None},
        good | {"rating": 10**400},
        good | {"prompt": 7},
        good | {"response": None},
        good | {"response": ["r"]},
        {"prompt": "p", "response": "r"},
        good | {"prompt": "half \ud800"},
    ]
    text = "\n".join(map(json.dumps, lines))
    assert reasons(tmp_path, text, "r.jsonl") == {
        2: "rating is true; expected a number",
        3: "rating is empty; expected a number",
        4: f"rating is 1{'0' * 56}...; expected a finite number",
        5: "prompt is 7; expected text",
        6: "response is missing; expected text",
        7: "response is a list of 1; expected text",
        8: "rating is empty; expected a number",
        9: "prompt holds what is no UTF-8 text; type it again and save as CSV UTF-8",
    }
    assert table_of(tmp_path, json.dumps(good), "one.jsonl").ratings[0].rater == "3"


def test_an_empty_response_is_one_and_an_empty_prompt_is_none(tmp_path: Path) -> None:
    table = table_of(tmp_path, "rating,response,prompt\n0,,p\n1,r,\n1,r, \n1,r\n", on_bad_row="skip")
    assert [(r.response, r.rating) for r in table.ratings] == [("", 0.0)]
    assert {b.row: b.reason for b in table.bad_rows} == {
        3: "prompt is empty; expected text",
        4: "prompt is empty; expected text",
        5: "prompt is missing; expected text",
    }


def test_all_faults_of_a_row(tmp_path: Path) -> None:
    assert reasons(tmp_path, "prompt,response,rating\n,r,x\np,r,1\n") == {
        2: "prompt is empty; expected text; rating is 'x' (text); expected a number"
    }


def test_bad_rows_are_named_or_kept_aside(tmp_path: Path) -> None:
    text = "prompt,response,rating\n" + "p,r,bad\n" * 23 + "p,r,1\n"
    with pytest.raises(DataError) as caught:
        table_of(tmp_path, text)
    lines = str(caught.value).splitlines()
    assert lines[0].endswith("r.csv: 23 of 24 rows cannot be used")
    assert lines[1] == "  row 2: rating is 'bad' (text); expected a number"
    assert lines[20].startswith("  row 21:")
    assert lines[21] == "  and 3 more"
    assert len(lines) == 23
    table = table_of(tmp_path, text, on_bad_row="skip")
    assert (len(table.ratings), len(table.bad_rows)) == (1, 23)


def test_a_run_is_told_of_rows_that_it_leaves_out(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("prompt,response,rating\np,r,1\np,s,x\np,t,y\n")
    with pytest.warns(PpokitWarning, match=r"r\.csv: bad rows left out: 2 .*first is row 3: rating is 'x'"):
        table = read_for_run(tmp_path / "r.csv", RatingColumns(), on_bad_row="skip")
    assert [rating.response for rating in table.ratings] == ["r"]
    (tmp_path / "r.csv").write_text("prompt,response,rating\np,r,1\n")
    read_for_run(tmp_path / "r.csv", RatingColumns(), on_bad_row="skip")  # a warning would be an error here


def test_mean_ratings(tmp_path: Path) -> None:
    table = table_of(tmp_path, "prompt,response,rating\np,r,1\nq,r,5\np,s,0\np,r,4\n")
    assert list(mean_ratings(table).items()) == [(("p", "r"), 2.5), (("q", "r"), 5), (("p", "s"), 0)]


def test_no_good_row_is_an_error_even_where_bad_ones_are_skipped(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="1 of 1 rows cannot be used"):
        table_of(tmp_path, "prompt,response,rating\np,r,x\n", on_bad_row="skip")
    with pytest.raises(DataError, match="a header but no rows"):
        table_of(tmp_path, "prompt,response,rating\n,,\n")


def test_items_without_a_column_are_texts(tmp_path: Path) -> None:
    table = table_of(tmp_path, "prompt,response,rating\na,b,1\na,b,2\nab,,3\na,c,4\n")
    one, same, moved, other = (r.item for r in table.ratings)
    assert one == same
    assert len({one, moved, other}) == 3
    again = table_of(tmp_path, "rating,response,prompt\n9,b,a\n", "other.csv")
    assert again.ratings[0].item == one


def test_an_item_column_that_numbers_rows_is_no_item(tmp_path: Path) -> None:
    text = "prompt,response,rating,rater,item\np,r,1,ann,0\np,r,2,ben,1\n"
    table = table_of(tmp_path, text)
    assert len({r.item for r in table.ratings}) == 1
    assert "differs in every row" in table.notes[0]
    kept = table_of(tmp_path, text, columns=RatingColumns(item="item"))
    assert [r.item for r in kept.ratings] == ["0", "1"]
    distinct = table_of(tmp_path, text.replace("p,r,2", "p,s,2"))
    assert [r.item for r in distinct.ratings] == ["0", "1"]
    assert distinct.notes == []


def test_pairs(tmp_path: Path) -> None:
    table = table_of(tmp_path, "prompt,chosen,rejected,rater\np,a,b,ann\np,b,a,ben\n")
    assert table.ratings == []
    first, second = table.pairs
    assert (first.chosen, first.rejected, first.rater, first.row) == ("a", "b", "ann", 2)
    assert first.item == second.item
    assert reasons(tmp_path, "prompt,chosen,rejected\np,a,a\np,a,b\n") == {
        2: "chosen and rejected are the same text; a tie cannot be trained on"
    }


def test_a_rating_column_comes_before_pairs(tmp_path: Path) -> None:
    assert table_of(tmp_path, "prompt,chosen,rejected,rating,response\np,a,b,1,r\n").pairs == []


def test_pairs_of_ratings(tmp_path: Path) -> None:
    text = (
        "prompt,response,rating,rater,pair\n"
        "p,good,1,ann,1\np,bad,0,ann,1\n"  # one pair
        "q,x,2,ann,2\nq,y,2,ann,2\n"  # equal: none
        "q,x,1,ben,2\nq,y,3,ben,2\nq,z,5,ben,2\n"  # three
        "p,good,5,ben,1\n"  # alone with its rater: none
    )
    table = table_of(tmp_path, text, columns=RatingColumns(item="pair"))
    pairs = pairs_of(table)
    assert pairs[0] == Pair(2, "p", "good", "bad", "ann", "1", None)
    assert len(pairs) == 4
    assert {(p.chosen, p.rejected) for p in pairs[1:]} == {("y", "x"), ("z", "x"), ("z", "y")}
    with pytest.raises(DataError, match="rows 2 and 3 share the item '1' but not the prompt"):
        pairs_of(table_of(tmp_path, text.replace("p,bad", "P,bad"), columns=RatingColumns(item="pair")))


PAIRED = "prompt,response,rating,pair\np,good,1,1\np,bad,0,1\nq,fine,1,2\nq,poor,0,2\n"


def test_a_column_of_pairs_is_read_as_choices_where_it_is_plain(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(PAIRED)
    table = read_for_fit(path, RatingColumns(), on_bad_row="fail")
    assert [(pair.chosen, pair.rejected) for pair in pairs_of(table)] == [("good", "bad"), ("fine", "poor")]
    assert any("rows of one 'pair' are read as a choice" in message for message in table.notes)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("p,good,1,1", "p,good,7,1"),  # graded: the numbers say more than the order
        ("q,fine,1,2", "r,fine,1,2"),  # two prompts
        ("q,poor,0,2\n", ""),  # a response alone
        ("rating,pair", "rating,turn"),
    ],
)
def test_another_column_of_pairs_is_none(tmp_path: Path, old: str, new: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(PAIRED.replace(old, new))
    assert read_for_fit(path, RatingColumns(), on_bad_row="fail") == read_ratings(path)
