"""What the verbs of a step hand to each other.

Legend, used in every docstring of the project:

    B  responses in the batch          G  responses per prompt
    P  prompt tokens                   R  response tokens, padded to the longest response
    H  hidden size                     V  vocabulary

Every mask has one polarity: True marks a real response token, the end-of-sequence token included.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from ppokit.plugin.reductions import Metric
from ppokit.plugin.reward_output import Outcome

if TYPE_CHECKING:
    from torch import Tensor

ResponseOutcome = Literal["finished", "truncated", "failed"]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class PromptBatch:
    """Prompts of one step.

    Attributes:
        indices: row number of each prompt in the data set.
        prompts: the text of each, before any chat template; a `ChatPrompt` where it is a list of messages.
        prompt_ids: token ids of each prompt as the model sees it; no padding.
        rows: every column of the data set, one mapping per prompt.
        resample_round: 0, or which round of dynamic sampling in its step asks these prompts, from 1.
        prefill: of each response: the last of `prompt_ids`, and not in what an engine returns.
    """

    indices: list[int]
    prompts: list[str]
    prompt_ids: list[list[int]]
    rows: list[Row]
    resample_round: int = 0
    prefill: str = ""

    def __len__(self) -> int:
        return len(self.indices)

    def select(self, positions: Sequence[int]) -> PromptBatch:
        """The prompts at these positions, in this order."""
        return replace(
            self,
            indices=[self.indices[i] for i in positions],
            prompts=[self.prompts[i] for i in positions],
            prompt_ids=[self.prompt_ids[i] for i in positions],
            rows=[self.rows[i] for i in positions],
        )


@dataclass(frozen=True)
class Rollout:
    """What was asked and answered in one step, over all processes.

    Attributes:
        ids: stable sample ids, one per response.
        group_ids: [B] int64; responses to the same prompt share a group.
        prompts, responses: texts, one per response; a prompt that is a list of messages is a `ChatPrompt`.
        rows: every column of the data set, one mapping per response.
        prompt_ids: token ids of each prompt; no padding.
        response_ids: [B,R] int64; padding holds 0 and means nothing.
        response_mask: [B,R] bool.
        loss_mask: [B,R] bool; tokens that the policy wrote itself. False on padding, and on tokens that a
            tool or an environment put into a response: every number of theirs is 0 here and counts nowhere.
        outcomes: one per response; what `failed` is no response, not scored and not trained on.
        policy_version: [B] int64; number of updates of the policy that wrote each response.
        sampler_logprobs: [B,R] float32, as the engine sampled them; of recorded responses the reference's.
        policy_logprobs: [B,R] float32 by the engine, under the policy that it was given, at the sampling
            temperature over the whole vocabulary; NaN on what it did not sample; None for none.
        old_logprobs: [B,R] float32 under the policy before the update, at the sampling temperature, by the
            trainer or the sampler (`update.old_logprobs`); None where nothing needs them before it.
        ref_logprobs: [B,R] float32 under the reference; None where nothing needs them.
        values: [B,R] float32, the value of the state in which each token was chosen; None likewise.
        greedy: one greedy response to each prompt, where a component needs them; None likewise.
        prefill: what each of the responses begins with; the last of `prompt_ids`, not in `response_ids`.
    """

    ids: list[str]
    group_ids: Tensor
    prompts: list[str]
    responses: list[str]
    rows: list[Row]
    prompt_ids: list[list[int]]
    response_ids: Tensor
    response_mask: Tensor
    loss_mask: Tensor
    outcomes: list[ResponseOutcome]
    policy_version: Tensor
    sampler_logprobs: Tensor
    policy_logprobs: Tensor | None = None
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    values: Tensor | None = None
    greedy: Rollout | None = None
    prefill: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> Tensor:
        """[B] int64: tokens that the policy wrote of each response."""
        return self.loss_mask.sum(dim=1)

    @property
    def finished(self) -> Tensor:
        """[B] bool: responses that ended by themselves."""
        return self._have("finished")

    @property
    def truncated(self) -> Tensor:
        """[B] bool: responses that did not."""
        return self._have("truncated")

    @property
    def failed(self) -> Tensor:
        """[B] bool: responses that there are none of."""
        return self._have("failed")

    def _have(self, outcome: ResponseOutcome) -> Tensor:
        import torch

        return torch.tensor([own == outcome for own in self.outcomes], dtype=torch.bool)

    def select(self, indices: Sequence[int]) -> Rollout:
        """The same rollout with only these responses, in this order; R stays."""
        return replace(self, **_selected(vars(self), list(indices)))


@dataclass(frozen=True)
class Rewards:
    """The rewards of a rollout, all providers together.

    Attributes:
        token_rewards: [B,R] float32; weighted sequence scores stand on the last token that the policy
            wrote, weighted token scores where they belong; 0 where it wrote none.
        scores: [B] float32; weighted sum of the sequence scores alone.
        breakdown: raw score of each provider, [B] float32: its sequence score plus the sum of its
            token scores, before scaling, clipping and weight; NaN where it did not score.
        outcomes: per provider, one per response.
        reasons: per provider, what each response failed of; empty texts elsewhere.
        seconds: per provider, [B] float32 seconds of the call that gave each response its outcome, the last
            one where it was asked for again; NaN where the provider was not asked for it.
        parts: named parts, `<provider>/<part>`, [B] float32; NaN where a provider gave none.
        notes: texts of providers, `<provider>/<note>`, one per response.
        scored: [B] bool; False where a provider failed or none scored. A provider of weight 0 does not
            count, nor do token scores where another provider gives sequence scores.
        trained: [B] bool; who is trained on: who is scored, less what dynamic sampling leaves out.
        metrics: numbers to report.
        greedy_returns: [B] float32; the whole reward of the greedy response to the same prompt, its
            token rewards summed; None where no component needs greedy responses.
    """

    token_rewards: Tensor
    scores: Tensor
    breakdown: Mapping[str, Tensor]
    outcomes: Mapping[str, tuple[Outcome, ...]]
    scored: Tensor
    trained: Tensor
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    greedy_returns: Tensor | None = None
    reasons: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    parts: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    seconds: Mapping[str, Tensor] = field(default_factory=dict)

    def select(self, indices: Sequence[int]) -> Rewards:
        """Those of these responses, in this order; the metrics stay."""
        return replace(self, **_selected(vars(self), list(indices)))


@dataclass(frozen=True)
class Advantages:
    """What an estimator returns.

    Attributes:
        advantages: [B,R] float32; 0 on padding.
        returns: [B,R] float32 targets of the value function; None for an estimator without values.
        metrics: numbers to report.
        trained: [B] bool; False where a response is not trained on; None trains on all.
    """

    advantages: Tensor
    returns: Tensor | None = None
    metrics: Mapping[str, Metric] = field(default_factory=dict)
    trained: Tensor | None = None

    def select(self, indices: Sequence[int]) -> Advantages:
        """Those of these responses, in this order; the metrics stay."""
        return replace(self, **_selected(vars(self), list(indices)))


def _selected(fields: Mapping[str, Any], indices: list[int]) -> dict[str, Any]:
    """Of each field the entries of these responses; what is not by response stays."""

    def select(value: Any) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(value[i] for i in indices)
        if isinstance(value, Mapping):
            return {name: select(own) for name, own in value.items()}
        return value if value is None or isinstance(value, Rollout | str) else value[indices]

    return {name: value if name == "metrics" else select(value) for name, value in fields.items()}


@dataclass(frozen=True)
class LossInputs:
    """What a loss sees of one micro-batch; every tensor is [B,R], with any numbers on padding.

    Attributes:
        mask: tokens that the policy wrote itself, see `Rollout.loss_mask`.
        advantages: as estimated, whitened if the recipe says so.
        returns: targets of the value function; None without values.
        new_logprobs, entropy, values: of the policy being trained, with gradient; None where the loss
            does not name them in `needs`.
        old_logprobs, old_values: before the update, without gradient; likewise.
        ref_logprobs: under the reference, without gradient; likewise.
        sampler_logprobs: as the engine sampled them, without gradient.
        group_ids: [B] int64; responses to the same prompt share a group.
        sample_ids: stable ids, one per response.
    """

    mask: Tensor
    advantages: Tensor
    returns: Tensor | None
    sampler_logprobs: Tensor
    new_logprobs: Tensor | None = None
    old_logprobs: Tensor | None = None
    ref_logprobs: Tensor | None = None
    values: Tensor | None = None
    old_values: Tensor | None = None
    entropy: Tensor | None = None
    group_ids: Tensor | None = None
    sample_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class LossOutput:
    """What a loss returns: one number per token; the core masks, weighs and sums them.

    Attributes:
        token_losses: [B,R], differentiable.
        metrics: [B,R] tensors by metric name (`policy/clip_fraction`); the core takes their mean
            over the batch's tokens that the policy wrote, over all micro-batches and processes.
    """

    token_losses: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class AdvantageWeights:
    """What a `AdvantageWeighting` loss returns.

    Attributes:
        weights: [B,R], not negative, without gradient; multiplies the advantages that the other losses see.
        metrics: as `LossOutput.metrics`.
    """

    weights: Tensor
    metrics: Mapping[str, Tensor] = field(default_factory=dict)
