"""A rating session without a browser: what counts, what is refused, what is left in the files."""

from __future__ import annotations

import csv
import errno
import os
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ppokit.errors import DataError
from ppokit.ratings.page import log as log_module
from ppokit.ratings.page.assignments import AssignmentQueue
from ppokit.ratings.page.files import token_of
from ppokit.ratings.page.items import Item, Source, pair_items, single_items
from ppokit.ratings.page.log import NotSavedError
from ppokit.ratings.page.session import RatingSession, RefusedError, SessionConfig
from ppokit.ratings.table import read_ratings

HOSTILE = (
    "<script>document.title = 'taken'</script><img src=x onerror=alert(1)>",
    "=cmd|' /C calc'!A1",
    "+1+1",
    "@SUM(1;1)",
    "\t-2",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f4\U000e0067\U000e0062\U000e007f",
    "x" * 10_000,
    'quotes " and, commas; and\r\nbreaks\nof\rlines\u2028',
    "NUL \x00 and bell \x07",
    "",
    "  ",
)
SINGLE = SessionConfig(pairs=False, scale=(0, 10), seed=0)
PAIRS = SessionConfig(pairs=True, scale=(0, 10), seed=0)


def singles(count: int) -> list[Item]:
    return single_items([Source("secret model", [(f"p{i}", f"r{i}") for i in range(count)])])


def pairs(count: int) -> list[Item]:
    rows = [(f"p{i}", f"{letter}{i}") for i in range(count) for letter in "ab"]
    return pair_items([Source("secret model", rows)], 0)[0]


class Session:
    """A session, and raters who send what their pages would."""

    def __init__(
        self, out: Path, items: list[Item], per_item: int = 1, config: SessionConfig = SINGLE
    ) -> None:
        self.session = RatingSession(out, AssignmentQueue(items, per_item), config)
        self.sent = 0

    def act(self, rater: str, kind: str, value: Any = None, item: str | None = None, key: str = "") -> Any:
        self.sent += 1
        if item is None and kind != "undo":
            item = self.session.state(rater)["item"]["id"]
        return self.session.act(rater, kind, key or f"{os.urandom(8).hex()}", item, value)

    def rate(self, rater: str, *values: Any) -> Any:
        return [self.act(rater, "answer", value) for value in values][-1]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "ratings.csv"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def counts(session: RatingSession) -> list[tuple[str, Any]]:
    return [(answer.rater, answer.value) for answer in session.queue.all_answers()]


# ---- what counts


def test_a_session_goes_on_where_it_stopped(out: Path) -> None:
    first = Session(out, singles(4))
    first.rate("ana", 3, 10)
    first.act("ana", "skip")
    os.close(first.session.log._file)  # killed: nothing is written at the end
    assert not out.exists()

    second = Session(out, singles(4))
    state = second.session.state("ana")
    assert (state["progress"]["mine"], state["progress"]["skipped"]) == (2, 1)
    assert second.rate("ana", 0)["item"] is None
    second.session.close()
    assert [row["rating"] for row in rows(out)] == ["3", "10", "0"]
    assert {row["rater"] for row in rows(out)} == {"ana"}
    assert [r.rating for r in read_ratings(out).ratings] == [3, 10, 0]


def test_what_is_sent_twice_counts_once(out: Path) -> None:
    """Also where the answer to the first was lost with the server, and whatever the second one says."""
    session = Session(out, singles(3))
    shown = session.session.state("ana")["item"]["id"]
    for value in (4, 4, 9):
        state = session.act("ana", "answer", value, item=shown, key="the same key")
        assert state["item"]["id"] != shown
    session.session.close()
    again = Session(out, singles(3))
    again.act("ana", "answer", 4, item=shown, key="the same key")
    assert counts(again.session) == [("ana", 4)]
    again.act("ana", "undo", key="undo it once")
    again.act("ana", "undo", key="undo it once")
    again.rate("ana", 5, 6)
    again.act("ana", "undo", key="undo it once")
    assert counts(again.session) == [("ana", 5), ("ana", 6)]
    again.session.close()


