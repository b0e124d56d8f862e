"""Values against a pydantic model, strictly, each problem as what was given and what was expected."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ppokit.config.yaml_file import Document, join
from ppokit.messages import listed, shown, suggest

Model = TypeVar("Model", bound=BaseModel)
Loc = tuple[str | int, ...]

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a finite number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a mapping",
    "mapping": "a mapping",
    "model": "a mapping",
    "none_required": "null",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "{ge:g} or more",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "{le:g} or less",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "text that matches {pattern}",
}


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that a model reads."""
    return [field.alias or name for name, field in model.model_fields.items()]


def validate(
    model: type[Model], data: Mapping[str, Any], key: str, document: Document, others: Collection[str] = ()
) -> Model | None:
    """An instance of the model; None, with the problems reported, where the data do not fit.

    Args:
        model: what to build.
        data: plain data.
        key: where they stand in the recipe.
        document: collects the problems.
        others: keys that the same mapping may have, and another model reads.
    """
    known = keys_of(model)
    open_ended = model.model_config.get("extra") == "allow"
    unknown = [] if open_ended else [name for name in data if name not in known]
    for name in unknown:
        report_unknown(name, [*others, *known], join(key, name), document)
    try:
        # As JSON, strict means: text is no number, but a list may become a tuple and text a path.
        text = json.dumps({name: value for name, value in data.items() if name not in unknown})
        instance = model.model_validate_json(text, strict=True)
    except ValidationError as error:
        _report_faults(error.errors(include_url=False), model, data, key, document)
        return None
    return None if unknown else instance


def report_unknown(name: str, known: Collection[str], key: str, document: Document) -> None:
    """Report a key that nothing reads."""
    hint = suggest(name, known) or f"; known keys are {listed(known)}"
    document.report(key, f"unknown key {name!r}{hint}")


def _report_faults(
    errors: Sequence[Any], model: type[BaseModel], data: Mapping[str, Any], key: str, document: Document
) -> None:
    faults: dict[Loc, list[Any]] = {}
    for error in errors:
        faults.setdefault(_location(error["loc"], data, error["type"]), []).append(error)
    for location, group in faults.items():
        if any(other[: len(location)] == location and len(other) > len(location) for other in faults):
            continue  # one branch of a union; the branch that fits the value's shape tells more
        full = key
        for part in location:
            full = join(full, part)
        document.report(full, _message(group, model, location))


def _location(loc: Loc, data: Any, kind: str) -> Loc:
    """The location without the names that pydantic gives to branches of a union."""
    location: list[str | int] = []
    for i, part in enumerate(loc):
        last_word = i == len(loc) - 1 and kind in ("missing", "extra_forbidden")
        if isinstance(data, Mapping) and isinstance(part, str) and (part in data or last_word):
            data = data.get(part)
        elif isinstance(data, list) and isinstance(part, int) and part < len(data):
            data = data[part]
        else:
            continue
        location.append(part)
    return tuple(location)


def _message(group: Sequence[Any], model: type[BaseModel], location: Loc) -> str:
    first = group[0]
    kind = first["type"]
    if kind == "missing" and isinstance(first["loc"][-1], str):
        field = next((f for n, f in model.model_fields.items() if location == (f.alias or n,)), None)
        about = f": {field.description}" if field is not None and field.description else ""
        return f"this key is missing{about}"
    if kind == "missing":
        return f"got too short a list; expected at least {first['loc'][-1] + 1} entries"
    if kind == "extra_forbidden":
        return f"unknown key {location[-1]!r}"
    if kind in ("value_error", "assertion_error"):
        return str(first["ctx"]["error"])
    expected = list(dict.fromkeys(_expectation(error) for error in group))
    hint = ""
    if kind == "literal_error" and isinstance(first["input"], str):
        hint = suggest(first["input"], re.findall(r"'([^']*)'", first["ctx"]["expected"]))
    return f"got {shown(first['input'])}; expected {listed(expected, 'or')}{hint}"


def _expectation(error: Any) -> str:
    kind: str = error["type"]
    context: dict[str, Any] = error.get("ctx", {})
    if kind in ("literal_error", "enum"):
        return str(context["expected"])
    template = _EXPECTED.get(kind) or _EXPECTED.get(re.sub(r"_(type|parsing|from_float)$", "", kind))
    if template is None:
        message = str(error["msg"]).removeprefix("Input should be ")
        return message[:1].lower() + message[1:]
    return template.format(**context)
