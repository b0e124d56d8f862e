"""What `ppokit ratings stats` and `check` say, on tables small enough to work out by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("krippendorff")
pytest.importorskip("scipy")

from ppokit.errors import DataError
from ppokit.ratings.findings import findings_of
from ppokit.ratings.plot import plot
from ppokit.ratings.records import Pair, Rating, RatingTable
from ppokit.ratings.stats import Stats, distribution, stats_of
from ppokit.ratings.table import read_ratings


def rating(row: int, text: str, value: float, rater: str, item: str = "", split: str | None = None) -> Rating:
    return Rating(row, f"prompt {text}", text, value, rater, item or text, split, {})


def table(*ratings: Rating, pairs: tuple[Pair, ...] = ()) -> RatingTable:
    return RatingTable("r.csv", list(ratings), list(pairs), [])


def three_raters() -> RatingTable:
    """Items a, b, c rated by ann (1, 3, 5), ben (2, 4, 6) and cy (a: 9)."""
    rows = [
        ("a", 1, "ann"),
        ("b", 3, "ann"),
        ("c", 5, "ann"),
        ("a", 2, "ben"),
        ("b", 4, "ben"),
        ("c", 6, "ben"),
    ]
    ratings = [rating(i, text, value, rater) for i, (text, value, rater) in enumerate(rows, 2)]
    return table(*ratings, rating(8, "a", 9, "cy"))


def few(ratings: RatingTable) -> Stats:
    return stats_of(ratings, replicates=50)


def test_raters_by_hand() -> None:
    ann, ben, cy = few(three_raters()).raters
    # ann: 1 - (2+9)/2, 3 - 4, 5 - 6; ben: 2 - (1+9)/2, 4 - 3, 6 - 5; cy: 9 - (1+2)/2.
    assert ann.bias == pytest.approx((-4.5 - 1 - 1) / 3)
    assert ben.bias == pytest.approx((-3 + 1 + 1) / 3)
    assert cy.bias == pytest.approx(7.5)
    assert (ann.mean, ann.std, ann.ratings, ann.compared) == (3.0, 2.0, 3, 3)
    assert (cy.std, cy.agreement) == (None, None)
    # ann ranks a < b < c; the others' means are 5.5, 4, 6: ranks 2, 1, 3, rho = 1 - 6 * 2 / (3 * 8).
    assert ann.agreement == pytest.approx(0.5)


def test_counts_by_hand() -> None:
    stats = few(three_raters())
    assert (stats.rows, stats.items, stats.prompts, stats.kind) == (7, 3, 3, "ratings")
    assert stats.ratings_an_item == {2: 2, 3: 1}
    assert stats.coverage == pytest.approx(7 / 9)
    assert stats.scale is not None
    assert (stats.scale.low, stats.scale.high, stats.scale.median, stats.scale.whole) == (1, 9, 4, True)
    assert stats.scale.mean == pytest.approx(30 / 7)
    assert stats.agreement.items == 3
    assert stats.agreement.far_apart == pytest.approx(1 / 3)  # a: 9 - 1 is half of the scale or more
    assert (stats.duplicates, stats.contradictions) == (0, 0)


def test_what_one_rater_says_twice_counts_once() -> None:
    stats = few(
        table(
            rating(2, "a", 4, "ann"),
            rating(3, "a", 8, "ann"),
            rating(4, "a", 5, "ben"),
            rating(5, "b", 1, "ben"),
            rating(6, "b", 1, "ben"),
        )
    )
    assert (stats.duplicates, stats.contradictions) == (1, 1)
    assert stats.ratings_an_item == {2: 1, 1: 1}
    ann, ben = stats.raters
    assert (ann.bias, ben.bias) == (1.0, -1.0)  # ann's 4 and 8 are one 6


def test_ratings_without_raters_are_by_different_people() -> None:
    stats = few(
        table(
            *(rating(i, text, v, "") for i, (text, v) in enumerate([("a", 1), ("a", 3), ("b", 5), ("b", 5)]))
        )
    )
    assert stats.raters == ()
    assert (stats.duplicates, stats.contradictions) == (0, 0)
    assert stats.coverage is None
    assert stats.ratings_an_item == {2: 2}
    # D_o = (4 + 4) / 4 = 2; ordered pairs of 1, 3, 5, 5: 2 * (4 + 16 + 16 + 4 + 4) / 12 = 22/3.
    assert stats.agreement.alpha is not None
    assert stats.agreement.alpha.value == pytest.approx(1 - 2 / (22 / 3))


def test_two_responses_of_one_item_are_rated_apart() -> None:
    """As in a file that holds a pair in two rows."""
    stats = few(
        table(Rating(2, "p", "x", 1, "ann", "1", None, {}), Rating(3, "p", "y", 0, "ann", "1", None, {}))
    )
    assert (stats.items, stats.duplicates, stats.contradictions) == (2, 0, 0)


def pair(row: int, chosen: str, rejected: str, rater: str) -> Pair:
    first, second = sorted((chosen, rejected))
    return Pair(row, "p", chosen, rejected, rater, f"{first}|{second}", None)


def test_pairs_by_hand() -> None:
    pairs = (
        pair(2, "long text", "short", "ann"),
        pair(3, "long text", "short", "ben"),
        pair(4, "short", "long text", "cy"),
        pair(5, "b", "aa", "ann"),
        pair(6, "b", "aa", "ben"),
        pair(7, "aa", "b", "ann"),
    )
    stats = few(table(pairs=pairs))
    assert (stats.kind, stats.rows, stats.items, stats.scale) == ("pairs", 6, 2, None)
    assert stats.longer_chosen == pytest.approx(3 / 6)
    assert stats.contradictions == 1
    assert stats.agreement.level == "nominal"
    assert stats.agreement.split_half is None
    agreement = {rater.name: rater.agreement for rater in stats.raters}
    # Who is split decides nothing: on long/short the others of ann and of ben are, on b/aa ann herself is.
    assert agreement == {"ann": None, "ben": None, "cy": 0.0}
    assert stats.raters[0].bias is None


def test_longer_texts_are_counted_where_lengths_differ() -> None:
    chosen = [("aaa", "b"), ("cc", "d"), ("e", "ff"), ("g", "h")]
    stats = few(table(pairs=tuple(pair(i, *texts, "") for i, texts in enumerate(chosen))))
    assert stats.longer_chosen == pytest.approx(2 / 3)


def test_pairs_agree_fully() -> None:
    stats = few(
        table(
            pairs=tuple(
                pair(i, *t, r)
                for i, (t, r) in enumerate(
                    [(("a", "b"), "ann"), (("a", "b"), "ben"), (("d", "c"), "ann"), (("d", "c"), "ben")]
                )
            )
        )
    )
    assert stats.agreement.alpha is not None
    assert stats.agreement.alpha.value == 1.0
    assert [rater.agreement for rater in stats.raters] == [1.0, 1.0]


def test_aspects_by_hand() -> None:
    rows = [(1, 2), (2, 9), (3, None), (4, 30)]  # ranks 1 2 3 against 1 2 3
    ratings = [
        Rating(i, "p", f"r{i}", v, "", f"i{i}", None, {"wit": a, "none": None})
        for i, (v, a) in enumerate(rows)
    ]
    (wit,) = few(table(*ratings)).aspects
    assert (wit.name, wit.ratings) == ("wit", 3)
    assert wit.mean == pytest.approx(41 / 3)
    assert wit.spearman == pytest.approx(1)
    flat = [Rating(i, "p", f"r{i}", i, "", f"i{i}", None, {"wit": 1.0}) for i in range(3)]
    assert few(table(*flat)).aspects[0].spearman is None


def test_distribution() -> None:
    def bars(values: list[float]) -> list[tuple[float, float, int]]:
        return [(bar.low, bar.high, bar.count) for bar in distribution(np.array(values, float))]

    assert bars([1, 1, 3]) == [(1, 1, 2), (2, 2, 0), (3, 3, 1)]
    assert bars([0.5, 2]) == [(0.5, 0.5, 1), (2, 2, 1)]
    hundred = bars(list(range(1, 101)))
    assert [bar[:2] for bar in hundred[:2]] == [(0, 10), (10, 20)]
    assert [bar[2] for bar in hundred] == [9, 10, 10, 10, 10, 10, 10, 10, 10, 11]


@settings(max_examples=80, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6).map(lambda v: round(v, 3)), min_size=1, max_size=40))
def test_every_rating_is_in_the_distribution(values: list[float]) -> None:
    bars = distribution(np.array(values))
    assert sum(bar.count for bar in bars) == len(values)
    assert len(bars) <= 13


def test_findings() -> None:
    rows = [rating(i, f"t{i}", i % 5, "ann", split="train") for i in range(10, 30)]
    findings = findings_of(
        table(
            rating(2, "a", 3, "ann"),
            rating(3, "a", 3, "ann"),
            rating(4, "a", 1, "ann"),
            rating(5, "b", 2, "ben"),
            rating(6, "b", 2, "ben"),
            rating(7, "c", 88, "ben"),
            Rating(8, "another", "x", 1, "ben", "a", None, {}),
            Rating(9, "PROMPT  t10", " ", 1, "", "y", "test", {}),
            *rows,
            Rating(40, "prompt c", "a slip", 3, "cat", "c", None, {}),
        )
    )
    assert [(p.row, p.reason) for p in findings.problems] == [
        (8, "item 'a' is also in row 2, of another prompt; expected one prompt per item"),
        (40, "item 'c' is also in row 7, of another response; expected one per item"),
    ]
    assert [(r.row, r.reason) for r in findings.remarks] == [
        (3, "rater 'ann' decides differently in rows 2, 3 and 4: 3, 3 and 1, for the prompt 'prompt a'"),
        (6, "rater 'ben' decides the same in rows 5 and 6"),
        (7, "rating is 88; all others are from 0 to 4"),
        (9, "does not say who rated"),
        (9, "its response is empty"),
        (10, "its prompt is in split 'train', and in row 9 in 'test'"),
    ]


def test_findings_of_a_known_scale_and_hostile_texts() -> None:
    findings = findings_of(
        table(rating(2, "\x1b[31m", 3, "\x1b[2J"), rating(3, "\x1b[31m", 11, "\x1b[2J")), (1, 10)
    )
    assert [(p.row, p.reason) for p in findings.problems] == [(3, "rating is 11; expected 1 to 10")]
    assert "\x1b" not in findings.remarks[0].reason


@pytest.mark.parametrize(("value", "rows_reported"), [(8, []), (9, []), (10, [30]), (-4, [30])])
def test_a_rating_far_away(value: float, rows_reported: list[int]) -> None:
    """Of twenty ratings from 1 to 5, which are 4 apart at most, one is farther than that from all others."""
    rows = [rating(i, f"t{i}", i % 5 + 1, "ann") for i in range(10, 30)]
    findings = findings_of(table(*rows, rating(30, "t30", value, "ann")))
    assert [remark.row for remark in findings.remarks] == rows_reported


def test_the_ends_of_a_scale_belong_to_it() -> None:
    ratings = [rating(i, f"t{i}", value, "ann") for i, value in enumerate([0, 1, 5, 10, 10.5])]
    assert [problem.row for problem in findings_of(table(*ratings), (1, 10)).problems] == [0, 4]


def test_an_extra_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppokit.ratings.stats.find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"scipy and krippendorff: pip install 'ppokit\[ratings\]'"):
        few(three_raters())


@pytest.mark.parametrize("kind", ["ratings", "one rating", "pairs", "many raters"])
def test_plots(tmp_path: Path, kind: str) -> None:
    ratings = {
        "ratings": three_raters(),
        "one rating": table(rating(2, "a", 1, "$x_{$ \x07")),
        "pairs": table(pairs=(pair(2, "a", "b", "ann"), pair(3, "a", "b", "ben"))),
        "many raters": table(*(rating(i, f"t{i % 7}", i % 13, f"rater {i}") for i in range(60))),
    }[kind]
    plot(few(ratings), ratings, tmp_path / "s.png")
    assert (tmp_path / "s.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(DataError, match="cannot be written"):
        plot(few(ratings), ratings, tmp_path / "none" / "s.png")


def test_real_ratings_where_they_are(shared_ratings: Path) -> None:
    """600 responses by three raters each, in a file whose item column numbers the rows."""
    stats = stats_of(read_ratings(shared_ratings / "chat_engagement.csv"))
    assert stats.ratings_an_item == {3: 600}
    assert stats.coverage == 1.0
    assert stats.agreement.alpha is not None
    assert stats.agreement.split_half is not None
    # ICC(1) of a balanced design is alpha but for 1/n: (MSB - MSW) / (MSB + 2 MSW).
    groups: dict[tuple[str, str], list[float]] = {}
    for r in read_ratings(shared_ratings / "chat_engagement.csv").ratings:
        groups.setdefault((r.prompt, r.response), []).append(r.rating)
    x = np.array(list(groups.values()))
    between = 3 * x.mean(axis=1).var(ddof=1)
    within = x.var(axis=1, ddof=1).mean()
    icc = (between - within) / (between + 2 * within)
    assert stats.agreement.alpha.value == pytest.approx(icc, abs=0.001)
    low, high = stats.agreement.alpha.low, stats.agreement.alpha.high
    assert low is not None
    assert high is not None
    assert low < icc < high
