"""What a run keeps of each token adds up to its metrics, and keeping it changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ppokit import PPOTrainer, Recipe
from ppokit.report.run_data import read_run
from ppokit.report.shown_samples import token_columns
from ppokit.report.step_file import Samples, read_step
from runs import lasting, metrics_of, weights_of

RecipeDict = Callable[..., dict[str, Any]]
HALF = 2e-3  # what half precision loses of a mean


def trained(recipe: dict[str, Any]) -> Path:
    with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
        trainer.train()
    return Path(recipe["run"]["out"])


def samples_of(run: Path, step: int = 1) -> Samples:
    path = run / "rollouts" / f"step-{step:06d}.parquet"
    return read_step(path, step, range(len(read_step(path, step))))


def means(samples: Samples) -> dict[str, float]:
    """Of each of the ledger's columns over the tokens that the policy wrote, in responses trained on."""
    columns: dict[str, list[float]] = {}
    for i in range(len(samples)):
        wrote = samples.tokens["loss_mask"].row(i) != 0
        for name, numbers in token_columns(samples.tokens, i).items():
            if samples.trained[i] and len(numbers):
                columns.setdefault(name, []).extend(numbers[wrote].tolist())
    return {name: float(np.mean(numbers)) for name, numbers in columns.items()}


@pytest.mark.parametrize("losses", [["ppo_clip", "value_clip"], ["cispo"]], ids=" ".join)
def test_the_ledger_adds_up_to_the_metrics(
    recipe_dict: RecipeDict, tmp_path: Path, losses: list[str]
) -> None:
    """One epoch of several mini-batches: the last pass over each response is the only one."""
    by_value = "value_clip" in losses
    recipe = recipe_dict(
        losses=[{"use": name} for name in losses],
        advantages={"use": "gae" if by_value else "group_relative"},
        update={"epochs": 1, "minibatches": 4, "learning_rate": 0.02},
        run={"steps": 2, "out": str(tmp_path / "run"), "sample_every": 0},
    )
    run = trained(recipe)
    samples, metrics = samples_of(run, 2), metrics_of(run)[1]
    ledger = means(samples)
    assert ledger["kl"] == pytest.approx(metrics["kl/k1"], rel=1e-5)
    assert ledger["ratio"] == pytest.approx(metrics["policy/ratio"], abs=HALF)
    assert ledger["ratio"] != pytest.approx(1, abs=1e-4)
    assert ledger["entropy"] == pytest.approx(metrics["policy/entropy"], rel=HALF)
    assert ledger["clipped"] == pytest.approx(metrics["policy/clip_fraction"], abs=1e-6)
    if by_value:
        assert ledger["value"] == pytest.approx(metrics["value/mean"], rel=1e-4)
        assert ledger["return"] == pytest.approx(metrics["value/return_mean"], rel=1e-4)
    rewards = [samples.tokens["token_rewards"].row(i).sum() for i in range(len(samples))]
    pattern, penalty = metrics["reward/pattern"], metrics["reward/kl_penalty"]
    assert np.mean(rewards) == pytest.approx(pattern + 0.05 * penalty, rel=1e-4)
    assert samples.score.mean() == pytest.approx(metrics["reward/mean"], rel=1e-5)
    assert samples.length.mean() == pytest.approx(metrics["response/length"])


@pytest.mark.parametrize("minibatches", [1, 2])
def test_a_loss_alone_that_needs_the_reference_gives_each_token_its_kl(
    recipe_dict: RecipeDict, tmp_path: Path, minibatches: int
) -> None:
    """No reward asks for the log-probabilities before the update, so that the update is the first to know."""
    recipe = recipe_dict(
        rewards=[{"use": "pattern", "pattern": "[aeiou]", "mode": "count"}],
        losses=[{"use": "ppo_clip"}, {"use": "kl", "weight": 0.1}],
        advantages={"use": "group_relative"},
        update={"epochs": 1, "minibatches": minibatches, "learning_rate": 0.02},
        run={"steps": 2, "out": str(tmp_path / "run"), "sample_every": 0},
    )
    run = trained(recipe)
    samples, metrics = samples_of(run, 2), metrics_of(run)[1]
    assert abs(metrics["kl/k1"]) > 1e-4
    assert means(samples)["kl"] == pytest.approx(metrics["kl/k1"], rel=1e-4)
    assert np.isfinite(samples.kl).all()


