"""The rewards and the judge of the uses marketing and social media, by numbers worked out by hand."""

from __future__ import annotations

import csv
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppokit.plugin import CheckContext
from rollouts import make_rollout
from runs import REPOSITORY

USES = REPOSITORY / "recipes" / "uses"
FACTS = "name: The Copper Kettle; kind: tea room; view: of the sea; dogs: yes"


@pytest.fixture(autouse=True)
def _from_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `ppokit train` is run there."""
    monkeypatch.syspath_prepend(str(REPOSITORY))
    monkeypatch.chdir(REPOSITORY)


class TestMarketing:
    @pytest.mark.parametrize(
        ("advert", "expected"),
        [
            ("The Copper Kettle, a tea room with a view of the sea. Dogs welcome!", 1.0),
            ("COPPER KETTLE: tea by the sea", (1 + 1 / 2 + 1 + 0) / 4),
            ("", 0.0),
            ("Seaside kettles", 0.0),  # whole words alone
        ],
    )
    def test_a_fact_counts_by_its_words(self, advert: str, expected: float) -> None:
        from recipes.uses.marketing.rewards import covered

        assert covered([FACTS], [advert]) == [pytest.approx(expected)]

    @pytest.mark.parametrize(
        ("advert", "expected"),
        [
            ("The Copper Kettle is our Tea Room.", 0.0),
            ("The Copper Kettle. Open now: Dogs welcome.", 0.0),  # capitals that begin a sentence
            ("The Copper Kettle in Leeds", -1 / 3),
            ("The Copper Kettle in Leeds, Leeds and York, only 5 pounds, 20% off", -1.0),
        ],
    )
    def test_names_and_numbers_that_are_no_facts(self, advert: str, expected: float) -> None:
        from recipes.uses.marketing.rewards import invented

        assert invented([FACTS], [advert]) == [pytest.approx(expected)]

    def test_every_persons_advert_is_perfect(self) -> None:
        from recipes.uses.marketing.rewards import covered, invented

        lines = [
            json.loads(line)
            for part in ("train", "held_out")
            for line in (USES / "marketing" / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        prompts, adverts = ([row[name] for row in lines] for name in ("prompt", "reference"))
        assert set(covered(prompts, adverts)) == {1.0}
        assert set(invented(prompts, adverts)) == {0.0}

    def test_facts_without_a_line(self) -> None:
        from recipes.uses.marketing.rewards import covered

        assert covered(["Write something."], ["Anything."]) == [0.0]


def rollout_of(posts: list[str], personas: list[str]) -> Any:
    rollout = make_rollout([[1]] * len(posts), [[0]] * len(posts))
    rows = [{"prompt": "A post.", "persona": persona, "topic": "tea"} for persona in personas]
    return replace(rollout, prompts=["A post."] * len(posts), responses=posts, rows=rows)


class TestSocialMedia:
    posts = str(USES / "social_media" / "posts.csv")

    def test_halves_share_no_post_and_have_every_persona_alike(self) -> None:
        with (USES / "social_media" / "posts.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        counts = Counter((row["persona"], row["half"]) for row in rows)
        assert sorted(counts.values()) == [11] * 8
        assert len({row["post"] for row in rows}) == len(rows) == 88

    def test_the_reward_is_the_log_probability_of_the_persona(self) -> None:
        """On states that tell the personas apart it is near 0 for the right one, and bounded for another."""
        from recipes.uses.social_media.rewards import Voice, posts_of

        posts, personas = posts_of(self.posts, "a")
        names = sorted(set(personas))
        states = {post: torch.eye(4)[names.index(name)] for post, name in zip(posts, personas, strict=True)}
        base = SimpleNamespace(embed=lambda texts: torch.stack([states[text] for text in texts]))
        voice = Voice(Voice.Options(posts=self.posts), SimpleNamespace(base=base))  # type: ignore[arg-type]
        right, wrong = voice.score(rollout_of([posts[0]] * 2, [personas[0], personas[-1]])).scores.tolist()
        assert personas[0] != personas[-1]
        assert -0.1 < right < 0
        assert wrong == -4.0

    @pytest.mark.parametrize(("number", "share"), [("persona", 0.9), ("persona_by_words", 0.8)])
    def test_the_judge_tells_posts_of_the_other_half_apart(self, number: str, share: float) -> None:
        from recipes.uses.social_media.judge import Persona
        from recipes.uses.social_media.rewards import posts_of

        posts, personas = posts_of(self.posts, "a")
        shares: dict[str, list[float]] = {}
        for name in set(personas):
            rollout = rollout_of(posts, [name] * len(posts))
            view = SimpleNamespace(
                generate=lambda n, rollout=rollout: rollout,
                record=lambda _, values, name=name: shares.update({name: values[number]}),
            )
            assert Persona(posts=self.posts).evaluate(view, 0) == {}  # type: ignore[arg-type]
        assert all(sum(own) == pytest.approx(1) for own in zip(*shares.values(), strict=True))
        likeliest = [max(shares, key=lambda name, i=i: shares[name][i]) for i in range(len(posts))]
        right = sum(name == own for name, own in zip(likeliest, personas, strict=True))
        assert right >= share * len(posts), "by chance it would be a quarter"

    @pytest.mark.parametrize(
        ("content", "problem"),
        [
            (None, "cannot be read: No such file or directory"),
            ("persona,text,half\nx,a post,b\n", "has no column 'post'; expected persona, post and half"),
            ("persona,post\nx,a post\n", "has posts of 0 personas in half b"),
            ("persona,post,half\nx,a post,b\ny,another,a\n", "has posts of 1 personas in half b"),
            ("persona,post,half\nx,a post,b\ny,another,b\n", ""),
        ],
    )
    def test_a_file_of_posts_is_checked_before_a_run(
        self, tmp_path: Path, content: str | None, problem: str
    ) -> None:
        from recipes.uses.social_media.judge import persona

        path = tmp_path / "posts.csv"
        if content is not None:
            path.write_text(content)
        assert persona.check is not None
        found = list(persona.check(persona.options(posts=str(path)), CheckContext(None)))
        assert len(found) == bool(problem)
        assert all(problem in sentence for sentence in found)

    @pytest.mark.parametrize(
        ("columns", "cells", "problem"),
        [
            (("prompt", "persona"), [(1, "a dreamy poet")], ""),
            (("prompt", "who"), [], "persona 'persona' is no column of the held-out prompts (prompt, who)"),
            (
                ("prompt", "persona"),
                [(1, "a dreamy poet"), (3, "a judge")],
                "'a judge' in row 3; expected one of",
            ),
        ],
    )
    def test_held_out_personas_are_checked_before_a_run(
        self, columns: tuple[str, ...], cells: list[tuple[int, str]], problem: str
    ) -> None:
        from recipes.uses.social_media.judge import persona

        context = CheckContext(columns, cells=lambda column: cells)
        assert persona.check is not None
        found = list(persona.check(persona.options(posts=self.posts), context))
        assert len(found) == bool(problem)
        assert all(problem in sentence for sentence in found)
