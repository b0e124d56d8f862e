"""YAML with line numbers, and overrides from the command line.

Scalars are read by YAML 1.2's core schema: `3e-6` is a number; `no`, `010:30` and `2026-01-01` are text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ppokit.errors import Problem
from ppokit.messages import listed, shorten, shown

_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(
    r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$")


KeyPath = tuple[str | int, ...]
"""Keys and positions from the top of a recipe to a value."""


@dataclass
class Document:
    """What a recipe says, where each key stands, and what is wrong with it so far.

    Attributes:
        data: plain mappings, lists, text, numbers, booleans and None.
        lines: line of each key, from 1; `rewards[0].weight` is a key, `rewards[0]` another.
        overrides: by key, the override that set it.
        problems: collected until all of them are raised at once.
        references: by path, a text with `${NAME}` in it as the recipe has it.
        hidden: what such a text became, and the text, which stands in messages in its place.
        source: the file, or `recipe`.
    """

    data: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    overrides: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    references: dict[KeyPath, str] = field(default_factory=dict)
    hidden: dict[str, str] = field(default_factory=dict)
    source: str = "recipe"

    def report(self, key: str, message: str) -> None:
        """Collect a problem, on the line of the key or of the nearest key above it."""
        for value, raw in self.hidden.items():
            if len(value) >= 6:  # a shorter one hides nothing, and may stand in any word
                message = message.replace(value, raw).replace(shorten(value), raw)
        override, line = origin(key, self.lines, self.overrides)
        if override is not None:
            message = f"{message} (from the override {override!r})"
        self.problems.append(Problem(key, message, line))

    def where(self, key: str) -> str:
        """A key and where it stands: `rewards[0].use, recipes/quickstart.yaml line 9`."""
        override, line = origin(key, self.lines, self.overrides)
        if override is not None:
            return f"{key}, override {override!r}"
        return f"{key}, {self.source}" + (f" line {line}" if line is not None else "")


def origin(key: str, lines: Mapping[str, int], overrides: Mapping[str, str]) -> tuple[str | None, int | None]:
    """The override or the line that a key comes from; its parents' where it has none of its own."""
    while key:
        if key in overrides:
            return overrides[key], None
        if key in lines:
            return None, lines[key]
        key = key[: max(key.rfind("."), key.rfind("["), 0)]
    return None, None


def join(key: str, part: str | int) -> str:
    """The key of a part: `rewards` and 0 give `rewards[0]`; that and `use` give `rewards[0].use`."""
    if isinstance(part, int):
        return f"{key}[{part}]"
    return f"{key}.{part}" if key else part


class _Loader(yaml.SafeLoader):
    """Composes nodes; the resolvers below replace those of YAML 1.1."""


