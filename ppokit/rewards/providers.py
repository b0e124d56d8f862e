"""Ask every provider of a recipe beside one another, each process for its share of the responses.

The first that runs on the main thread has it; the others have threads, the event loop or processes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.distributed import Processes
from ppokit.errors import PpokitWarning, RewardError
from ppokit.plugin.reductions import Max, Mean, Metric, Sum
from ppokit.plugin.reward_output import RewardOutput
from ppokit.plugin.scoring import RewardContext
from ppokit.plugin.types import Rollout
from ppokit.rewards.calls import Answer, ProviderCalls
from ppokit.rewards.event_loop import EventLoop, check_given_up
from ppokit.rewards.joining import group_indices, join

Part = tuple[list[int], Answer]
"""Responses by their index in the rollout, and what a provider gave for them."""

_PATIENCE_S = 10.0  # beyond the longest timeout


@dataclass(eq=False)
class Asked:
    """Calls for a rollout.

    Attributes:
        rollout: what is scored.
        context: of the calls.
        begun: of providers that run beside the main thread, by their place among the rewards.
    """

    rollout: Rollout
    context: RewardContext
    begun: dict[int, Future[Answer]] = field(default_factory=dict)

    def cancel(self) -> None:
        """Nobody waits for the answers any more."""
        for future in self.begun.values():
            future.cancel()


class Providers:
    """Every provider of a recipe.

    Args:
        context: what providers may ask for of the run.
        loop: where calls run that are not on the main thread.
        max_hung: calls that may go on in threads after their time-out.
    """

    def __init__(
        self,
        rewards: Sequence[BuiltComponent],
        processes: Processes,
        context: RewardContext,
        loop: EventLoop,
        *,
        max_hung: int,
    ) -> None:
        self.processes, self.context, self.loop, self.max_hung = processes, context, loop, max_hung
        self._calls = [
            None
            if reward.runs_on == "main" and not processes.is_main
            else ProviderCalls(reward, processes.count)
            for reward in rewards
        ]
        loop.max_given_up = max_hung  # also within a step, of as many calls as there are responses
        self._rewards = rewards
        self._warned: set[str] = set()

    def begin(self, asked: Asked) -> None:
        """Ask those that run beside the main thread and whose needs are met; `finish` asks the others."""
        for index, (calls, reward) in enumerate(zip(self._calls, self._rewards, strict=True)):
            known = all(getattr(asked.rollout, need, None) is not None for need in reward.needs)
            if calls is not None and calls.begins_early and known and index not in asked.begun:
                self._start(asked, index, calls)

    def wait(self, asked: Asked) -> None:
        """Wait for those that were asked and may not overlap with the next rollout.

        Raises:
            PluginError: a provider broke its contract.
            RewardError: a coroutine blocks the event loop.
        """
        for index, future in asked.begun.items():
            if not self._rewards[index].settings.overlap:
                self._wait(index, future)

    def finish(self, asked: Asked) -> tuple[list[RewardOutput], list[Tensor]]:
        """Each reward's output for the whole rollout: each process asks for its share, every one gets all.

        Returns: outputs, float32 on the CPU, 0 where a response was not scored and on padding; and of each
            reward [B] float32, the seconds of the call that gave a response its outcome, NaN for none.

        Raises:
            PluginError: a provider broke its contract, on any process.
            RewardError: too many calls hang.
        """
        with self.processes.together():
            answers = self._answers(asked)
        shares = [self._share(asked.rollout, index) for index in range(len(self._rewards))]
        own = list(zip(shares, answers, strict=True))
        hung = self.loop.given_up()
        records = self.processes.gather([(own, hung)])
        self._check_hung([name for _, names in records for name in names])
        parts: list[list[Part]] = [[] for _ in self._rewards]
        for answers_of_one, _ in records:
            for of_reward, (share, answer) in zip(parts, answers_of_one, strict=True):
                if answer is not None:
                    of_reward.append((share, answer))
        outputs = [
            self._output(reward, own, asked.rollout) for reward, own in zip(self._rewards, parts, strict=True)
        ]
        return outputs, [call_seconds(own, len(asked.rollout)) for own in parts]

    def _share(self, rollout: Rollout, index: int) -> list[int]:
        """This process's responses: cut between groups, where the provider wants them whole."""
        calls, reward = self._calls[index], self._rewards[index]
        if reward.runs_on == "main":
            return list(range(len(rollout) if self.processes.is_main else 0))
        if calls is None or not calls.sizes.whole_groups:
            return list(self.processes.share(len(rollout)))
        groups = group_indices(rollout)
        return [i for group in self.processes.share(len(groups)) for i in groups[group]]

    def _start(self, asked: Asked, index: int, calls: ProviderCalls) -> None:
        share = asked.rollout.select(self._share(asked.rollout, index))
        if len(share):
            asked.begun[index] = self.loop.start(calls.answer(share, asked.context, self.loop))

    def _answers(self, asked: Asked) -> list[Answer | None]:
        answers: dict[int, Answer] = {}
        here: tuple[int, ProviderCalls] | None = None
        try:
            for index, calls in enumerate(self._calls):
                if calls is None or index in asked.begun:
                    continue
                if calls.on_main_thread and here is None:
                    here = index, calls
                else:
                    self._start(asked, index, calls)
            if here is not None:
                index, calls = here
                share = asked.rollout.select(self._share(asked.rollout, index))
                if len(share):
                    answers[index] = calls.answer_here(share, asked.context)
            answers.update({index: self._wait(index, future) for index, future in asked.begun.items()})
        except BaseException:  # also a signal's
            asked.cancel()
            raise
        return [answers.get(index) for index in range(len(self._calls))]

    def _wait(self, index: int, future: Future[Answer]) -> Answer:
        """A provider's answer.

        Raises:
            RewardError: a coroutine blocks the event loop beyond every timeout.
        """
        timeouts = [
            reward.settings.timeout for reward in self._rewards if reward.settings.timeout is not None
        ]
        try:
            return self.loop.wait(future, max(timeouts) + _PATIENCE_S if timeouts else None)
        except TimeoutError as error:
            raise RewardError(
                f"{self._rewards[index].where} has no answer, and {error}: a coroutine calls what blocks, "
                "such as time.sleep or requests, and cannot be cancelled; await it, write a plain function, "
                "or set isolate: process."
            ) from error

    def _output(self, reward: BuiltComponent, parts: Sequence[Part], rollout: Rollout) -> RewardOutput:
        output = join([(share, answer.output) for share, answer in parts], rollout)
        metrics = call_metrics(reward.name, [answer for _, answer in parts])
        return replace(output, metrics={**output.metrics, **metrics})

    def _check_hung(self, hung: Sequence[str]) -> None:
        """Warn of calls that go on after their time-out; stop where they are too many.

        Raises:
            RewardError: they are.
        """
        check_given_up(hung, self.max_hung)
        for name in sorted(set(hung) - self._warned):
            self._warned.add(name)
            warnings.warn(
                f"{name}: a call goes on after its timeout, in a thread that cannot be stopped, or in a "
                "coroutine that does not end when it is cancelled; with isolate: process it would be ended",
                PpokitWarning,
                stacklevel=2,
            )


def call_seconds(parts: Sequence[Part], count: int) -> Tensor:
    """[count] of each response the seconds of the last call that it was in; NaN where there was none."""
    seconds = torch.full((count,), float("nan"))
    for share, answer in parts:
        for indices, own in answer.calls:
            seconds[[share[i] for i in indices]] = own
    return seconds


def call_metrics(name: str, answers: Sequence[Answer]) -> dict[str, Metric]:
    """Seconds per call (median, 95 %, longest), and responses that were asked for again."""
    seconds = torch.tensor([own for answer in answers for _, own in answer.calls])
    if not len(seconds):
        return {}
    retried = sum(answer.retried for answer in answers)
    prefix = f"time/reward/{name}/"
    return {
        **({f"reward/{name}/retried": Sum(retried)} if retried else {}),
        prefix + "median_s": Mean(float(seconds.quantile(0.5)), len(seconds)),
        prefix + "p95_s": Mean(float(seconds.quantile(0.95)), len(seconds)),
        prefix + "longest_s": Max(float(seconds.max())),
    }
