"""People's ratings in a few lines: fit on recorded responses, predict, and what both refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from ppokit import PPOTrainer, Recipe
from ppokit.errors import DataError
from runs import metrics_of, rollouts_of

RecipeDict = Callable[..., dict[str, Any]]

PROMPTS = ["Once upon a time", "One day, Tom", "The dog was", "Lily went to the"] * 2
GOOD, BAD = (
    [" happy and smiled.", " very happy.", " happy too.", " happy park."],
    [
        " sad and cried.",
        " very sad.",
        " sad too.",
        " sad park.",
    ],
)
RATINGS = [9.0, 10, 8, 9, 1, 0, 2, 1]


@pytest.fixture
def trainer(recipe_dict: RecipeDict) -> PPOTrainer:
    update = {"learning_rate": 3e-3, "minibatches": 2}
    return PPOTrainer(Recipe.from_dict(recipe_dict(update=update, advantages={"whiten": "batch"})))


def logprobs_of(model: Any, first: list[int], rest: list[int]) -> list[float]:
    """Of each token after a prompt, by transformers alone."""
    with torch.no_grad():
        logprobs = model(torch.tensor([[*first, *rest]])).logits[0].log_softmax(dim=-1)
    return [float(logprobs[len(first) - 1 + i, token]) for i, token in enumerate(rest)]


def mean_logprobs(model: Any, tokenizer: Any, responses: list[str]) -> list[float]:
    """Of each response after its prompt."""
    response_ids = []
    for prompt, response in zip(PROMPTS, responses, strict=False):
        rest = tokenizer(response, add_special_tokens=False)["input_ids"]
        response_ids.append(sum(logprobs_of(model, tokenizer(prompt)["input_ids"], rest)) / len(rest))
    return response_ids


def test_what_people_liked_becomes_likelier(trainer: PPOTrainer, tmp_path: Path) -> None:
    tokenizer = trainer.components.tokenizer

    def gap() -> float:
        model = trainer.roles.sampler()
        good, bad = (mean_logprobs(model, tokenizer, texts) for texts in (GOOD, BAD))
        return sum(good) / len(good) - sum(bad) / len(bad)

    before = gap()
    metrics = trainer.fit(PROMPTS, GOOD + BAD, RATINGS, epochs=10)
    after = gap()
    assert after > before + 0.1
    # Eight responses in mini-batches of four (8 per step in two mini-batches), ten times.
    assert metrics["update/passes"] == 20
    assert metrics["reward/mean"] == pytest.approx(5.0)
    assert trainer.step == 1
    trainer.fit(PROMPTS, GOOD + BAD, RATINGS, epochs=2)
    assert gap() > after
    assert [line["step"] for line in metrics_of(tmp_path / "run")] == [1, 2]
    assert (tmp_path / "run" / "policy" / "adapter_model.safetensors").is_file()


def test_the_rollout_is_what_was_recorded(trainer: PPOTrainer, tmp_path: Path, tiny_model: Path) -> None:
    untrained = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    trainer.fit(PROMPTS, GOOD + BAD, RATINGS, epochs=1)
    rows = rollouts_of(tmp_path / "run").popitem()[1]
    tokenizer = trainer.components.tokenizer
    assert [row["response"] for row in rows] == GOOD + BAD
    assert [row["score"] for row in rows] == RATINGS
    assert [row["group"] for row in rows] == [0, 1, 2, 3, 0, 1, 2, 3]
    for row, text in zip(rows, GOOD + BAD, strict=True):
        assert row["response_ids"] == [
            *tokenizer(text, add_special_tokens=False)["input_ids"],
            tokenizer.eos_token_id,
        ]
        assert row["outcome"] == "finished"
        # As if the untrained policy had written it.
        expected = logprobs_of(untrained, tokenizer(row["prompt"])["input_ids"], row["response_ids"])
        assert row["sampler_logprobs"] == pytest.approx(expected, abs=1e-4)


def test_the_ratio_is_against_the_policy_as_fit_began(
    trainer: PPOTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In all epochs: the old log-probabilities that the losses see never change."""
    clip = next(
        loss
        for group in trainer.components.updater.groups
        for loss in group.losses
        if loss.name == "ppo_clip"
    ).instance
    seen: dict[float, set[float]] = {}
    real = clip.token_losses

    def watched(inputs: Any) -> Any:
        for advantage, old in zip(inputs.advantages[:, 0].tolist(), inputs.old_logprobs, strict=True):
            seen.setdefault(round(advantage, 4), set()).add(round(float(old[0]), 4))
        return real(inputs)

    monkeypatch.setattr(type(clip), "token_losses", lambda self, inputs: watched(inputs))
    trainer.fit(PROMPTS, GOOD + BAD, RATINGS, epochs=3)
    assert len(seen) >= 5
    assert all(len(olds) <= 2 for olds in seen.values()), "two responses may share a rating"