class _Dumper(yaml.SafeDumper):
    """Quotes text that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.yaml_implicit_resolvers = {}
_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    _TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)
for _yaml in (_Loader, _Dumper):
    _yaml.add_implicit_resolver(_TAG + "int", _INT, list("-+0123456789"))
    _yaml.add_implicit_resolver(_TAG + "float", _FLOAT, list("-+0123456789."))


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    # Left alone, PyYAML writes some line breaks of Unicode raw, and reads a space back.
    return dumper.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _text_node)


def read(path: str) -> Document:
    """Read a recipe's file; what cannot be read is a problem of the document."""
    file = Path(path)
    try:
        document = parse(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        line = file.read_bytes()[: error.start].count(b"\n") + 1
        document = Document(problems=[Problem("", "not UTF-8 text", line)])
    except OSError as error:
        document = Document(problems=[Problem("", f"cannot be read: {error.strerror or error}")])
    document.source = path
    return document


def parse(text: str) -> Document:
    """Read a recipe's text."""
    document = Document()
    data = _value(text, "", document)
    if not document.problems and not isinstance(data, dict):
        what = "the file is empty" if data is None else f"the file holds {shown(data)}"
        document.report("", f"{what}; expected a mapping with model, prompts, rewards and so on")
    document.data = data if isinstance(data, dict) else {}
    return document


def plain(mapping: Mapping[str, Any]) -> Document:
    """A document from a mapping of Python objects."""
    document = Document()
    document.data = _plain(dict(mapping), "", document)
    return document


def dump(data: Mapping[str, Any]) -> str:
    """YAML that `parse` reads back as the same data."""
    text = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
    return str(text)


def override(document: Document, overrides: Sequence[str]) -> None:
    """Set `key.sub=value` and `rewards.0.weight=value` in the document, in order; values are YAML."""
    for text in overrides:
        path, equals, value = text.partition("=")
        path_steps = steps(path.strip())
        parsed = Document()
        new = _value(value, "", parsed)
        if not equals or not path_steps:
            fault = "expected key=value, as in run.steps=10"
        elif parsed.problems:
            fault = f"{value!r} is {listed(problem.message for problem in parsed.problems)}"
        else:
            fault = _assign(document, path_steps, new, text)
        if fault:
            document.problems.append(Problem("", f"override {text!r}: {fault}"))


def steps(path: str) -> list[str | int]:
    """`rewards.0.use` and `rewards[0].use` as `rewards`, 0, `use`; nothing where it is not a path."""
    if not re.fullmatch(r"[^.\[\]]+(?:\.[^.\[\]]+|\[\d+\])*", path):
        return []
    return [int(word) if word.isdecimal() else word for word in re.findall(r"[^.\[\]]+", path)]


def _assign(document: Document, steps: list[str | int], value: Any, text: str) -> str:
    """Set the value; returns what is wrong, or nothing."""
    target: Any = document.data
    key = ""
    for i, step in enumerate(steps):
        if isinstance(target, list):
            if not isinstance(step, int):
                return f"{key} is a list; expected a position, as in {key}.0.{step}"
            if step >= len(target):
                return f"{key} has {len(target)} entries, counted from 0; there is no {join(key, step)}"
        elif not isinstance(target, dict):
            return f"{key} is {shown(target)}, and has no {step!r} in it"
        elif isinstance(step, int):
            return f"{key or 'the recipe'} is a mapping, and has no position {step}"
        key = join(key, step)
        if i == len(steps) - 1:
            target[step] = value
        elif isinstance(target, dict) and target.get(step) is None:
            if isinstance(steps[i + 1], int):
                return f"there is no list {key}"
            target[step] = {}
            document.overrides[key] = text
        target = target[step]
    for known in [k for k in (*document.lines, *document.overrides) if k.startswith((f"{key}.", f"{key}["))]:
        document.lines.pop(known, None)
        document.overrides.pop(known, None)
    document.overrides[key] = text
    return ""


def _value(text: str, key: str, document: Document) -> Any:
    try:
        node = yaml.compose(text, Loader=_Loader)
        return None if node is None else _convert(node, key, document, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = str(error.problem or error.context)
        if error.context and error.context_mark:
            reason = f"{error.context} that begins on line {error.context_mark.line + 1}, {reason}"
        document.problems.append(Problem("", f"not YAML: {reason}", mark.line + 1 if mark else None))
    except yaml.YAMLError as error:
        document.problems.append(Problem("", f"not YAML: {' '.join(str(error).split())}"))
    except RecursionError:
        document.problems.append(Problem("", "nested too deeply"))
    return None


def _convert(node: yaml.Node, key: str, document: Document, above: tuple[int, ...]) -> Any:
    line = node.start_mark.line + 1
    if id(node) in above:
        document.problems.append(Problem(key, "an alias inside its own anchor", line))
    elif isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
        return _mapping(node, key, document, (*above, id(node)))
    elif isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
        items = []
        for i, child in enumerate(node.value):
            document.lines[join(key, i)] = child.start_mark.line + 1
            items.append(_convert(child, join(key, i), document, (*above, id(node))))
        return items
    elif isinstance(node, yaml.ScalarNode):
        try:
            return _scalar(node.tag.removeprefix(_TAG), node.value)
        except ValueError:
            tag = node.tag.replace(_TAG, "!!")
            document.problems.append(Problem(key, f"{node.value!r} cannot be read as {tag}", line))
    else:
        document.problems.append(
            Problem(key, f"the tag {node.tag.replace(_TAG, '!!')} is not used here", line)
        )
    return None


def _mapping(node: yaml.MappingNode, key: str, document: Document, above: tuple[int, ...]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != _TAG + "str":
            document.problems.append(Problem(key, "a key that is not text; expected a name, or quotes", line))
            continue
        name = join(key, key_node.value)
        if key_node.value in mapping:
            message = f"the key stands twice, on lines {document.lines[name]} and {line}; keep one"
            document.problems.append(Problem(name, message, line))
            continue
        document.lines[name] = line
        mapping[key_node.value] = _convert(value_node, name, document, above)
    return mapping


def _scalar(tag: str, text: str) -> Any:
    if tag == "str":
        return text
    if tag == "null":
        return None
    if tag == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if tag == "int":
        return int(text, {"0x": 16, "0o": 8}.get(text[:2], 10))
    if tag == "float":
        return float(re.sub(r"\.(?=inf|nan)", "", text.lower()))
    raise ValueError(tag)


def _plain(value: Any, key: str, document: Document) -> Any:
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                document.report(key, f"got the key {name!r}; expected text")
        return {n: _plain(v, join(key, n), document) for n, v in value.items() if isinstance(n, str)}
    if isinstance(value, list | tuple):
        return [_plain(v, join(key, i), document) for i, v in enumerate(value)]
    if value is not None and not isinstance(value, str | int | float | bool):
        document.report(key, f"got a {type(value).__name__}; expected text, a number, a list or a mapping")
        return None
    return value
