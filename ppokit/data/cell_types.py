"""The types that a recipe gives to columns of a table whose cells are texts, as in a CSV."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Literal

CellType = Literal["text", "int", "float", "bool"]
_TRUTH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


def read_cell(cell: Any, kind: CellType, *, decimal_comma: bool) -> Any:
    """A cell as its type; an empty one is None.

    Args:
        decimal_comma: whether `7,5` stands for 7.5.

    Raises:
        ValueError: it is no such thing; the message says what was expected.
    """
    if cell is None or cell == "":
        return None
    text = str(cell).strip()
    readers: dict[CellType, Callable[[], Any]] = {
        "text": lambda: cell if isinstance(cell, str) else json.dumps(cell, ensure_ascii=False),
        "int": lambda: int(_plain(text)),
        "float": lambda: _finite(text.replace(",", ".") if decimal_comma and "." not in text else text),
        "bool": lambda: _TRUTH[text.casefold()],
    }
    expected = {"int": "a whole number", "float": "a number", "bool": "true or false"}
    try:
        return readers[kind]()
    except (ValueError, KeyError):
        raise ValueError(f"expected {expected[kind]}") from None


def _plain(text: str) -> str:
    """Python's own notation (1_000, digits of other scripts) is none that people write into a table."""
    if "_" in text or not text.isascii():
        raise ValueError
    return text


def _finite(text: str) -> float:
    number = float(_plain(text))
    if not math.isfinite(number):
        raise ValueError
    return number
