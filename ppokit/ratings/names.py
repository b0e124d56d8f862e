"""Names of the tools that files are written for, and of the forms that are read."""

from __future__ import annotations

from typing import Literal

Tool = Literal["argilla", "label_studio"]
Source = Literal[
    "argilla", "label_studio", "mturk", "prodigy", "arena", "hh", "ultrafeedback", "openassistant"
]
