"""Calls of providers: beside one another, in time, again, at once, seldom; and what is left of them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from components import reward
from ppokit.errors import PluginError, PpokitWarning, RewardError
from ppokit.plugin import ChatPrompt, Max, RewardOutput, Rollout, Sample, Sum, hookimpl, http_client
from ppokit.plugin.reductions import as_numbers
from ppokit.rewards.event_loop import EventLoop
from ppokit.rewards.limits import retry_after
from ppokit.rewards.scorer import Scorer
from ppokit.run.components import RunComponent, close_components
from rollouts import make_rollout, single_process

COUNT = 8
ROLLOUT = make_rollout([[1]] * COUNT, [[2]] * COUNT)
MEETING_S = 10.0  # after which calls that wait for one another give up


class Meets:
    """Answers once three are asked at the same time."""

    barrier = threading.Barrier(3)

    def score(self, rollout: Rollout) -> RewardOutput:
        self.barrier.wait(MEETING_S)
        return RewardOutput.from_values([1.0] * len(rollout))


class Awaits:
    def __init__(self, meeting: Callable[[], Awaitable[Any]]) -> None:
        self.meeting = meeting

    async def score(self, rollout: Rollout) -> RewardOutput:
        async with asyncio.timeout(MEETING_S):
            await self.meeting()
        return RewardOutput.from_values([1.0] * len(rollout))


class Each:
    """Asked one response at a time."""

    def __init__(self, judge: Callable[[int], Any]) -> None:
        self.judge = judge
        self.running = self.most = 0

    async def score_one(self, sample: Sample) -> Any:
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await self.judge(int(sample.id.removeprefix("sample-")))
        finally:
            self.running -= 1


@pytest.fixture
def budget() -> float:
    """Every outcome may fail."""
    return 1.0


Make = Callable[..., Scorer]


def test_providers_are_asked_beside_one_another(scorer: Make) -> None:
    """Plain functions, and coroutines: each waits for the others."""
    together = asyncio.Barrier(3)
    plain = scorer(*(reward(Meets(), name) for name in "abc")).score(ROLLOUT)
    awaited = scorer(*(reward(Awaits(together.wait), name) for name in "abc")).score(ROLLOUT)
    for rewards in (plain, awaited):
        assert {outcome for of in rewards.outcomes.values() for outcome in of} == {"scored"}


async def _half(index: int) -> float:
    await asyncio.sleep(0.05)
    return index / 2


def test_responses_at_once_are_as_many_as_the_recipe_says(scorer: Make) -> None:
    judge = Each(_half)
    rewards = scorer(reward(judge, concurrency=4)).score(ROLLOUT)
    assert rewards.scores.tolist() == [i / 2 for i in range(COUNT)]
    assert judge.most == 4
    alone = Each(_half)
    scorer(reward(alone, concurrency=1)).score(ROLLOUT)
    assert alone.most == 1


def test_a_batch_is_cut_for_calls_at_once(scorer: Make) -> None:
    sizes: list[int] = []

    class Batched:
        def score(self, rollout: Rollout) -> RewardOutput:
            sizes.append(len(rollout))
            return RewardOutput.from_values([float(one[-1]) for one in rollout.ids])

    rewards = scorer(reward(Batched(), concurrency=3)).score(ROLLOUT)
    assert rewards.scores.tolist() == list(range(COUNT))
    assert sorted(sizes) == [2, 3, 3]


def test_a_coroutine_is_cancelled_at_its_timeout(scorer: Make) -> None:
    """And costs its own response alone."""
    ended: list[str] = []

    async def judge(index: int) -> float:
        try:
            await asyncio.sleep(60 if index == 3 else 0)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return 1.0

    rewards = scorer(reward(Each(judge), timeout=0.1)).score(ROLLOUT)
    assert rewards.outcomes["one"] == ("scored",) * 3 + ("failed",) + ("scored",) * 4
    assert rewards.reasons["one"][3] == "TimeoutError: no answer in 0.1 s"
    assert ended == ["cancelled"]


def test_seconds_are_those_of_the_call_that_decided(scorer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock by which call n takes n seconds: of what is asked for again the second call counts."""
    ticks = iter([tick for n in range(1, 20) for tick in (100.0 * n, 101.0 * n)])
    monkeypatch.setattr("ppokit.rewards.calls.time", SimpleNamespace(perf_counter=lambda: next(ticks)))
    asked: list[int] = []

    async def judge(index: int) -> float | None:
        asked.append(index)
        if index == 1 and asked.count(1) == 1:
            raise ConnectionError("busy")
        return None if index == 2 else 1.0

    rollout = replace(ROLLOUT, outcomes=["finished"] * 4 + ["failed"] * 4)
    seconds = scorer(reward(Each(judge), retries=1, concurrency=1)).score(rollout).seconds["one"]
    assert seconds[:4].tolist() == [1, 3, 4, 5]
    assert seconds[4:].isnan().all()

    class Batched:
        def score(self, rollout: Rollout) -> RewardOutput:
            return RewardOutput.from_values([1.0] * len(rollout))

    assert scorer(reward(Batched())).score(ROLLOUT).seconds["one"].tolist() == [6.0] * COUNT


