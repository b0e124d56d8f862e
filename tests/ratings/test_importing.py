"""Small files in the forms of annotation tools and public collections: each row becomes what it says."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ppokit.data.formats import BadRow
from ppokit.errors import DataError
from ppokit.ratings.importing import import_table
from ppokit.ratings.names import Source
from ppokit.ratings.records import RatingColumns, RatingTable
from ppokit.ratings.table import read_ratings


def read(
    path: Path, form: Source, rows: list[dict[str, Any]], columns: RatingColumns | None = None
) -> RatingTable:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return import_table(path, form, columns, on_bad_row="skip")


def ratings(table: RatingTable) -> list[tuple[Any, ...]]:
    return [(r.prompt, r.response, r.rating, r.rater, r.item) for r in table.ratings]


def pairs(table: RatingTable) -> list[tuple[Any, ...]]:
    return [(p.prompt, p.chosen, p.rejected, p.rater, p.item) for p in table.pairs]


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


MTURK = {
    "HITId": "3X",
    "AssignmentId": "3A",
    "WorkerId": "A1",
    "AssignmentStatus": "Approved",
    "Input.prompt": "Name a fruit.",
    "Input.response": "A pear.",
}


def test_mturk_a_number_and_a_rejected_assignment(tmp_path: Path) -> None:
    rows = [
        {**MTURK, "Answer.rating": "4"},
        {**MTURK, "WorkerId": "A2", "AssignmentStatus": "Rejected", "Answer.rating": "1"},
        {**MTURK, "WorkerId": "A3", "AssignmentStatus": "Submitted", "Answer.rating": ""},
    ]
    table = read(tmp_path / "batch.csv", "mturk", rows)
    assert ratings(table) == [("Name a fruit.", "A pear.", 4, "A1", "3X")]
    assert table.notes == ["left out: rejected assignments (1) and rows without an answer (1)"]


def test_mturk_radio_buttons_in_columns_and_in_json(tmp_path: Path) -> None:
    columns = RatingColumns(rating="quality")
    rows = [
        {**MTURK, "Answer.quality.1": "false", "Answer.quality.2": "true"},
        {**MTURK, "Answer.quality.1": "true", "Answer.quality.2": "true"},
    ]
    table = read(tmp_path / "radio.csv", "mturk", rows, columns)
    assert [r.rating for r in table.ratings] == [2]
    assert table.bad_rows == [BadRow(3, "Answer.quality has 2 choices, 1 and 2; expected one")]
    for answer in (
        {"1": False, "2": False, "3": True},
        {"label": "3"},
    ):  # crowd-radio-group, crowd-classifier
        answers = json.dumps([{"quality": answer}])
        table = read(tmp_path / "crowd.csv", "mturk", [{**MTURK, "Answer.taskAnswers": answers}], columns)
        assert [r.rating for r in table.ratings] == [3]


def test_mturk_pairs(tmp_path: Path) -> None:
    task = {"WorkerId": "A1", "HITId": "3X", "Input.prompt": "p"}
    texts = {"Input.response_1": "one", "Input.response_2": "two"}
    rows = [{**task, **texts, "Answer.preference": which} for which in ("response_2", "A", "tie", "so")]
    table = read(tmp_path / "batch.csv", "mturk", rows)
    assert pairs(table) == [("p", "two", "one", "A1", "3X"), ("p", "one", "two", "A1", "3X")]
    assert table.notes == ["left out: ties (1)"]
    assert [bad.row for bad in table.bad_rows] == [5]


def test_prodigy_a_choice_among_responses(tmp_path: Path) -> None:
    options = [{"id": "a", "text": "one"}, {"id": "b", "text": "two"}, {"id": "c", "text": "three"}]
    task = {"text": "p", "options": options, "_annotator_id": "db-ann", "_input_hash": 7}
    rows = [
        {**task, "accept": ["b"], "answer": "accept"},
        {**task, "accept": [], "answer": "ignore"},
        {**task, "accept": [], "answer": "accept"},
        {**task, "accept": ["a", "b"], "answer": "accept"},
        {**task, "accept": ["z"], "answer": "accept"},
    ]
    table = read(tmp_path / "db.jsonl", "prodigy", rows)
    assert pairs(table) == [("p", "two", "one", "db-ann", "7"), ("p", "two", "three", "db-ann", "7")]
    assert table.notes == ["left out: ignored tasks (1) and rows without an answer (1)"]
    assert [bad.row for bad in table.bad_rows] == [4, 5]


def test_prodigy_a_scale_and_a_verdict(tmp_path: Path) -> None:
    scale = [{"id": number, "text": str(number)} for number in (1, 2, 3)]
    task = {"prompt": "p", "response": "r", "_session_id": "s"}
    table = read(
        tmp_path / "a.jsonl", "prodigy", [{**task, "options": scale, "accept": [3], "answer": "accept"}]
    )
    assert [(r.rating, r.rater) for r in table.ratings] == [(3, "s")]
    table = read(tmp_path / "b.jsonl", "prodigy", [{**task, "answer": a} for a in ("accept", "reject")])
    assert [r.rating for r in table.ratings] == [1, 0]


def test_label_studio_json(tmp_path: Path) -> None:
    result = {"from_name": "rating", "to_name": "response", "type": "rating", "value": {"rating": 4}}
    choice = {"from_name": "rating", "type": "choices", "value": {"choices": ["2"]}}
    task = {"id": 5, "data": {"prompt": "p", "response": "r"}}
    rows = [
        {
            **task,
            "annotations": [
                {"id": 1, "completed_by": 11, "result": [result]},
                {"id": 2, "completed_by": 12, "result": [choice]},
                {"id": 3, "completed_by": 13, "was_cancelled": True, "result": []},
                {"id": 4, "completed_by": 14, "result": []},
            ],
        }
    ]
    table = read(tmp_path / "tasks.jsonl", "label_studio", rows)
    assert ratings(table) == [("p", "r", 4, "11", "5"), ("p", "r", 2, "12", "5")]
    assert table.notes == ["left out: rows without an answer (1)"]
    rows[0]["annotations"] = [
        {"completed_by": 11, "result": [{"from_name": "preference", "value": {"selected": "right"}}]}
    ]
    rows[0]["data"] = {"prompt": "p", "response_1": "a", "response_2": "b"}
    assert pairs(read(tmp_path / "pairs.jsonl", "label_studio", rows)) == [("p", "b", "a", "11", "5")]


def test_label_studio_minimal_json(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "response": "r", "id": 5, "rating": 4, "annotator": 1, "annotation_id": 9}]
    assert ratings(read(tmp_path / "min.jsonl", "label_studio", rows)) == [("p", "r", 4, "1", "5")]


def test_arena_conversations(tmp_path: Path) -> None:
    def battle(a: list[Any], b: list[Any], winner: str) -> dict[str, Any]:
        return {
            "question_id": "q",
            "model_a": "x",
            "model_b": "y",
            "winner": winner,
            "judge": "j",
            "conversation_a": a,
            "conversation_b": b,
        }

    one, two = [user("p"), assistant("one")], [user("p"), assistant("two")]
    longer = [user("p"), assistant("same"), user("more")]
    rows = [
        battle(one, two, "model_b"),
        battle(one, two, "tie"),
        battle(one, two, "tie (bothbad)"),
        battle(one, one, "model_a"),
        battle([*longer, assistant("three")], [*longer, assistant("four")], "model_a"),
        battle([*one, user("q"), assistant("a")], [*two, user("q"), assistant("b")], "model_a"),
        battle([*one, user("q")], [*one, user("r")], "model_a"),
    ]
    table = read(tmp_path / "arena.jsonl", "arena", rows)
    assert pairs(table) == [
        ("p", "two", "one", "j", "q"),
        ("User: p\n\nAssistant: same\n\nUser: more", "three", "four", "j", "q"),
    ]
    assert table.notes == [
        "left out: ties (2), chats that are the same (1) and chats that differ before their last answer (1)"
    ]
    assert [bad.row for bad in table.bad_rows] == [7]


def test_arena_turns_in_columns(tmp_path: Path) -> None:
    def battle(prompt: Any, a: Any, b: Any, winner: str) -> dict[str, Any]:
        columns = {"id": 30, "prompt": prompt, "response_a": a, "response_b": b}
        flags = ("winner_model_a", "winner_model_b", "winner_tie")
        return columns | {name: int(name == winner) for name in flags}

    rows = [
        battle('["p"]', '["one"]', '["two"]', "winner_model_a"),
        battle('["p", "q"]', '["s", "one"]', '["s", null]', "winner_model_b"),
        battle('["p"]', '["one"]', '["two"]', "winner_tie"),
        battle('["p", "q"]', '["one"]', '["two"]', "winner_model_a"),
    ]
    table = read(tmp_path / "arena.csv", "arena", rows)
    assert pairs(table) == [
        ("p", "one", "two", "", "30"),
        ("User: p\n\nAssistant: s\n\nUser: q", "", "one", "", "30"),
    ]
    assert [bad.row for bad in table.bad_rows] == [5]


def test_hh_transcripts(tmp_path: Path) -> None:
    start = "\n\nHuman: Hi.\n\nAssistant:"
    rows = [
        {"chosen": f"{start} Hello!", "rejected": f"{start} No."},
        {
            "chosen": f"{start} Hello!\n\nHuman: A\n\nfruit?\n\nAssistant: A pear.",
            "rejected": f"{start} Hello!\n\nHuman: A\n\nfruit?\n\nAssistant: ",
        },
        {"chosen": f"{start} a\n\nHuman: b\n\nAssistant: c", "rejected": f"{start} d"},
        {"chosen": "Hello", "rejected": f"{start} d"},
    ]
    table = read(tmp_path / "hh.jsonl", "hh", rows)
    assert [(p.prompt, p.chosen, p.rejected) for p in table.pairs] == [
        ("Hi.", "Hello!", "No."),
        ("User: Hi.\n\nAssistant: Hello!\n\nUser: A\n\nfruit?", "A pear.", ""),
    ]
    assert table.notes == ["left out: chats that differ before their last answer (1)"]
    assert [bad.row for bad in table.bad_rows] == [4]


def test_ultrafeedback(tmp_path: Path) -> None:
    completions = [
        {"model": "x", "response": "one", "overall_score": 7.5, "fine-grained_score": 4.25},
        {"model": "y", "response": "two", "overall_score": None, "fine-grained_score": 2.0},
    ]
    rows = [{"source": "s", "instruction": "p", "completions": completions}]
    table = read(tmp_path / "scored.jsonl", "ultrafeedback", rows)
    assert [(r.prompt, r.response, r.rating) for r in table.ratings] == [("p", "one", 7.5)]
    assert table.notes == ["left out: completions without a score (1)"]
    table = read(tmp_path / "fine.jsonl", "ultrafeedback", rows, RatingColumns(rating="fine-grained_score"))
    assert [r.rating for r in table.ratings] == [4.25, 2]
    binarized = {
        "prompt": "p",
        "prompt_id": "id",
        "chosen": [user("p"), assistant("one")],
        "rejected": [user("p"), assistant("two")],
        "score_chosen": 8.0,
        "score_rejected": 3.0,
    }
    assert pairs(read(tmp_path / "two.jsonl", "ultrafeedback", [binarized])) == [
        ("p", "one", "two", "", "id")
    ]


def oasst(name: str, parent: str | None, role: str, text: str, rank: int | None = None) -> dict[str, Any]:
    labels = {"name": ["quality", "humor"], "value": [0.75, 0.0], "count": [3, 2]}
    return {
        "message_id": name,
        "parent_id": parent,
        "text": text,
        "role": role,
        "rank": rank,
        "deleted": False,
        "message_tree_id": "m",
        "labels": labels if role == "assistant" else None,
    }


OASST = [
    oasst("m", None, "prompter", "p"),
    oasst("a", "m", "assistant", "best", 0),
    oasst("b", "m", "assistant", "worst", 2),
    oasst("c", "m", "assistant", "middle", 1),
    oasst("d", "m", "assistant", "unranked"),
    {**oasst("e", "m", "assistant", "gone", 3), "deleted": True},
    oasst("q", "a", "prompter", "q"),
    oasst("f", "q", "assistant", "first", 0),
    oasst("g", "q", "assistant", "second", 1),
    oasst("h", "nowhere", "assistant", "lost", 0),
]


def test_openassistant_ranks(tmp_path: Path) -> None:
    table = read(tmp_path / "messages.jsonl", "openassistant", OASST)
    later = "User: p\n\nAssistant: best\n\nUser: q"
    assert pairs(table) == [
        ("p", "best", "middle", "", "m"),
        ("p", "best", "worst", "", "m"),
        ("p", "middle", "worst", "", "m"),
        (later, "first", "second", "", "q"),
    ]
    assert table.notes == ["left out: deleted messages (1) and replies without a rank (1)"]
    assert [bad.row for bad in table.bad_rows] == [10]


def test_openassistant_labels_and_trees(tmp_path: Path) -> None:
    table = read(tmp_path / "m.jsonl", "openassistant", OASST[:2], RatingColumns(rating="quality"))
    assert [(r.prompt, r.response, r.rating) for r in table.ratings] == [("p", "best", 0.75)]
    tree = {
        "message_tree_id": "m",
        "tree_state": "ready_for_export",
        "prompt": {
            "message_id": "m",
            "text": "p",
            "role": "prompter",
            "replies": [
                {"message_id": "a", "text": "worse", "role": "assistant", "rank": 1, "replies": []},
                {
                    "message_id": "b",
                    "text": "better",
                    "role": "assistant",
                    "rank": 0,
                    "labels": {"quality": {"value": 0.5, "count": 3}},
                },
            ],
        },
    }
    assert pairs(read(tmp_path / "trees.jsonl", "openassistant", [tree])) == [
        ("p", "better", "worse", "", "m")
    ]
    table = read(tmp_path / "t.jsonl", "openassistant", [tree], RatingColumns(rating="quality"))
    assert [(r.response, r.rating) for r in table.ratings] == [("better", 0.5)]


@pytest.mark.parametrize("form", ["mturk", "prodigy", "arena", "hh", "ultrafeedback", "openassistant"])
def test_a_file_of_another_form(tmp_path: Path, form: Source) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl has the columns 'a'; expected "):
        read(tmp_path / "x.jsonl", form, [{"a": 1}])


@pytest.mark.parametrize(
    ("form", "row"),
    [
        ("arena", {"conversation_a": 3, "conversation_b": "x", "winner": "model_a"}),
        ("arena", {"conversation_a": [{}], "conversation_b": [[]], "winner": "model_a"}),
        ("ultrafeedback", {"instruction": "p", "completions": [{"overall_score": 3}]}),
        ("prodigy", {"text": "p", "options": ["a"], "accept": ["a"], "answer": "accept"}),
        ("openassistant", {"message_tree_id": "m", "prompt": {"message_id": "m", "replies": [{}]}}),
        ("label_studio", {"data": {"prompt": "p"}, "annotations": [{"result": [3]}]}),
    ],
)
def test_odd_rows_are_bad_rows_or_refused(tmp_path: Path, form: Source, row: dict[str, Any]) -> None:
    with pytest.raises(DataError):
        read(tmp_path / "x.jsonl", form, [row])


def test_chats_in_cells_are_pointed_to_import(tmp_path: Path) -> None:
    row = {"prompt": "p", "chosen": [assistant("a")], "rejected": [assistant("b")]}
    (tmp_path / "c.jsonl").write_text(json.dumps(row))
    with pytest.raises(DataError, match=r"expected text \(of chats, ppokit ratings import makes texts\)"):
        read_ratings(tmp_path / "c.jsonl")
