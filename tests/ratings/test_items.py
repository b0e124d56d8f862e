"""What is to be rated, and which of it: sources, pairs, selection."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ppokit.errors import DataError
from ppokit.ratings.page.choosing import choose, farthest, word_vectors
from ppokit.ratings.page.items import Item, Source, pair_items, read_source, single_items
from ppokit.ratings.table import RatingColumns, read_ratings


def run_folder(folder: Path, *steps: list[tuple[str, str]]) -> Path:
    (folder / "rollouts").mkdir(parents=True)
    for number, rows in enumerate(steps, 1):
        table = pa.table(
            {"id": ["x"] * len(rows), "prompt": [p for p, _ in rows], "response": [r for _, r in rows]}
        )
        pq.write_table(table, folder / "rollouts" / f"step-{number:06d}.parquet")
    return folder


def items_of(count: int, text: str = "word") -> list[Item]:
    return [Item(f"{i:03d}", f"prompt {i}", (f"{text} {i}",), ("a",)) for i in range(count)]


def test_a_run(tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", [("p", "a"), ("p", "b")], [("q", "c")], [("q", "d")])
    assert read_source(run).responses == [("p", "a"), ("p", "b"), ("q", "c"), ("q", "d")]
    assert read_source(run, last=2).responses == [("q", "c"), ("q", "d")]


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "a.csv").write_text("prompt,answer\np,r\n")
    (tmp_path / "bad.csv").write_text("prompt,response\np,r\n,r\n")
    (tmp_path / "broken" / "rollouts").mkdir(parents=True)
    (tmp_path / "broken" / "rollouts" / "step-000001.parquet").write_text("no")
    for name, message, last in [
        ("empty", "holds no rollouts/", None),
        ("none.csv", "there is no file", None),
        ("a.csv", "no column 'response'; it has 'prompt' and 'answer'.*--column response=NAME", None),
        ("a.csv", "no run's folder", 1),
        ("bad.csv", r"row 3: prompt is empty", None),
        ("broken", "cannot be read", None),
    ]:
        with pytest.raises(DataError, match=message):
            read_source(tmp_path / name, last=last)
    assert read_source(tmp_path / "bad.csv", on_bad_row="skip").bad_rows[0].row == 3


def test_files(tmp_path: Path) -> None:
    """Ratings in a file are not read, so they may be missing; pairs are both pairs and responses."""
    (tmp_path / "r.csv").write_text("prompt,response,rating,item\np,r,,1\np,s,seven,1\n")
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected\np,good,bad\n")
    (tmp_path / "o.csv").write_text("Question,Answer\np,r\n")
    assert read_source(tmp_path / "r.csv").responses == [("p", "r"), ("p", "s")]
    pairs = read_source(tmp_path / "p.csv")
    assert (pairs.responses, pairs.pairs) == ([], [("p", "good", "bad")])
    other = RatingColumns(prompt="Question", response="Answer")
    assert read_source(tmp_path / "o.csv", other).responses == [("p", "r")]
    assert [i.responses for i in single_items([pairs])] == [("good",), ("bad",)]
    (item,) = pair_items([pairs], 0)[0]
    assert item.responses == ("bad", "good")
    assert item.sources == (f"{tmp_path / 'p.csv'}: rejected", f"{tmp_path / 'p.csv'}: chosen")


def test_the_same_response_is_one_item() -> None:
    sources = [Source("a", [("p", "r"), ("p", "r")]), Source("b", [("p", "r"), ("q", "r")])]
    assert [(i.prompt, i.sources) for i in single_items(sources)] == [("p", ("a, b",)), ("q", ("a",))] or [
        (i.prompt, i.sources) for i in single_items(sources)
    ] == [("p", ("a, b",)), ("q", ("b",))]


def test_ids_are_those_of_a_ratings_file(tmp_path: Path) -> None:
    """So that what is rated here and what was rated elsewhere are the same items."""
    (tmp_path / "r.csv").write_text("prompt,response,rating\np,r,1\n")
    (tmp_path / "p.csv").write_text("prompt,chosen,rejected\np,z,a\n")
    (single,) = single_items([Source("x", [("p", "r")])])
    (pair,) = pair_items([Source("x", [("p", "a"), ("p", "z")])], 0)[0]
    assert single.id == read_ratings(tmp_path / "r.csv").ratings[0].item
    assert pair.id == read_ratings(tmp_path / "p.csv").pairs[0].item


@given(
    st.dictionaries(st.sampled_from("pqr"), st.lists(st.text("ab", max_size=3), max_size=7), max_size=3),
    st.integers(0, 5),
)
def test_pairs_within_one_source(texts: dict[str, list[str]], seed: int) -> None:
    """Each prompt gives as many pairs as it has different responses for, and no response stands in two."""
    source = Source("a", [(prompt, text) for prompt, responses in texts.items() for text in responses])
    items, _ = pair_items([source], seed)
    for prompt, responses in texts.items():
        used = [text for item in items if item.prompt == prompt for text in item.responses]
        assert len(used) == 2 * (len(set(responses)) // 2)
        assert len(set(used)) == len(used)
        assert set(used) <= set(responses)
    assert pair_items([source], seed)[0] == items


@given(
    st.lists(st.text("abcd", max_size=2), max_size=5),
    st.lists(st.text("abcd", max_size=2), max_size=5),
    st.lists(st.text("efgh", max_size=2), max_size=5),
)
def test_pairs_across_sources(one: list[str], two: list[str], three: list[str]) -> None:
    texts_by_source = {name: set(texts) for name, texts in zip("abc", (one, two, three), strict=True)}
    items, _ = pair_items(
        [Source(name, [("p", t) for t in texts]) for name, texts in texts_by_source.items()], 0
    )
    sources = sum(bool(texts) for texts in texts_by_source.values())
    used: Counter[tuple[str, str]] = Counter()
    for item in items:
        if sources > 1:
            assert item.sources[0] != item.sources[1]
        assert item.responses[0] < item.responses[1]
        for text, source in zip(item.responses, item.sources, strict=True):
            assert text in texts_by_source[source]
            used[source, text] += 1
    assert max(used.values(), default=1) == 1


def test_prompts_without_a_pair_are_told() -> None:
    both = [Source("a", [("p", "r"), ("p", "s"), ("q", "r")]), Source("b", [("q", "s")])]
    items, notes = pair_items(both, 0)
    assert [item.prompt for item in items] == ["q"]
    assert notes == ["prompts that make no pair, as they have responses of one source only: 1"]


def test_random_is_shuffled_by_the_seed() -> None:
    items = items_of(50)
    first = choose(items, None, "random", 0)
    assert sorted(i.id for i in first) == [i.id for i in items]
    assert first != items
    assert choose(items[::-1], None, "random", 0) == first  # whatever order the source had
    assert choose(items, None, "random", 1) != first
    assert choose(items, 5, "random", 0) == first[:5]


def test_uncertain_takes_the_widest_spread() -> None:
    items = items_of(20)

    def spread(prompts: list[str], responses: list[str]) -> list[float]:
        return [float(text.split()[1]) for text in responses]

    chosen = choose(items, 4, "uncertain", 0, spread)  # type: ignore[arg-type]
    assert {i.id for i in chosen} == {"016", "017", "018", "019"}
    with pytest.raises(DataError, match="reward model"):
        choose(items, 4, "uncertain", 0)


def test_uncertain_pairs_count_both_responses() -> None:
    """3, 4 make 5, which goes before 0, 4.9; alone neither would."""
    items = [Item("x", "p", ("3", "4"), ("", "")), Item("y", "p", ("0", "4.9"), ("", ""))]
    chosen = choose(items, 1, "uncertain", 0, lambda _, responses: [float(r) for r in responses])
    assert [i.id for i in chosen] == ["x"]


def test_farthest_by_hand() -> None:
    """From the first row at 0 degrees: the farthest is at 180, then the one between them, at 100."""
    from scipy.sparse import csr_array

    angles = np.deg2rad([0, 10, 100, 170, 180])
    rows = csr_array(np.stack([np.cos(angles), np.sin(angles)], 1))
    assert farthest(rows, 3) == [0, 4, 2]


@given(st.lists(st.text("ab c", min_size=1), min_size=1, max_size=12, unique=True), st.data())
def test_farthest_takes_no_row_twice(texts: list[str], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(texts)))
    chosen = farthest(word_vectors(texts), count)
    assert len(set(chosen)) == count


def test_diverse_takes_one_of_each_kind() -> None:
    kinds = ["rain on the river", "cost of bread today", "stars over mountains"]
    items = [
        Item(f"{kind}{i}", "p", (f"{text} {i}",), ("a",)) for kind, text in enumerate(kinds) for i in range(9)
    ]
    for seed in range(5):
        assert {i.id[0] for i in choose(items, 3, "diverse", seed)} == {"0", "1", "2"}


def test_word_vectors_by_hand() -> None:
    """`a` in both of two texts, `b` twice in one: weights log 1 = 0 and (1 + log 2) log 3/2, alone."""
    vectors = word_vectors(["a", "a b b"])
    assert vectors[[0]].toarray().max() == pytest.approx(np.log(3 / 3))
    assert sorted(vectors[[1]].toarray()[0])[-2:] == [0, pytest.approx(1)]