def test_a_thread_that_hangs_costs_one_worker_and_too_many_stop_the_run(scorer: Make) -> None:
    gate = threading.Event()

    class Hangs:
        def score(self, rollout: Rollout) -> RewardOutput:
            gate.wait()
            return RewardOutput.from_values([1.0] * len(rollout))

    other = reward(Awaits(lambda: asyncio.sleep(0.2)), "b")
    hanging = scorer(reward(Hangs(), timeout=0.05, isolate="thread"), other, max_hung=1)
    hanging._worked = {"rewards[0]"}
    before = threading.active_count()
    with pytest.warns(PpokitWarning, match=r"rewards\[0\] \(one\): a call goes on after its timeout"):
        rewards = hanging.score(ROLLOUT)
    assert rewards.reasons["one"] == ("TimeoutError: no answer in 0.05 s",) * COUNT
    with pytest.raises(RewardError, match=r"^2 calls of rewards go on .* run.max_hung_calls allows \(1\)"):
        hanging.score(ROLLOUT)
    gate.set()
    deadline = time.monotonic() + 10
    while hanging.providers.loop.given_up():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    for _ in range(3):
        hanging.score(ROLLOUT)
    assert threading.active_count() <= before + 3, "idle workers are used again"


def test_threads_that_hang_are_bounded_within_a_step(scorer: Make) -> None:
    """Of 64 responses, each of which hangs."""
    gate = threading.Event()

    class Hangs:
        def score_one(self, sample: Sample) -> float:
            gate.wait()
            return 1.0

    before = threading.active_count()
    hanging = scorer(reward(Hangs(), timeout=0.02, isolate="thread", concurrency=4), max_hung=6)
    try:
        with pytest.raises(RewardError, match=r"calls of rewards go on .* run.max_hung_calls allows \(6\)"):
            hanging.score(make_rollout([[1]] * 64, [[2]] * 64))
        assert threading.active_count() <= before + 1 + 6 + 4
    finally:
        gate.set()


def test_what_failed_is_asked_for_again(scorer: Make) -> None:
    """And nothing else is."""
    asked: list[list[str]] = []

    class Flaky:
        def score(self, rollout: Rollout) -> RewardOutput:
            asked.append(rollout.ids)
            if len(asked) == 1:
                raise ConnectionError("refused")
            failing = {"sample-2", "sample-5"} if len(asked) == 2 else {"sample-5"}
            return RewardOutput.from_values(
                [OSError("busy") if one in failing else 1.0 for one in rollout.ids]
            )

    rewards = scorer(reward(Flaky(), retries=3, timeout=30, isolate="thread")).score(ROLLOUT)
    assert [len(ids) for ids in asked] == [8, 8, 2, 1]
    assert rewards.outcomes["one"].count("failed") == 1
    assert rewards.reasons["one"][5] == "OSError: busy"
    numbers = as_numbers(rewards.metrics)
    assert numbers["reward/one/retried"] == 8 + 2 + 1
    assert numbers["time/reward/one/median_s"] <= numbers["time/reward/one/p95_s"]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppokit.rewards.limits._FIRST_S", 0.001)


