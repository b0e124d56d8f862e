"""Whether a response has its form: JSON that fits a schema, tags in their order.

    score = share of the demands that it meets, from 0 to 1

A demand is: to be JSON; to fit the JSON Schema (jsonschema, draft 2020-12 unless `$schema` says another);
each tag once, opened and closed; the tags in order, with nothing but white space between and around them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from ppokit.plugin import (
    BuildContext,
    CheckContext,
    Component,
    Example,
    Options,
    RewardOutput,
    Rollout,
    first_line,
    hookimpl,
)

_FENCE = re.compile(r"\s*```[ \t]*(?:json)?[ \t]*\r?\n(.*?)\n?```\s*", re.DOTALL | re.IGNORECASE)
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_NO_SCHEMA = ("const", "enum", "default", "examples")


class FormatOptions(Options):
    is_json: bool = Field(False, description="The response is to be JSON; implied by json_schema.")
    json_schema: dict[str, Any] | str | None = Field(
        None, description="A JSON Schema, or the path of a file that holds one."
    )
    fenced: bool = Field(True, description="Whether JSON may stand in a ```json block.")
    tags: tuple[str, ...] = Field(
        (), description="Tags that the response is made of, in this order, such as [think, answer]."
    )

    @model_validator(mode="after")
    def _demands_something(self) -> FormatOptions:
        if not (self.is_json or self.json_schema is not None or self.tags):
            raise ValueError("demands nothing; expected is_json, json_schema or tags")
        if (self.is_json or self.json_schema is not None) and self.tags:
            raise ValueError("a response is JSON or made of tags, not both; name two rewards")
        if wrong := [tag for tag in self.tags if not re.fullmatch(r"[\w:-]+", tag)]:
            raise ValueError(f"tags: got {wrong[0]!r}; expected names without brackets, such as think")
        if len(set(self.tags)) < len(self.tags):
            raise ValueError("tags: one is named twice, and each may stand in a response once")
        return self


class Format:
    def __init__(self, options: FormatOptions, context: BuildContext) -> None:
        self.options = options
        self.validator = validator(options.json_schema) if options.json_schema is not None else None

    def score(self, rollout: Rollout) -> RewardOutput:
        score = self._tags if self.options.tags else self._json
        return RewardOutput.from_values([score(text) for text in rollout.responses])

    def _json(self, text: str) -> float:
        fenced = _FENCE.fullmatch(text) if self.options.fenced else None
        try:
            value = json.loads(text if fenced is None else fenced[1], parse_constant=_refuse)
        except (ValueError, RecursionError):
            return 0.0
        if self.validator is None:
            return 1.0
        try:
            return 1.0 if self.validator.is_valid(value) else 0.5
        except (RecursionError, OverflowError):  # deeper or larger than anything that a schema means
            return 0.5

    def _tags(self, text: str) -> float:
        return tags(text, self.options.tags)


def tags(text: str, names: tuple[str, ...]) -> float:
    """Share of the demands that are met: each tag once, and all in order with nothing beside them."""
    once = sum(text.count(f"<{name}>") == 1 and text.count(f"</{name}>") == 1 for name in names)
    if once < len(names):
        return once / (len(names) + 1)
    pattern = r"\s*".join(f"<{re.escape(name)}>.*?</{re.escape(name)}>" for name in names)
    ordered = re.fullmatch(rf"\s*{pattern}\s*", text, re.DOTALL) is not None
    return (once + ordered) / (len(names) + 1)


def validator(schema: dict[str, Any] | str) -> Any:
    """What tells whether a value fits.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON, or no JSON Schema, or refers to another one: nothing is fetched.
    """
    from jsonschema import SchemaError, validators
    from jsonschema_specifications import REGISTRY
    from referencing import Resource
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012

    if isinstance(schema, str):
        schema = json.loads(Path(schema).expanduser().read_text(encoding="utf-8-sig"))
    kind = validators.validator_for(schema, default=validators.Draft202012Validator)
    try:
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"no JSON Schema: {error.message}") from error
    root = Resource.from_contents(schema, default_specification=DRAFT202012)
    resolver = REGISTRY.resolver_with_root(root)
    for reference in _references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            text = f"$ref {reference!r} names nothing within the schema; put what it means under $defs"
            raise ValueError(text) from error
    return kind(schema, registry=REGISTRY)


def _references(schema: Any, *, is_root: bool = True) -> Iterator[str]:
    """What a schema refers to by `$ref`, but for parts with an `$id` of their own."""
    if isinstance(schema, list):
        parts = schema
    elif isinstance(schema, dict) and (is_root or "$id" not in schema):
        yield from (schema[key] for key in ("$ref", "$dynamicRef") if isinstance(schema.get(key), str))
        parts = [part for key, part in schema.items() if key not in (*_BY_NAME, *_NO_SCHEMA)]
        for by_name in (schema[key] for key in _BY_NAME if isinstance(schema.get(key), dict)):
            parts += by_name.values()
    else:
        return
    for part in parts:
        yield from _references(part, is_root=False)


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def check(options: FormatOptions, context: CheckContext) -> Iterable[str]:
    if options.json_schema is not None:
        try:
            validator(options.json_schema)
        except (OSError, ValueError) as error:
            yield f"json_schema: {first_line(error)}"


@hookimpl
def ppokit_reward_providers() -> list[Component]:
    options = {"tags": ["think", "answer"]}
    right = ("<think>One and one.</think><answer>2</answer>", "<think>\n</think>\n\n<answer>2</answer>")
    wrong = ("2", "<answer>2</answer><think>One and one.</think>", "<think>One and one.<answer>2</answer>")
    examples = [Example(right, wrong, options=options)]
    return [Component("format", Format, options=FormatOptions, check=check, examples=examples)]