def test_undo_goes_back_one_by_one(out: Path) -> None:
    session = Session(out, singles(4))
    first, second = (session.session.state("ana")["item"]["id"], session.rate("ana", 1)["item"]["id"])
    session.act("ana", "skip")
    session.rate("ben", 7)
    state = session.act("ana", "undo")
    assert (state["item"]["id"], state["previous"]) == (second, None)
    state = session.act("ana", "undo")
    assert (state["item"]["id"], state["previous"]) == (first, 1)
    assert session.act("ana", "undo")["progress"]["mine"] == 0  # nothing left: nothing happens
    assert counts(session.session) == [("ben", 7)]
    session.session.close()
    assert [row["rating"] for row in rows(out)] == ["7"]


def test_a_flag_is_a_mark_beside_the_rating(out: Path, tmp_path: Path) -> None:
    flagged = tmp_path / "ratings.flagged.csv"
    session = Session(out, singles(2), per_item=2)
    state = session.act("ana", "flag", True)
    assert state["item"]["flagged"] is True
    assert state["progress"]["done"] == 0
    marked = state["item"]["id"]
    assert session.session.state("ben")["item"]["flagged"] is False  # each rater sees their own
    session.rate("ana", 2)
    session.session.save()
    assert [(row["rater"], row["item"]) for row in rows(flagged)] == [("ana", marked)]
    session.act("ana", "flag", False, item=marked)
    session.session.close()
    assert rows(flagged) == []
    assert [row["rating"] for row in rows(out)] == ["2"]


def test_a_flag_sent_twice_still_shows_its_item(out: Path) -> None:
    """As after a kill that came between the disk and the page: the lease has gone with the server."""
    items = singles(3)
    first = Session(out, items)
    first.session.state("ben")
    shown = first.session.state("ana")["item"]["id"]
    first.act("ana", "flag", True, item=shown, key="flag it once")
    first.session.close()
    again = Session(out, items)
    state = again.act("ana", "flag", True, item=shown, key="flag it once")
    assert (state["item"]["id"], state["item"]["flagged"]) == (shown, True)
    again.session.close()


@pytest.mark.parametrize("per_item", [1, 2, 3])
def test_every_item_by_k_raters(out: Path, per_item: int) -> None:
    """Five raters in turn, until nothing is left: each item has its k ratings, by different people."""
    items = singles(10)
    session = Session(out, items, per_item)
    raters = ["a", "b", "c", "d", "e"]
    while any(session.session.state(rater)["item"] for rater in raters):
        for rater in raters:
            if session.session.state(rater)["item"]:
                session.rate(rater, 5)
    answered = [(answer.item, answer.rater) for answer in session.session.queue.all_answers()]
    assert len(set(answered)) == len(answered)
    assert Counter(item for item, _ in answered) == {item.id: per_item for item in items}
    progress = session.session.state("a")["progress"]
    assert progress["done"] == progress["wanted"] == 10 * per_item
    session.session.close()


