"""A YAML recipe -> validated settings and chosen components, or all of its problems at once."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppokit.config import environment, presets, yaml_file
from ppokit.config.components import SelectedComponent
from ppokit.config.cross_checks import check, check_names, default_value
from ppokit.config.reader import RecipeReader
from ppokit.config.registry import PluginRegistry
from ppokit.config.settings import CHOSEN, Settings, Value
from ppokit.config.yaml_file import Document
from ppokit.errors import RecipeError
from ppokit.messages import listed
from ppokit.plugin.protocols import Need


@dataclass(frozen=True)
class Recipe:
    """A run, checked.

    Attributes:
        settings: the core's keys, with defaults filled in.
        engine, rewards, advantages, losses, evaluators, observers: the components, with their options.
        disabled: plugins that were left out of account.
        document: what it was read from.
    """

    settings: Settings
    engine: SelectedComponent
    rewards: tuple[SelectedComponent, ...]
    advantages: SelectedComponent
    losses: tuple[SelectedComponent, ...]
    evaluators: tuple[SelectedComponent, ...]
    observers: tuple[SelectedComponent, ...]
    document: Document = field(compare=False, repr=False)  # it holds secrets
    disabled: tuple[str, ...] = field(default=(), compare=False)

    @staticmethod
    def load(
        path: str | Path,
        overrides: Sequence[str] = (),
        registry: PluginRegistry | None = None,
        *,
        check_data: bool = True,
    ) -> Recipe:
        """Read a YAML file.

        Args:
            path: the file.
            overrides: `key.sub=value`, `rewards.0.weight=0.5`; values are YAML.
            registry: where components come from; all that is installed, by default.
            check_data: whether the prompts and what plugins ask for must be there, as training needs.

        Raises:
            RecipeError: with every problem of the file and the overrides.
        """
        document = yaml_file.read(str(path))
        if document.data:
            chosen = [text for text in overrides if text.partition("=")[0].strip() == "preset"]
            yaml_file.override(document, chosen)
            presets.expand(document)
            yaml_file.override(document, [text for text in overrides if text not in chosen])
        return _resolve(document, registry or PluginRegistry(), check_data)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any], registry: PluginRegistry | None = None) -> Recipe:
        """The same from a mapping.

        Raises:
            RecipeError: with every problem of the mapping.
        """
        document = yaml_file.plain(mapping)
        presets.expand(document)
        return _resolve(document, registry or PluginRegistry(), True)

    @property
    def selected(self) -> tuple[SelectedComponent, ...]:
        """All components."""
        lists = (*self.losses, *self.evaluators, *self.observers)
        return (self.engine, *self.rewards, self.advantages, *lists)

    @property
    def needs(self) -> frozenset[str]:
        """What training must compute, and the reference where evaluation needs it.

        With LoRA, where it costs an adapter at most, every evaluation does.
        """
        trained = _needs(selected for selected in self.selected if selected.kind != "evaluators")
        measured = _needs(self.evaluators)
        if self.evaluators and self.settings.lora is not None:
            measured |= {"ref_logprobs"}
        return trained | (measured & {"ref_logprobs"})

    def needs_before_update(self, value_mode: Value | None) -> frozenset[Need]:
        """What must be computed of a rollout before its rewards and advantages.

        Args:
            value_mode: how the value function is built; None for none.
        """
        before = (self.engine, *self.rewards, self.advantages)
        needs: set[Need] = {need for selected in before for need in selected.needs}
        # The losses' old values and references; old log-probabilities are the update's to take, unless the
        # pass that computes the values, or the sampler, gives them for nothing.
        needs.update(need for loss in self.losses for need in loss.needs & {"values", "ref_logprobs"})
        update = self.settings.update
        for_nothing = update.old_logprobs == "sampler" or ("values" in needs and value_mode != "own_adapter")
        if update.minibatches > 1 and "old_logprobs" in self.needs and for_nothing:
            needs.add("old_logprobs")
        if self.settings.overlaps:  # those of the policy that answers, which is gone when they are needed
            needs.add("old_logprobs")
        return frozenset(needs)

    def resolved(self) -> dict[str, Any]:
        """Plain data with all defaults filled in, plugins' options beside the core's keys.

        Environment variables stand in it by name.
        """
        data = self.settings.model_dump(mode="json")
        references = self.document.references
        for selected in self.selected:
            path = tuple(yaml_file.steps(selected.key))
            section: Any = data
            for step in path:
                section = section[step]
            dumped = selected.options.model_dump(mode="json", by_alias=True)
            environment.drop_default_secrets(dumped, selected.options, path, references)
            section.update(dumped)
        environment.restore(data, references)
        return data

    def to_yaml(self) -> str:
        """A recipe file that loads as an equal recipe."""
        return yaml_file.dump(self.resolved())


def load_rewards(path: str | Path, registry: PluginRegistry) -> tuple[SelectedComponent, ...]:
    """The rewards of a recipe, or of a file that has nothing else.

    Raises:
        RecipeError: with every problem of theirs.
    """
    document = yaml_file.read(str(path))
    if document.data:
        environment.resolve(document, required=True)
        reader = RecipeReader(document, registry)
        rewards = reader.rewards()
        check_names(reader.selected, document)
    if document.problems:
        raise RecipeError(document.problems, document.source)
    return rewards


def _needs(components: Iterable[SelectedComponent]) -> frozenset[str]:
    return frozenset(need for selected in components for need in selected.needs)


def _resolve(document: Document, registry: PluginRegistry, check_data: bool) -> Recipe:
    if document.problems and not document.data:  # nothing was read, so that every key would be missing
        raise RecipeError(document.problems, document.source)
    environment.resolve(document, required=check_data)
    reader = RecipeReader(document, registry)
    sections = reader.sections()
    check(sections, reader.selected, document, data=check_data)
    if document.problems:
        raise RecipeError(document.problems, document.source) from reader.cause
    by_kind = {kind: tuple(filter(None, reader.selected[kind])) for kind in CHOSEN}
    if sections["value"] is None:
        needs = _needs(itertools.chain(*by_kind.values()))
        sections["value"] = default_value(sections["lora"] is not None, needs)
    recipe = Recipe(
        settings=Settings(**sections),
        engine=by_kind["rollout"][0],
        rewards=by_kind["rewards"],
        advantages=by_kind["advantages"][0],
        losses=by_kind["losses"],
        evaluators=by_kind["evaluators"],
        observers=by_kind["observers"],
        document=document,
        disabled=registry.disabled,
    )
    try:
        recipe.resolved()
    except (LookupError, TypeError) as error:
        names = listed(document.references.values())
        document.report(
            "", f"a value with {names} is changed when it is read, and cannot be written as it stood"
        )
        raise RecipeError(document.problems, document.source) from error
    return recipe
