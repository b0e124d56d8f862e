"""From a recipe to the parts of a trainer: data first, then components, then the model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from ppokit.config.recipe import Recipe
from ppokit.config.settings import LossSettings, RewardSettings, SelectedComponent, Settings
from ppokit.data.prompt_rows import read_prompts
from ppokit.data.prompts import Prompts
from ppokit.distributed import Processes
from ppokit.errors import ModelError, PluginError, PpokitError
from ppokit.models import quantization
from ppokit.models.loading import end_ids, find_model, load_config, load_model, load_tokenizer, pick_dtype
from ppokit.models.memory_audit import byte_audit
from ppokit.models.roles import ModelRoles
from ppokit.models.shared_base import SharedBaseModel
from ppokit.plugin.protocols import (
    AdvantageEstimator,
    AdvantageWeighting,
    BuildContext,
    Need,
    Observer,
)
from ppokit.rewards.outcomes import Provider
from ppokit.rewards.scaling import Scaling
from ppokit.rewards.scorer import Scorer
from ppokit.rewards.worker import in_worker
from ppokit.rollout.generate import ResponseGenerator, build_generator
from ppokit.training.losses import WeightedLoss
from ppokit.training.optimizer import MasterWeights
from ppokit.training.update import UpdatePlan, Updater

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainerComponents:
    """Everything that a trainer works with.

    Attributes:
        needs_before_update: what must be computed of a rollout before its rewards and advantages.
        reward_needs: what the rewards alone need.
        end_ids: token ids that end a response.
        hashes: of the recipe and the prompts, for the run's provenance.
        audit: bytes by use.
    """

    processes: Processes
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    roles: ModelRoles
    master_weights: MasterWeights
    generator: ResponseGenerator
    scorer: Scorer
    estimator: AdvantageEstimator
    updater: Updater
    observers: list[Observer]
    needs_before_update: frozenset[Need]
    reward_needs: frozenset[Need]
    end_ids: frozenset[int]
    hashes: dict[str, str]
    audit: dict[str, int]


def build_trainer(recipe: Recipe) -> TrainerComponents:
    """Build the parts; what can fail cheaply fails before the model is loaded.

    Raises:
        PpokitError: something that the recipe names cannot be used.
    """
    from accelerate import Accelerator

    settings = recipe.settings
    # LoRA's first numbers, and whatever a plugin draws.
    torch.manual_seed(settings.run.seed)
    processes = Processes(Accelerator())
    table = read_prompts(settings.prompts)
    source = find_model(
        settings.model.name,
        revision=settings.model.revision,
        trust_remote_code=settings.model.trust_remote_code,
    )
    config = load_config(source)
    if settings.lora is None and quantization.is_4bit_checkpoint(config):
        raise ModelError(quantization.NO_LORA)
    tokenizer = load_tokenizer(source)
    dtype = pick_dtype(settings.model.dtype, processes.device)
    base = _Base(tokenizer, config)
    context = BuildContext(device=processes.device, dtype=dtype, seed=settings.run.seed, base=base)
    generator = build_generator(recipe, context, processes)
    prompts = Prompts(
        table,
        tokenizer,
        settings.prompts,
        settings.rollout,
        settings.run,
        context=getattr(config.get_text_config(), "max_position_embeddings", None),
        max_new_tokens=settings.rollout.max_new_tokens,
    )
    scorer = Scorer(
        [_provider(recipe, choice, context) for choice in recipe.rewards],
        processes,
        settings.run.max_failed_rewards,
    )
    estimator: AdvantageEstimator = _build(recipe, recipe.advantages, context)
    losses = [_loss(recipe, choice, context) for choice in recipe.losses]
    observers: list[Observer] = []
    if processes.is_main:
        observers = [_build(recipe, choice, context) for choice in recipe.observers]
    model = load_model(source, dtype, processes.device, load_in_4bit=settings.model.load_in_4bit)
    torch.manual_seed(settings.run.seed)
    roles = ModelRoles(
        model,
        lora=settings.lora,
        value=settings.value if "values" in recipe.needs else None,
        reference="ref_logprobs" in recipe.needs,
        fast_paths=settings.model.fast_paths,
    )
    base.texts = SharedBaseModel(roles)
    if not any(param.numel() for param in roles.trainable.values()):
        raise ModelError("lora.target_modules: no parameter is left to train.")
    master_weights = MasterWeights(roles.trainable, weight_decay=settings.update.weight_decay)
    updater = Updater(roles, master_weights, losses, _plan(settings), processes)
    rollout_tokens = prompts.longest + settings.rollout.max_new_tokens
    responses = settings.rollout.prompts_per_step * settings.rollout.responses_per_prompt
    return TrainerComponents(
        processes=processes,
        tokenizer=tokenizer,
        prompts=prompts,
        roles=roles,
        master_weights=master_weights,
        generator=generator,
        scorer=scorer,
        estimator=estimator,
        updater=updater,
        observers=observers,
        needs_before_update=_needs_before_update(recipe),
        reward_needs=frozenset(need for choice in recipe.rewards for need in choice.component.needs),
        end_ids=end_ids(tokenizer, model),
        hashes={"recipe": _sha256(recipe.to_yaml()), "prompts": _sha256(json.dumps(prompts.texts))},
        audit=byte_audit(roles, master_weights.bytes, responses * rollout_tokens),
    )


class _Base:
    """The base as components see it; `texts` comes once the model is loaded."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, config: Any) -> None:
        self.tokenizer = tokenizer
        self.limit = getattr(config.get_text_config(), "max_position_embeddings", None)
        self.texts: SharedBaseModel | None = None

    def embed(self, texts: Sequence[str]) -> Tensor:
        end = self.tokenizer.eos_token_id
        encoded = self.tokenizer(list(texts), verbose=False)["input_ids"] if texts else []
        empty = [0 if end is None else int(end)]
        return self._loaded().embed([list(ids)[: self.limit] or empty for ids in encoded])

    def reward(self, folder: str, token_ids: Sequence[Sequence[int]]) -> Tensor:
        return self._loaded().reward(Path(folder).expanduser(), token_ids)

    def _loaded(self) -> SharedBaseModel:
        if self.texts is None:
            raise PluginError("BuildContext.base: the model is not loaded before training has begun.")
        return self.texts