def test_many_raters_at_once(out: Path) -> None:
    """Twelve threads, 60 items by 3 raters each: as if they had come one after the other."""
    session = Session(out, singles(60), per_item=3)

    def work(rater: str) -> None:
        while session.session.state(rater)["item"] is not None:
            session.rate(rater, 5)

    threads = [threading.Thread(target=work, args=(f"rater {n}",)) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    answers_per_item = Counter(answer.item for answer in session.session.queue.all_answers())
    assert set(answers_per_item.values()) == {3}
    assert len(answers_per_item) == 60
    session.session.close()
    assert len(rows(out)) == 180


def test_agreement_so_far(out: Path) -> None:
    """Two raters on two items, 2 2 and 4 8: squared distances within items are 0 and 16, between all values
    0, 4, 4, 36, 36 and 16. D_o = 2 * 16 / 4 = 8, D_e = 2 * 96 / (4 * 3) = 16, alpha = 1 - 8 / 16.
    """
    session = Session(out, singles(2), per_item=2)
    session.rate("ana", 2, 4)
    state = session.rate("ben", 2, 8)
    assert state["progress"]["alpha"] == pytest.approx(0.5)
    assert state["progress"]["shared"] == 2
    state = session.act("ben", "undo")
    assert (state["progress"]["alpha"], state["progress"]["shared"]) == (None, 1)
    session.session.close()
    again = Session(out, singles(2), per_item=2)
    again.rate("ben", 8)
    assert again.session.state("ben")["progress"]["alpha"] == pytest.approx(0.5)
    again.session.close()


# ---- pairs


def test_pairs_with_ties(out: Path) -> None:
    session = Session(out, pairs(3), config=PAIRS)
    shown = [session.session.state("ana")["item"]]
    for value in ("first", "tie", "second"):
        shown.append(session.rate("ana", value)["item"])
    session.session.close()
    texts = [dict(zip(item["values"], item["responses"], strict=True)) for item in shown[:3]]
    choices = [(row["prompt"], row["chosen"], row["rejected"]) for row in rows(out)]
    assert choices == [
        (shown[0]["prompt"], texts[0]["first"], texts[0]["second"]),
        (shown[2]["prompt"], texts[2]["second"], texts[2]["first"]),
    ]
    assert len(read_ratings(out).pairs) == 2
    again = Session(out, pairs(3), config=PAIRS)
    assert counts(again.session) == [
        ("ana", "first"),
        ("ana", "tie"),
        ("ana", "second"),
    ]  # the tie is in the log
    again.session.close()


def test_left_and_right_are_blind(tmp_path: Path) -> None:
    """About half of the pairs stand either way, by the seed and the rater; the same after a restart."""
    items = pairs(200)

    def lefts(name: str, rater: str, seed: int) -> list[bool]:
        session = RatingSession(
            tmp_path / f"{name}.csv", AssignmentQueue(items, 1), SessionConfig(True, (0, 10), seed)
        )
        shown = [session._shown(item.id, rater) for item in items]
        session.close()
        for item_shown, item in zip(shown, items, strict=True):
            response_by_value = dict(zip(item_shown["values"], item_shown["responses"], strict=True))
            assert (response_by_value["first"], response_by_value["second"]) == item.responses
            assert set(item_shown) == {"id", "prompt", "responses", "values", "flagged"}
        return [item_shown["values"][0] == "first" for item_shown in shown]

    ana, ben, other = lefts("x", "ana", 0), lefts("y", "ben", 0), lefts("z", "ana", 1)
    for one in (ana, ben, other):
        assert 70 < sum(one) < 130  # 100 +- 30 is more than four standard deviations
    for one in (ben, other):
        assert 70 < sum(a != b for a, b in zip(ana, one, strict=True)) < 130
    assert lefts("x", "ana", 0) == ana


def test_the_log_tells_what_stood_on_the_left(out: Path) -> None:
    session = Session(out, pairs(20), config=PAIRS)
    shown = []
    for _ in range(20):
        shown.append(session.session.state("ana")["item"]["values"][0])
        session.rate("ana", "first")
    lefts = {answer.item: answer.left for answer in session.session.queue.all_answers()}
    assert [("first", "second")[left or 0] for left in lefts.values()] == shown
    session.session.close()


def test_raters_never_see_a_source(out: Path) -> None:
    for config, items in ((SINGLE, singles(2)), (PAIRS, pairs(2))):
        session = Session(out.with_name(f"{config.pairs}.csv"), items, config=config)
        answers = [
            session.session.state("ana"),
            session.rate("ana", "tie" if config.pairs else 1),
            session.act("ana", "undo"),
        ]
        assert "secret" not in str(answers)
        session.session.close()


# ---- texts


def test_hostile_texts_come_back_as_they_were(out: Path, tmp_path: Path) -> None:
    """In the log, the CSV, the file of flags, and when the session goes on."""
    items = single_items([Source("x", [(f"p {text}"[:50] or "p", text) for text in HOSTILE])])
    session = Session(out, items)
    for number in range(len(HOSTILE)):
        session.act("ana", "flag", True)
        session.rate("ana", number % 11)
    session.session.close()
    again = Session(out, items)
    assert again.session.state("ana")["item"] is None
    again.session.close()
    for path in (out, tmp_path / "ratings.flagged.csv"):
        assert {row["response"] for row in rows(path)} == set(HOSTILE)
    assert {r.response for r in read_ratings(out).ratings} == set(HOSTILE)


# ---- names


def test_one_person_has_one_name(out: Path) -> None:
    session = Session(out, singles(5), per_item=2)
    assert session.session.rater("  Ana \u00a0 Maria ") == "Ana Maria"
    session.rate("Ana Maria", 5)
    assert session.session.rater("ana maria") == "Ana Maria"
    assert session.session.rater("ANA MARIA") == "Ana Maria"
    assert session.session.rater("Jose\u0301") == "Jos\u00e9"  # two ways to type one letter
    assert session.session.rater("=cmd|x!A1") == "=cmd|x!A1"
    session.session.close()


@pytest.mark.parametrize(
    "name", ["", "   ", None, 7, ["ana"], "x" * 61, "a\x00b", "a\u202eb", "a\u200bb", "\ud800", "a\nb\x07"]
)
def test_names_that_are_none(out: Path, name: Any) -> None:
    session = Session(out, singles(1))
    with pytest.raises(RefusedError, match="A name has 1 to 60 letters"):
        session.session.rater(name)
    session.session.close()


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "delete"}, "There is no action 'delete'"),
        ({"kind": None}, "There is no action None"),
        ({"kind": ["answer"]}, "There is no action"),
        ({"key": "short"}, "a key of 8 to 64"),
        ({"key": 12345678}, "a key of 8 to 64"),
        ({"key": "x" * 65}, "a key of 8 to 64"),
        ({"key": "\u05d0" * 8}, "a key of 8 to 64"),
        ({"item": "nothing"}, "no longer to be rated"),
        ({"item": None}, "no longer to be rated"),
        ({"item": {"a": 1}}, "no longer to be rated"),
        ({"value": 11}, "The rating is 11; expected a whole number from 0 to 10"),
        ({"value": -1}, "The rating is -1"),
        ({"value": 5.0}, "The rating is 5.0"),
        ({"value": "5"}, "The rating is '5'"),
        ({"value": True}, "The rating is True"),
        ({"value": None}, "The rating is None"),
        ({"kind": "flag", "value": 1}, "A flag is on or off, not 1"),
    ],
)
def test_what_a_page_would_not_send(out: Path, change: dict[str, Any], message: str) -> None:
    session = Session(out, singles(2))
    before = session.session.log.path.read_bytes()
    given = {
        "kind": "answer",
        "key": "12345678",
        "item": session.session.state("ana")["item"]["id"],
        "value": 5,
    }
    with pytest.raises(RefusedError, match=message):
        session.session.act("ana", **{**given, **change})
    assert session.session.log.path.read_bytes() == before
    assert counts(session.session) == []
    session.session.close()


