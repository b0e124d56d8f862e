"""What the sections of a recipe share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Text = Annotated[str, Field(min_length=1)]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]


class Section(BaseModel):
    """Base of the sections: unknown keys are refused, nothing is coerced, numbers are finite."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def at_home(path: str) -> str:
    """`~` is the user's home."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:  # ~name of nobody
        raise ValueError(str(error)) from error
