"""JSON Schema of a recipe, with the options of each installed component, for editors."""

from __future__ import annotations

from typing import Any

from ppokit.config.presets import names
from ppokit.config.registry import PluginRegistry
from ppokit.config.section import Section
from ppokit.config.settings import CHOSEN, LISTS, Settings
from ppokit.errors import PluginError


def recipe_schema(registry: PluginRegistry) -> dict[str, Any]:
    """JSON Schema, draft 2020-12. A component that cannot be used is left out, and named in `$comment`."""
    definitions: dict[str, Any] = {}
    properties: dict[str, Any] = {}
    faults: list[str] = []
    base = Settings.model_json_schema(ref_template="#/$defs/{model}")
    for name, field in base["properties"].items():
        about = {"description": field["description"]}
        if name in CHOSEN:
            section = _section(name, registry, definitions, faults)
            if name not in LISTS:
                properties[name] = {**about, **section}
                continue
            least = {"minItems": 1} if name in base["required"] else {}
            properties[name] = {**about, "type": "array", **least, "items": section}
        else:
            properties[name] = field
    chosen = {model.__name__ for model in CHOSEN.values()}
    held_out = base["$defs"]["EvaluationSettings"]["properties"]["evaluators"]
    held_out["items"] = _section("evaluators", registry, definitions, faults)
    definitions.update({name: schema for name, schema in base["$defs"].items() if name not in chosen})
    # A preset brings losses along.
    required = [name for name in base["required"] if name != "losses"]
    preset = {"description": "An algorithm's usual keys, which the recipe's own override.", "enum": names()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "ppokit recipe",
        **({"$comment": "; ".join(faults)} if faults else {}),
        "type": "object",
        "properties": {"preset": preset, **properties},
        "required": required,
        "anyOf": [{"required": ["losses"]}, {"required": ["preset"]}],
        "additionalProperties": False,
        "$defs": definitions,
    }


def _section(
    kind: str, registry: PluginRegistry, definitions: dict[str, Any], faults: list[str]
) -> dict[str, Any]:
    branches = []
    for use in registry.names(kind):
        try:
            component, _ = registry.component(kind, use)
        except PluginError as error:
            faults.append(str(error))
            continue
        template = f"#/$defs/{kind}.{use}.{{model}}"
        options = component.options.model_json_schema(ref_template=template)
        for inner, definition in options.pop("$defs", {}).items():
            definitions[f"{kind}.{use}.{inner}"] = definition
        branches.append(_add(definitions, f"{kind}.{use}", _branch(CHOSEN[kind], use, options)))
    branches.append(_add(definitions, f"{kind}.module:attribute", _by_path(CHOSEN[kind])))
    return {"oneOf": branches}


def _add(definitions: dict[str, Any], name: str, schema: dict[str, Any]) -> dict[str, str]:
    definitions[name] = schema
    return {"$ref": f"#/$defs/{name}"}


def _branch(model: type[Section], use: str, options: dict[str, Any]) -> dict[str, Any]:
    """The section's keys and a component's."""
    core = model.model_json_schema()
    field = model.model_fields["use"]
    is_default = not field.is_required() and field.default == use
    required = {*core.get("required", ()), *options.get("required", ())} | {"use"}
    return {
        "title": use,
        "type": "object",
        "properties": {
            **core["properties"],
            **options.get("properties", {}),
            "use": {"const": use, "description": field.description},
        },
        "required": sorted(required - {"use"} if is_default else required),
        "additionalProperties": options.get("additionalProperties", False) is True,
    }


def _by_path(model: type[Section]) -> dict[str, Any]:
    """The section's keys and any others, where `use` is an attribute of a module."""
    core = model.model_json_schema()
    use = {"type": "string", "pattern": r"^[\w.]+:[\w.]+$", "description": "module:attribute"}
    return {
        "title": "module:attribute",
        "type": "object",
        "properties": {**core["properties"], "use": use},
        "required": ["use"],
        "additionalProperties": True,
    }