def _needs_before_update(recipe: Recipe) -> frozenset[Need]:
    choices = (recipe.engine, *recipe.rewards, recipe.advantages)
    needs: set[Need] = {need for choice in choices for need in choice.component.needs}
    # The losses' old values and references; old log-probabilities come from the first training pass,
    # unless other mini-batches move the weights before it.
    needs.update(need for loss in recipe.losses for need in loss.component.needs & {"values", "ref_logprobs"})
    if recipe.settings.update.minibatches > 1 and "old_logprobs" in recipe.needs:
        needs.add("old_logprobs")
    return frozenset(needs)


def _build(recipe: Recipe, choice: SelectedComponent, context: BuildContext) -> Any:
    """The object of a chosen component; what goes wrong in a plugin names it."""
    try:
        return choice.component.build(choice.options, context)
    except PpokitError:
        raise
    except Exception as error:
        raise PluginError(
            f"{recipe.where(choice.key + '.use')}: the plugin {choice.plugin} could not build "
            f"{choice.component.name!r}: {type(error).__name__}: {error}"
        ) from error


def _provider(recipe: Recipe, choice: SelectedComponent, context: BuildContext) -> Provider:
    settings = cast(RewardSettings, choice.settings)
    where = _where(recipe, choice, "reward")
    if settings.timeout is None:
        provider = _build(recipe, choice, context)
    else:
        provider = in_worker(choice, settings.use, replace(context, base=None), where, settings.timeout)
    scaling = Scaling(settings.scale, settings.clip)
    return Provider(choice.name, where, provider, settings.weight, scaling, choice.component.needs)


def _loss(recipe: Recipe, choice: SelectedComponent, context: BuildContext) -> WeightedLoss:
    settings = cast(LossSettings, choice.settings)
    loss = _build(recipe, choice, context)
    if isinstance(loss, AdvantageWeighting) and settings.weight != 1.0:
        raise PluginError(
            f"{_where(recipe, choice, 'loss')} weighs the advantages of the other losses and adds none: "
            f"{choice.key}.weight {settings.weight:g} would do nothing; leave it out."
        )
    return WeightedLoss(
        name=choice.name,
        where=_where(recipe, choice, "loss"),
        loss=loss,
        weight=settings.weight,
        needs=choice.component.needs,
    )


def _where(recipe: Recipe, choice: SelectedComponent, what: str) -> str:
    return f"{what} {choice.name!r} (plugin {choice.plugin}; recipe: {recipe.where(choice.key + '.use')})"


def _plan(settings: Settings) -> UpdatePlan:
    update = settings.update
    return UpdatePlan(
        epochs=update.epochs,
        minibatches=update.minibatches,
        learning_rate=update.learning_rate,
        schedule=update.schedule,
        warmup_steps=update.warmup_steps,
        max_grad_norm=update.max_grad_norm,
        tokens_per_microbatch=update.tokens_per_microbatch,
        aggregation=update.aggregation,
        target_kl=update.target_kl,
        steps=settings.run.steps,
        seed=settings.run.seed,
        temperature=settings.rollout.temperature,
        max_response=settings.rollout.max_new_tokens,
        whiten=settings.advantages.whiten_variance if settings.advantages.whiten == "minibatch" else None,
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
