"""From a recipe to the parts of a trainer: data first, then components, then the model."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from ppokit.config.recipe import Recipe
from ppokit.config.settings import LossSettings, ObserverSettings, RewardSettings, SelectedComponent
from ppokit.data.prompt_rows import read_prompts
from ppokit.data.prompts import Prompts
from ppokit.distributed import Processes, check_launch
from ppokit.errors import ModelError, PluginError, plugin_call
from ppokit.evaluation.evaluation import Evaluation, NamedEvaluator
from ppokit.evaluation.view import read_held_out
from ppokit.models import quantization
from ppokit.models.loading import end_ids, find_model, load_config, load_model, load_tokenizer, pick_dtype
from ppokit.models.memory_audit import byte_audit
from ppokit.models.roles import ModelRoles, ValueMode
from ppokit.models.shared_base import DeferredBase, SharedBaseModel
from ppokit.plugin.protocols import AdvantageEstimator, AdvantageWeighting, BuildContext, Need, RewardProvider
from ppokit.rewards.outcomes import Elsewhere, Provider
from ppokit.rewards.scaling import Scaling
from ppokit.rewards.scorer import Scorer
from ppokit.rewards.timed_worker import in_worker
from ppokit.rollout.generate import ResponseGenerator, build_generator
from ppokit.run.components import RunComponent, closed_on_error
from ppokit.training.backend import Backend, ReplicatedBackend
from ppokit.training.losses import WeightedLoss
from ppokit.training.microbatches import MicroBatcher
from ppokit.training.update import Updater

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainerComponents:
    """Everything that a trainer works with.

    Attributes:
        estimator_name: how errors name the estimator.
        instances: what every component of the recipe's has built on this process, in the recipe's
            order, and the scorer, which has state too.
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
    backend: Backend
    generator: ResponseGenerator
    scorer: Scorer
    estimator: AdvantageEstimator
    estimator_name: str
    updater: Updater
    evaluation: Evaluation | None
    instances: list[RunComponent]
    needs_before_update: frozenset[Need]
    reward_needs: frozenset[Need]
    end_ids: frozenset[int]
    hashes: dict[str, str]
    audit: dict[str, int]

    def policy_hash(self) -> str:
        """SHA-256 of the policy's trained weights."""
        return self.backend.hash(self.roles.is_policy)

    def save_policy(self, folder: Path) -> None:
        """Write the policy and its tokenizer into a folder."""
        self.backend.save_policy(folder)
        self.tokenizer.save_pretrained(folder)


def build_trainer(recipe: Recipe) -> TrainerComponents:
    """Build the parts; what can fail cheaply fails before the model is loaded, and closes what was built.

    Raises:
        PpokitError: something that the recipe names cannot be used.
    """
    from accelerate import Accelerator

    instances: list[RunComponent] = []
    check_launch()
    processes = Processes(Accelerator())
    with closed_on_error(instances), processes.together():
        return _build(recipe, processes, instances)


def _build(recipe: Recipe, processes: Processes, instances: list[RunComponent]) -> TrainerComponents:
    """Build the parts, and put what the recipe's components build into `instances`."""
    settings = recipe.settings
    # LoRA's first numbers, and whatever a plugin draws.
    torch.manual_seed(settings.run.seed)
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
    base = DeferredBase(tokenizer, config)
    context = BuildContext(device=processes.device, dtype=dtype, seed=settings.run.seed, base=base)
    components = _Components(recipe, context, instances)
    generator = build_generator(recipe, context, processes)
    components.add(recipe.engine, generator.engine)
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
        [_provider(components, choice, is_main=processes.is_main) for choice in recipe.rewards],
        processes,
        settings.run.max_failed_rewards,
    )
    estimator: AdvantageEstimator = components.build(recipe.advantages)
    losses = [_loss(components, choice) for choice in recipe.losses]
    evaluation = _evaluation(components)
    if processes.is_main:
        for choice in recipe.observers:
            components.build(choice)
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
    backend = ReplicatedBackend(roles, processes, weight_decay=settings.update.weight_decay)
    batcher = MicroBatcher(settings.update, seed=settings.run.seed, processes=processes, device=roles.device)
    updater = Updater(roles, backend, losses, batcher, settings, processes)
    rollout_tokens = prompts.longest + settings.rollout.max_new_tokens
    responses = settings.rollout.prompts_per_step * settings.rollout.responses_per_prompt
    return TrainerComponents(
        processes=processes,
        tokenizer=tokenizer,
        prompts=prompts,
        roles=roles,
        backend=backend,
        generator=generator,
        scorer=scorer,
        estimator=estimator,
        updater=updater,
        estimator_name=recipe.component_name(recipe.advantages),
        evaluation=evaluation,
        instances=[
            *components.instances,
            RunComponent("scorer", "the scaling of rewards", scorer),
            *([] if evaluation is None else [RunComponent("evaluation", "the evaluation", evaluation)]),
        ],
        needs_before_update=_needs_before_update(recipe, roles.value_mode),
        reward_needs=frozenset(need for choice in recipe.rewards for need in choice.component.needs),
        end_ids=end_ids(tokenizer, model),
        hashes={"recipe": _sha256(recipe.to_yaml()), "prompts": _sha256(json.dumps(prompts.texts))},
        audit=byte_audit(roles, backend.bytes, responses * rollout_tokens),
    )


