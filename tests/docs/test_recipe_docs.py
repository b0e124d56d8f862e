"""docs/recipes.md has a table of every key of the core's; it is made of the settings.

`python tests/docs/test_recipe_docs.py` writes it anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from ppokit.config.evaluation_settings import TextSettings
from ppokit.config.prompt_settings import HeldOutPromptSettings
from ppokit.config.section import Section
from ppokit.config.settings import CHOSEN, LISTS, SECTIONS, Settings
from ppokit.training.contracts import CORE_METRICS

DOCS = Path(__file__).parents[2] / "docs" / "recipes.md"
BEGIN = "| key | default | meaning |\n|---|---|---|\n"


def rows(model: type[Section], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = f"{prefix}{name}"
        if field.is_required():
            default = ""
        elif field.default is PydanticUndefined:
            default = "all defaults"
        else:
            default = f"`{shown(field.default)}`"
        meaning = str(field.description).replace("|", "\\|")
        yield f"| `{key}` | {default} | {meaning} |\n"
        if key == "evaluation.evaluators":
            yield from rows(CHOSEN["evaluators"], f"{key}[].")
        if key == "evaluation.prompts":
            yield from rows(HeldOutPromptSettings, f"{key}.")
        if key == "evaluation.texts":
            yield from rows(TextSettings, f"{key}.")


def shown(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return "[]" if value == () else str(value)


def table() -> str:
    lines = []
    for name, field in Settings.model_fields.items():
        section = SECTIONS.get(name) or CHOSEN.get(name)
        if section is None:
            lines.append(f"| `{name}` | `{shown(field.default)}` | {field.description} |\n")
        else:
            lines.extend(rows(section, f"{name}[]." if name in LISTS else f"{name}."))
    return BEGIN + "".join(lines)


def parts(text: str) -> tuple[str, str, str]:
    """Before the table, the table, after it."""
    before, result, rest = text.partition(BEGIN)
    lines = rest.splitlines(keepends=True)
    count = next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return before, result + "".join(lines[:count]), "".join(lines[count:])


def test_the_table_of_keys_is_that_of_the_settings() -> None:
    _, written, _ = parts(DOCS.read_text(encoding="utf-8"))
    assert written == table(), "write it anew by: python tests/docs/test_recipe_docs.py"


def test_every_metric_of_the_core_is_explained() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert [name for name in sorted(CORE_METRICS - {"step"}) if f"`{name}`" not in page] == []


if __name__ == "__main__":
    before, _, after = parts(DOCS.read_text(encoding="utf-8"))
    DOCS.write_text(before + table() + after, encoding="utf-8")
