"""What a reward function returned, checked value by value."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

from ppokit.plugin import PluginError, Rollout, Value

LARGEST_FLOAT32 = 3.4028234663852886e38
_EXCERPT = 60  # characters


def values_of(returned: Any, rollout: Rollout, name: str) -> list[Value]:
    """What a function returned, as a number per response, None, or what the response failed of.

    Raises:
        PluginError: it is something else.
    """
    expected = f"expected {len(rollout)} number{'' if len(rollout) == 1 else 's'}, one per response"
    shape = getattr(returned, "shape", None)  # an array or tensor, also one on an accelerator
    if shape is not None and hasattr(returned, "tolist"):
        if len(shape) != 1:
            raise PluginError(f"reward function {name} returned an array of shape {list(shape)}; {expected}")
        returned = returned.tolist()
    if not isinstance(returned, Sequence) or isinstance(returned, str | bytes):
        raise PluginError(
            f"reward function {name} returned {what(returned)}; {expected}, in a list, tuple or array"
        )
    if len(returned) != len(rollout):
        actual = "1 number" if len(returned) == 1 else f"{len(returned)} numbers"
        raise PluginError(f"reward function {name} returned {actual}; {expected}")
    return [_value(value, rollout, i, name) for i, value in enumerate(returned)]


def _value(value: Any, rollout: Rollout, i: int, name: str) -> Value:
    """One response's number, or None, or an exception."""
    if getattr(value, "shape", None) == ():  # a tensor of one number
        value = value.item()
    if value is None or isinstance(value, BaseException):
        return value
    if not (isinstance(value, Real) and _fits_float32(value)):
        raise PluginError(
            f"reward function {name} returned {what(value)} for response {i} (sample "
            f"{rollout.ids[i]}, prompt {shortened(rollout.prompts[i], _EXCERPT)!r}); expected a finite "
            "number, None to abstain, or an exception to fail"
        )
    return float(value)


def _fits_float32(value: Real) -> bool:
    try:
        return abs(float(value)) <= LARGEST_FLOAT32  # False for a NaN
    except OverflowError:
        return False


def what(value: Any) -> str:
    """A value and its type, for a message."""
    return f"{shown(value)} ({type(value).__name__})"


def shown(value: Any, most: int = _EXCERPT) -> str:
    """The beginning of a value's repr."""
    try:
        text = repr(value)
    except Exception:  # of an integer with thousands of digits, or of a class of one's own
        text = "what cannot be shown"
    return shortened(text, most)


def shortened(text: str, most: int) -> str:
    """At most so many characters of a text."""
    return text if len(text) <= most else text[: most - 1] + "…"
