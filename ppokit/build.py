"""From a recipe to the parts of a trainer: data first, then components, then the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from ppokit.config.components import BuiltComponent
from ppokit.config.evaluation_checks import check_fetched
from ppokit.config.recipe import Recipe
from ppokit.data.chat_templates import set_template, warn_of_turn_end
from ppokit.data.prompt_rows import read_prompts
from ppokit.data.prompts import PromptLimits, Prompts, longest_prompt
from ppokit.distributed import Processes, check_launch, use_device
from ppokit.errors import ModelError
from ppokit.evaluation.evaluation import Evaluation
from ppokit.evaluation.overlap import warn_of_overlap
from ppokit.evaluation.texts import read_texts
from ppokit.evaluation.view import read_held_out
from ppokit.models import quantization
from ppokit.models.adapter_check import check_adapter
from ppokit.models.loading import (
    end_ids,
    end_token_ids,
    find_model,
    load_config,
    load_model,
    load_tokenizer,
    pick_dtype,
)
from ppokit.models.memory_audit import byte_audit
from ppokit.models.roles import ModelRoles
from ppokit.models.rotary import depends_on_length, fix_rotary
from ppokit.models.shared_base import DeferredBase, SharedBaseModel
from ppokit.plugin.protocols import BuildContext, Need
from ppokit.plugin.scoring import RewardContext
from ppokit.rewards.event_loop import EventLoop
from ppokit.rewards.scorer import Scorer
from ppokit.rollout.collect import Collector
from ppokit.rollout.generate import ResponseGenerator, build_generator
from ppokit.run.component_builder import ComponentBuilder
from ppokit.run.components import RunComponent, closed_on_error
from ppokit.run.provenance import data_hashes
from ppokit.training.backend import Backend, ReplicatedBackend
from ppokit.training.microbatches import MicroBatcher
from ppokit.training.parity import ParityCheck
from ppokit.training.update import Updater

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainerComponents:
    """Everything that a trainer works with.

    Attributes:
        instances: the event loop of rewards; what every component of the recipe's has built on this process,
            in the recipe's order; and the scorer, which has state too.
        needs_before_update: what must be computed of a rollout before its rewards and advantages.
        reward_needs: what the rewards alone need.
        longest_text: tokens of the longest prompt and its response.
        hashes: of the recipe, the prompts and what is held out, for the run's provenance.
        audit: bytes by use.
    """

    processes: Processes
    tokenizer: PreTrainedTokenizerBase
    prompts: Prompts
    roles: ModelRoles
    backend: Backend
    generator: ResponseGenerator
    scorer: Scorer
    estimator: BuiltComponent
    updater: Updater
    evaluation: Evaluation | None
    instances: list[RunComponent]
    needs_before_update: frozenset[Need]
    reward_needs: frozenset[Need]
    longest_text: int
    hashes: dict[str, str]
    audit: dict[str, int]

    def policy_hash(self) -> str:
        """SHA-256 of the policy's trained weights."""
        return self.backend.hash(self.roles.is_policy)

    def collector(self, phase: Callable[[str], AbstractContextManager[None]]) -> Collector:
        """What answers prompts; `phase` times a phase of a step by its name."""
        return Collector(
            self.generator,
            self.roles,
            self.tokenizer,
            self.policy_hash,
            self.updater.microbatches,
            self.updater.settings,
            self.needs_before_update,
            phase,
        )

    def save_policy(self, folder: Path) -> None:
        """Write the policy and its tokenizer into a folder."""
        self.backend.save_policy(folder)
        self.tokenizer.save_pretrained(folder)


def build_trainer(recipe: Recipe, folder: Path | None = None) -> TrainerComponents:
    """Build the parts; what can fail cheaply fails before the model is loaded, and closes what was built.

    Args:
        folder: the run's.

    Raises:
        PpokitError: something that the recipe names cannot be used.
    """
    from accelerate import Accelerator

    instances: list[RunComponent] = []
    check_launch()
    processes = Processes(Accelerator())
    with closed_on_error(instances), processes.together():
        return _build(recipe, processes, instances, folder)


