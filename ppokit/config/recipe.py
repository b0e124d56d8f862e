"""A YAML recipe -> validated settings and chosen components, or all of its problems at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from ppokit.config import environment, presets, yaml_file
from ppokit.config.checks import check, default_value
from ppokit.config.registry import PluginRegistry
from ppokit.config.settings import (
    CHOSEN,
    LISTS,
    OPTIONAL,
    SECTIONS,
    AdvantageSettings,
    EvaluationSettings,
    LoraSettings,
    LossSettings,
    ModelSettings,
    ObserverSettings,
    PromptSettings,
    RewardSettings,
    RolloutSettings,
    RunSettings,
    Section,
    SelectedComponent,
    Settings,
    UpdateSettings,
    Value,
)
from ppokit.config.validation import keys_of, report_unknown, validate
from ppokit.config.yaml_file import Document, KeyPath, join
from ppokit.errors import PluginError, RecipeError
from ppokit.messages import listed, shown, suggest


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
        """What the core must compute: what any component needs."""
        return _needs(self.selected)

    def where(self, key: str) -> str:
        """A key and where it stands: `rewards[0].use, recipes/quickstart.yaml line 9`."""
        override, line = yaml_file.origin(key, self.lines, self.overrides)
        if override is not None:
            return f"{key}, override {override!r}"
        return f"{key}, {self.source}" + (f" line {line}" if line is not None else "")

    def resolved(self) -> dict[str, Any]:
        """Plain data with all defaults filled in, plugins' options beside the core's keys.

        Environment variables stand in it by name.
        """
        data = self.settings.model_dump(mode="json")
        for choice in self.selected:
            section: Any = data
            for step in yaml_file.steps(choice.key):
                section = section[step]
            section.update(choice.options.model_dump(mode="json", by_alias=True))
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
    reader = _Reader(document, registry)
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


class _Reader:
    """Reads a document section by section, noting problems and going on."""

    def __init__(self, document: Document, registry: PluginRegistry) -> None:
        self.document = document
        self.registry = registry
        self.selected: dict[str, list[SelectedComponent | None]] = {kind: [] for kind in CHOSEN}
        self.cause: PluginError | None = None

    def sections(self) -> dict[str, Any]:
        """The validated sections; one with problems is left out."""
        data = self.document.data
        for name in data:
            if name not in Settings.model_fields:
                report_unknown(name, ["preset", *Settings.model_fields], name, self.document)
        sections: dict[str, Any] = {}
        for name, about in Settings.model_fields.items():
            if name not in data and about.is_required():
                if name == "losses" and any(problem.key == "preset" for problem in self.document.problems):
                    continue  # a preset would have brought them
                self.document.report(name, f"this section is missing: {about.description}")
                continue
            content = data.get(name, [] if name in LISTS else None if name in OPTIONAL else {})
            section = self._section(name, content, about.is_required())
            if section is not _INVALID:
                sections[name] = section
        return sections

    def _section(self, name: str, content: Any, required: bool) -> Any:
        if name == "value":
            return self._value(content)
        if name in LISTS:
            return self._list(name, name, content, required)
        if name in CHOSEN:
            return self._choice(name, name, content)
        if name in OPTIONAL and content is None:
            return None
        if name == "evaluation":
            return self._evaluation(content)
        return self._mapping(SECTIONS[name], content, name)

    def _evaluation(self, content: Any) -> Any:
        """Its evaluators are chosen components, in a list within the section."""
        key = "evaluation.evaluators"
        if not isinstance(content, dict) or "evaluators" not in content:
            return self._mapping(EvaluationSettings, content, "evaluation")
        evaluators = self._list("evaluators", key, content["evaluators"], True)
        stand_in = {**content, "evaluators": [{"use": "checked"}]}
        section = self._mapping(EvaluationSettings, stand_in, "evaluation")
        if section is _INVALID or evaluators is _INVALID:
            return _INVALID
        return section.model_copy(update={"evaluators": evaluators})

    def _value(self, content: Any) -> Any:
        known = get_args(Value)
        if content is None or (isinstance(content, str) and content in known):
            return content
        hint = suggest(content, known) if isinstance(content, str) else ""
        self.document.report("value", f"got {shown(content)}; expected {listed(known, 'or')}{hint}")
        return _INVALID

    def _mapping(self, model: type[Section], content: Any, key: str) -> Any:
        if isinstance(content, dict):
            section = validate(model, content, key, self.document)
            return _INVALID if section is None else section
        self.document.report(key, f"got {shown(content)}; expected a mapping")
        return _INVALID

    def _list(self, kind: str, key: str, content: Any, required: bool) -> Any:
        if not isinstance(content, list):
            self.document.report(key, f"got {shown(content)}; expected a list of mappings, each with use:")
            return _INVALID
        if required and not content:
            self.document.report(key, "got an empty list; expected at least one entry")
            return _INVALID
        items = [self._choice(kind, join(key, i), item) for i, item in enumerate(content)]
        return _INVALID if any(item is _INVALID for item in items) else items

    def _choice(self, kind: str, key: str, content: Any) -> Any:
        """The core's settings of one section; its choice goes to `choices`, None where it is invalid."""
        if not isinstance(content, dict):
            self.document.report(key, f"got {shown(content)}; expected a mapping with use:")
            self.selected[kind].append(None)
            return _INVALID
        model = CHOSEN[kind]
        core = {name: value for name, value in content.items() if name in model.model_fields}
        rest = {name: value for name, value in content.items() if name not in core}
        settings = validate(model, core, key, self.document)
        use = core.get("use", model.model_fields["use"].get_default())
        chosen = self._component(kind, key, use, model, rest) if isinstance(use, str) and use else None
        if settings is None or chosen is None:
            self.selected[kind].append(None)
            return settings or _INVALID
        component, options, plugin = chosen
        name = getattr(settings, "name", None) or component.name
        self.selected[kind].append(SelectedComponent(kind, key, name, settings, component, options, plugin))
        return settings

    def _component(
        self, kind: str, key: str, use: str, model: type[Section], rest: dict[str, Any]
    ) -> tuple[Any, BaseModel, str] | None:
        try:
            component, plugin = self.registry.component(kind, use)
        except PluginError as error:
            self.cause = self.cause or error
            self.document.report(join(key, "use"), str(error))
            return None
        core = list(model.model_fields)
        if clash := [name for name in keys_of(component.options) if name in core]:
            self.document.report(
                join(key, "use"),
                f"plugin {plugin} has the option {listed(clash)}, which is a key of the core's; "
                f"the plugin must name it otherwise",
            )
            return None
        try:
            options = validate(component.options, rest, key, self.document, beside=core)
        except Exception as error:  # a validator of the plugin's that raises something of its own
            self.document.report(
                key, f"options of plugin {plugin} cannot be read: {type(error).__name__}: {error}"
            )
            return None
        if options is None:
            return None
        environment.report_plain_secrets(options, rest, key, self.document)
        return component, options, plugin


_INVALID = object()

__all__ = [
    "AdvantageSettings",
    "LoraSettings",
    "LossSettings",
    "ModelSettings",
    "ObserverSettings",
    "PromptSettings",
    "Recipe",
    "RewardSettings",
    "RolloutSettings",
    "RunSettings",
    "SelectedComponent",
    "Settings",
    "UpdateSettings",
]