def _needs_before_update(recipe: Recipe, value_mode: ValueMode | None) -> frozenset[Need]:
    choices = (recipe.engine, *recipe.rewards, recipe.advantages)
    needs: set[Need] = {need for choice in choices for need in choice.component.needs}
    # The losses' old values and references; old log-probabilities are the update's to take, unless the pass
    # that computes the values, or the sampler, gives them for nothing.
    needs.update(need for loss in recipe.losses for need in loss.component.needs & {"values", "ref_logprobs"})
    update = recipe.settings.update
    for_nothing = update.old_logprobs == "sampler" or ("values" in needs and value_mode != "own_adapter")
    if update.minibatches > 1 and "old_logprobs" in recipe.needs and for_nothing:
        needs.add("old_logprobs")
    return frozenset(needs)


class _Components:
    """Builds the recipe's components, each through one guard, and keeps what they built."""

    def __init__(self, recipe: Recipe, context: BuildContext, instances: list[RunComponent]) -> None:
        self.recipe, self.context, self.instances = recipe, context, instances

    def build(self, choice: SelectedComponent, context: BuildContext | None = None) -> Any:
        """The object of a chosen component.

        Raises:
            PluginError: the plugin failed, or asks to run where its kind cannot.
        """
        where = self.recipe.component_name(choice)
        if choice.component.runs_on == "main" and choice.kind in ("advantages", "losses", "evaluators"):
            raise PluginError(
                f"{where} has runs_on 'main'; {choice.kind} run on every process, so leave it at 'each'."
            )
        with plugin_call(where, "build"):
            instance = choice.component.build(choice.options, context or self.context)
        self.add(choice, instance)
        return instance

    def add(self, choice: SelectedComponent, instance: Any) -> None:
        """Keep what a chosen component has built; None where it is built on the main process alone."""
        if instance is not None:
            on_error = choice.settings.on_error if isinstance(choice.settings, ObserverSettings) else "stop"
            where = self.recipe.component_name(choice)
            self.instances.append(RunComponent(self._key(choice), where, instance, on_error))

    def _key(self, choice: SelectedComponent) -> str:
        """`observers/tracker`, and `observers/tracker-2` for a second of the same name."""
        key = f"{choice.kind}/{choice.name}"
        known = {component.key for component in self.instances}
        return next(k for n in itertools.count(1) if (k := key if n == 1 else f"{key}-{n}") not in known)


def _provider(components: _Components, choice: SelectedComponent, *, is_main: bool) -> Provider:
    settings = cast(RewardSettings, choice.settings)
    where = components.recipe.component_name(choice)
    provider: RewardProvider
    if choice.component.runs_on == "main" and not is_main:
        provider = Elsewhere()
    elif settings.timeout is None:
        provider = components.build(choice)
    else:
        context = replace(components.context, base=None)
        disabled = components.recipe.disabled
        provider = in_worker(choice, settings.use, context, where, settings.timeout, disabled)
        components.add(choice, provider)
    scaling = Scaling(settings.scale, settings.clip)
    needs, runs_on = choice.component.needs, choice.component.runs_on
    return Provider(choice.name, where, provider, settings.weight, scaling, needs, runs_on)


def _loss(components: _Components, choice: SelectedComponent) -> WeightedLoss:
    settings = cast(LossSettings, choice.settings)
    where = components.recipe.component_name(choice)
    loss = components.build(choice)
    if isinstance(loss, AdvantageWeighting) and settings.weight != 1.0:
        raise PluginError(
            f"{where} weighs the advantages of the other losses and adds none: "
            f"{choice.key}.weight {settings.weight:g} would do nothing; leave it out."
        )
    return WeightedLoss(
        name=choice.name, where=where, loss=loss, weight=settings.weight, needs=choice.component.needs
    )


def _evaluation(components: _Components) -> Evaluation | None:
    recipe = components.recipe
    if recipe.settings.evaluation is None:
        return None
    held_out = read_held_out(recipe.settings.evaluation.prompts)
    evaluators = [
        NamedEvaluator(
            choice.name, recipe.component_name(choice), components.build(choice), choice.component.needs
        )
        for choice in recipe.evaluators
    ]
    return Evaluation(recipe.settings.evaluation, recipe.settings.run.steps, evaluators, held_out)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