def test_predict_is_what_transformers_gives(trainer: PPOTrainer, tiny_model: Path) -> None:
    (prediction,) = trainer.predict(["Once upon a time"])
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    ids = tokenizer("Once upon a time", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = model(ids).logits[0, -1].softmax(dim=-1)
        text = tokenizer.decode(
            model.generate(ids, do_sample=False, max_new_tokens=10)[0, ids.shape[1] :],
            skip_special_tokens=True,
        )
    torch.testing.assert_close(prediction.probabilities, expected, atol=1e-5, rtol=1e-4)
    assert float(prediction.probabilities.sum()) == pytest.approx(1, abs=1e-5)
    assert prediction.text == text
    word, probability = prediction.likeliest[0]
    assert tokenizer.decode([int(expected.argmax())]) == word
    assert probability == pytest.approx(float(expected.max()), rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"responses": GOOD}, "got 8 prompts, 4 responses and 8 rewards"),
        ({"prompts": [], "responses": [], "rewards": []}, "got 0 prompts"),
        ({"rewards": [1.0] * 7 + [float("nan")]}, r"rewards\[7\] is nan; expected a finite number"),
        ({"rewards": [True] * 8}, r"rewards\[0\] is True"),
        (
            {"prompts": [[{"role": "user", "content": "Hi"}]] * 8},
            r"prompts\[0\] is .*expected text, or prompts.chat",
        ),
        ({"responses": [None, *GOOD, *BAD][:8]}, r"responses\[0\] is None; expected text"),
        ({"epochs": 0}, "got epochs=0; expected 1 or more"),
        (
            {"responses": [" long" * 600, *GOOD, *BAD][:8]},
            r"recorded response 0 has \d+ tokens, its prompt 5",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_refused(
    trainer: PPOTrainer, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    given = {"prompts": PROMPTS, "responses": GOOD + BAD, "rewards": RATINGS, **changes}
    with pytest.raises(DataError, match=rf"^fit: .*{message}|{message}"):
        trainer.fit(**given)
    assert trainer.step == 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("estimator", "prompts", "message"),
    [
        ("remax", PROMPTS, "'remax' compare with a greedy response to each prompt, which nobody rated"),
        (
            "group_relative",
            [f"{prompt} {i}" for i, prompt in enumerate(PROMPTS)],
            "at most 1 of the responses answer the same prompt, which the advantages 'group_relative'",
        ),
    ],
)
def test_an_estimator_that_recorded_responses_cannot_serve_is_refused(
    recipe_dict: RecipeDict, tmp_path: Path, estimator: str, prompts: list[str], message: str
) -> None:
    recipe = recipe_dict(advantages={"use": estimator}, losses=[{"use": "ppo_clip"}])
    trainer = PPOTrainer(Recipe.from_dict(recipe))
    with pytest.raises(DataError, match=rf"^fit: .*{message}"):
        trainer.fit(prompts, GOOD + BAD, RATINGS)
    assert trainer.step == 0
    assert not (tmp_path / "run").exists()
