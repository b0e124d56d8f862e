"""The quickstart on its real model, two small steps: everything that it promises to leave is there."""

from __future__ import annotations

import json
import math
import warnings
from functools import partial
from pathlib import Path

import pytest
import torch

from ppokit import Recipe
from runs import REPOSITORY, metrics_of, rollouts_of, run_ppokit

pytestmark = pytest.mark.slow

METRICS = (
    "step",
    "reward/mean",
    "reward/sentiment",
    "reward/kl_penalty",
    "kl/k1",
    "kl/k3",
    "loss/ppo_clip",
    "loss/value_clip",
    "policy/clip_fraction",
    "policy/approx_kl",
    "policy/entropy",
    "value/explained_variance",
    "grad_norm",
    "response/length",
    "response/finished",
    "time/sampling_s",
    "time/logprobs_s",
    "time/reference_s",
    "time/reward_s",
    "time/update_s",
    "time/step_s",
    "tokens_per_s",
    "memory/peak_gb",
)


ppokit = partial(run_ppokit, cwd=REPOSITORY, timeout=400)


@pytest.fixture(scope="module")
def run(smollm2: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("smollm2") / "run"
    small = [
        f"model.name={smollm2}",
        f"run.out={out}",
        "run.steps=2",
        "run.checkpoint_every=1",
        "rollout.prompts_per_step=4",
        "rollout.responses_per_prompt=2",
        "rollout.max_new_tokens=8",
        # So that two steps make a difference that greedy logits show.
        "update.learning_rate=1e-3",
    ]
    completed = ppokit("train", "recipes/quickstart.yaml", *small)
    assert completed.returncode == 0, completed.stderr
    assert completed.stderr == ""
    return out


def test_folder(run: Path) -> None:
    assert {path.name for path in run.iterdir()} == {
        "recipe.yaml",
        "provenance.json",
        "metrics.jsonl",
        "rollouts",
        "checkpoints",
        "policy",
        "reward.png",
        "report.html",
        "end.json",
    }
    assert (run / "reward.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-000001", "step-000002"]
    provenance = json.loads((run / "provenance.json").read_text())
    assert {"started", "command", "python", "versions", "plugins", "machine", "hashes"} <= provenance.keys()
    assert provenance["versions"]["torch"] == torch.__version__
    assert provenance["plugins"]["rewards[0]"].startswith("ppokit_rewards.sentiment, ppokit ")


def test_recipe_resolves_to_itself(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ppokit import Recipe

    monkeypatch.chdir(REPOSITORY)
    assert Recipe.load(run / "recipe.yaml").to_yaml() == (run / "recipe.yaml").read_text()


def test_metrics(run: Path) -> None:
    lines = metrics_of(run)
    assert [line["step"] for line in lines] == [1, 2]
    for line in lines:
        missing = [name for name in METRICS if name not in line]
        assert not missing
        infinite = [name for name, value in line.items() if value is None or not math.isfinite(value)]
        assert not infinite
        phases = [v for k, v in line.items() if k.startswith("time/") and k.count("/") == 1]
        phases.remove(line["time/step_s"])
        assert math.isclose(sum(phases), line["time/step_s"], rel_tol=1e-6)
        assert 1 <= line["response/length"] <= 8
        assert -1 <= line["reward/sentiment"] <= 1
        assert line["policy/entropy"] > 0
    assert abs(lines[0]["kl/k1"]) < 1e-3
    assert 0 <= lines[0]["kl/k3"] < 1e-3
    assert lines[1]["kl/k3"] > 10 * lines[0]["kl/k3"]


def test_rollouts(run: Path) -> None:
    steps = rollouts_of(run)
    assert list(steps) == ["step-000001.parquet", "step-000002.parquet"]
    rows = [row for step in steps.values() for row in step]
    assert len(rows) == len({row["id"] for row in rows}) == 16
    lines = [
        json.loads(line) for line in (REPOSITORY / "recipes/data/openers.jsonl").read_text().splitlines()
    ]
    weight = Recipe.load(REPOSITORY / "recipes/quickstart.yaml").resolved()["rewards"][1]["weight"]
    for row in rows:
        length = len(row["response_ids"])
        assert 1 <= length <= 8
        assert row["response"]
        assert json.loads(row["row"]) == lines[row["group"]]
        assert lines[row["group"]]["prompt"] == row["prompt"]
        assert row["prompt_ids"]
        for name in ("sampler_logprobs", "kl/k1", "advantages", "token_rewards"):
            assert len(row[name]) == length
            assert all(math.isfinite(number) for number in row[name])
        assert max(row["sampler_logprobs"]) <= 0
        assert row["trained"]
        assert row["outcome/sentiment"] == row["outcome/kl_penalty"] == "scored"
        assert math.isclose(row["score"], row["reward/sentiment"], abs_tol=1e-6)
        expected = row["reward/sentiment"] + weight * row["reward/kl_penalty"]
        assert math.isclose(sum(row["token_rewards"]), expected, abs_tol=1e-4)
        assert math.isclose(row["reward/kl_penalty"], -sum(row["kl/k1"]), abs_tol=1e-4)
    for step in steps.values():
        groups = [row["group"] for row in step]
        assert all(groups.count(group) == 2 for group in groups)
        flat = torch.tensor([number for row in step for number in row["advantages"]])
        assert abs(float(flat.mean())) < 1e-4, "whitened"
        assert abs(float(flat.std()) - 1) < 0.02


def test_policy_loads_with_plain_peft(run: Path) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoTokenizer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what peft and transformers say to each other is theirs
        model = AutoPeftModelForCausalLM.from_pretrained(run / "policy")
    tokenizer = AutoTokenizer.from_pretrained(run / "policy")
    inputs = tokenizer("The morning began with", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits.float()
        with model.disable_adapter():
            base = model(**inputs).logits.float()
    assert bool(logits.isfinite().all())
    assert float((logits - base).abs().max()) > 1e-2


def test_generate(run: Path) -> None:
    completed = ppokit(
        "generate", run, "The morning began with", "--base", "--greedy", "--max-new-tokens", "6"
    )
    assert completed.returncode == 0, completed.stderr
    base, policy = completed.stdout.splitlines()
    assert base.startswith("base: ")
    assert policy.startswith("policy: ")
    assert len(base) > len("base: ")