def _build(
    recipe: Recipe, processes: Processes, instances: list[RunComponent], folder: Path | None
) -> TrainerComponents:
    """Build the parts, and put what the recipe's components build into `instances`."""
    settings = recipe.settings
    # LoRA's first numbers, and whatever a plugin draws.
    torch.manual_seed(settings.run.seed)
    table = read_prompts(settings.prompts, chat=settings.prompts.chat)
    held_out = read_held_out(
        None if settings.evaluation is None else settings.evaluation.prompts, chat=settings.prompts.chat
    )
    check_fetched(recipe, table, held_out.rows, held_out.numbers)
    source = find_model(
        settings.model.name,
        revision=settings.model.revision,
        trust_remote_code=settings.model.trust_remote_code,
    )
    config = load_config(source)
    if settings.lora is None and quantization.is_4bit_checkpoint(config):
        raise ModelError(quantization.NO_LORA)
    tokenizer = load_tokenizer(source)
    set_template(tokenizer, settings.prompts)
    dtype = pick_dtype(settings.model.dtype, processes.device)
    base = DeferredBase(tokenizer, config)
    context = BuildContext(
        device=processes.device,
        dtype=dtype,
        seed=settings.run.seed,
        base=base,
        chat=settings.prompts.chat,
        folder=folder,
        tokenizer=tokenizer,
        rank=processes.rank,
        processes=processes.count,
        steps=settings.run.steps,
    )
    loop = EventLoop(partial(use_device, processes.device))
    instances.append(RunComponent("event loop", "the event loop of rewards", loop))  # ends after the others
    components = ComponentBuilder(recipe.disabled, context, instances, processes.is_main)
    generator = build_generator(recipe, context, processes)
    components.add(generator.engine)
    limits = PromptLimits.of(config, settings.rollout.max_new_tokens)
    prompts = Prompts(
        table,
        tokenizer,
        settings.prompts,
        settings.rollout,
        settings.run,
        limits,
    )
    rewards = [components.build_reward(reward) for reward in recipe.rewards]
    scorer = _scorer(rewards, processes, context, recipe, loop)
    instances.append(RunComponent("scorer", "the scoring of rewards", scorer))
    estimator = components.build(recipe.advantages)
    losses = [components.build_loss(loss) for loss in recipe.losses]
    evaluation: Evaluation | None = None
    longest_held_out = 0
    if settings.evaluation is not None:
        warn_of_overlap(prompts.texts, held_out)
        longest_held_out = longest_prompt(
            held_out.numbers, held_out.texts, tokenizer, settings.prompts, limits, "evaluation.prompts"
        )
        evaluators = [components.build(evaluator) for evaluator in recipe.evaluators]
        texts = read_texts(settings.evaluation.texts, tokenizer, limits.context)
        evaluation = Evaluation(settings.evaluation, settings.run.steps, evaluators, held_out, texts)
    if processes.is_main:
        for observer in recipe.observers:
            components.build(observer)
    if settings.lora is not None and settings.lora.adapter is not None:
        check_adapter(settings.lora.adapter, "lora.adapter")
    longest = prompts.longest
    if depends_on_length(config):
        longest = max(prompts.longest_of_all(), longest_held_out)
    longest_text = longest + settings.rollout.max_new_tokens
    model = load_model(source, dtype, processes.device, load_in_4bit=settings.model.load_in_4bit)
    fix_rotary(model, longest_text)
    warn_of_turn_end(
        tokenizer,
        settings.prompts,
        end_ids(tokenizer, model, end_token_ids(tokenizer, settings.rollout.end_tokens)),
        settings.rollout,
    )
    torch.manual_seed(settings.run.seed)
    roles = ModelRoles(
        model,
        lora=settings.lora,
        value=settings.value if "values" in recipe.needs else None,
        reference="ref_logprobs" in recipe.needs,
        fast_paths=settings.model.fast_paths,
        activation_checkpointing=settings.update.activation_checkpointing,
        layout=settings.update.layout,
    )
    base.texts = SharedBaseModel(roles, longest_text)
    if not any(param.numel() for param in roles.trainable.values()):
        raise ModelError("lora.target_modules: no parameter is left to train.")
    backend = ReplicatedBackend(roles, processes, weight_decay=settings.update.weight_decay)
    batcher = MicroBatcher(
        settings.update,
        seed=settings.run.seed,
        processes=processes,
        device=roles.device,
        packed=roles.packed,
    )
    parity = ParityCheck(
        roles,
        processes,
        temperature=settings.rollout.temperature,
        engine=generator.engine.where,
        limit=settings.rollout.max_logprob_gap,
    )
    updater = Updater(roles, backend, losses, batcher, settings, processes, parity)
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
        evaluation=evaluation,
        instances=[
            *components.instances,
            *([] if evaluation is None else [RunComponent("evaluation", "the evaluation", evaluation)]),
        ],
        needs_before_update=recipe.needs_before_update(roles.value_mode),
        reward_needs=frozenset(need for reward in rewards for need in reward.needs),
        longest_text=longest_text,
        hashes=data_hashes(
            recipe=recipe.to_yaml(),
            prompts=prompts.texts,
            **({} if evaluation is None else evaluation.data),
        ),
        audit=byte_audit(
            roles,
            backend.bytes,
            responses * longest_text,
            min(responses * longest_text, max(longest_text, settings.update.tokens_per_microbatch)),
        ),
    )


def _scorer(
    rewards: list[BuiltComponent],
    processes: Processes,
    context: BuildContext,
    recipe: Recipe,
    loop: EventLoop,
) -> Scorer:
    run = recipe.settings.run
    return Scorer(
        rewards,
        processes,
        run.max_failed_rewards,
        max_hung=run.max_hung_calls,
        context=RewardContext(
            steps=run.steps,
            seed=run.seed,
            folder=context.folder,
            tokenizer=context.tokenizer,
            rank=processes.rank,
            processes=processes.count,
        ),
        loop=loop,
    )
