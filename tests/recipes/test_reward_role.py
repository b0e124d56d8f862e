"""A fitted reward model as one role more on the policy's base, and as the start of the value function."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForSequenceClassification,
)

from ppokit import PPOTrainer, Recipe
from ppokit.data.batches import token_batch
from ppokit.errors import ModelError, PluginError, RecipeError, RewardError
from ppokit.models.shared_base import SharedBaseModel
from ppokit.plugin import Mean
from ppokit.reward_models.artifact import VERSION, FittedSettings
from small_models import tiny

RecipeDict = Callable[..., dict[str, Any]]
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")


def fitted(model: Any, tokenizer: Any, folder: Path) -> str:
    """A folder as `ppokit reward fit` leaves it: here with random matrices, so that all of it counts."""
    torch.manual_seed(3)
    config = LoraConfig(
        task_type="SEQ_CLS", r=3, lora_alpha=12, lora_dropout=0.05, target_modules="all-linear"
    )
    wrapped = get_peft_model(model, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_" in name or "score" in name:
                parameter.copy_(torch.randn(parameter.shape) * 0.2)
    wrapped.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    FittedSettings(VERSION, "base", "causal", ["{prompt} {response}"], 64, "a score", []).write(folder)
    return str(folder)


@pytest.fixture(scope="module")
def reward_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1, dtype=torch.float32)
    return fitted(model, tokenizer, tmp_path_factory.mktemp("fitted"))


def scored(reward_folder: str, tiny_model: Path, ids: list[list[int]]) -> list[float]:
    """By plain transformers and peft."""
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1, dtype=torch.float32)
    model.config.pad_token_id = 0
    peft = PeftModel.from_pretrained(model, reward_folder).eval()
    with torch.no_grad():
        return [float(peft(torch.tensor([one])).logits) for one in ids]


def test_it_scores_as_on_a_base_of_its_own(
    recipe_dict: RecipeDict, reward_folder: str, tiny_model: Path
) -> None:
    """Before and after training, which moves the policy and not the reward."""
    rewards = [
        {"use": "reward_model", "model": reward_folder, "shared_base": True, "name": "shared"},
        {"use": "reward_model", "model": reward_folder, "name": "own", "weight": 0.0},
    ]
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(rewards=rewards)))
    before = trainer.components.backend.hash(trainer.roles.is_policy)
    for prompts in trainer.prompts:
        rollout = trainer.collect(prompts)
        result = trainer.score(rollout)
        torch.testing.assert_close(result.breakdown["shared"], result.breakdown["own"], atol=1e-4, rtol=1e-4)
        ids = trainer.components.tokenizer(
            [f"{p} {r.removeprefix(' ')}" for p, r in zip(rollout.prompts, rollout.responses, strict=True)]
        )["input_ids"]
        expected = scored(reward_folder, tiny_model, ids)
        assert result.breakdown["shared"].tolist() == pytest.approx(expected, abs=1e-4)
        assert len(set(expected)) > 4
        trainer.update(rollout, trainer.estimate(rollout, result))
    assert trainer.components.backend.hash(trainer.roles.is_policy) != before


def test_human_csv_gives_the_same_score(recipe_dict: RecipeDict, reward_folder: str) -> None:
    rewards = [
        {"use": "human_csv", "match": "model", "model": reward_folder},
        {"use": "reward_model", "model": reward_folder, "weight": 0.0},
    ]
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(rewards=rewards)))
    scored = trainer.score(trainer.collect(next(trainer.prompts)))
    assert scored.breakdown["human_csv"].tolist() == scored.breakdown["reward_model"].tolist()
    assert scored.metrics["reward/human_csv/coverage"] == Mean(1.0, len(scored.scores))


@pytest.mark.parametrize(
    "settings",
    [
        {"timeout": 60.0},
        {"timeout": 60.0, "isolate": "thread"},
        {"retries": 1},
        {"concurrency": 2},
        {"rate_limit": 9.0},
        {"overlap": True},
    ],
    ids=str,
)
def test_it_is_not_asked_beside_the_policy(
    recipe_dict: RecipeDict, reward_folder: str, settings: dict[str, Any]
) -> None:
    """It would switch the base's adapters while the policy answers, or trains, there."""
    rewards = [{"use": "reward_model", "model": reward_folder, "shared_base": True, **settings}]
    with pytest.raises(ModelError, match=r"no base here to share, as for no reward that is asked beside"):
        PPOTrainer(Recipe.from_dict(recipe_dict(rewards=rewards)))


_EMBEDS = """
from ppokit.plugin import Component, Options, RewardOutput

class Embeds:
    def __init__(self, options, context):
        self.base = context.base
    async def score(self, rollout):
        return RewardOutput.from_values(self.base.embed(rollout.responses)[:, 0].tolist())

class Plain(Embeds):
    def score(self, rollout):
        return RewardOutput.from_values(self.base.embed(rollout.responses)[:, 0].tolist())

coroutine = Component("coroutine", Embeds, Options)
hidden = Component("hidden", lambda options, context: Embeds(options, context), Options)
plain = Component("plain", Plain, Options)
"""


