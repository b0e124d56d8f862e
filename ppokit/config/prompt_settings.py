"""The keys of a data set of prompts: those that are trained on, and those that are held out."""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from ppokit.config.section import Section, Text
from ppokit.data.cell_types import CellType
from ppokit.data.tables import OnBadRow


class PromptFileSettings(Section):
    path: Text = Field(
        description="A .csv, .tsv, .jsonl, .json, .parquet or .txt file, or a data set on the hub."
    )
    column: Text = Field(default="prompt", description="Column that holds the prompts.")
    split: Text = Field(default="train", description="Split of the data set.")
    types: dict[Text, CellType] = Field(
        default={},
        description="Types of other columns, such as {answer: float}: text, int, float or bool. Not set: as "
        "they stand in the file, where each cell of a CSV is text and an empty one is None.",
    )
    distinct: bool = Field(
        default=False, description="Keep each prompt once, with its first row; for files of ratings."
    )
    on_bad_row: OnBadRow = Field(default="fail", description="What to do about rows that cannot be read.")

    @field_validator("types")
    @classmethod
    def _prompts_are_text(cls, types: dict[Text, CellType], info: ValidationInfo) -> dict[Text, CellType]:
        column = info.data.get("column")
        if types.get(str(column), "text") != "text":
            raise ValueError(f"{column!r} is the column of the prompts, which are text; expected others")
        return types


class PromptSettings(PromptFileSettings):
    chat: bool = Field(default=False, description="Put each prompt into the model's chat template.")
    system: str | None = Field(default=None, description="System message of the chat; needs chat: true.")


class HeldOutPromptSettings(PromptFileSettings):
    limit: int | None = Field(
        default=None, gt=0, description="Prompts that are asked, from the first; all, if not given."
    )
