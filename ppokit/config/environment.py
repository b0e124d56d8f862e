"""Environment variables in a recipe: `${NAME}` is resolved when the recipe is read, and written as it stood.

So a secret stays out of `recipe.yaml`, `provenance.json` and messages, and a run that is resumed takes it
from the environment again. `$${NAME}` is the text `${NAME}`. What a variable holds is text, also where it
looks like a number.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import reduce
from typing import Any

from pydantic import BaseModel, SecretBytes, SecretStr

from ppokit.config.yaml_file import Document, KeyPath, join

_REFERENCE = re.compile(r"\$(\$?)\{([A-Za-z_]\w*)\}", re.ASCII)


def resolve(document: Document, *, required: bool) -> None:
    """Put the variables' values in the place of their names, and keep what stood there in the document.

    Args:
        required: whether a variable that is not set is a problem; else its name stays.
    """
    for path, raw in list(_texts(document.data, ())):
        if _REFERENCE.search(raw) is None:
            continue
        missing = [name for mark, name in _REFERENCE.findall(raw) if not mark and name not in os.environ]
        document.references[path] = raw
        for name in dict.fromkeys(missing if required else ()):
            document.report(
                _key(path),
                f"the environment variable {name} is not set; set it, as in {name}=... ppokit train",
            )
        if missing:
            continue
        value = _REFERENCE.sub(_value, raw)
        document.hidden[value] = raw
        _parent(document.data, path)[path[-1]] = value


def restore(data: dict[str, Any], references: Mapping[KeyPath, str]) -> None:
    """Put the names back into a recipe's plain data.

    Raises:
        LookupError: a value no longer stands where it stood.
    """
    for path, raw in references.items():
        parent = _parent(data, path)
        if not isinstance(parent[path[-1]], str):
            raise LookupError(path)
        parent[path[-1]] = raw


def report_plain_secrets(options: BaseModel, given: Any, key: str, document: Document) -> None:
    """Report secrets that the recipe gives in plain text.

    Args:
        options: validated; a secret is a field of pydantic's type SecretStr or SecretBytes.
        given: the plain data that they were validated from.
        key: where they stand in the recipe.
        document: collects the problems.
    """
    references = {_key(path) for path in document.references}
    for path in _secrets(options, ()):
        full = _key(path, key)
        if _is_given(given, path) and full not in references:
            document.report(
                full,
                "got a secret in plain text, which would stand in the run's recipe.yaml; expected ${NAME}, "
                "with the secret in the environment variable NAME",
            )


def drop_default_secrets(
    dumped: dict[str, Any], options: BaseModel, path: KeyPath, references: Mapping[KeyPath, str]
) -> None:
    """Leave out secrets that no recipe gave: as dumped, they are asterisks, and would be read as plain text.

    Args:
        dumped: the options as plain data.
        path: where they stand in the recipe.
        references: as `Document.references`.
    """
    for inner in list(_secrets(options, ())):
        if (*path, *inner) in references:
            continue
        while isinstance(inner[-1], int):  # an entry of a list that is a default goes with the list
            inner = inner[:-1]
        with suppress(LookupError, TypeError):
            _parent(dumped, inner).pop(inner[-1])


def _value(match: re.Match[str]) -> str:
    return f"${{{match[2]}}}" if match[1] else os.environ[match[2]]


def _key(path: KeyPath, start: str = "") -> str:
    return reduce(join, path, start)


def _parent(data: Any, path: KeyPath) -> Any:
    for step in path[:-1]:
        data = data[step]
    return data


def _texts(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield path, value
    for step, inner in _items(value):
        yield from _texts(inner, (*path, step))


def _secrets(value: Any, path: KeyPath) -> Iterator[KeyPath]:
    if isinstance(value, SecretStr | SecretBytes):
        yield path
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        value = {field.alias or name: getattr(value, name) for name, field in fields.items()}
    for step, inner in _items(value):
        yield from _secrets(inner, (*path, step))


def _items(value: Any) -> list[tuple[str | int, Any]]:
    if isinstance(value, dict):
        return [(str(key), inner) for key, inner in value.items()]
    return list(enumerate(value)) if isinstance(value, list | tuple) else []


def _is_given(data: Any, path: KeyPath) -> bool:
    try:
        return _parent(data, path)[path[-1]] is not None
    except (LookupError, TypeError):
        return False
