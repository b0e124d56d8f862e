"""When a provider is called, and called again: rate limit, backoff with jitter, what a server asks for."""

from __future__ import annotations

import asyncio
import math
from typing import Any

from ppokit.errors import RewardError, reason_of

_FIRST_S, _LONGEST_S = 0.5, 60.0


class RateLimit:
    """Lets calls begin at most so often.

    Args:
        per_second: calls; None for no limit.
    """

    def __init__(self, per_second: float | None) -> None:
        self._interval = 0.0 if per_second is None else 1 / per_second
        self._next = -math.inf

    async def wait(self) -> None:
        """Wait for this call's turn."""
        if not self._interval:
            return
        now = asyncio.get_running_loop().time()
        turn = max(now, self._next)
        self._next = turn + self._interval
        await asyncio.sleep(turn - now)


class CallFailedError(Exception):
    """Responses of a call have failed that may be asked for again.

    Attributes:
        after: seconds that a server asked to wait for.
    """

    def __init__(self, after: float) -> None:
        super().__init__()
        self.after = after


class SentFailureError(RewardError):
    """What a call in another process failed of: its text, and whether and when it may be made again."""

    def __init__(self, text: str, wait: float | None = 0.0) -> None:
        super().__init__(text)
        self.retryable, self.retry_after = wait is not None, wait or 0.0

    @classmethod
    def of(cls, failure: BaseException) -> SentFailureError:
        """What can be sent of a failure."""
        return cls(reason_of(failure), retry_after(failure))


def retrying(retries: int) -> Any:
    """tenacity's attempts of one call: waits of 0.5 s, doubled each time, with jitter, up to 60 s.

    A server's own wait (an exception's `retry_after`, in seconds) is kept to, up to 60 s.
    """
    from tenacity import (
        AsyncRetrying,
        retry_if_exception_type,
        stop_after_attempt,
        wait_exponential,
        wait_random,
    )

    backoff = wait_exponential(multiplier=_FIRST_S, max=_LONGEST_S) + wait_random(0, _FIRST_S)

    def wait(state: Any) -> float:
        error = state.outcome.exception()
        return float(max(backoff(state), error.after))

    stop, again = stop_after_attempt(retries + 1), retry_if_exception_type(CallFailedError)
    return AsyncRetrying(stop=stop, retry=again, wait=wait, reraise=True)


def retry_after(failure: object) -> float | None:
    """Seconds until a failed call may be made again, at least, up to 60; None where it would fail again.

    An exception says so by its attributes `retry_after` (seconds) and `retryable` (False).
    """
    if getattr(failure, "retryable", True) is False:
        return None
    after = getattr(failure, "retry_after", None)
    return min(after, _LONGEST_S) if isinstance(after, int | float) and after > 0 else 0.0