def test_a_server_says_when_to_ask_again_and_that_it_is_of_no_use(scorer: Make) -> None:
    asked: list[tuple[int, float]] = []

    async def judge(index: int) -> float:
        asked.append((index, time.monotonic()))
        error: Any = OSError("busy")
        if index == 0 and len([i for i, _ in asked if i == 0]) == 1:
            error.retry_after = 0.3
            raise error
        if index == 1:
            error.retryable = False
            raise error
        return 1.0

    rewards = scorer(reward(Each(judge), retries=2)).score(ROLLOUT)
    first, second = (moment for index, moment in asked if index == 0)
    assert second - first >= 0.3
    assert [index for index, _ in asked].count(1) == 1
    assert rewards.outcomes["one"][:3] == ("scored", "failed", "scored")
    for_ever: Any = OSError("busy")
    for_ever.retry_after = 10**400
    assert retry_after(for_ever) == 60


def test_calls_begin_no_more_often_than_the_recipe_says(
    scorer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that stands still: each call waits for its turn."""
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    clock = SimpleNamespace(time=lambda: 100.0)
    still = SimpleNamespace(get_running_loop=lambda: clock, sleep=sleep)
    monkeypatch.setattr("ppokit.rewards.limits.asyncio", still)
    scorer(reward(Each(_half), rate_limit=50)).score(ROLLOUT)
    assert waits == pytest.approx([n / 50 for n in range(COUNT)])


def test_one_loop_and_one_client_for_all_steps(scorer: Make) -> None:
    loops, clients, closed = set(), set(), []

    class Client:
        async def score(self, rollout: Rollout) -> RewardOutput:
            loops.add(asyncio.get_running_loop())
            clients.add(http_client())
            return RewardOutput.from_values([1.0] * len(rollout))

        async def close(self) -> None:
            closed.append(asyncio.get_running_loop() in loops)

    rewards = [reward(Client(), "a"), reward(Client(), "b")]
    loop = EventLoop()
    both = Scorer(rewards, single_process(), 0.0, loop=loop)
    for _ in range(3):
        both.score(ROLLOUT)
    assert (len(loops), len(clients)) == (1, 1)
    files = len(list(Path("/proc/self/fd").iterdir()))
    close_components(
        [RunComponent("event loop", "", loop), *(RunComponent(r.name, r.where, r.instance) for r in rewards)]
    )
    assert closed == [True, True]
    assert next(iter(clients)).is_closed
    assert len(list(Path("/proc/self/fd").iterdir())) < files


def test_a_coroutine_that_is_not_to_be_cancelled_costs_one_call(
    scorer: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes on, is counted as a thread would be, and keeps neither the step nor the end waiting."""
    monkeypatch.setattr("ppokit.rewards.attempts._GRACE_S", 0.05)
    monkeypatch.setattr("ppokit.rewards.event_loop._CLOSE_S", 0.2)
    ends = []

    async def judge(index: int) -> float:
        while index == 0 and not ends:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                continue
        return 1.0

    stubborn = scorer(reward(Each(judge), timeout=0.1), max_hung=1)
    with pytest.warns(PpokitWarning, match="a coroutine that does not end when it is cancelled"):
        rewards = stubborn.score(ROLLOUT)
    assert rewards.outcomes["one"] == ("failed", *["scored"] * (COUNT - 1))
    assert rewards.reasons["one"][0].endswith("it goes on though it was cancelled")
    with pytest.raises(RewardError, match="2 calls of rewards go on after their timeout"):
        stubborn.score(ROLLOUT)
    stubborn.close()
    ends.append(True)


def test_closes_that_fail_or_do_not_end_keep_nobody(scorer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppokit.run.components._CLOSE_S", 0.1)
    closed = []

    class Closes:
        def __init__(self, error: BaseException | None, seconds: float) -> None:
            self.error, self.seconds = error, seconds

        async def close(self) -> None:
            await asyncio.sleep(self.seconds)
            if self.error:
                raise self.error
            closed.append(self)

    instances = [Closes(KeyError("x"), 0), Closes(SystemExit(3), 0), Closes(None, 600), Closes(None, 0)]
    instances.append(Closes(KeyboardInterrupt(), 0))
    components = [
        RunComponent(name, f"the {name}", one) for name, one in zip("abcde", instances, strict=True)
    ]
    with pytest.warns(PpokitWarning) as caught:
        close_components(components)
    assert [str(warning.message) for warning in caught] == [
        "the e: close failed: KeyboardInterrupt",
        "the c: close failed: TimeoutError: no answer in 0.1 s",
        "the b: close failed: SystemExit: 3",
        "the a: close failed: KeyError: 'x'",
    ]
    assert closed == [instances[3]]


def test_a_coroutine_that_blocks_all_is_told(scorer: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ppokit.rewards.providers._PATIENCE_S", 0.1)

    class Blocks:
        async def score(self, rollout: Rollout) -> RewardOutput:
            time.sleep(0.6)
            return RewardOutput.from_values([1.0] * len(rollout))

    with pytest.raises(RewardError, match=r"reward 'one' .*did not answer for 0\.15 s: a coroutine"):
        scorer(reward(Blocks(), timeout=0.05)).score(ROLLOUT)


def test_what_ends_the_program_in_a_coroutine_is_a_failure(scorer: Make) -> None:
    async def judge(index: int) -> float:
        raise SystemExit(3) if index else KeyError("x")

    with pytest.raises(RewardError, match=r"8 of 8 .*First cause: KeyError: 'x' Others: SystemExit: 3 \(7 t"):
        scorer(reward(Each(judge)), max_failed=0.0).score(ROLLOUT)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), asyncio.CancelledError(), BaseExceptionGroup("g", [OSError()])]
)
def test_what_would_end_the_loop_is_a_failure(scorer: Make, error: BaseException) -> None:
    async def judge(index: int) -> float:
        raise error

    class InThread:
        def score(self, rollout: Rollout) -> RewardOutput:
            raise error

    rewards = scorer(reward(Each(judge), "a"), reward(InThread(), "b", retries=1)).score
    with pytest.raises(RewardError, match=f"8 of 8 .*First cause: .*{type(error).__name__}"):
        rewards(ROLLOUT)


