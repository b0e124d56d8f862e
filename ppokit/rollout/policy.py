"""The policy as rollout engines get it, and as it is asked for itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppokit.config.prompt_settings import PromptSettings
from ppokit.data.context import context_length
from ppokit.data.prompts import PromptLimits, encode_prompts
from ppokit.errors import DataError, ModelError
from ppokit.messages import shorten
from ppokit.models.loading import end_ids, end_token_ids
from ppokit.plugin.chats import ChatPrompt
from ppokit.plugin.recorded import as_generation
from ppokit.plugin.response_text import decode_responses
from ppokit.plugin.types import PromptBatch, Rollout
from ppokit.rollout.generate import ResponseGenerator, build_rollout, completed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Policy:
    """A `PolicyHandle`; what costs something is a function that is called when it is asked for.

    Attributes:
        get_model: see `PolicyHandle.model`.
        save: see `PolicyHandle.save_adapter`.
        get_hash: see `PolicyHandle.adapter_hash`.
    """

    version: int
    tokenizer: PreTrainedTokenizerBase
    end_ids: frozenset[int]
    end_id: int | None
    vocab_size: int
    context_length: int | None
    get_model: Callable[[], PreTrainedModel]
    save: Callable[[Path], None]
    get_hash: Callable[[], str]

    @staticmethod
    def of(
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end_tokens: Sequence[str],
        version: int,
        get_model: Callable[[], PreTrainedModel],
        save: Callable[[Path], None],
        get_hash: Callable[[], str],
    ) -> Policy:
        """The handle of a policy on this model.

        Args:
            end_tokens: of `rollout.end_tokens`.
        """
        named = end_token_ids(tokenizer, end_tokens)
        ends = end_ids(tokenizer, model, named)
        end_id = named[0] if named else tokenizer.eos_token_id
        if end_id is None:
            end_id = min(ends, default=None)
        return Policy(
            version=version,
            tokenizer=tokenizer,
            end_ids=ends,
            end_id=end_id,
            vocab_size=model.get_input_embeddings().weight.shape[0],
            context_length=context_length(model.config),
            get_model=get_model,
            save=save,
            get_hash=get_hash,
        )

    def model(self) -> PreTrainedModel:
        return self.get_model()

    def save_adapter(self, folder: Path) -> None:
        self.save(folder)

    @property
    def adapter_hash(self) -> str:
        return self.get_hash()


Prompt = str | Sequence[Mapping[str, Any]]
"""What a policy can be asked: text, or the messages of a chat."""


def as_texts(prompts: Sequence[Prompt], settings: PromptSettings) -> list[str]:
    """Prompts as texts, those of chats as `ChatPrompt`.

    Raises:
        DataError: one is neither, or a chat where the recipe has none.
    """
    texts = []
    for index, prompt in enumerate(prompts):
        if not isinstance(prompt, str):
            if not settings.chat:
                raise DataError(
                    f"prompts[{index}] is {shorten(repr(prompt))}; expected text, or prompts.chat: true in "
                    "the recipe for messages."
                )
            try:
                prompt = ChatPrompt(prompt)
            except ValueError as error:
                raise DataError(f"prompts[{index}]: {error}.") from error
        texts.append(prompt)
    return texts


@dataclass(frozen=True)
class Prediction:
    """What a policy would say to a prompt.

    Attributes:
        prompt: the prompt.
        text: its greedy response.
        probabilities: [V] float32 of the token that would come next, at temperature 1.
        likeliest: the likeliest next tokens as texts with their probabilities, best first.
    """

    prompt: str
    text: str
    probabilities: Tensor
    likeliest: list[tuple[str, float]]


@dataclass(frozen=True)
class PolicyView:
    """A policy, to be asked without anything being learned; every process makes the same calls.

    Attributes:
        policy: the policy.
        generator: what answers.
        prompts: how a text becomes a prompt.
        logprobs: [B,R] float32 of a rollout's tokens under the policy, at the sampling temperature; 0 on
            padding and on tokens that the policy did not write.
    """

    policy: Policy
    generator: ResponseGenerator
    prompts: PromptSettings
    logprobs: Callable[[Rollout], Tensor]

    def generate(
        self,
        prompts: Sequence[Prompt],
        *,
        n: int | None = None,
        seed: int = 0,
        step: int = 1,
        rows: Sequence[Mapping[str, Any]] | None = None,
    ) -> Rollout:
        """Responses to prompts, prompt by prompt.

        Args:
            n: responses per prompt, drawn by `seed` and `step`; None for one greedy response per prompt.
            rows: a row of data per prompt, for rewards that read columns.

        Raises:
            ModelError: a prompt is empty, or leaves no room for a response in the model's context.
        """
        texts = as_texts(prompts, self.prompts)
        batch = self._batch(list(range(len(texts))), texts, self._encoded(texts), rows)
        return self.generator.generate(self.policy, batch, n=n, seed=seed, step=step, training=False)

    def recorded(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        *,
        step: int = 1,
        separator: str = "",
        rows: Sequence[Mapping[str, Any]] | None = None,
    ) -> Rollout:
        """Responses that were written before, one per prompt; equal prompts share a group.

        Args:
            step: from 1.
            separator: what stands between a plain prompt and its response.
            rows: a row of data per prompt, for rewards that read columns.

        Raises:
            DataError: a prompt is empty, or leaves no room for its response in the model's context.
        """
        context = self.policy.context_length
        texts = as_texts(prompts, self.prompts)
        encoded = self._tokens(texts)
        generation = as_generation(
            encoded, responses, self.policy, separator=separator, prefill=self.prompts.prefill
        )
        for index, (prompt, response) in enumerate(zip(encoded, generation.response_ids, strict=True)):
            if not prompt:
                raise DataError(
                    f"the prompt of the recorded response {index} is empty; expected at least one token."
                )
            if context is not None and len(prompt) + len(response) > context:
                raise DataError(
                    f"recorded response {index} has {len(response)} tokens, its prompt {len(prompt)}; the "
                    f"model's context holds {context}. Shorten or drop them."
                )
        first: dict[str, int] = {}
        groups = [first.setdefault(prompt, index) for index, prompt in enumerate(texts)]
        batch = self._batch(groups, texts, encoded, rows)
        ids = [f"{step:06d}-fit-{index:06d}" for index in range(len(texts))]
        return build_rollout(batch, completed(generation, self.policy.version), ids, 1)

    def predict(self, prompts: Sequence[Prompt]) -> list[Prediction]:
        """Next-token probabilities and a greedy response per prompt."""
        rollout = self.generate(prompts)
        model, predictions = self.policy.model(), []
        asked = zip(rollout.prompts, rollout.prompt_ids, rollout.responses, strict=True)
        for prompt, ids, text in asked:
            with torch.inference_mode():
                logits = model(torch.tensor([ids], device=model.device)).logits[0, -1]
            probabilities = logits.float().softmax(dim=-1).cpu().clone()
            best, tokens = probabilities.topk(10)
            tokenizer, likely = self.policy.tokenizer, [[token] for token in tokens.tolist()]
            texts_behind = decode_responses(tokenizer, [ids] * len(likely), likely)
            # A special token is no text; here it shows by its name.
            words = [
                text or str(tokenizer.decode(own)) for text, own in zip(texts_behind, likely, strict=True)
            ]
            likeliest = list(zip(words, best.tolist(), strict=True))
            predictions.append(Prediction(prompt, text, probabilities, likeliest))
        return predictions

    def _tokens(self, prompts: Sequence[str]) -> list[list[int]]:
        return encode_prompts(prompts, self.policy.tokenizer, self.prompts)

    def _batch(
        self,
        indices: list[int],
        prompts: Sequence[str],
        encoded: list[list[int]],
        rows: Sequence[Mapping[str, Any]] | None,
    ) -> PromptBatch:
        own = [{}] * len(prompts) if rows is None else list(rows)
        return PromptBatch(indices, list(prompts), encoded, own, prefill=self.prompts.prefill)

    def _encoded(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts that leave room for an answer."""
        policy = self.policy
        limits = PromptLimits(
            self.generator.sampling.max_new_tokens, policy.context_length, policy.vocab_size
        )
        encoded = self._tokens(prompts)
        for ids in encoded:
            fault = limits.fault(ids, policy.tokenizer)
            if fault is not None:
                raise ModelError(f"the prompt {fault}")
        return encoded
