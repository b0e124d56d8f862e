"""Whether what a call returns is to be awaited."""

from __future__ import annotations

import inspect


def is_coroutine_function(function: object) -> bool:
    """Whether it is `async def`; also a partial of one, and an object with an async `__call__`."""
    call = getattr(function, "__call__", None)  # noqa: B004
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)
