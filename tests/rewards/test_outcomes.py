"""Reasons, named parts, notes, token scores, imputed scores, whole groups and the context, in plain calls."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from components import reward
from ppokit.distributed import Processes
from ppokit.errors import PluginError, RewardError
from ppokit.plugin import Options, RewardContext, RewardOutput, Rollout, Sample, Scored, Span
from ppokit.plugin.reductions import as_numbers
from ppokit.rewards.scorer import Scorer
from ppokit.run.reward_watch import RewardWatch
from ppokit.training.metrics import rollout_metrics
from rollouts import make_rollout, single_process

ROLLOUT = make_rollout([[1], [2], [3], [4]], [[4, 5], [7], [8, 9], [3]])
GROUPS = replace(ROLLOUT, group_ids=torch.tensor([5, 5, 6, 6]))


class Batched:
    def __init__(self, make: Callable[..., Any]) -> None:
        self.make = make

    def score(self, rollout: Rollout) -> Any:
        return self.make(rollout)


class One:
    def __init__(self, make: Callable[[Sample], Any]) -> None:
        self.make = make

    def score_one(self, sample: Sample) -> Any:
        return self.make(sample)


class AsyncOne(One):
    async def score_one(self, sample: Sample) -> Any:
        return await self.make(sample)


def values(*numbers: Any, **more: Any) -> Batched:
    return Batched(lambda rollout: RewardOutput.from_values(numbers, **more))


Make = Callable[..., Scorer]


def test_what_no_float_holds_is_named(scorer: Make) -> None:
    for number in (10**400, 10**5000):
        with pytest.raises(
            PluginError, match=r"reward 'one' .* \(int\) for sample sample-0; expected a number"
        ):
            scorer(reward(One(lambda sample, number=number: number))).score(ROLLOUT)
    texts = reward(Batched(lambda rollout: RewardOutput.from_values(["1"] * 4)))  # type: ignore[list-item]
    with pytest.raises(RewardError, match="TypeError: got '1'; expected numbers, None or exceptions"):
        scorer(texts).score(ROLLOUT)


def test_an_exception_fails_its_response_and_is_the_reason(scorer: Make) -> None:
    rewards = scorer(reward(values(0.5, TimeoutError("the judge"), None, 1.0))).score(GROUPS)
    assert rewards.outcomes["one"] == ("scored", "failed", "abstained", "scored")
    assert rewards.reasons["one"] == ("", "TimeoutError: the judge", "", "")
    assert rewards.trained.tolist() == [True, False, False, True]
    metrics = rollout_metrics(GROUPS, rewards)
    shares = {name: metrics[f"reward/one/{name}"] for name in ("scored", "abstained", "failed")}
    assert shares == {"scored": 0.5, "abstained": 0.25, "failed": 0.25}
    (warning,) = RewardWatch().warnings(rewards)
    assert warning == "the reward 'one' failed for 1 of 4 responses: TimeoutError: the judge"


def test_what_stops_a_run_names_the_causes(scorer: Make) -> None:
    failing = values(OSError("down"), OSError("down"), TimeoutError("late"), 1.0)
    with pytest.raises(RewardError, match=r"3 of 4 .*First cause: OSError: down \(2 times\) Others: Timeout"):
        scorer(reward(failing)).score(ROLLOUT)
    one = values(OSError("down"), 1.0, 1.0, 1.0)
    with pytest.raises(RewardError, match=r"1 of 4 responses, and rewards\[0\].on_failure is fail"):
        scorer(reward(one, on_failure="fail")).score(ROLLOUT)


def test_a_service_that_is_down_when_a_run_goes_on_is_within_the_budget(scorer: Make) -> None:
    """At the start of a run it has never worked, whatever the budget."""
    down = reward(values(*[OSError("down")] * 4))
    first, resumed = scorer(down, max_failed=1.0), scorer(down, max_failed=1.0)
    with pytest.raises(RewardError, match="has never worked"):
        first.score(ROLLOUT)
    resumed.load_state_dict(first.state_dict())
    assert resumed.score(ROLLOUT).outcomes["one"] == ("failed",) * 4


def test_imputed_scores_are_the_groups_mean_or_the_batchs(scorer: Make) -> None:
    failing = values(2.0, OSError("down"), OSError("down"), OSError("down"))
    imputing = scorer(reward(failing, on_failure="impute", weight=3.0), max_failed=0.75)
    rewards = imputing.score(GROUPS)
    assert rewards.scores.tolist() == [6.0] * 4
    assert rewards.trained.tolist() == [True] * 4
    assert rewards.outcomes["one"].count("failed") == 3
    assert as_numbers(rewards.metrics)["reward/one/imputed"] == 0.75
    assert rewards.breakdown["one"].isnan().tolist() == [False, True, True, True]


def test_a_reward_of_tokens_alone_has_no_mean_to_impute(scorer: Make) -> None:
    """0 on every token would be the best that a penalty can give."""

    def penalty(sample: Sample) -> Scored:
        if sample.id == "sample-1":
            raise OSError("down")
        return Scored(spans=[Span(0, 1, -1.0)])

    rewards = scorer(reward(One(penalty), on_failure="impute")).score(GROUPS)
    assert rewards.trained.tolist() == [True, False, True, True]
    assert "reward/one/imputed" not in rewards.metrics


def test_reasons_hold_nothing_that_a_terminal_obeys(scorer: Make) -> None:
    """A service, or the model through it, may have written them."""
    written = "\x1b[2J\x1b]0;x\x07 gone\u202e \ud800"
    rewards = scorer(reward(values(1.0, 1.0, OSError(written), 1.0))).score(ROLLOUT)
    assert rewards.reasons["one"][2] == "OSError: �[2J�]0;x� gone� �"
    with pytest.raises(RewardError) as raised:
        scorer(reward(values(*[OSError(written)] * 4))).score(ROLLOUT)
    assert str(raised.value).isprintable()
    text = RewardOutput(None, ("failed",) * 4, failures={0: written})
    assert text.reason(0).isprintable()


def test_parts_are_weighed_by_the_recipe(scorer: Make) -> None:
    parts = {"helpful": [1.0, 2.0, 3.0, 4.0], "safe": [1.0, 0.0, 1.0, 0.0]}
    judge = Batched(lambda r: RewardOutput.from_parts(parts, notes={"why": ["a", "b", "c", "d"]}))
    plain = scorer(reward(judge, "judge")).score(ROLLOUT)
    assert plain.scores.tolist() == [2, 2, 4, 4]
    weighed = scorer(reward(judge, "judge", parts={"helpful": 0.5, "safe": -2.0})).score(ROLLOUT)
    assert weighed.scores.tolist() == [-1.5, 1.0, -0.5, 2.0]
    assert weighed.parts["judge/safe"].tolist() == [1, 0, 1, 0]
    assert weighed.notes["judge/why"] == ("a", "b", "c", "d")
    assert rollout_metrics(ROLLOUT, weighed)["reward/judge/helpful"] == 2.5
    with pytest.raises(PluginError, match=r"gives no part 'kind', .*its parts: helpful and safe"):
        scorer(reward(judge, parts={"kind": 1.0})).score(ROLLOUT)


_SAFE = (1.0, None, TimeoutError("judge"), 3.0)


@pytest.mark.parametrize(
    "provider",
    [
        Batched(
            lambda r: RewardOutput.from_values([9.0] * 4, parts={"safe": list(_SAFE), "kind": [None] * 4})
        ),
        One(lambda sample: Scored(9.0, parts={"safe": _SAFE[int(sample.response[-1])], "kind": None})),
    ],
    ids=["batched", "one at a time"],
)
def test_a_response_without_a_weighed_part_abstains_or_fails(scorer: Make, provider: Any) -> None:
    """As without a score: None has no opinion, an exception is the reason."""
    rewards = scorer(reward(provider, parts={"safe": 2.0})).score(ROLLOUT)
    assert rewards.outcomes["one"] == ("scored", "abstained", "failed", "scored")
    assert rewards.scores.tolist() == [2, 0, 0, 6]
    assert rewards.reasons["one"] == ("", "", "TimeoutError: judge", "")
    assert rewards.scored.tolist() == [True, False, False, True]
    imputed = scorer(reward(provider, parts={"safe": 2.0}, on_failure="impute")).score(ROLLOUT)
    assert imputed.scores.tolist() == [2, 0, 4, 6]
    with pytest.raises(RewardError, match=r"failed for 1 of 4 .*First cause: TimeoutError: judge"):
        scorer(reward(provider, parts={"safe": 2.0}, on_failure="fail")).score(ROLLOUT)
    unweighed = scorer(reward(provider)).score(ROLLOUT)
    assert unweighed.scores.tolist() == [9, 9, 9, 9]


@pytest.mark.parametrize("one_at_a_time", [False, True])
def test_of_parts_alone_those_count_that_the_recipe_weighs(scorer: Make, one_at_a_time: bool) -> None:
    """Without weights all do, and their sum is the score."""
    parts: dict[str, Any] = {"safe": [1.0, 2.0, None, OSError("a")], "kind": [4.0, None, OSError("b"), 8.0]}

    def of_sample(sample: Sample) -> Scored:
        index = int(sample.response[-1])
        return Scored(parts={name: part[index] for name, part in parts.items()})

    judge: Any = One(of_sample) if one_at_a_time else Batched(lambda r: RewardOutput.from_parts(parts))
    both = scorer(reward(judge)).score(ROLLOUT)
    assert both.outcomes["one"] == ("scored", "abstained", "failed", "failed")
    assert both.scores.tolist() == [5, 0, 0, 0]
    assert both.reasons["one"] == ("", "", "OSError: b", "OSError: a")
    kind = scorer(reward(judge, parts={"kind": 0.5})).score(ROLLOUT)
    assert kind.outcomes["one"] == ("scored", "abstained", "failed", "scored")
    assert kind.scores.tolist() == [2, 0, 0, 4]
    safe = scorer(reward(judge, parts={"safe": 1.0})).score(ROLLOUT)
    assert safe.outcomes["one"] == ("scored", "scored", "abstained", "failed")


def test_one_weighed_part_that_failed_is_enough(scorer: Make) -> None:
    parts = {"safe": [None, ValueError("a"), 1.0, 1.0], "kind": [OSError("b"), None, OSError("c"), 1.0]}
    judge = Batched(lambda r: RewardOutput.from_values([9.0, 9.0, None, 9.0], parts=parts))
    rewards = scorer(reward(judge, parts={"safe": 1.0, "kind": 1.0})).score(ROLLOUT)
    assert rewards.outcomes["one"] == ("failed", "failed", "abstained", "scored")
    assert rewards.reasons["one"] == ("OSError: b", "ValueError: a", "", "")


def test_token_scores_of_a_response_without_a_weighed_part_do_not_count(scorer: Make) -> None:
    parts = {"safe": torch.tensor([1.0, float("nan"), 1.0, 1.0])}
    judge = Batched(lambda r: RewardOutput(torch.ones(4), ("scored",) * 4, torch.ones(4, 2), parts=parts))
    rewards = scorer(reward(judge, parts={"safe": 0.5})).score(ROLLOUT)
    assert rewards.token_rewards.tolist() == [[1, 1.5], [0, 0], [1, 1.5], [1.5, 0]]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (RewardOutput(torch.zeros(4), ("scored",) * 4, failures={1: "x"}), "a failure of response 1"),
        (RewardOutput(torch.zeros(4), ("scored",) * 4, part_failures={"a": [1]}), "part_failures as"),  # type: ignore[dict-item]
        (RewardOutput.from_values([0.0] * 4, parts={"a": [1.0]}), r"the part 'a' of shape \[1\]"),
        (RewardOutput.from_values([0.0] * 4, parts={"a/b": [1.0] * 4}), "a part with the name 'a/b'"),
        (RewardOutput.from_values([0.0] * 4, parts={"failed": [1.0] * 4}), "a part with the name 'failed'"),
        (
            RewardOutput.from_values([0.0] * 4, notes={"a": "text"}),
            "the note 'a' as 'text'; expected 4 texts",
        ),
        (RewardOutput.from_values([0.0] * 4, notes={"a": [1] * 4}), "1 in the note 'a'"),  # type: ignore[list-item]
        (RewardOutput(None, ("scored",) * 4), "neither scores nor token_scores"),
        (
            RewardOutput(torch.zeros(4), ("abstained",) * 4, torch.ones(4, 2)),
            "token_scores for sample sample-0, whose outcome is not scored",
        ),
    ],
)
def test_a_broken_contract_is_named(scorer: Make, output: RewardOutput, message: str) -> None:
    with pytest.raises(PluginError, match=rf"^reward 'one' \(plugin acme 1\.0\).*{message}"):
        scorer(reward(Batched(lambda r: output))).score(ROLLOUT)


class NoTextError(Exception):
    def __str__(self) -> str:
        raise SystemExit(3)


def test_an_error_without_a_text_is_named_by_its_class(scorer: Make) -> None:
    rewards = scorer(reward(values(0.5, NoTextError(), None, 1.0))).score(GROUPS)
    assert rewards.reasons["one"] == ("", "NoTextError", "", "")

    def fails(rollout: Rollout) -> RewardOutput:
        raise NoTextError

    for retries in (0, 1):
        with pytest.raises(RewardError, match="First cause: NoTextError"):
            scorer(reward(Batched(fails), retries=retries)).score(GROUPS)


def test_what_has_no_repr_is_named_by_its_type(scorer: Make) -> None:
    class NoRepr:
        def __repr__(self) -> str:
            raise KeyError

    for wrong in (
        RewardOutput.from_values([1.0] * 4, {"speed": 10**5000}),
        RewardOutput.from_values([1.0] * 4, notes={"a": [NoRepr()] * 4}),  # type: ignore[list-item]
        RewardOutput(torch.zeros(4), ("failed",) * 4, failures={0: NoRepr()}),  # type: ignore[dict-item]
        RewardOutput(torch.zeros(4), ("scored",) * 4, spans=NoRepr()),  # type: ignore[arg-type]
    ):
        with pytest.raises(PluginError, match=r"^reward 'one' .*what cannot be shown"):
            scorer(reward(Batched(lambda rollout, wrong=wrong: wrong))).score(ROLLOUT)


def test_a_reason_has_an_end(scorer: Make) -> None:
    rewards = scorer(reward(values(0.5, OSError("x" * 10**6), None, 1.0))).score(GROUPS)
    assert len(rewards.reasons["one"][1]) == 2000


def test_what_is_no_scored_is_named(scorer: Make) -> None:
    span: Any = (0, 1, 1.0)
    for wrong, message in [
        (Scored(1.0, parts=[("a", 1)]), r"\[\('a', 1\)\] as parts of sample sample-0"),
        (Scored(1.0, notes=None), "None as notes of sample sample-0"),
        (Scored(1.0, spans=[span]), r"\[\(0, 1, 1.0\)\] as spans of sample sample-0"),
        (Scored(1.0, spans=Span(0, 1, 1.0)), "Span.* as spans of sample sample-0"),
        (Scored(1.0, spans=[Span(0, 1, "x")]), "expected 0 <= start < end <= 10"),
        (Scored(1.0, spans=[Span(0, 1.5, 1.0)]), "expected 0 <= start < end <= 10"),
    ]:
        with pytest.raises(PluginError, match=rf"^reward 'one' .*{message}"):
            scorer(reward(One(lambda sample, wrong=wrong: wrong))).score(ROLLOUT)


def test_from_values_takes_what_can_be_gone_through_once(scorer: Make) -> None:
    once = Batched(lambda rollout: RewardOutput.from_values(float(i) for i in range(4)))  # type: ignore[arg-type]
    assert scorer(reward(once)).score(ROLLOUT).scores.tolist() == [0, 1, 2, 3]
    ragged = Batched(lambda rollout: RewardOutput.from_parts({"a": [1.0] * 4, "b": [1.0] * 2}))
    with pytest.raises(PluginError, match=r"parts of lengths {'a': 4, 'b': 2}; expected one number per"):
        scorer(reward(ragged)).score(ROLLOUT)


def test_one_response_at_a_time(scorer: Make) -> None:
    """A failure is that of its response alone."""

    def judge(sample: Sample) -> Any:
        answers: dict[str, Any] = {
            "response 0": 1,
            "response 1": None,
            "response 2": Scored(parts={"a": 2.0, "b": 3.0}, notes={"why": "so"}),
        }
        return answers[sample.response]

    rewards = scorer(reward(One(judge))).score(ROLLOUT)
    assert rewards.outcomes["one"] == ("scored", "abstained", "scored", "failed")
    assert rewards.scores.tolist() == [1, 0, 5, 0]
    assert rewards.reasons["one"][3] == "KeyError: 'response 3'"
    assert rewards.notes["one/why"] == ("", "", "so", "")
    with pytest.raises(PluginError, match=r"returned 'x' \(str\) for sample sample-0; expected"):
        scorer(reward(One(lambda sample: "x"))).score(ROLLOUT)
    of_text = Scored(1.0, parts={"a": "x"})  # type: ignore[dict-item]
    with pytest.raises(PluginError, match=r"'x' \(str\) as the part 'a' for sample sample-0; expected"):
        scorer(reward(One(lambda sample: of_text))).score(ROLLOUT)


def test_whole_groups_stay_whole_on_two_processes() -> None:
    """Each response minus its group's mean: the same by one process and by two."""
    rollout = replace(make_rollout([[1]] * 5, [[2]] * 5), group_ids=torch.tensor([7, 8, 7, 8, 8]))

    class Centred:
        whole_groups = True

        def score(self, share: Rollout) -> RewardOutput:
            numbers = torch.tensor([float(text[-1]) for text in share.responses])
            means = [numbers[share.group_ids == group].mean() for group in share.group_ids]
            return RewardOutput.of_scores(numbers - torch.stack(means))

    alone = Scorer([reward(Centred())], single_process(), 0.0).score(rollout).scores
    assert alone.tolist() == pytest.approx([-1, -5 / 3, 1, 1 / 3, 4 / 3])
    sent: list[Any] = []

    class Half(Processes):
        count = 2

        def share(self, total: int) -> range:
            return range(self.rank * total // 2, (self.rank + 1) * total // 2)

        def gather(self, items: Any) -> Any:
            sent.extend(items)
            return list(sent)

    for rank in (0, 1):
        half = Half(Accelerator(cpu=True))
        half.rank, half.count = rank, 2
        half.together = Processes.together.__get__(half)  # type: ignore[method-assign]
        half._exchange = lambda items, failure=None: [items]  # type: ignore[method-assign,assignment]
        numbers = Scorer([reward(Centred())], half, 1.0).score(rollout).scores if rank else None
        if rank == 0:
            Scorer([reward(Centred())], half, 1.0).score(rollout)
    assert numbers is not None
    assert torch.equal(numbers, alone)


def test_the_context_of_a_call(scorer: Make) -> None:
    """Numbers to draw by belong to a sample, whatever the batch and its order."""
    seen: list[RewardContext] = []

    class Draws:
        def score(self, rollout: Rollout, context: RewardContext) -> RewardOutput:
            seen.append(context)
            return RewardOutput.from_values([context.generator(one).random() for one in rollout.ids])

    drawing = scorer(reward(Draws()), context=RewardContext(seed=7, steps=9))
    first = drawing.score(ROLLOUT, step=3).scores
    assert (seen[0].step, seen[0].steps, seen[0].reward) == (3, 9, "one")
    backwards = drawing.score(ROLLOUT.select([3, 2, 1, 0])).scores
    assert torch.equal(backwards.flip(0), first)
    assert len(set(first.tolist())) == 4
    other = scorer(reward(Draws(), "two"), context=RewardContext(seed=7)).score(ROLLOUT).scores
    assert not set(other.tolist()) & set(first.tolist())


def test_a_gate_shuts_where_another_reward_is_low(scorer: Make) -> None:
    form = reward(values(1.0, 0.0, None, 1.0), "form", weight=0.0)
    gate = {"reward": "form", "above": 0.5, "otherwise": -1.0}
    gated = reward(values(5.0, 6.0, 7.0, None), "judge", gate=gate)
    for order in ((form, gated), (gated, form)):
        rewards = scorer(*order).score(ROLLOUT)
        assert rewards.scores.tolist() == [5, -1, -1, 0]
        assert rewards.breakdown["judge"][:3].tolist() == [5, 6, 7]


def test_a_cause_that_lasts_is_said_once(scorer: Make) -> None:
    same = scorer(reward(values(0.0, 0.0, 0.0, 0.0), "a"), reward(values(*[None] * 4), "b")).score(ROLLOUT)
    differ = scorer(reward(values(0.0, 1.0, 0.0, 0.0))).score(ROLLOUT)
    none = scorer(reward(values(*[None] * 4), "b")).score(ROLLOUT)
    watch = RewardWatch()
    written = [watch.warnings(rewards) for rewards in (same, same, differ, same, same, same, same)]
    assert [len(texts) for texts in written] == [0, 0, 0, 0, 0, 1, 0]
    assert written[5][0].startswith(
        "every response has the same reward, 0 ('a' scored 0 everywhere, 'b' scored no"
    )
    texts = [text for _ in range(3) for text in watch.warnings(none)]
    assert texts[-1].startswith("'b' abstained from every response, for 3 steps now")


def test_equal_rewards_are_a_cause_whatever_their_number(scorer: Make) -> None:
    steps = [scorer(reward(values(*[score] * 4), "a")).score(ROLLOUT) for score in (0.1, 0.2, 0.3)]
    none = scorer(reward(values(*[None] * 4), "a")).score(ROLLOUT)
    watch = RewardWatch()
    assert [watch.warnings(rewards) for rewards in steps[:2]] == [[], []]
    (text,) = watch.warnings(steps[2])
    assert text.startswith("every response has the same reward, 0.3 ('a' scored 0.3 everywhere), for 3 steps")
    watch = RewardWatch()
    texts = [text for rewards in (steps[0], none, steps[1], none) for text in watch.warnings(rewards)]
    assert not any("for 3 steps now" in text for text in texts), "another cause begins anew"


@pytest.mark.parametrize(
    ("most", "whole", "sizes"),
    [(None, False, [5]), (2, False, [1, 2, 2]), (9, False, [5]), (2, True, [2, 3]), (1, True, [2, 3])],
)
def test_a_call_has_no_more_responses_than_the_class_takes(
    scorer: Make, most: int | None, whole: bool, sizes: list[int]
) -> None:
    """Whole groups of two and of three stay whole where they are larger than that."""
    rollout = replace(make_rollout([[1]] * 5, [[2]] * 5), group_ids=torch.tensor([7, 8, 7, 8, 8]))
    calls: list[int] = []

    class Counted(Options):
        whole_groups = whole
        responses_per_call = most

        def score(self, share: Rollout) -> RewardOutput:
            calls.append(len(share))
            return RewardOutput.from_values([float(text[-1]) for text in share.responses])

    assert scorer(reward(Counted())).score(rollout).scores.tolist() == [0, 1, 2, 3, 4]
    assert sorted(calls) == sizes


@pytest.mark.parametrize(
    ("group", "most", "whole", "concurrency", "sizes"),
    [
        (3, 4, True, None, [3, 3, 3, 3]),
        (3, 7, True, None, [6, 6]),
        (3, 2, True, None, [3, 3, 3, 3]),
        (1, 100, False, None, [12]),
        (1, 5, False, None, [5, 5, 2]),
        (1, 5, False, 2, [5, 5, 2]),
        (1, 100, False, 8, [1, 1, 1, 1, 2, 2, 2, 2]),
        (1, 5, False, 5, [2, 2, 2, 3, 3]),
        (3, 6, True, 3, [3, 3, 6]),
        (3, 6, True, 64, [3, 3, 3, 3]),
    ],
)
@pytest.mark.parametrize("awaited", [False, True])
def test_calls_are_filled_and_parted_only_for_the_recipes_concurrency(
    scorer: Make, group: int, most: int, whole: bool, concurrency: int | None, sizes: list[int], awaited: bool
) -> None:
    """Twelve responses, in groups of one or of three."""
    rollout = replace(make_rollout([[1]] * 12, [[2]] * 12), group_ids=torch.arange(12) // group)
    calls: list[int] = []
    running, together = 0, 0

    class Batches:
        whole_groups = whole
        responses_per_call = most

        def answer(self, share: Rollout) -> RewardOutput:
            calls.append(len(share))
            assert not whole or len(share) == group * len(set(share.group_ids.tolist()))
            return RewardOutput.from_values([float(one.removeprefix("sample-")) for one in share.ids])

    class Plain(Batches):
        def score(self, share: Rollout) -> RewardOutput:
            return self.answer(share)

    class Awaited(Batches):
        async def score(self, share: Rollout) -> RewardOutput:
            nonlocal running, together
            running += 1
            together = max(together, running)
            await asyncio.sleep(0)
            running -= 1
            return self.answer(share)

    one = reward(Awaited() if awaited else Plain(), concurrency=concurrency)
    assert scorer(one).score(rollout).scores.tolist() == list(range(12))
    assert sorted(calls) == sorted(sizes)
    if awaited:
        assert together == min(concurrency or 16, len(sizes))


@pytest.mark.parametrize("awaited", [False, True])
@pytest.mark.parametrize(
    ("attributes", "actual"),
    [({"responses_per_call": 4}, "responses_per_call 4"), ({"whole_groups": True}, "whole_groups True")],
)
def test_what_cuts_no_calls_of_one_response_is_refused(
    scorer: Make, attributes: dict[str, Any], actual: str, awaited: bool
) -> None:
    one = (AsyncOne if awaited else One)(lambda sample: 1.0)
    vars(one).update(attributes)
    with pytest.raises(PluginError, match=f"reward 'one' .* has {actual}, and is asked for one response at"):
        scorer(reward(one))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"whole_groups": "yes"}, "has whole_groups 'yes'; expected True or False"),
        ({"responses_per_call": 0}, "has responses_per_call 0; expected None or an integer of at least 1"),
        ({"responses_per_call": "32"}, "has responses_per_call '32'; expected None or an integer"),
    ],
)
def test_how_calls_are_cut_is_an_attribute_of_its_type(
    scorer: Make, attributes: dict[str, Any], message: str
) -> None:
    wrong = Batched(lambda share: RewardOutput.from_values([0.0] * len(share)))
    vars(wrong).update(attributes)
    with pytest.raises(PluginError, match=message):
        scorer(reward(wrong))