def test_a_provider_that_stops_the_loop_stops_nobody(scorer: Make) -> None:
    class Stops:
        async def score(self, rollout: Rollout) -> RewardOutput:
            async def leave() -> None:
                raise KeyboardInterrupt

            loop = asyncio.get_running_loop()
            self.left = loop.create_task(leave())
            loop.call_later(0.01, loop.stop)
            await asyncio.sleep(0.05)
            return RewardOutput.from_values([1.0] * len(rollout))

    stops = scorer(reward(Stops()))
    for _ in range(2):
        assert stops.score(ROLLOUT).scores.tolist() == [1.0] * COUNT


def test_sixteen_calls_at_once(scorer: Make) -> None:
    """Of 64: each waits until sixteen are asked."""
    together = asyncio.Barrier(16)

    async def judge(index: int) -> float:
        async with asyncio.timeout(MEETING_S):
            await together.wait()
        return index / 2

    sixty_four = make_rollout([[1]] * 64, [[2]] * 64)
    judging = Each(judge)
    rewards = scorer(reward(judging, concurrency=16)).score(sixty_four)
    assert rewards.scores.tolist() == [i / 2 for i in range(64)]
    assert judging.most == 16


def test_who_is_asked_before_all_is_computed(scorer: Make) -> None:
    """Who runs beside the main thread, needs nothing that is to come, and does not hear of phases."""
    asked: list[str] = []

    class Plain:
        def __init__(self, name: str) -> None:
            self.name = name

        def score(self, rollout: Rollout) -> RewardOutput:
            asked.append(self.name)
            return RewardOutput.from_values([float(rollout.values is not None)] * len(rollout))

    class Hears(Plain):
        @hookimpl
        def on_phase(self, phase: str) -> None: ...

    beside = {"timeout": 30.0, "isolate": "thread"}
    asking = scorer(
        reward(Plain("here"), "here"),
        reward(Plain("there"), "there", **beside),
        reward(Plain("needs"), "needs", needs={"values"}, **beside),
        reward(Hears("hears"), "hears", **beside),
        reward(Awaits(lambda: asyncio.sleep(0)), "awaits"),
    )
    asking.begin(ROLLOUT, step=1)
    ((_, begun),) = asking._begun
    assert sorted(begun.begun) == [1, 4]
    for future in begun.begun.values():
        future.result(MEETING_S)
    assert asked == ["there"]
    whole = replace(ROLLOUT, values=torch.zeros(ROLLOUT.response_ids.shape))
    rewards = asking.score(whole, step=1)
    assert sorted(asked) == ["hears", "here", "needs", "there"], "each once"
    assert {name: float(of[0]) for name, of in rewards.breakdown.items()} == {
        "here": 0,
        "there": 0,
        "needs": 1,
        "hears": 0,
        "awaits": 1,
    }