@pytest.mark.parametrize("value", [1, None, "third", ["first"]])
def test_what_a_page_of_pairs_would_not_send(out: Path, value: Any) -> None:
    session = Session(out, pairs(1), config=PAIRS)
    with pytest.raises(RefusedError, match="expected first, second or tie"):
        session.rate("ana", value)
    session.session.close()


def test_a_full_disk_is_told_and_nothing_has_happened(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(out, singles(3))
    session.rate("ana", 4)
    shown = session.session.state("ana")
    real = os.write

    def full(file: int, data: Any) -> int:
        if file == session.session.log._file:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    with monkeypatch.context() as patch:
        patch.setattr(log_module.os, "write", full)
        for kind, value in (("answer", 5), ("flag", True), ("undo", None)):
            with pytest.raises(NotSavedError):
                session.act("ana", kind, value)
    assert session.session.state("ana") == shown
    assert counts(session.session) == [("ana", 4)]
    session.rate("ana", 5)
    session.session.close()
    assert [row["rating"] for row in rows(out)] == ["4", "5"]


# ---- files


def test_ratings_from_elsewhere_are_not_overwritten(out: Path) -> None:
    for path in (out, out.with_name("ratings.flagged.csv")):
        path.write_text("precious")
        with pytest.raises(DataError, match=rf"{path.name} is there already, but not its log"):
            Session(out, singles(1))
        assert path.read_text() == "precious"
        assert sorted(p.name for p in out.parent.iterdir()) == [path.name]
        path.unlink()


def test_a_session_goes_on_only_as_it_was_begun(out: Path) -> None:
    Session(out, singles(1)).session.close()
    before = (out.with_name("ratings.log.jsonl").read_bytes(), out.read_bytes())
    for config, message in [
        (SessionConfig(False, (1, 5), 0), "was begun with --scale 0-10, but this is with --scale 1-5"),
        (PAIRS, "was begun with --scale 0-10, but this is with --pairs"),
    ]:
        for _ in range(2):  # the first refusal lets go of the log
            with pytest.raises(DataError, match=message):
                Session(out, pairs(1) if config.pairs else singles(1), config=config)
    assert (out.with_name("ratings.log.jsonl").read_bytes(), out.read_bytes()) == before
    Session(
        out, singles(1), config=SessionConfig(False, (0, 10), 7)
    ).session.close()  # another seed is no other question


def test_a_log_that_is_not_ours(out: Path) -> None:
    log = out.with_name("ratings.log.jsonl")
    for text, message in [
        ('{"kind": "begin", "version": 99}\n', "by another version of ppokit, or by another program"),
        ('{"kind": "answer"}\n', "by another version of ppokit, or by another program"),
        (
            '{"kind": "begin", "version": 1, "pairs": false, "scale": [0, 10]}\n'
            '{"kind": "answer", "key": "k", "rater": "ana", "item": "unknown", "value": 3}\n',
            "line 2 does not fit the lines before it",
        ),
    ]:
        log.write_text(text)
        with pytest.raises(DataError, match=message):
            Session(out, singles(1))
        assert log.read_text() == text


def test_items_that_have_gone_from_the_source_keep_their_ratings(out: Path) -> None:
    first = Session(out, singles(3))
    first.rate("ana", 1, 2, 3)
    first.session.close()
    again = Session(out, singles(5)[3:])
    again.rate("ana", 4, 5)
    again.session.close()
    assert [row["rating"] for row in rows(out)] == ["1", "2", "3", "4", "5"]


def test_more_raters_an_item_when_it_goes_on(out: Path) -> None:
    first = Session(out, singles(2))
    first.rate("ana", 1, 2)
    assert first.session.state("ben")["item"] is None
    first.session.close()
    again = Session(out, singles(2), per_item=2)
    assert again.session.state("ana")["item"] is None
    again.rate("ben", 3, 4)
    again.session.close()
    assert len(rows(out)) == 4


def test_a_csv_that_cannot_be_written_stays_as_it_was(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(out, singles(3))
    session.rate("ana", 1)
    session.session.save()
    before = out.read_bytes()
    session.rate("ana", 2)

    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("ppokit.data.atomic.os.fsync", full)
        with pytest.raises(DataError, match=r"cannot be written: .*No space left"):
            session.session.save()
    assert out.read_bytes() == before
    session.session.close()
    assert [row["rating"] for row in rows(out)] == ["1", "2"]
    assert sorted(p.name for p in out.parent.iterdir()) == ["ratings.csv", "ratings.log.jsonl"]


def test_a_csv_that_another_program_holds_is_an_error_that_saving_outlives(out: Path) -> None:
    session = Session(out, singles(1))
    session.rate("ana", 1)
    out.mkdir()  # as where a spreadsheet program does not let it be replaced
    with pytest.raises(DataError, match=r"ratings\.csv cannot be written"):
        session.session.save()
    out.rmdir()
    session.session.close()
    assert [row["rating"] for row in rows(out)] == ["1"]


def test_the_token_stays_and_is_for_its_owner(out: Path) -> None:
    token = token_of(out)
    path = out.with_name("ratings.token")
    assert len(token) >= 22  # 128 bits in base 64
    assert token_of(out) == token
    assert token_of(out.with_name("other.csv")) != token
    assert path.stat().st_mode & 0o077 == 0
    for text in ("short", "a b c d e f g h i j k", "<script>aaaaaaaaaaaaaaaaaaa", ""):
        path.write_text(text)
        with pytest.raises(DataError, match=r"ratings.token holds no token"):
            token_of(out)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"ratings.token cannot be used"):
        token_of(out)
