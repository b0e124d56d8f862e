"""`ppokit rate RUN --select ...` on what a run has saved and a reward model that was fitted."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("krippendorff")
pytest.importorskip("uvicorn")

from ppokit.cli import app
from ppokit.ratings.page import serving
from ppokit.ratings.page.choosing import word_vectors
from ppokit.ratings.page.session import RatingSession
from ppokit.reward_models.saved import uncertainty
from runs import rollouts_of

COUNT = 4
Chosen = list[tuple[str, str]]


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Chosen]:
    """The command up to the moment at which the page would be served: what it would show, in order."""
    served: list[RatingSession] = []

    def serve(
        session: RatingSession, token: str, host: str, listening: Any, began: Callable[[], None]
    ) -> None:
        began()
        served.append(session)

    monkeypatch.setattr(serving, "serve", serve)

    def run(*options: object) -> Chosen:
        out = tmp_path / f"ratings{len(served)}.csv"
        arguments = ["rate", tmp_path / "run", "--out", out, "--port", 0, "--limit", COUNT, *options]
        result = CliRunner().invoke(app, list(map(str, arguments)))
        assert result.exit_code == 0, result.output
        assert f"{COUNT} of " in result.stdout
        queue = served[-1].queue
        return [(queue.items[item].prompt, queue.items[item].responses[0]) for item in queue.order]

    return run


def command(*arguments: object) -> None:
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == 0, result.output


def radius(all_rows: Chosen, chosen: Chosen) -> float:
    """The largest distance of any response to the nearest chosen one: what diverse keeps small."""
    cosines = (lambda v: (v @ v.T).toarray())(word_vectors([" ".join(row) for row in all_rows]))
    return float((1 - cosines[:, [all_rows.index(row) for row in chosen]].max(axis=1)).max())


def test_select(
    recipe_file: Callable[..., Path], tiny_model: Path, tmp_path: Path, choose: Callable[..., Chosen]
) -> None:
    run: dict[str, Any] = {"steps": 2, "out": str(tmp_path / "run"), "sample_every": 0}
    rollout = {"max_new_tokens": 6, "prompts_per_step": 4, "responses_per_prompt": 3}
    command("train", recipe_file(run=run, rollout=rollout))
    steps = rollouts_of(tmp_path / "run")
    rows = list({(s["prompt"], s["response"]): None for step in steps.values() for s in step})
    assert len(rows) >= 3 * COUNT

    with (tmp_path / "rated.csv").open("w", encoding="utf-8", newline="") as file:
        out = csv.writer(file)
        out.writerow(["prompt", "response", "rating", "rater"])
        for prompt, response in rows:
            out.writerow([prompt, response, len(response) % 11, "ana"])
    reward = tmp_path / "reward"
    fit = ["--model", tiny_model, "--out", reward, "--heads", 3, "--epochs", 1, "--no-curve"]
    command("reward", "fit", tmp_path / "rated.csv", *fit, "--held-out", 0.5)

    random = choose("--select", "random")
    assert random == choose()  # the default
    assert random != choose("--seed", 1)

    uncertain = choose("--select", "uncertain", "--reward", reward)
    std = uncertainty(reward, [p for p, _ in rows], [r for _, r in rows])
    widest = [rows[index] for index in np.argsort(-std)[:COUNT]]
    assert set(uncertain) == set(widest)

    diverse = choose("--select", "diverse")
    radii = [radius(rows, choose("--seed", seed)) for seed in range(5)]
    assert radius(rows, diverse) <= np.mean(radii)

    for chosen in (random, uncertain, diverse):
        assert len(set(chosen)) == COUNT
        assert set(chosen) <= set(rows)
    last = {(s["prompt"], s["response"]) for s in list(steps.values())[-1]}
    assert set(choose("--last", 1)) <= last
