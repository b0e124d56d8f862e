"""A trained policy, loaded to answer prompts as its run did."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppokit.config.recipe import PromptSettings, Recipe
from ppokit.data.prompts import encode_prompts
from ppokit.errors import ModelError, first_line
from ppokit.models import quantization
from ppokit.models.loading import ModelSource, end_ids, find_model, load_model, load_tokenizer, pick_dtype
from ppokit.models.lora import peft_warnings
from ppokit.plugin.protocols import BuildContext, Recorded, RolloutEngine, SamplingPolicy
from ppokit.plugin.types import Generation, PromptBatch
from ppokit.rollout.generate import draw_uniforms

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
class LoadedPolicy:
    """A model and the engine that samples from it."""

    policy: SamplingPolicy
    engine: RolloutEngine
    prompts: PromptSettings

    def answer(self, prompts: Sequence[str], *, seed: int | None = None) -> list[str]:
        """One response to each prompt, drawn by the seed, or greedy without one."""
        if seed is not None:
            return self.sample(prompts, responses=1, seed=seed).texts
        return self.engine.generate(self.policy, self._batch(prompts), None).texts

    def sample(self, prompts: Sequence[str], *, responses: int, seed: int, step: int = 0) -> Generation:
        """So many responses to each prompt, prompt by prompt; seed and step draw them."""
        uniforms = draw_uniforms(seed, step, len(prompts), responses, self.engine.max_new_tokens)
        return self.engine.generate(self.policy, self._batch(prompts), uniforms)

    def logprobs(self, prompts: Sequence[str], response_ids: Sequence[Sequence[int]]) -> list[Tensor]:
        """Of each token of one response to each prompt, at the temperature that it is sampled at."""
        found = []
        for prompt, response in zip(self._encoded(prompts), response_ids, strict=True):
            ids = torch.tensor([[*prompt, *response]], device=self.policy.model.device)
            with torch.inference_mode():
                # The last prompt token foretells the response's first; its last foretells what nobody asks.
                logits = self.policy.model(ids, logits_to_keep=len(response) + 1).logits[0, :-1]
            scaled = (logits.float() / self.engine.temperature).log_softmax(dim=-1)
            found.append(scaled.gather(1, ids[0, len(prompt) :, None])[:, 0].cpu().clone())
        return found

    def predict(self, prompts: Sequence[str]) -> list[Prediction]:
        """Next-token probabilities and a greedy response to each prompt."""
        texts = self.answer(prompts)
        found = []
        for prompt, ids, text in zip(prompts, self._encoded(prompts), texts, strict=True):
            with torch.inference_mode():
                logits = self.policy.model(torch.tensor([ids], device=self.policy.model.device)).logits[0, -1]
            probabilities = logits.float().softmax(dim=-1).cpu().clone()
            best, tokens = probabilities.topk(10)
            words = [str(self.policy.tokenizer.decode([token])) for token in tokens.tolist()]
            found.append(
                Prediction(prompt, text, probabilities, list(zip(words, best.tolist(), strict=True)))
            )
        return found

    def _batch(self, prompts: Sequence[str]) -> PromptBatch:
        ids = self._encoded(prompts)
        return PromptBatch(list(range(len(ids))), list(prompts), ids, [{}] * len(ids))

    def _encoded(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids of prompts that leave room for an answer."""
        context = getattr(self.policy.model.config.get_text_config(), "max_position_embeddings", None)
        encoded = encode_prompts(
            prompts, self.policy.tokenizer, chat=self.prompts.chat, system=self.prompts.system
        )
        for ids in encoded:
            if not ids:
                raise ModelError("the prompt is empty; expected at least one token.")
            if context is not None and len(ids) + self.engine.max_new_tokens > context:
                raise ModelError(
                    f"the prompt has {len(ids)} tokens, the answer may take {self.engine.max_new_tokens} "
                    f"more, and the model's context holds {context}. Shorten the prompt, or lower "
                    "max_new_tokens."
                )
        return encoded


def load_policy(recipe: Recipe, folder: Path | None) -> LoadedPolicy:
    """The recipe's model with the policy of a run's `policy/` folder; None for the model alone.

    Raises:
        ModelError: it cannot be loaded.
    """
    settings = recipe.settings
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = pick_dtype(settings.model.dtype, device)
    source = find_model(
        settings.model.name,
        revision=settings.model.revision,
        trust_remote_code=settings.model.trust_remote_code,
    )
    adapter = folder if folder is not None and settings.lora is not None else None
    if adapter is None and folder is not None:
        source = ModelSource(settings.model.name, str(folder), None, settings.model.trust_remote_code)
    if folder is None and settings.lora is not None and settings.lora.adapter is not None:
        adapter = Path(settings.lora.adapter)
    model = load_model(source, dtype, device, load_in_4bit=settings.model.load_in_4bit)
    if adapter is not None and quantization.is_4bit(model):
        model = _with_adapter(model, adapter).get_base_model().eval()
    elif adapter is not None:
        # Rounded once, after this, as the sampler of the run was.
        model = _with_adapter(model.float(), adapter).merge_and_unload().to(dtype).eval()
    tokenizer = load_tokenizer(source)
    context = BuildContext(device=device, dtype=dtype, seed=settings.run.seed)
    engine: RolloutEngine = recipe.engine.component.build(recipe.engine.options, context)
    if isinstance(engine, Recorded):  # asked for itself, a policy does not read out what others wrote
        engine = engine.sampled
    return LoadedPolicy(SamplingPolicy(model, tokenizer, end_ids(tokenizer, model)), engine, settings.prompts)


def _with_adapter(model: PreTrainedModel, adapter: Path) -> Any:
    """The model as a PeftModel with an adapter on, in the model's own dtype."""
    from peft import PeftModel
    from safetensors import SafetensorError

    with peft_warnings():
        try:
            return PeftModel.from_pretrained(model, str(adapter), autocast_adapter_dtype=False)
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            first = first_line(error)
            raise ModelError(f"the policy {adapter} cannot be loaded: {first}") from error