def test_ratios_are_those_of_the_policy_of_the_last_pass(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """Of two epochs the second sees what the first alone leaves: its log-probabilities, taken anew."""
    update = {"epochs": 2, "learning_rate": 0.02}
    recipe = recipe_dict(update=update, run={"steps": 1, "out": str(tmp_path / "two"), "sample_every": 0})
    two = samples_of(trained(recipe))
    recipe = recipe_dict(update=update, run={"steps": 1, "out": str(tmp_path / "one"), "sample_every": 0})
    with PPOTrainer(Recipe.from_dict(recipe)) as trainer:
        (prompts,) = trainer.prompts
        rollout = trainer.collect(prompts)
        advantages = trainer.estimate(rollout, trainer.score(rollout))
        trainer.update(rollout, advantages, epochs=1)
        batches = trainer.components.updater.microbatches.divide(rollout, 2, 1)
        now = batches.forward(lambda batch: trainer.roles.logprobs(batch, "policy", temperature=1.0)[0])
    assert two.ids == rollout.ids
    assert rollout.old_logprobs is not None
    for i, mask in enumerate(rollout.response_mask):
        expected = (now[i] - rollout.old_logprobs[i])[mask].numpy()
        np.testing.assert_allclose(two.tokens["log_ratio"].row(i), expected, atol=1e-5, rtol=2e-3)
    assert np.abs(two.tokens["log_ratio"].flat).max() > 0.01


def test_keeping_changes_nothing_and_can_be_switched_off(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """The same numbers to the bit by as many passes, and less than two megabytes per 64 x 48 tokens."""
    runs, passes = [], []
    for keep in (True, False):
        out = {"steps": 2, "out": str(tmp_path / str(keep)), "sample_every": 0, "token_columns": keep}
        with PPOTrainer(Recipe.from_dict(recipe_dict(run=out))) as trainer:
            seen: list[int] = []
            trainer.roles.model.register_forward_hook(lambda *_, own=seen: own.append(1))
            trainer.train()
        runs.append(tmp_path / str(keep))
        passes.append(len(seen))
    assert passes[0] == passes[1] > 0
    first, second = (list(map(lasting, metrics_of(run))) for run in runs)
    assert first == second
    weights, others = (weights_of(run, 2) for run in runs)
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    kept, without = (set(samples_of(run).tokens) for run in runs)
    assert kept - without == {"log_ratio", "new_values", "entropy", "clipped"}
    with_columns, plain = ((run / "rollouts" / "step-000001.parquet").stat().st_size for run in runs)
    assert with_columns - plain < 2e6 / (64 * 48) * samples_of(runs[0]).length.sum()


def test_responses_that_were_left_out_have_no_numbers(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    """`mask_truncated` leaves truncated responses out of the update; the others' numbers stay their own."""
    recipe = recipe_dict(
        advantages={"use": "gae", "mask_truncated": True},
        update={"epochs": 1, "learning_rate": 0.02},
        rollout={"max_new_tokens": 10, "prompts_per_step": 4, "responses_per_prompt": 2, "stop": ["."]},
        run={"steps": 1, "out": str(tmp_path / "run"), "sample_every": 0},
    )
    samples = samples_of(trained(recipe))
    finished = [outcome == "finished" for outcome in samples.outcomes]
    assert 0 < sum(finished) < len(finished)
    assert [len(samples.tokens["entropy"].row(i)) > 0 for i in range(len(samples))] == finished
    for i in (i for i, own in enumerate(finished) if own):
        assert samples.tokens["entropy"].row(i).min() > 0
        # With one pass nothing has moved yet.
        assert not samples.tokens["log_ratio"].row(i).any()
        np.testing.assert_allclose(
            samples.tokens["new_values"].row(i), samples.tokens["values"].row(i), atol=1e-6
        )


def test_the_page_is_written_at_a_checkpoint_and_at_the_end(recipe_dict: RecipeDict, tmp_path: Path) -> None:
    out = {"steps": 3, "out": str(tmp_path / "run"), "sample_every": 0, "checkpoint_every": 2, "report": True}
    pages = []
    with PPOTrainer(Recipe.from_dict(recipe_dict(run=out))) as trainer:
        for prompts in trainer.prompts:
            rollout = trainer.collect(prompts)
            rewards = trainer.score(rollout)
            advantages = trainer.estimate(rollout, rewards)
            trainer.report(rollout, rewards, advantages, trainer.update(rollout, advantages))
            page = tmp_path / "run" / "report.html"
            pages.append(page.read_text() if page.exists() else "")
    assert [bool(page) for page in pages] == [False, True, True]
    assert "2 of 3 steps, still going" in pages[1]
    assert "3 of 3 steps, finished" in pages[2]
    assert read_run(tmp_path / "run").last_step == 3


def test_a_page_that_fails_ends_no_run(
    recipe_dict: RecipeDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("no page today")

    monkeypatch.setattr("ppokit.report.writer.write_report", broken)
    out = {"steps": 1, "out": str(tmp_path / "run"), "sample_every": 0, "report": True}
    with pytest.warns(UserWarning, match=r"run\.report.*no page today.*the run goes on"):
        trained(recipe_dict(run=out))
    assert (tmp_path / "run" / "policy").exists()
