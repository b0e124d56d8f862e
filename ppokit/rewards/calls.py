"""How one reward provider is asked: on the main thread, in a thread, on the event loop or in its process.

A provider is batched (`score(rollout)`) or asked for a response at a time (`score_one(sample)`), a plain
function or a coroutine, each with or without a last argument for the `RewardContext`. What fails is asked for
again as the recipe says; a time-out cancels a coroutine, gives up a thread, and ends a process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from ppokit.config.components import BuiltComponent
from ppokit.errors import PpokitError
from ppokit.plugin.coroutines import is_coroutine_function
from ppokit.plugin.needs import only_needed
from ppokit.plugin.reward_output import RewardOutput
from ppokit.plugin.scoring import RewardContext
from ppokit.plugin.types import Rollout, Row
from ppokit.rewards.answers import answers_of
from ppokit.rewards.attempts import (
    attempt,
    attempt_async,
    output_of_one,
    sample_of,
    score_method,
    takes_context,
)
from ppokit.rewards.call_sizes import CallSizes
from ppokit.rewards.check_output import check_output, check_text
from ppokit.rewards.event_loop import EventLoop
from ppokit.rewards.joining import failed_output, group_indices, join
from ppokit.rewards.limits import CallFailedError, RateLimit, retry_after, retrying
from ppokit.rewards.spans import with_token_scores
from ppokit.rewards.timed_worker import WorkerProvider

_CONSTANT = {str, int, float, bool, type(None), bytes}
DEFAULT_CONCURRENCY = 16  # of coroutines that are asked for a response at a time, or for so many at most


@dataclass
class Answer:
    """What a provider gave for a share of the responses.

    Attributes:
        output: one outcome per response of the share.
        calls: responses of each call by their index in the share, and its seconds; a response that was asked
            for again is in several, the last of which gave its outcome.
        retried: responses that were asked for again, each time.
    """

    output: RewardOutput
    calls: list[tuple[list[int], float]] = field(default_factory=list)
    retried: int = 0


class ProviderCalls:
    """Asks one provider.

    Args:
        reward: a reward with its object.
        processes: how many ask; they share its rate limit.

    Raises:
        PluginError: it has built what cannot score, or the recipe asks for what it cannot do.
    """

    def __init__(self, reward: BuiltComponent, processes: int = 1) -> None:
        self.reward, settings = reward, reward.settings
        self._method, self.one_at_a_time = score_method(reward.instance, reward.where)
        self.is_async = is_coroutine_function(self._method)
        self._with_context = takes_context(self._method, reward.where)
        self.sizes = CallSizes.of(reward.instance, reward.where, one_at_a_time=self.one_at_a_time)
        self._isolated = isinstance(reward.instance, WorkerProvider)  # it times itself
        self._retries = settings.retries
        self._concurrency = settings.concurrency or (
            DEFAULT_CONCURRENCY
            if self.is_async and (self.one_at_a_time or self.sizes.responses_per_call)
            else 1
        )
        self._free: tuple[object, asyncio.Semaphore] | None = None
        limit = settings.rate_limit
        self._rate = RateLimit(
            None if limit is None else limit / (1 if reward.runs_on == "main" else processes)
        )
        self.on_main_thread = not (self.is_async or self._isolated or settings.beside_main_thread)
        # One that hears of phases has its state from them: then it is not asked while they go by.
        hears = callable(getattr(reward.instance, "on_phase", None)) and not settings.overlap
        self.begins_early = not self.on_main_thread and not hears

    def answer_here(self, share: Rollout, context: RewardContext) -> Answer:
        """Ask for a share from this thread, at once.

        Raises:
            PluginError: the provider broke its contract.
        """
        calls = []
        outputs = []
        for indices in self._pieces(share):
            piece = self._view(share.select(indices), context)
            began = time.perf_counter()
            outputs.append(
                (
                    indices,
                    self._settled(*attempt(self.reward.where, self._call(piece, context)), piece, context),
                )
            )
            calls.append((indices, time.perf_counter() - began))
        return Answer(join(outputs, share), calls)

    async def answer(self, share: Rollout, context: RewardContext, loop: EventLoop) -> Answer:
        """Ask for a share by the recipe's keys: at once, in time, and again where it failed.

        Raises:
            PluginError: the provider broke its contract.
        """
        answer = Answer(join([], share))
        running = asyncio.get_running_loop()
        if self._free is None or self._free[0] is not running:
            self._free = running, asyncio.Semaphore(self._concurrency)
        free = self._free[1]  # of all shares that are asked for, such as greedy responses beside the others

        async def ask(indices: list[int]) -> list[tuple[list[int], RewardOutput]]:
            async with free:
                return await self._until_done(share, indices, context, loop, answer)

        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(ask(indices)) for indices in self._pieces(share)]
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from None
        answer.output = join([part for task in tasks for part in task.result()], share)
        return answer

    async def _until_done(
        self, share: Rollout, indices: list[int], context: RewardContext, loop: EventLoop, answer: Answer
    ) -> list[tuple[list[int], RewardOutput]]:
        """Outputs of some responses; later ones take the place of earlier ones."""
        parts: list[tuple[list[int], RewardOutput]] = []
        try:
            async for attempt_ in retrying(self._retries):
                with attempt_:
                    if parts:
                        answer.retried += len(indices)
                    await self._rate.wait()
                    piece = self._view(share.select(indices), context)
                    began = time.perf_counter()
                    result, failure = await self._attempt(piece, context, loop)
                    settle = partial(self._settled, result, failure, piece, context)
                    # Characters are decoded for long enough to keep all other calls waiting.
                    has_spans = bool(getattr(result, "spans", None))
                    output = await loop.in_thread(settle, None, self.reward.key) if has_spans else settle()
                    answer.calls.append((indices, time.perf_counter() - began))
                    parts.append((indices, output))
                    waits = {
                        i: retry_after(output.failures.get(k))
                        for k, i in enumerate(indices)
                        if output.outcomes[k] == "failed"
                    }
                    again = [i for i, wait in waits.items() if wait is not None]
                    if again:
                        if self.sizes.whole_groups:
                            groups = {int(share.group_ids[i]) for i in again}
                            again = [i for i in indices if int(share.group_ids[i]) in groups]
                        indices = again
                        raise CallFailedError(max(wait for wait in waits.values() if wait is not None))
        except CallFailedError:  # for the last time: they have failed
            pass
        return parts

    async def _attempt(
        self, piece: Rollout, context: RewardContext, loop: EventLoop
    ) -> tuple[Any, BaseException | None]:
        """What a call returned, or what it failed of."""
        call, where, timeout = self._call(piece, context), self.reward.where, self.reward.settings.timeout
        name = f"{self.reward.key} ({self.reward.name})"
        if self.is_async:
            loop.limit_given_up()
            return await attempt_async(where, call, timeout, lambda task: loop.give_up(name, task))
        limit = None if self._isolated else timeout
        try:
            return await loop.in_thread(lambda: attempt(where, call), limit, name)
        except PpokitError:
            raise
        except Exception as error:  # too late, or what would have ended the thread
            return None, error

    def _pieces(self, share: Rollout) -> list[list[int]]:
        """Responses of each call."""
        if self.one_at_a_time:
            return [[index] for index in range(len(share))]
        together = self.sizes.whole_groups
        units = group_indices(share) if together else [[index] for index in range(len(share))]
        return self.sizes.cut(units, self.reward.settings.concurrency or 1)

    def _view(self, share: Rollout, context: RewardContext) -> Rollout:
        """A share of a rollout as the provider sees it: a copy of what it needs."""
        view = _own(only_needed(share, self.reward.needs))
        return answers_of(view, self.reward.settings, context.tokenizer)

    def _call(self, piece: Rollout, context: RewardContext) -> Callable[[], Any]:
        context = replace(context, reward=self.reward.name)
        given = sample_of(piece) if self.one_at_a_time else piece
        arguments = (given, context) if self._with_context else (given,)
        return lambda: self._method(*arguments)

    def _settled(
        self, result: Any, failure: BaseException | None, piece: Rollout, context: RewardContext
    ) -> RewardOutput:
        """A call's result, checked; failures of all its responses where the call failed."""
        if failure is not None:
            return failed_output(len(piece), failure)
        if self.one_at_a_time:
            result = output_of_one(result, piece, self.reward.where)
        if isinstance(result, RewardOutput):
            check_text(result, self.reward)
            result = with_token_scores(result, piece, context.tokenizer, self.reward.where)
        return check_output(result, piece, self.reward)


def _own(share: Rollout) -> Rollout:
    """A copy of what was selected, greedy responses too: its tensors and lists are its own already."""
    greedy = share.greedy
    return replace(
        share,
        rows=list(map(_own_row, share.rows)),
        prompts=[text if type(text) is str else deepcopy(text) for text in share.prompts],
        prompt_ids=list(map(list, share.prompt_ids)),
        greedy=None if greedy is None else _own(greedy.select(range(len(greedy)))),
    )


def _own_row(row: Row) -> Row:
    """A copy; of what cannot change, as most cells are, deepcopy costs more than free rewards do."""
    if type(row) is not dict:
        return deepcopy(row)
    return {key: cell if type(cell) in _CONSTANT else deepcopy(cell) for key, cell in row.items()}
