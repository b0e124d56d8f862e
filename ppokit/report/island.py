"""Data within a page, as JSON in a `script` element: no text in it can end the element or begin another."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import numpy as np

from ppokit.report.ragged import Floats

_ESCAPED = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
DIGITS = 4


def island(data: Any) -> str:
    """JSON without `<`, `>`, `&`, line separators or halves of surrogate pairs, each escaped instead."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return _ESCAPED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def plains(values: Floats) -> list[float | int | None]:
    """Many such numbers, formatted at once."""
    if not np.isfinite(values).all():
        return [plain(value) for value in values.tolist()]
    text = (f"%.{DIGITS}g," * len(values)) % tuple(values.tolist())
    return list(json.loads(f"[{text[:-1]}]"))


def plain(value: float | None) -> float | int | None:
    """A number with four digits; None where it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded
