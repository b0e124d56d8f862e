"""Reads a recipe section by section: core settings, components and their options, every problem."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel

from ppokit.config import environment
from ppokit.config.by_path import is_path
from ppokit.config.components import SelectedComponent
from ppokit.config.entries import normalise
from ppokit.config.evaluation_settings import EvaluationSettings
from ppokit.config.registry import PluginRegistry
from ppokit.config.requirements import unmet
from ppokit.config.section import Section
from ppokit.config.section_validation import keys_of, report_unknown, validate
from ppokit.config.settings import (
    CHOSEN,
    LISTS,
    OPTIONAL,
    SECTIONS,
    Settings,
    Value,
)
from ppokit.config.yaml_file import Document, join
from ppokit.errors import PluginError, PpokitError, plugin_call
from ppokit.kinds import PROJECT
from ppokit.messages import listed, shown, suggest

_INVALID = object()
_NOUNS = {
    "rewards": "reward",
    "advantages": "advantages",
    "losses": "loss",
    "rollout": "rollout engine",
    "evaluators": "evaluator",
    "observers": "observer",
}


class RecipeReader:
    """Collects problems and continues, so that all are reported at once.

    Attributes:
        selected: by kind; None for a component that is invalid.
        cause: the first error of a plugin's.
    """

    def __init__(self, document: Document, registry: PluginRegistry) -> None:
        self.document = document
        self.registry = registry
        self.selected: dict[str, list[SelectedComponent | None]] = {kind: [] for kind in CHOSEN}
        self.cause: PluginError | None = None
        self._only: frozenset[str] | None = None
        self._only_is_known = True  # False where the section plugins has a mistake

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

    def rewards(self) -> tuple[SelectedComponent, ...]:
        """The rewards alone, whatever else there is; those with problems are left out."""
        if "plugins" in self.document.data:
            self._section("plugins", self.document.data["plugins"], False)
        self._section("rewards", self.document.data.get("rewards"), True)
        return tuple(filter(None, self.selected["rewards"]))

    def _section(self, name: str, content: Any, required: bool) -> Any:
        if name == "value":
            return self._value(content)
        if name in LISTS:
            return self._list(name, name, content, required)
        if name in CHOSEN:
            return self._chosen(name, name, content)
        if name in OPTIONAL and content is None:
            return None
        if name == "evaluation":
            return self._evaluation(content)
        section = self._mapping(SECTIONS[name], content, name)
        if name == "plugins":  # the first, so that it is known before a plugin is imported
            self._plugins(section)
        return section

    def _plugins(self, section: Any) -> None:
        """Who may be imported: ppokit alone where that cannot be read. What the recipe requires is there."""
        if section is _INVALID:
            self._only, self._only_is_known = frozenset({normalise(PROJECT)}), False
            return
        if section.only is not None:
            self._only = frozenset(normalise(name) for name in (*section.only, PROJECT))
        for index, text in enumerate(section.require):
            if reason := unmet(text):
                self.document.report(join("plugins.require", index), reason)

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
        items = [self._chosen(kind, join(key, i), item) for i, item in enumerate(content)]
        return _INVALID if any(item is _INVALID for item in items) else items

    def _chosen(self, kind: str, key: str, content: Any) -> Any:
        """The core's settings of one section; its component goes to `selected`, None where it is invalid."""
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
        recipe = self.document.where(join(key, "use"))
        where = f"{_NOUNS[kind]} {name!r} (plugin {plugin}; recipe: {recipe})"
        selected = SelectedComponent(kind, key, name, settings, component, options, plugin, where)
        if not self._may_import(selected):
            self.selected[kind].append(None)
            return settings
        self.selected[kind].append(selected)
        return settings

    def _may_import(self, selected: SelectedComponent) -> bool:
        """Whether the recipe may run the code that a component's options name: nothing of it is imported."""
        try:
            foreign = [name for name in selected.imports if not self._allows(name, is_module=True)]
        except PpokitError as error:
            self.document.report(selected.key, str(error))
            return False
        for name in foreign:
            self.document.report(selected.key, f"its options name code of {name}, which {self._only_names()}")
        return not foreign

    def _allows(self, source: str, *, is_module: bool) -> bool:
        """Whether `plugins.only` names a distribution, or a module or the package that it is in."""
        parts = source.split(".") if is_module else [source]
        within = (".".join(parts[: n + 1]) for n in range(len(parts)))
        return self._only is None or any(normalise(name) in self._only for name in (source, *within))

    def _only_names(self) -> str:
        if not self._only_is_known:
            return "is not imported while the section plugins has a mistake"
        return f"plugins.only does not name ({listed(sorted(self._only or ()))})"

    def _component(
        self, kind: str, key: str, use: str, model: type[Section], rest: dict[str, Any]
    ) -> tuple[Any, BaseModel, str] | None:
        try:
            source = self.registry.source(kind, use)
            if not self._allows(source, is_module=is_path(use)):
                raise PluginError(f"{use!r} comes from {source}, which {self._only_names()}")
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
            with plugin_call(f"plugin {plugin}", "reading its options"):
                options = validate(component.options, rest, key, self.document, others=core)
        except PpokitError as error:  # a validator of the plugin's that raises something of its own
            self.document.report(key, str(error))
            return None
        if options is None:
            return None
        environment.report_plain_secrets(options, rest, key, self.document)
        return component, options, plugin
