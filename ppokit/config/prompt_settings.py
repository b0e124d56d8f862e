"""The keys of a data set of prompts: those that are trained on, and those that are held out."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from ppokit.config.section import Section, Text, at_home
from ppokit.data.cell_types import CellType
from ppokit.data.tables import OnBadRow

_TEMPLATE_OPTIONS = frozenset(
    {
        *("conversation", "messages", "tools", "chat_template", "add_generation_prompt"),
        *("continue_final_message", "tokenize", "padding", "truncation", "max_length", "return_tensors"),
        *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs", "sanitize_control_tokens"),
    }
)


class PromptFileSettings(Section):
    path: Text = Field(
        description="A .csv, .tsv, .jsonl, .json, .parquet or .txt file, or a data set on the hub."
    )
    column: Text = Field(default="prompt", description="Column that holds the prompts.")
    split: Text | None = Field(
        default=None, description="Split of a data set of the hub; train, if not set. A file has none."
    )
    types: dict[Text, CellType] = Field(
        default={},
        description="Types of other columns, such as {answer: float}: text, int, float or bool. Not set: as "
        "they stand in the file, where each cell of a CSV is text and an empty one is None.",
    )
    tools: Text | None = Field(
        default=None,
        description="Column of the tools that a chat may call, lists of JSON schemas, for the template.",
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
    chat: bool = Field(
        default=False,
        description="Put each prompt, text or a list of messages, into the model's chat template.",
    )
    system: str | None = Field(
        default=None,
        description="System message of the chats that have none of their own; needs chat: true.",
    )
    chat_template: Text | None = Field(
        default=None, description="File of a Jinja chat template, in place of the tokenizer's own."
    )
    chat_template_kwargs: dict[Text, Any] = Field(
        default={}, description="What the chat template gets besides, such as {enable_thinking: false}."
    )
    prefill: str = Field(
        default="",
        description="Text that every response begins with: it is given, not trained on, and part of what "
        "rewards see.",
    )

    @field_validator("chat_template_kwargs")
    @classmethod
    def _not_taken(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if taken := _TEMPLATE_OPTIONS & kwargs.keys():
            raise ValueError(f"{sorted(taken)[0]!r} is ppokit's to say; expected what the template reads")
        return kwargs

    @field_validator("chat_template")
    @classmethod
    def _home(cls, value: str | None) -> str | None:
        return at_home(value) if value else value


class HeldOutPromptSettings(PromptFileSettings):
    limit: int | None = Field(
        default=None, gt=0, description="Prompts that are asked, from the first; all, if not given."
    )
