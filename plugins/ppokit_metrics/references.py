"""What responses are compared with: one column of the data set, or several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

Name = Annotated[str, Field(min_length=1)]
Reference = Name | Annotated[list[Name], Field(min_length=1)]


def columns_of(reference: str | list[str] | None) -> list[str]:
    """The columns that an option names."""
    return [reference] if isinstance(reference, str) else reference or []


def reference_of(row: Mapping[str, Any], reference: str | list[str]) -> Any:
    """The cell of one column, or the list of those of several that hold something; None where none does."""
    if isinstance(reference, str):
        return row[reference]
    return [row[column] for column in reference if row[column] is not None] or None
