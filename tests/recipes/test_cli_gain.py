"""`ppokit reward gain` as a person runs it, after two fits and a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

pytest.importorskip("scipy")
pytest.importorskip("krippendorff")

from ppokit import PPOTrainer, Recipe
from ppokit.cli import app
from ppokit.reward_models.gain import SHARED
from ppokit.reward_models.saved import Scorer
from ppokit.rollout.load_policy import load_policy
from rated_stories import save_ratings

HELD_OUT = ["Ben had a", "In the park", "The cat and", "Sue was very", "A little boy", "Her dad said"]

runner = CliRunner()


def run(*args: object) -> tuple[int, str, str]:
    result = runner.invoke(app, ["reward", *map(str, args)])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture
def trained(
    tiny_model: Path,
    recipe_dict: Callable[..., dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A folder with reward models `a` and `b`, a policy in `run` trained with `a`, and held-out prompts."""
    monkeypatch.chdir(tmp_path)
    state = torch.random.get_rng_state()
    save_ratings(Path("ratings.csv"))
    for half in "ab":
        args = ("--half", half, "--epochs", 3, "--lr", 3e-3, "--no-curve")
        code, _, err = run("fit", "ratings.csv", "--model", tiny_model, "--out", half, *args)
        assert code == 0, err
    rewards = [{"use": "reward_model", "model": "a"}, {"use": "kl_penalty", "weight": 0.02}]
    # Long enough for a gain that is certain whichever way a processor rounds the fit and the run.
    recipe = recipe_dict(rewards=rewards, run={"steps": 24, "out": "run", "sample_every": 0})
    PPOTrainer(Recipe.from_dict(recipe)).train()
    rows = [{"prompt": prompt} for prompt in (*HELD_OUT, "once upon a time")]
    Path("held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    torch.random.set_rng_state(state)
    return tmp_path


# peft 0.21 asks transformers 5 for a property by its old name.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
def test_a_gain_by_the_reward_and_by_a_gold_model(trained: Path, tiny_model: Path) -> None:
    code, out, err = run(
        "gain", "run", "--reward", "a", "--gold", "b", "--prompts", "held_out.jsonl", "--json"
    )
    assert code == 0, err
    result = json.loads(out)
    assert (result["prompts"], result["responses"]) == (6, 4)
    assert result["notes"] == ["prompts left out, since the run was trained on them: 1"]
    assert result["reward"]["gain"]["value"] > 0
    assert result["kl_response"] > 0
    assert result["kl_token"] * result["length_after"] == pytest.approx(result["kl_response"])

    # The same by plain peft and transformers: log-probabilities, and scores of both policies' texts.
    recipe = Recipe.load(Path("run/recipe.yaml"))
    policies = load_policy(recipe, None), load_policy(recipe, Path("run/policy"))
    before, after = (policy.generate(HELD_OUT, n=4) for policy in policies)
    asked = [prompt for prompt in HELD_OUT for _ in range(4)]
    scores_of = {}
    for side, folder in (("reward", "a"), ("gold", "b")):
        for name, answers in (("before", before), ("after", after)):
            scores = Scorer(Path(folder)).score(asked, answers.responses)
            assert result[side][name] == pytest.approx(float(scores.mean()), abs=1e-4)
            scores_of[side, name] = scores
        rise = scores_of[side, "after"].mean() - scores_of[side, "before"].mean()
        assert result[side]["gain"]["value"] == pytest.approx(
            float(rise / scores_of[side, "before"].std(ddof=1)), abs=1e-3
        )
    # Of a gain that may be chance, nobody can tell what share is real.
    assert (result["agreed"] is None) == (result["reward"]["gain"]["low"] <= 0)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    policy = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), "run/policy"
    ).eval()
    total = 0.0
    answered = [ids[mask].tolist() for ids, mask in zip(after.response_ids, after.response_mask, strict=True)]
    for prompt, answer in zip(asked, answered, strict=True):
        start = tokenizer(prompt)["input_ids"]
        ids = torch.tensor([start + answer])
        for model, sign in ((policy, 1), (base, -1)):
            with torch.no_grad():
                logits = model(input_ids=ids).logits[0]
            for index, token in enumerate(answer):
                total += sign * float(logits[len(start) + index - 1].log_softmax(-1)[token])
    assert result["kl_response"] == pytest.approx(total / len(asked), abs=1e-3)


def test_a_model_agrees_with_itself_and_is_no_gold_model(trained: Path) -> None:
    shutil.copytree("a", "copy")
    args = ("gain", "run", "--reward", "a", "--gold", "copy", "--prompts", "held_out.jsonl")
    code, out, err = run(*args, "--responses", 16)
    assert code == 0, err
    assert "agrees with 100 % of the gain (100 to 100 %)" in out
    assert SHARED in out
    assert "KL, nats per response" in out
    assert run(*args, "--responses", 16, "--seed", 1)[1] != out


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("gain", "run", "--reward", "a", "--gold", "./a"), "is the reward itself"),
        (("gain", "run", "--reward", "a", "--gold", "nowhere"), "nowhere: no ppokit_reward.json"),
        (("gain", "nowhere", "--reward", "a", "--gold", "b"), "it has no recipe.yaml"),
    ],
)
def test_what_cannot_be_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = {"version": 2, "base": "x", "kind": "encoder", "template": ["{response}"], "max_length": 8}
    for folder in "ab":
        Path(folder).mkdir()
        Path(folder, "ppokit_reward.json").write_text(json.dumps({**settings, "score": "s", "layers": [0]}))
    code, _, err = run(*args, "--prompts", "p.jsonl")
    assert code == 2
    assert message in err