def test_a_coroutine_does_not_read_with_the_base(
    recipe_dict: RecipeDict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs beside the reference's pass; what shows only when it is called is refused then."""
    monkeypatch.chdir(tmp_path)
    Path("embeds.py").write_text(_EMBEDS)

    def score(name: str) -> Any:
        # Of two plain ones the second is asked in a thread, while the policy computes nothing.
        rewards = [{"use": f"embeds:{name}", "name": f"r{i}"} for i in range(2)]
        with PPOTrainer(Recipe.from_dict(recipe_dict(rewards=rewards))) as trainer:
            return trainer.score(trainer.collect(next(trainer.prompts)))

    with pytest.raises(RewardError, match=r"failed for .*'NoneType' object has no attribute 'embed'"):
        score("coroutine")
    with pytest.raises(PluginError, match=r"BuildContext.base: it was called in a coroutine"):
        score("hidden")
    assert score("plain").outcomes["r1"][0] == "scored"


def test_the_value_function_begins_as_the_reward_model(
    recipe_dict: RecipeDict, reward_folder: str, tiny_model: Path
) -> None:
    """The value of a state is then the score of the text so far."""
    trainer = PPOTrainer(Recipe.from_dict(recipe_dict(lora={"r": 4, "value_adapter": reward_folder})))
    rollout = trainer.collect(next(trainer.prompts))
    assert rollout.values is not None
    for row in range(2):
        prompt = rollout.prompt_ids[row]
        response = rollout.response_ids[row][rollout.response_mask[row]].tolist()
        texts = [[*prompt, *response[:t]] for t in range(len(response))]
        expected = scored(reward_folder, tiny_model, texts)
        assert rollout.values[row][: len(response)].tolist() == pytest.approx(expected, abs=1e-4)
    # It trains from there, and its rank is the reward model's own.
    names = [name for name in trainer.roles.trainable if ".value." in name]
    assert names
    assert {trainer.roles.trainable[n].shape[0] for n in names if "lora_A" in n} == {3}
    assert {n.split(".layers.")[1][0] for n in names} == set("01234"), "where the reward model's stands"
    before = trainer.roles.values(token_batch(rollout, [0], trainer.roles.device)).detach()
    trainer.update(rollout, trainer.estimate(rollout, trainer.score(rollout)))
    after = trainer.roles.values(token_batch(rollout, [0], trainer.roles.device)).detach()
    assert not torch.allclose(before, after)


def test_a_resumed_run_keeps_both(recipe_dict: RecipeDict, reward_folder: str, tmp_path: Path) -> None:
    rewards = [{"use": "reward_model", "model": reward_folder, "shared_base": True}]
    lora = {"r": 4, "value_adapter": reward_folder}

    def recipe(name: str, steps: int) -> Recipe:
        run = {"steps": steps, "out": str(tmp_path / name)}
        return Recipe.from_dict(recipe_dict(rewards=rewards, lora=lora, run=run))

    whole = PPOTrainer(recipe("whole", 3))
    whole.train()
    PPOTrainer(recipe("parts", 1)).train()
    rest = PPOTrainer(recipe("parts", 3), resume=tmp_path / "parts")
    rest.train()
    assert rest.components.backend.hash(lambda name: True) == whole.components.backend.hash(lambda name: True)


class TestRefusals:
    def test_another_base(self, recipe_dict: RecipeDict, tiny_model: Path, tmp_path: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(tiny_model)
        other = tiny(LlamaForSequenceClassification, vocab_size=512, num_labels=1)
        folder = fitted(other, tokenizer, tmp_path / "other")
        with pytest.raises(
            ModelError, match=r"lora.value_adapter: the adapter in .* was fitted on another base"
        ):
            PPOTrainer(Recipe.from_dict(recipe_dict(lora={"r": 4, "value_adapter": folder})))
        rewards = [{"use": "reward_model", "model": folder, "shared_base": True}]
        trainer = PPOTrainer(Recipe.from_dict(recipe_dict(rewards=rewards)))
        with pytest.raises(ModelError, match=r"shared_base: the adapter in .* was fitted on another base"):
            SharedBaseModel(trainer.roles, 40).reward(Path(folder), [[1, 2]], 64)

    @pytest.mark.parametrize(
        ("sections", "message"),
        [
            (
                {"lora": {"r": 4, "value_adapter": "nowhere"}},
                "lora.value_adapter: there is no folder nowhere",
            ),
            ({"lora": {"r": 4, "value_adapter": "."}}, "lora.value_adapter: . has no adapter_config.json"),
            (
                {"lora": {"r": 4, "value_adapter": "."}, "value": "policy_trunk"},
                "lora.value_adapter: got value: policy_trunk; only own_adapter can begin as another",
            ),
            (
                {
                    "lora": {"r": 4, "value_adapter": "."},
                    "advantages": {"use": "group_relative"},
                    "losses": [{"use": "ppo_clip"}],
                },
                "lora.value_adapter: no estimator or loss of this recipe needs a value function",
            ),
            (
                {"rewards": [{"use": "reward_model", "model": "./", "shared_base": True}]},
                "shared_base: './' is no adapter",
            ),
            (
                {"rewards": [{"use": "reward_model", "model": "a/b", "shared_base": True, "label": 0}]},
                "leave label and dtype out",
            ),
        ],
    )
    def test_before_anything_loads(
        self,
        recipe_dict: RecipeDict,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        sections: Any,
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        with pytest.raises(RecipeError) as caught:
            Recipe.from_dict(recipe_dict(**sections))
        assert message in str(caught.value)

    def test_no_lora(self, recipe_dict: RecipeDict, reward_folder: str) -> None:
        losses = [{"use": "ppo_clip"}, {"use": "value_clip"}]
        trainer = PPOTrainer(Recipe.from_dict(recipe_dict(lora=None, losses=losses)))
        with pytest.raises(ModelError, match="shared_base: the base itself is trained"):
            SharedBaseModel(trainer.roles, 40).reward(Path(reward_folder), [[1, 2]], 64)
