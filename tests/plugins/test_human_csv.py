"""Ratings as a reward: means by hand, similarity-weighted ratings by hand, and who abstains."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from ppokit.errors import DataError, PpokitWarning
from ppokit.plugin import Mean
from ppokit_rewards.human_csv import HumanCSVOptions, human_csv, ppokit_reward_providers

CSV = """prompt,response,rating,rater
hello,hi,8,ann
hello,hi,6,bob
hello,go away,1,ann
bye,see you,9,ann
bye,see you,9,bob
bye,so long,4,bob
"""


@pytest.fixture
def ratings(tmp_path: Path) -> str:
    path = tmp_path / "ratings.csv"
    path.write_text(CSV)
    return str(path)


def build(context: Any, **options: Any) -> Any:
    (component,) = ppokit_reward_providers()
    return component.build(HumanCSVOptions(**options), context)


def values(output: Any) -> list[float | None]:
    return [
        score if outcome == "scored" else None
        for score, outcome in zip(output.scores.tolist(), output.outcomes, strict=True)
    ]


class TestExact:
    def test_the_mean_over_raters_or_none(self, context, make_rollout, ratings) -> None:
        rollout = make_rollout(
            ["hi", "go away", "see you", "hi", "Hi"], prompts=["hello", "hello", "bye", "bye", "hello"]
        )
        output = build(context, path=ratings).score(rollout)
        assert values(output) == [7.0, 1.0, 9.0, None, None]
        assert output.outcomes[3] == "abstained"
        assert output.metrics == {"coverage": pytest.approx(3 / 5)}

    def test_other_columns(self, context, make_rollout, tmp_path) -> None:
        path = tmp_path / "other.csv"
        path.write_text("Frage;Antwort;Note\nhallo;servus;7,5\nhallo;servus;8,5\n")
        columns = {"prompt": "Frage", "response": "Antwort", "rating": "Note"}
        output = build(context, path=str(path), columns=columns).score(
            make_rollout(["servus"], prompts=["hallo"])
        )
        assert values(output) == [8.0]

    def test_a_bad_row_is_named_or_skipped(self, context, make_rollout, tmp_path) -> None:
        path = tmp_path / "bad.csv"
        path.write_text("prompt,response,rating\na,b,3\na,c,many\n")
        with pytest.raises(DataError, match="row 3"):
            build(context, path=str(path))
        with pytest.warns(PpokitWarning, match=r"left out: 1 .*row 3"):
            skipping = build(context, path=str(path), on_bad_row="skip")
        assert values(skipping.score(make_rollout(["b", "c"], prompts=["a", "a"]))) == [3.0, None]

    def test_pairs_are_no_ratings(self, context, tmp_path) -> None:
        path = tmp_path / "pairs.csv"
        path.write_text("prompt,chosen,rejected\na,b,c\n")
        with pytest.raises(DataError, match=r"holds pairs.*ppokit reward fit"):
            build(context, path=str(path))


class TestNearest:
    def test_by_hand(self) -> None:
        """Floor .5, so that .9, .7 and .5 weigh .4, .2 and 0; then the two nearest alone; then none."""
        similarities = torch.tensor([[0.9, 0.7, 0.5, -1.0]])
        rated = torch.tensor([10.0, 4.0, 1000.0, 1000.0])
        assert human_csv(similarities, rated, k=4, floor=0.5).item() == pytest.approx(
            (0.4 * 10 + 0.2 * 4) / 0.6
        )
        assert human_csv(similarities, rated, k=1, floor=0.5).item() == pytest.approx(10)
        assert math.isnan(human_csv(similarities, rated, k=4, floor=0.95).item())
        nobody = torch.full((1, 4), -torch.inf)
        assert math.isnan(human_csv(nobody, rated, k=2, floor=-1.0).item())

    @given(st.integers(0, 10_000), st.integers(1, 6), st.floats(-0.9, 0.9))
    def test_against_a_loop(self, seed: int, k: int, floor: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        similarities = torch.rand(3, 5, generator=generator) * 2 - 1
        rated = torch.rand(5, generator=generator) * 10
        for row, scores in zip(
            similarities.tolist(), human_csv(similarities, rated, k=k, floor=floor), strict=True
        ):
            best = sorted(zip(row, rated.tolist(), strict=True), reverse=True)[:k]
            weights = [max(0.0, s - floor) for s, _ in best]
            if sum(weights) == 0:
                assert math.isnan(scores.item())
                continue
            expected = sum(w * y for w, (_, y) in zip(weights, best, strict=True)) / sum(weights)
            assert scores.item() == pytest.approx(expected, rel=1e-4)

    def vectors(self, **known: list[float]) -> Callable[[Sequence[str]], Tensor]:
        def embed(texts: Sequence[str]) -> Tensor:
            rows = torch.tensor([[float(x) for x in known[text.replace(" ", "_")]] for text in texts])
            return torch.nn.functional.normalize(rows, dim=1)

        return embed

    def test_responses_to_the_same_prompt_count(self, context, make_rollout, ratings) -> None:
        embed = self.vectors(
            hi=[1, 0], go_away=[-1, 0], see_you=[1, 0], so_long=[0, 1], hey=[1, 0], hm=[0, -1.0]
        )
        provider = build(
            replace(context, base=SimpleNamespace(embed=embed)), path=ratings, match="nearest", floor=0.3
        )
        rollout = make_rollout(["hey", "hey", "hm"], prompts=["hello", "bye", "hello"])
        output = provider.score(rollout)
        # As "hi" after hello, as "see you" after bye; "hm" is at right angles to what was rated.
        assert values(output) == [pytest.approx(7), pytest.approx(9), None]
        assert output.metrics["coverage"] == pytest.approx(2 / 3)
        assert output.metrics["similarity"] == Mean(pytest.approx((1 + 1 + 0) / 3), 3)

    @pytest.mark.parametrize(("floor", "expected"), [(None, None), (0.9, 9.0), (0.99, None)])
    def test_similar_prompts_count_where_the_prompt_has_no_ratings(
        self, context, make_rollout, ratings, floor, expected
    ) -> None:
        close = [math.sin(0.3), math.cos(0.3)]  # its cosine with [0, 1] is .955
        embed = self.vectors(
            hi=[1, 0], go_away=[-1, 0], see_you=[1, 0], so_long=[-1, 0], hello=[1, 0], bye=[0, 1], ciao=close
        )
        provider = build(
            replace(context, base=SimpleNamespace(embed=embed)),
            path=ratings,
            match="nearest",
            floor=0.3,
            prompt_floor=floor,
        )
        scores = values(provider.score(make_rollout(["hi"], prompts=["ciao"])))
        assert scores == [None if expected is None else pytest.approx(expected)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "needs path"),
        ({"match": "nearest"}, "needs path"),
        ({"match": "model"}, "needs model"),
        ({"match": "fit"}, "needs path"),
        ({"match": "fit", "path": "x.csv"}, "needs encoder"),
        ({"match": "nearest", "path": "x.csv", "half": "a"}, "half does nothing with match: nearest"),
        ({"path": "x.csv", "match": "close"}, "match"),
        ({"path": "x.csv", "floor": 1}, "floor"),
        ({"path": "x.csv", "k": 0}, "k"),
        ({"path": "x.csv", "columns": {"promt": "a"}}, "promt"),
    ],
)
def test_options(options, message) -> None:
    with pytest.raises(ValidationError, match=message):
        HumanCSVOptions(**options)


def test_check_reads_the_file_and_looks_for_the_folder(unknown_columns, ratings, tmp_path) -> None:
    (component,) = ppokit_reward_providers()
    assert component.check is not None

    def problems(**options: Any) -> list[str]:
        assert component.check is not None
        return list(component.check(HumanCSVOptions(**options), unknown_columns))

    assert problems(path=ratings) == []
    (sentence,) = problems(path=str(tmp_path / "none.csv"))
    assert "none.csv" in sentence
    (sentence,) = problems(match="fit", path=ratings, encoder="package:no-such-package/model")
    assert "which is not installed" in sentence
    pairs = tmp_path / "pairs.csv"
    pairs.write_text("prompt,chosen,rejected\na,b,c\n")
    assert problems(match="fit", path=str(pairs), encoder="org/encoder") == []
    (sentence,) = problems(match="model", model=str(tmp_path / "none"))
    assert "there is no folder" in sentence
    (sentence,) = problems(match="model", model=str(tmp_path))
    assert "no ppokit_reward.json there; expected a folder that ppokit reward fit wrote" in sentence
