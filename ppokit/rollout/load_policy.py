"""The policy of a run's folder, or of a recipe alone, loaded to be asked for itself."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ppokit.config.recipe import Recipe
from ppokit.data.chat_templates import set_template
from ppokit.distributed import Processes
from ppokit.errors import ModelError
from ppokit.models import quantization
from ppokit.models.adapter_check import check_adapter, check_base
from ppokit.models.loading import ModelSource, find_model, load_model, load_tokenizer, pick_dtype
from ppokit.models.merged import MergedSampler
from ppokit.models.pretrained import pretrained_adapter
from ppokit.models.rotary import fix_rotary
from ppokit.plugin.protocols import BuildContext
from ppokit.plugin.types import Rollout
from ppokit.rollout.generate import build_generator
from ppokit.rollout.policy import Policy, PolicyView

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def load_policy(recipe: Recipe, folder: Path | None, longest_text: int | None = None) -> PolicyView:
    """The recipe's model with the policy of a run's `policy/` folder; None for the model alone.

    Args:
        longest_text: that of the run, by which rotary factors go that depend on a text's length
            (`RunDir.longest_text`); without a run, each text's own.

    Raises:
        ModelError: it cannot be loaded.
    """
    from accelerate import Accelerator

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
    if longest_text is not None:
        fix_rotary(model, longest_text)
    if adapter is not None:
        check_adapter(adapter, "the policy")
        check_base(model, adapter, "the policy")
        sampler = None if quantization.is_4bit(model) else MergedSampler(model)
        pretrained_adapter(model, adapter, "the policy", autocast_adapter_dtype=False).eval()
        if sampler is not None:  # as in the run: rounded once, and no weight that is tied to an adapted one
            sampler.follow(model, "default", key="the policy")
            model = sampler.merged()
    context = BuildContext(device=device, dtype=dtype, seed=settings.run.seed)
    generator = build_generator(recipe, context, Processes(Accelerator()))
    saved = folder or adapter

    def save(target: Path) -> None:
        if saved is None:
            raise ModelError("the untrained policy has no adapter that a rollout engine could get.")
        shutil.copytree(saved, target, dirs_exist_ok=True)

    def sha256() -> str:
        files = [] if saved is None else sorted(saved.glob("*.safetensors"))
        return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()

    tokenizer = load_tokenizer(source)
    set_template(tokenizer, settings.prompts)
    policy = Policy.of(
        model,
        tokenizer,
        end_tokens=settings.rollout.end_tokens,
        version=0,
        get_model=lambda: model,
        save=save,
        get_hash=sha256,
    )
    temperature = settings.rollout.temperature
    return PolicyView(
        policy, generator, settings.prompts, lambda rollout: _logprobs(model, rollout, temperature)
    )


@torch.inference_mode()
def _logprobs(model: PreTrainedModel, rollout: Rollout, temperature: float) -> Tensor:
    """[B,R] float32 of the tokens that the policy wrote, by one forward per response; 0 elsewhere."""
    whole = torch.zeros(rollout.response_ids.shape)
    for row, prompt in enumerate(rollout.prompt_ids):
        mask = rollout.response_mask[row]
        response = rollout.response_ids[row, mask].to(model.device)
        ids = torch.cat([torch.tensor(prompt, device=model.device), response])
        # The last prompt token predicts the response's first; the response's last predicts what nobody asks.
        logits = model(ids[None], logits_to_keep=len(response) + 1).logits[0, :-1]
        scaled = (logits.float() / temperature).log_softmax(dim=-1)
        whole[row, mask] = scaled.gather(1, response[:, None])[:, 0].cpu()
    return whole.where(rollout.loss_mask, torch.zeros(())).clone()
