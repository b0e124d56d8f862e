"""What a recipe's own keys are. A plugin's keys are its options model's, and stand beside these."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from ppokit.config.evaluation_settings import EvaluationSettings, EvaluatorSettings
from ppokit.config.prompt_settings import PromptSettings
from ppokit.config.reward_settings import RewardSettings
from ppokit.config.section import Name, Section, Text, at_home
from ppokit.plugin.generation import SamplingParams
from ppokit.plugin.masked import Variance

Value = Literal["own_adapter", "policy_trunk", "detached_trunk"]
FastPaths = Literal["auto", "off"]
Layout = Literal["auto", "packed", "padded"]


class ModelSettings(Section):
    name: Text = Field(description="Hub id, folder, or package:DISTRIBUTION/FILE.gguf.")
    dtype: Literal["auto", "bfloat16", "float32"] = Field(
        default="auto", description="Of the base's weights; auto is bfloat16 where the hardware has it."
    )
    load_in_4bit: bool = Field(
        default=False,
        description="Keep the frozen base's linear layers in 4 bits (NF4); needs lora and pip install "
        "'ppokit[quantized]'.",
    )
    revision: str | None = Field(default=None, description="Branch, tag or commit on the hub.")
    trust_remote_code: bool = Field(default=False, description="Run code that the model's repository ships.")
    fast_paths: FastPaths = Field(
        default="auto",
        description="Use faster code that gives the same numbers; off is plain transformers and peft.",
    )


class LoraSettings(Section):
    r: int = Field(default=16, gt=0, description="Rank of the adapters.")
    alpha: float = Field(default=32, gt=0, description="The adapters' output is scaled by alpha / r.")
    target_modules: Text | list[Text] = Field(
        default="all-linear",
        description="Layers that get an adapter: all-linear, a pattern, or a list of names.",
    )
    target_parameters: list[Text] | None = Field(
        default=None,
        description="Weights that get one and stand in no layer of their own, as those of experts: "
        "[mlp.experts.gate_up_proj, mlp.experts.down_proj].",
    )
    adapter: str | None = Field(default=None, description="Folder of a trained PEFT adapter to go on from.")
    value_adapter: str | None = Field(
        default=None,
        description="Folder that ppokit reward fit made of the base: the value function begins as that "
        "reward model; needs value: own_adapter.",
    )

    @field_validator("adapter", "value_adapter")
    @classmethod
    def _home(cls, value: str | None) -> str | None:
        return at_home(value) if value else value

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.target_modules and not self.target_parameters:
            raise ValueError("target_modules: got none; expected some, or target_parameters")
        return self

    @field_validator("target_modules")
    @classmethod
    def _pattern(cls, value: str | list[str]) -> str | list[str]:
        try:
            re.compile(value if isinstance(value, str) else "")
        except re.error as error:
            raise ValueError(f"{value!r} is no regular expression: {error}") from error
        return value


class RolloutSettings(Section, SamplingParams):
    use: Text = Field(default="transformers", description="Rollout engine that answers the prompts.")
    end_tokens: tuple[Text, ...] = Field(
        default=(),
        description="Tokens that end a response besides the model's own, by their texts: [<|im_end|>]. The "
        "first of them ends recorded responses.",
    )
    prompts_per_step: int = Field(default=16, gt=0, description="Prompts that are asked in each step.")
    responses_per_prompt: int = Field(default=4, gt=0, description="Responses to each prompt.")
    dynamic_sampling: int | None = Field(
        default=None,
        ge=0,
        description="Drop prompts whose responses all have the same reward, and replace them by new ones "
        "up to this many times per step. Not set: keep all.",
    )
    max_logprob_gap: float | None = Field(
        default=None,
        gt=0,
        description="Largest difference between the sampler's log-probabilities and the trainer's, in nats "
        "per token (root mean square), beyond which a step is not taken. Not set: what the dtype explains.",
    )

    @property
    def sampling(self) -> SamplingParams:
        """The keys that an engine gets."""
        return SamplingParams(**{name: getattr(self, name) for name in SamplingParams.model_fields})


class AdvantageSettings(Section):
    use: Text = Field(default="gae", description="Advantage estimator.")
    whiten: Literal["off", "batch", "minibatch"] = Field(
        default="off",
        description="Give the advantages of a step, or of each mini-batch, mean 0 and deviation 1.",
    )
    whiten_variance: Variance = Field(
        default="sample", description="Of whitening: divided by n - 1 (sample) or by n (population)."
    )
    mask_truncated: bool = Field(
        default=False,
        description="Leave truncated responses out of the loss; they still count in their group's baseline.",
    )


class LossSettings(Section):
    use: Text = Field(description="Loss.")
    name: Name | None = Field(default=None, description="Its name in metrics; the loss's, if not given.")
    weight: float = Field(default=1.0, description="Factor in the sum of losses.")


class ObserverSettings(Section):
    use: Text = Field(description="Observer.")
    on_error: Literal["warn", "stop"] = Field(
        default="warn", description="Where it fails: say so once and go on, or stop the run."
    )


class UpdateSettings(Section):
    epochs: int = Field(default=2, gt=0, description="Passes over each step's responses.")
    minibatches: int = Field(default=1, gt=0, description="Optimizer steps in a pass.")
    learning_rate: float = Field(default=3e-4, gt=0, description="Of AdamW, after the warm-up.")
    schedule: Literal["constant", "linear", "cosine"] = Field(
        default="constant", description="How the learning rate goes on after the warm-up."
    )
    warmup_steps: int = Field(default=0, ge=0, description="Steps over which the learning rate rises from 0.")
    weight_decay: float = Field(default=0.0, ge=0, description="Of AdamW.")
    max_grad_norm: float = Field(default=1.0, gt=0, description="Gradients are scaled down to this norm.")
    tokens_per_microbatch: int = Field(
        default=2048,
        gt=0,
        description="Most tokens, padding included, in one forward pass; changes memory and speed. No result "
        "changes in float32; in bfloat16, products of other sizes are rounded differently.",
    )
    layout: Layout = Field(
        default="auto",
        description="How the texts of a micro-batch lie: one behind the other in one row (packed), or in a "
        "row each (padded). auto packs on a GPU, where the model takes FlashAttention.",
    )
    activation_checkpointing: bool = Field(
        default=False,
        description="Compute each layer's inside again for its gradient in place of keeping it: about a "
        "third more time for a fraction of the memory. No result changes.",
    )
    aggregation: Literal["token_mean", "sequence_mean_token_mean", "sequence_mean_token_sum", "constant"] = (
        Field(default="token_mean", description="How token losses become one number.")
    )
    target_kl: float | None = Field(
        default=None, gt=0, description="End a step's passes above this approximate KL."
    )
    old_logprobs: Literal["trainer", "sampler"] = Field(
        default="trainer",
        description="Whose log-probabilities are those of the policy before the update: the trainer's own, "
        "or those that the sampler drew by, which saves a forward pass where a reward, an estimator or "
        "several mini-batches need them. In bfloat16 the sampler's differ by the rounding of other batches "
        "and, for a smaller part, of merged weights, and the first ratio is not exactly 1.",
    )


class RunSettings(Section):
    steps: int = Field(gt=0, description="Steps of the run.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Seed of everything random.")
    out: Text = Field(description="Folder of the run.")
    checkpoint_every: int = Field(default=10, gt=0, description="Steps between checkpoints.")
    keep_checkpoints: int = Field(default=2, gt=0, description="Checkpoints that are kept.")
    max_failed_rewards: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Largest share of failed reward outcomes in a step, and in what an evaluator has scored.",
    )
    max_hung_calls: int = Field(
        default=8,
        ge=0,
        description="Calls of rewards that were given up after their timeout and still run, in threads of a "
        "process, at most.",
    )
    max_failed_responses: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="Largest share of responses that a rollout engine failed to give.",
    )
    sample_every: int = Field(
        default=5, ge=0, description="Steps between samples on the screen; 0 shows none."
    )

    token_columns: bool = Field(
        default=True,
        description="Keep each token's ratio, entropy, values, KL and whether it was clipped in rollouts/, "
        "for the report's token ledger.",
    )
    report: bool = Field(
        default=True, description="Write the page report.html at each checkpoint and at the end."
    )

    @field_validator("out")
    @classmethod
    def _home(cls, value: str) -> str:
        return at_home(value) if value.startswith("~") else value


class PluginSettings(Section):
    require: tuple[Text, ...] = Field(
        default=(),
        description="Distributions that must be installed, with their versions: ['acme-rewards>=1.2,<2'].",
    )
    only: tuple[Text, ...] | None = Field(
        default=None,
        description="Whose components the recipe may name beside ppokit's own, before any is imported: "
        "distributions, modules of use: module:thing, and what options name (a function's module, a "
        "metric's distribution, path or name on the hub). Not set: whatever is installed.",
    )


class Settings(Section):
    """A recipe's own keys, all sections."""

    plugins: PluginSettings = Field(
        default_factory=PluginSettings, description="Which plugins the recipe may use, and needs."
    )
    model: ModelSettings = Field(description="The base model.")
    lora: LoraSettings | None = Field(default=None, description="Adapters to train; null trains all weights.")
    value: Value | None = Field(
        default=None,
        description="The value function: an adapter of its own, or a head on the policy's trunk, with or "
        "without its gradient. By default own_adapter with lora and policy_trunk without.",
    )
    prompts: PromptSettings = Field(description="What the model is asked.")
    rollout: RolloutSettings = Field(
        default_factory=RolloutSettings, description="How it answers; with the engine's own keys."
    )
    rewards: list[RewardSettings] = Field(
        min_length=1, description="What is good; each with its provider's own keys."
    )
    advantages: AdvantageSettings = Field(
        default_factory=AdvantageSettings, description="How rewards become advantages."
    )
    losses: list[LossSettings] = Field(
        min_length=1, description="What is minimised; each with its loss's own keys."
    )
    update: UpdateSettings = Field(default_factory=UpdateSettings, description="How the weights change.")
    evaluation: EvaluationSettings | None = Field(
        default=None, description="What is measured of the policy during the run, without training on it."
    )
    run: RunSettings = Field(description="How long, and where to.")
    observers: list[ObserverSettings] = Field(default_factory=list, description="What watches the run.")

    @property
    def overlaps(self) -> bool:
        """Whether a step's prompts are answered while the rewards of the step before are on their way."""
        return any(reward.overlap for reward in self.rewards)


SECTIONS: dict[str, type[Section]] = {
    "plugins": PluginSettings,
    "model": ModelSettings,
    "lora": LoraSettings,
    "prompts": PromptSettings,
    "update": UpdateSettings,
    "evaluation": EvaluationSettings,
    "run": RunSettings,
}
"""Sections without a plugin."""

CHOSEN: dict[str, type[Section]] = {
    "rollout": RolloutSettings,
    "rewards": RewardSettings,
    "advantages": AdvantageSettings,
    "losses": LossSettings,
    "evaluators": EvaluatorSettings,
    "observers": ObserverSettings,
}
"""The core's keys beside `use`, by kind of component."""

OPTIONAL = frozenset({"lora", "value", "evaluation"})
"""Sections that may be null, and are where they are left out."""

LISTS = frozenset({"rewards", "losses", "observers"})
"""Sections that are lists."""
