"""A YAML recipe -> validated settings and chosen components, or all of its problems at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ppokit.config import environment, presets, yaml_file
from ppokit.config.cross_checks import check, default_value
from ppokit.config.reader import RecipeReader
from ppokit.config.registry import PluginRegistry
from ppokit.config.settings import CHOSEN, SelectedComponent, Settings
from ppokit.config.yaml_file import Document, KeyPath
from ppokit.errors import RecipeError
from ppokit.messages import listed

_NOUNS = {
    "rewards": "reward",
    "losses": "loss",
    "rollout": "rollout engine",
    "evaluators": "evaluator",
    "observers": "observer",
}


@dataclass(frozen=True)
class Recipe:
    """A run, checked.

    Attributes:
        settings: the core's keys, with defaults filled in.
        engine, rewards, advantages, losses, evaluators, observers: the components, with their options.
        source: the file, or `recipe`.
        lines: line of each key in the file, from 1.
        overrides: by key, the override that set it.
        references: by path, the texts with `${NAME}` in them, as the recipe has them.
        disabled: plugins that were left out of account.
    """

    settings: Settings
    engine: SelectedComponent
    rewards: tuple[SelectedComponent, ...]
    advantages: SelectedComponent
    losses: tuple[SelectedComponent, ...]
    evaluators: tuple[SelectedComponent, ...]
    observers: tuple[SelectedComponent, ...]
    source: str = field(default="recipe", compare=False)
    lines: Mapping[str, int] = field(default_factory=dict, compare=False)
    overrides: Mapping[str, str] = field(default_factory=dict, compare=False)
    references: Mapping[KeyPath, str] = field(default_factory=dict, compare=False)
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
        document = yaml_file.read(Path(path))
        if document.data:
            chosen = [text for text in overrides if text.partition("=")[0].strip() == "preset"]
            yaml_file.override(document, chosen)
            presets.expand(document)
            yaml_file.override(document, [text for text in overrides if text not in chosen])
        return _resolve(document, str(path), registry or PluginRegistry(), check_data)

    @staticmethod
    def from_dict(mapping: Mapping[str, Any], registry: PluginRegistry | None = None) -> Recipe:
        """The same from a mapping.

        Raises:
            RecipeError: with every problem of the mapping.
        """
        document = yaml_file.plain(mapping)
        presets.expand(document)
        return _resolve(document, "recipe", registry or PluginRegistry(), True)

    @property
    def selected(self) -> tuple[SelectedComponent, ...]:
        """All components."""
        return (
            self.engine,
            *self.rewards,
            self.advantages,
            *self.losses,
            *self.evaluators,
            *self.observers,
        )

    @property
    def needs(self) -> frozenset[str]:
        """What training must compute, and the reference where an evaluator needs it."""
        trained = [choice for choice in self.selected if choice.kind != "evaluators"]
        return _needs(trained) | (_needs(self.evaluators) & {"ref_logprobs"})

    def where(self, key: str) -> str:
        """A key and where it stands: `rewards[0].use, recipes/quickstart.yaml line 9`."""
        override, line = yaml_file.origin(key, self.lines, self.overrides)
        if override is not None:
            return f"{key}, override {override!r}"
        return f"{key}, {self.source}" + (f" line {line}" if line is not None else "")

    def component_name(self, choice: SelectedComponent) -> str:
        """How errors name a component: what it is, its plugin, and where the recipe names it."""
        noun = _NOUNS.get(choice.kind, choice.kind)
        return f"{noun} {choice.name!r} (plugin {choice.plugin}; recipe: {self.where(choice.key + '.use')})"

    def resolved(self) -> dict[str, Any]:
        """Plain data with all defaults filled in, plugins' options beside the core's keys.

        Environment variables stand in it by name.
        """
        data = self.settings.model_dump(mode="json")
        for choice in self.selected:
            section: Any = data
            for step in yaml_file.steps(choice.key):
                section = section[step]
            dumped = choice.options.model_dump(mode="json", by_alias=True)
            path = tuple(yaml_file.steps(choice.key))
            environment.drop_default_secrets(dumped, choice.options, path, self.references)
            section.update(dumped)
        environment.restore(data, self.references)
        return data

    def to_yaml(self) -> str:
        """A recipe file that loads as an equal recipe."""
        return yaml_file.dump(self.resolved())


def _needs(choices: Sequence[SelectedComponent]) -> frozenset[str]:
    return frozenset(need for choice in choices for need in choice.component.needs)


def _resolve(document: Document, source: str, registry: PluginRegistry, check_data: bool) -> Recipe:
    if document.problems and not document.data:
        raise RecipeError(document.problems, source)  # nothing was read, so that every key would be missing
    environment.resolve(document, required=check_data)
    reader = RecipeReader(document, registry)
    sections = reader.sections()
    choices = reader.selected
    check(sections, choices, document, data=check_data)
    if document.problems:
        raise RecipeError(document.problems, source) from reader.cause
    selected = {kind: tuple(c for c in choices[kind] if c is not None) for kind in CHOSEN}
    if sections["value"] is None:
        needs = _needs([choice for kind in CHOSEN for choice in selected[kind]])
        sections["value"] = default_value(sections["lora"] is not None, needs)
    recipe = Recipe(
        settings=Settings(**sections),
        engine=selected["rollout"][0],
        rewards=selected["rewards"],
        advantages=selected["advantages"][0],
        losses=selected["losses"],
        evaluators=selected["evaluators"],
        observers=selected["observers"],
        source=source,
        lines=document.lines,
        overrides=document.overrides,
        references=document.references,
        disabled=registry.disabled,
    )
    try:
        recipe.resolved()
    except (LookupError, TypeError) as error:
        names = listed(document.references.values())
        document.report(
            "", f"a value with {names} is changed when it is read, and cannot be written as it stood"
        )
        raise RecipeError(document.problems, source) from error
    return recipe
