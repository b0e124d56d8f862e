"""What a reward provider may ask for beside the rollout: where it is in the run, and numbers to draw by.

    def score(self, rollout, context): ...            batched
    async def score_one(self, sample, context): ...   a response at a time

Each with or without its last argument. A provider whose object has `whole_groups = True` is given all
responses to a prompt in one call, whatever the number of processes; `responses_per_call = 32` is the most
that it is given in one.
"""

from __future__ import annotations

import asyncio
import hashlib
import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ppokit.plugin.types import ResponseOutcome, Row

if TYPE_CHECKING:
    import httpx2
    import numpy as np
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Sample:
    """One response, for providers that are asked for a response at a time.

    Attributes:
        id: stable sample id.
        group: of the responses to the same prompt.
        prompt, response: texts; a prompt that is a list of messages is a `ChatPrompt`.
        row: every column of the data set.
        outcome: `finished` or `truncated`.
    """

    id: str
    group: int
    prompt: str
    response: str
    row: Row
    outcome: ResponseOutcome


@dataclass(frozen=True)
class RewardContext:
    """Where a call is in its run.

    Attributes:
        step: the step that is scored, from 1; 0 before training.
        steps: of the whole run; 0 outside a run.
        seed: the run's.
        reward: the provider's name in the recipe.
        folder: the run's, written with the first report; None outside a run.
        tokenizer: the policy's; None outside a run.
        rank, processes: this process, from 0, and how many there are.
    """

    step: int = 0
    steps: int = 0
    seed: int = 0
    reward: str = ""
    folder: Path | None = None
    tokenizer: PreTrainedTokenizerBase | None = None
    rank: int = 0
    processes: int = 1

    def generator(self, sample_id: str) -> np.random.Generator:
        """Numbers for one sample: the same whatever the batch, its order and the number of processes."""
        import numpy as np

        text = f"{self.seed}/{self.reward}/{sample_id}"
        return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))


_clients: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, Any] = weakref.WeakKeyDictionary()


def http_client() -> httpx2.AsyncClient:
    """The HTTP client of the running event loop, which is the run's: one pool of connections for all.

    It verifies certificates, follows no redirects unless asked to, at most 5, and sets no time-out of its
    own: the recipe's `timeout` cancels the call. Do not close it.

    Raises:
        RuntimeError: it is asked for outside a coroutine.
    """
    import httpx2

    loop = asyncio.get_running_loop()
    if loop not in _clients:
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        _clients[loop] = httpx2.AsyncClient(timeout=None, max_redirects=5, limits=limits)
    client: httpx2.AsyncClient = _clients[loop]
    return client


async def close_http_client() -> None:
    """Close the client of the running event loop, where there is one."""
    client = _clients.pop(asyncio.get_running_loop(), None)
    if client is not None:
        await client.aclose()
