"""What the core asks of a rollout engine, and what the engine returns.

generate(policy: PolicyHandle, request: GenerationRequest) -> Generation
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Protocol

from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, ValidationInfo, field_validator

from ppokit.plugin.types import PromptBatch, ResponseOutcome
from ppokit.seeds import seed_from

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class SamplingParams(BaseModel):
    """How tokens are drawn; the keys of a recipe's `rollout:` that hold for every engine."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    max_new_tokens: int = Field(default=64, gt=0, description="The longest response, in tokens.")
    min_new_tokens: int = Field(default=0, ge=0, description="Tokens before a response may end by itself.")
    temperature: float = Field(default=1.0, ge=0.01, description="Divides the logits.")
    top_k: int | None = Field(default=None, gt=0, description="Draw from the k likeliest tokens only.")
    top_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Draw from the likeliest tokens that hold this probability together.",
    )
    min_p: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Draw from the tokens that have this share of the likeliest's probability.",
    )
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        default=(), description="Strings that end a response; left out of its text."
    )
    stop_token_ids: tuple[NonNegativeInt, ...] = Field(
        default=(), description="Token ids that end a response."
    )

    @property
    def whole_vocabulary(self) -> bool:
        """Whether tokens are drawn from the policy's own distribution: nothing is ruled out."""
        limits = (self.top_k, None if self.top_p == 1.0 else self.top_p, self.min_p)
        return self.min_new_tokens == 0 and limits == (None, None, None)

    @field_validator("min_new_tokens")
    @classmethod
    def _below_the_longest(cls, value: int, info: ValidationInfo) -> int:
        longest = info.data.get("max_new_tokens")
        if longest is not None and value > longest:
            raise ValueError(f"got {value}; expected at most max_new_tokens, {longest}")
        return value


@dataclass(frozen=True)
class ResponseSeeds:
    """The randomness of the responses to some prompts of a step.

    A response's depends on the run's seed, the step and its own position in the step alone, not on what else
    is generated with it or on how many processes there are.

    Attributes:
        seed: of the run.
        step: of the run, from 1.
        prompts: number of prompts of the step, over all processes.
        share: which of them these are.
        n: responses per prompt.
        resample_round: as `PromptBatch.resample_round`.
    """

    seed: int
    step: int
    prompts: int
    share: range
    n: int
    resample_round: int = 0

    def per_response(self) -> list[int]:
        """A seed of 63 bits per response, prompt by prompt: what a server gets."""
        return [
            seed_from(self.seed, self.step - 1, -self.resample_round, position, k)
            for position in self.share
            for k in range(self.n)
        ]

    def uniforms(self, tokens: int) -> Tensor:
        """Numbers to draw tokens by, [prompts of the share, n, tokens] float32 in [0, 1)."""
        import torch

        numbers = [self.seed, self.step - 1]
        if self.resample_round:
            numbers.append(-self.resample_round)
        generator = torch.Generator().manual_seed(seed_from(*numbers))
        whole = torch.rand(self.prompts, self.n, tokens, generator=generator)
        return whole[self.share.start : self.share.stop]


@dataclass(frozen=True)
class GenerationRequest:
    """What an engine is asked for.

    Attributes:
        prompts: what to answer.
        n: responses per prompt.
        seeds: the randomness of each response; None asks for greedy ones: the likeliest token each time.
        sampling: how tokens are drawn.
        policy_logprobs: whether `Generation.policy_logprobs` will be used: to compare the sampler with the
            trainer, and as old log-probabilities (`update.old_logprobs: sampler`).
        training: False where the policy is asked for itself, as in an evaluation: an engine that takes
            responses from elsewhere then lets the policy answer.
    """

    prompts: PromptBatch
    n: int
    seeds: ResponseSeeds | None
    sampling: SamplingParams
    policy_logprobs: bool = False
    training: bool = True

    def __len__(self) -> int:
        """Responses that are asked for."""
        return len(self.prompts) * self.n


@dataclass(frozen=True)
class Generation:
    """What a rollout engine returns: n responses per prompt, prompt by prompt.

    Attributes:
        response_ids: token ids of each response, the end-of-sequence token included; no padding. At most
            `max_new_tokens` each.
        sampler_logprobs: log-probability of each of those tokens under the distribution it was drawn from,
            that is after temperature, top_k, top_p and min_p; NaN where the engine did not draw it.
        outcomes: of each response: `finished` (it ended by itself), `truncated` (it did not) or `failed`
            (there is none: not scored, not trained on, counted against `run.max_failed_responses`).
        texts: decoded responses, without special tokens, a matched stop string and `PromptBatch.prefill`; of
            a failed one why it failed.
        policy_logprobs: log-probability of each token under the policy that was given, at the temperature
            and over its whole vocabulary; None where the engine cannot tell.
        loss_mask: True on tokens that the policy wrote itself, False on those of a tool or an environment;
            None where all are the policy's.
        policy_version: `PolicyHandle.version` of the weights that wrote each response; None where they are
            those of the handle.
    """

    response_ids: list[list[int]]
    sampler_logprobs: list[list[float]]
    outcomes: list[ResponseOutcome]
    texts: list[str]
    policy_logprobs: list[list[float]] | None = None
    loss_mask: list[list[bool]] | None = None
    policy_version: list[int] | None = None


class PolicyHandle(Protocol):
    """The policy as a rollout engine gets it; nothing is computed before it is asked for.

    Attributes:
        version: number of updates that the policy has had.
        tokenizer: its tokenizer.
        end_ids: ids that end a response.
        end_id: the one that a recorded response ends with; None where the model has none.
        vocab_size: ids that the model knows are below it.
        context_length: the longest sequence that the model takes; None where it has no limit.
    """

    @property
    def version(self) -> int: ...
    @property
    def tokenizer(self) -> PreTrainedTokenizerBase: ...
    @property
    def end_ids(self) -> frozenset[int]: ...
    @property
    def end_id(self) -> int | None: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context_length(self) -> int | None: ...

    def model(self) -> PreTrainedModel:
        """A causal LM in this process that answers as the policy; asking merges its adapter.

        Read only, and not to be kept: without LoRA, and on a base in 4 bits, it is the model that trains,
        with adapters in it.
        """
        ...

    def save_adapter(self, folder: Path) -> None:
        """Write the policy into a folder: a PEFT adapter, or the whole model where there is no LoRA."""
        ...

    @property
    def adapter_hash(self) -> str:
        """SHA-256 of the policy's trained weights."""
        ...


class RolloutEngine(Protocol):
    """Answers prompts. An engine that holds something open also has `close()`, called once at the end."""

    def generate(self, policy: PolicyHandle, request: GenerationRequest) -> Generation:
        """Answer each prompt `request.n` times.

        Called on each process with that process's share of the prompts; where `Component.runs_on` is `main`,
        on the main process alone, with all of them.
        """
        ...