def test_greedy_responses_are_asked_for_within_the_same_concurrency(scorer: Make) -> None:
    """A plain function is never called twice at once."""
    lock, running, most = threading.Lock(), 0, 0

    class Counts:
        def score(self, rollout: Rollout) -> RewardOutput:
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.05)
            with lock:
                running -= 1
            return RewardOutput.from_values([1.0] * len(rollout))

    asking = scorer(reward(Counts(), overlap=True))
    both = replace(ROLLOUT, greedy=ROLLOUT.select(range(COUNT)))
    asking.begin(both, step=1)
    asking.score(both, step=1)
    assert most == 1


def test_what_was_begun_of_another_rollout_is_given_up(scorer: Make) -> None:
    cancelled: list[str] = []

    class Waits:
        async def score(self, rollout: Rollout) -> RewardOutput:
            try:
                await asyncio.sleep(60 if len(rollout) == 2 else 0)
            except asyncio.CancelledError:
                cancelled.append("cancelled")
                raise
            return RewardOutput.from_values([1.0] * len(rollout))

    asking = scorer(reward(Waits()))
    asking.begin(ROLLOUT.select([0, 1]), step=1)
    asking.begin(ROLLOUT, step=1)
    assert asking.score(ROLLOUT, step=1).scores.tolist() == [1.0] * COUNT
    assert asking.score(ROLLOUT, step=2).scores.tolist() == [1.0] * COUNT
    assert cancelled == ["cancelled"]


def test_a_loop_that_was_closed_begins_anew_and_leaves_no_thread(scorer: Make) -> None:
    """Neither of a call that had returned, nor of one that returns after the end."""
    gate, begun = threading.Event(), threading.Event()

    class Plain:
        def score(self, rollout: Rollout) -> RewardOutput:
            return RewardOutput.from_values([1.0] * len(rollout))

    class Hangs:
        def score(self, rollout: Rollout) -> RewardOutput:
            begun.set()
            gate.wait(MEETING_S)
            return RewardOutput.from_values([1.0] * len(rollout))

    before = set(threading.enumerate())
    plain = {"retries": 1}
    asking = scorer(reward(Plain(), "a", **plain), reward(Hangs(), "b", timeout=0.05, isolate="thread"))
    with pytest.warns(PpokitWarning, match="goes on after its timeout"):
        asking.score(ROLLOUT)
    asking.close()
    gate.set()
    deadline = time.monotonic() + MEETING_S
    while left := set(threading.enumerate()) - before:
        assert time.monotonic() < deadline, left
        time.sleep(0.01)
    assert asking.score(ROLLOUT).breakdown["a"].tolist() == [1.0] * COUNT


def test_what_was_replaced_counts_in_no_metric(scorer: Make) -> None:
    """Of eight responses two failed at first; nothing of the calls that failed whole is left."""
    asked = 0

    class Flaky:
        def score(self, rollout: Rollout) -> RewardOutput:
            nonlocal asked
            asked += 1
            failing = {1: 8, 2: 2, 3: 2}.get(asked, 0)
            values = [OSError("busy")] * failing + [1.0] * (len(rollout) - failing)
            metrics = {"mean": [9.0, 1.0, 9.0, 5.0][asked - 1], "calls": Sum(1), "most": Max(10.0 - asked)}
            more: dict[str, Any] = {} if asked == 4 else {"notes": {"why": ["old"] * len(rollout)}}
            parts = {} if asked == 4 else {"old": [7.0] * len(rollout)}
            return RewardOutput.from_values(values, metrics, parts=parts, **more)

    rewards = scorer(reward(Flaky(), retries=3)).score(ROLLOUT)
    numbers = as_numbers(rewards.metrics)
    assert numbers["reward/one/mean"] == (6 * 1.0 + 2 * 5.0) / 8
    assert numbers["reward/one/calls"] == 2
    assert numbers["reward/one/most"] == 8
    assert rewards.notes["one/why"] == ("", "", *["old"] * 6)
    assert rewards.parts["one/old"].isnan().tolist() == [True, True, *[False] * 6]


