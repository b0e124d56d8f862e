"""A trained policy, loaded to answer prompts as its run did."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ppokit.errors import ModelError, first_line
from ppokit.loading import ModelSource, end_ids, find_model, load_model, load_tokenizer, pick_dtype
from ppokit.prompts import encode_prompt
from ppokit.protocols import BuildContext, RolloutEngine, SamplingPolicy
from ppokit.recipe import PromptSettings, Recipe
from ppokit.rollout import draw_uniforms
from ppokit.types import PromptBatch

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True)
class LoadedPolicy:
    """A model and the engine that samples from it."""

    policy: SamplingPolicy
    engine: RolloutEngine
    prompts: PromptSettings

    def answer(self, prompt: str, *, seed: int = 0, greedy: bool = False) -> str:
        """One response to one prompt."""
        tokenizer = self.policy.tokenizer
        ids = encode_prompt(prompt, tokenizer, chat=self.prompts.chat, system=self.prompts.system)
        if not ids:
            raise ModelError("the prompt is empty; expected at least one token.")
        context = getattr(self.policy.model.config.get_text_config(), "max_position_embeddings", None)
        if context is not None and len(ids) + self.engine.max_new_tokens > context:
            raise ModelError(
                f"the prompt has {len(ids)} tokens, the answer may take {self.engine.max_new_tokens} more, "
                f"and the model's context holds {context}. Shorten the prompt, or lower --max-new-tokens."
            )
        batch = PromptBatch([0], [prompt], [ids], [{}])
        uniforms = None if greedy else draw_uniforms(seed, 0, 1, 1, self.engine.max_new_tokens)
        return self.engine.generate(self.policy, batch, uniforms).texts[0]


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
    model = load_model(source, dtype, device)
    if adapter is not None:
        model = _merged(model.float(), adapter).to(dtype).eval()
    tokenizer = load_tokenizer(source)
    context = BuildContext(device=device, dtype=dtype, seed=settings.run.seed)
    engine: RolloutEngine = recipe.engine.component.build(recipe.engine.options, context)
    return LoadedPolicy(SamplingPolicy(model, tokenizer, end_ids(tokenizer, model)), engine, settings.prompts)


def _merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """The fp32 model with an adapter merged in: rounded once, after this, as the sampler of the run was."""
    from peft import PeftModel
    from safetensors import SafetensorError

    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property by its old name.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        try:
            merged = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
        except (OSError, KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
            first = first_line(error)
            raise ModelError(f"the policy {adapter} cannot be loaded: {first}") from error
    return merged