def test_a_provider_cannot_change_what_others_see(scorer: Make) -> None:
    """Neither token ids, nor rows, nor the messages of chats, also of greedy responses."""
    chats = [ChatPrompt([{"role": "user", "content": "Hi"}], [{"name": "tool"}]) for _ in range(COUNT)]
    whole = replace(ROLLOUT, prompts=list(chats), rows=[{"a": [1]} for _ in range(COUNT)])
    whole = replace(whole, greedy=replace(whole, greedy=None).select(range(COUNT)))
    before = deepcopy(whole)

    def spoil(rollout: Rollout) -> None:
        for given in (rollout, rollout.greedy):
            if given is not None:
                for row, ids, prompt in zip(given.rows, given.prompt_ids, given.prompts, strict=True):
                    row["a"].append(2)  # type: ignore[index]
                    ids.append(99)
                    prompt.messages[0]["content"] = "No"  # type: ignore[attr-defined]
                    prompt.tools.clear()  # type: ignore[attr-defined]
                given.response_ids.zero_()
                given.loss_mask.zero_()
                given.ids.clear()

    class Spoils:
        def score(self, rollout: Rollout) -> RewardOutput:
            output = RewardOutput.from_values([1.0] * len(rollout))
            spoil(rollout)
            return output

    class SpoilsEach:
        async def score_one(self, sample: Sample) -> float:
            sample.row["a"].append(2)
            sample.prompt.messages.clear()  # type: ignore[attr-defined]
            return 1.0

    both = scorer(
        reward(Spoils(), "a", needs={"greedy"}), reward(SpoilsEach(), "b"), reward(Spoils(), "c", retries=1)
    )
    both.score(whole)
    for given, known in ((whole, before), (whole.greedy, before.greedy)):
        assert given is not None
        assert known is not None
        assert (given.ids, given.rows, given.prompt_ids) == (known.ids, known.rows, known.prompt_ids)
        assert given.response_ids.equal(known.response_ids)
        assert given.loss_mask.equal(known.loss_mask)
        assert [(p.messages, p.tools) for p in given.prompts] == [  # type: ignore[attr-defined]
            (p.messages, p.tools)  # type: ignore[attr-defined]
            for p in known.prompts
        ]


def test_a_coroutine_leaves_torch_as_it_was(scorer: Make) -> None:
    """As a plain function must; what holds for its own thread alone holds for itself alone."""
    seen: list[bool] = []

    class Sets:
        async def score(self, rollout: Rollout) -> RewardOutput:
            await asyncio.sleep(0)
            torch.set_default_dtype(torch.float64)
            await asyncio.sleep(0)
            return RewardOutput.from_values([1.0] * len(rollout))

    class WithoutGradients:
        def __init__(self) -> None:
            self.turn = asyncio.Event()

        async def score(self, rollout: Rollout) -> RewardOutput:
            with torch.no_grad():
                self.turn.set()
                await asyncio.sleep(0.02)
                seen.append(torch.is_grad_enabled())
            seen.append(torch.is_grad_enabled())
            return RewardOutput.from_values([1.0] * len(rollout))

    without = WithoutGradients()

    class Beside:
        async def score(self, rollout: Rollout) -> RewardOutput:
            await without.turn.wait()
            seen.append(torch.is_grad_enabled())
            return RewardOutput.from_values([1.0] * len(rollout))

    with pytest.raises(PluginError, match=r"reward 'one' .* it called torch.set_default_dtype\(torch.floa"):
        scorer(reward(Sets())).score(ROLLOUT)
    assert torch.get_default_dtype() == torch.float32
    scorer(reward(without, "a"), reward(Beside(), "b")).score(ROLLOUT)
    assert seen == [True, False, True]
