"""Scoring: sums by hand, outcomes that are never a silent zero, and the budget of failures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from components import built
from ppokit.config.components import BuiltComponent
from ppokit.distributed import Processes
from ppokit.errors import PluginError, RewardError
from ppokit.plugin.reductions import Mean, as_numbers
from ppokit.plugin.reward_output import RewardOutput
from ppokit.plugin.types import Rewards, Rollout
from ppokit.rewards.scaling import RunningVariance
from ppokit.rewards.scorer import Scorer
from ppokit.training.metrics import rollout_metrics
from rollouts import Other, make_rollout, single_process

ROLLOUT = make_rollout([[1], [2], [3]], [[4, 5, 6], [7], [8, 9]])


class Reward:
    def __init__(self, make: Callable[[Rollout], Any]) -> None:
        self.score = make


def values(*numbers: float | None) -> Reward:
    return Reward(lambda rollout: RewardOutput.from_values(numbers))


def token_scores(numbers: Tensor) -> Reward:
    return Reward(lambda rollout: RewardOutput.of_tokens(numbers))


def tokens(numbers: Tensor, *scores: float) -> Reward:
    return Reward(
        lambda rollout: RewardOutput(torch.tensor(scores), ("scored",) * len(scores), token_scores=numbers)
    )


def provider(reward: Any, name: str = "one", weight: float = 1.0, **changes: Any) -> BuiltComponent:
    where = f"reward {name!r} (plugin acme 1.0; recipe: rewards[0].use)"
    return built("rewards", reward, name, where=where, weight=weight, **changes)


def score(*providers: BuiltComponent, max_failed: float = 0.0, rollout: Rollout = ROLLOUT) -> Rewards:
    return Scorer(providers, single_process(), max_failed).score(rollout)


async def _async() -> None: ...


def raise_(error: BaseException) -> Any:
    raise error


def test_two_providers_by_hand() -> None:
    """The sequence score stands on the last real token; token scores stand where they belong."""
    token_scores = torch.tensor([[1.0, 2.0, 3.0], [4.0, 9.0, 9.0], [5.0, 6.0, 9.0]])
    rewards = score(
        provider(values(1.0, 2.0, -3.0), "a", 0.5),
        provider(tokens(token_scores, 10.0, 20.0, 30.0), "b", 2.0),
    )
    assert rewards.scores.tolist() == [20.5, 41.0, 58.5]
    assert rewards.token_rewards.tolist() == [[2, 4, 26.5], [49, 0, 0], [10, 70.5, 0]]
    assert rewards.breakdown["a"].tolist() == [1, 2, -3]
    assert rewards.breakdown["b"].tolist() == [16, 24, 41]
    assert rewards.trained.tolist() == [True, True, True]
    assert rewards.outcomes["a"] == ("scored",) * 3


@pytest.mark.parametrize("rubbish", [math.nan, math.inf, 1e30])
def test_token_scores_on_padding_are_ignored(rubbish: float) -> None:
    token_scores = torch.ones(3, 3).masked_fill(~ROLLOUT.response_mask, rubbish)
    rewards = score(provider(tokens(token_scores, 0.0, 0.0, 0.0)))
    assert rewards.token_rewards.tolist() == ROLLOUT.response_mask.float().tolist()
    assert rewards.breakdown["one"].tolist() == [3, 1, 2]


def test_who_abstains_adds_nothing() -> None:
    rewards = score(provider(values(1.0, None, None), "a"), provider(values(5.0, 6.0, None), "b"))
    assert rewards.scores.tolist() == [6, 6, 0]
    assert rewards.trained.tolist() == [True, True, False]  # nobody scored the last
    assert math.isnan(rewards.breakdown["a"][1])
    assert rewards.outcomes["b"] == ("scored", "scored", "abstained")
    metrics = rollout_metrics(ROLLOUT, rewards)
    assert metrics["reward/a/abstained"] == pytest.approx(2 / 3)
    assert "reward/a/failed" not in metrics


def test_a_penalty_by_tokens_does_not_stand_for_a_score() -> None:
    """On ratings from 1 to 10, what nobody judged would be the worst of all."""
    penalty = provider(token_scores(torch.full((3, 3), -0.1)), "penalty")
    for providers in (
        [provider(values(7.0, None, 9.0)), penalty],
        [penalty, provider(values(7.0, None, 9.0))],
    ):
        assert score(*providers).trained.tolist() == [True, False, True]
    assert score(penalty).trained.tolist() == [True] * 3, "alone, it is the reward"
    for scores in ((1.0, 2.0, 0.0), (0.0, 0.0, 0.0)):  # also where all happen to be 0
        both = provider(tokens(torch.ones(3, 3), *scores), "both")
        assert score(provider(values(7.0, None, None)), both).trained.tolist() == [True] * 3


def test_without_a_weight_a_provider_only_watches() -> None:
    partly = Reward(lambda r: RewardOutput(torch.tensor([4.0, 5.0, 0.0]), ("scored", "scored", "failed")))
    alone = score(provider(values(1.0, None, 3.0)))
    rewards = score(provider(values(1.0, None, 3.0)), provider(partly, "watcher", 0.0), max_failed=0.5)
    assert rewards.trained.tolist() == alone.trained.tolist() == [True, False, True]
    assert rewards.token_rewards.tolist() == alone.token_rewards.tolist()
    assert rewards.breakdown["watcher"][:2].tolist() == [4, 5]
    assert score(provider(values(1.0, None, 3.0), weight=0.0)).trained.tolist() == [True, False, True]


def test_what_failed_is_not_trained_on() -> None:
    """Whatever number stands beside the outcome, and whatever others gave."""
    partly = Reward(
        lambda r: RewardOutput(torch.tensor([1.0, math.nan, 99.0]), ("scored", "failed", "abstained"))
    )
    rewards = score(provider(partly, "a"), provider(values(5.0, 6.0, 7.0), "b"), max_failed=0.5)
    assert rewards.scores.tolist() == [6, 6, 7]
    assert rewards.trained.tolist() == [True, False, True]
    assert rewards.outcomes["a"].count("failed") == 1
    assert bool(rewards.token_rewards.isfinite().all())


@pytest.mark.parametrize(("count", "failed", "budget", "stops"), [
    (3, 0, 0.0, False),
    (3, 1, 0.0, True),
    (4, 1, 0.25, False),
    (4, 2, 0.25, True),
    (100, 29, 0.29, False),  # 0.29 * 100 is 28.999... in floating point
    (100, 30, 0.29, True),
])  # fmt: skip
def test_the_budget_of_failures(count: int, failed: int, budget: float, stops: bool) -> None:
    rollout = make_rollout([[1]] * count, [[2]] * count)
    outcomes = ("failed",) * failed + ("scored",) * (count - failed)
    some = provider(Reward(lambda r: RewardOutput(torch.zeros(count), outcomes)))
    if stops:
        with pytest.raises(
            RewardError, match=rf"acme 1\.0.*failed for {failed} of {count} .*max_failed_rewards"
        ):
            score(some, max_failed=budget, rollout=rollout)
    else:
        assert score(some, max_failed=budget, rollout=rollout).trained.sum() == count - failed


def test_a_provider_that_raises_fails_every_response() -> None:
    broken = provider(Reward(lambda r: raise_(RuntimeError("no connection"))))
    with pytest.raises(RewardError, match=r"3 of 3 responses.*RuntimeError: no connection"):
        score(broken)
    with pytest.raises(RewardError, match=r"has never worked: .* whatever run.max_failed_rewards"):
        score(broken, provider(values(1.0, 2.0, 3.0), "b"), max_failed=1.0)
    calls: list[int] = []

    def later(rollout: Rollout) -> RewardOutput:
        calls.append(len(rollout))
        return (
            raise_(RuntimeError("no connection")) if len(calls) > 1 else RewardOutput.from_values([1, 2, 3])
        )

    scorer = Scorer([provider(Reward(later)), provider(values(1.0, 2.0, 3.0), "b")], single_process(), 1.0)
    scorer.score(ROLLOUT)
    rewards = scorer.score(ROLLOUT)
    assert rewards.trained.tolist() == [False] * 3
    assert rewards.outcomes["one"] == ("failed",) * 3
    assert rewards.reasons["one"] == ("RuntimeError: no connection",) * 3
    scorer.close()


def test_a_provider_that_ends_the_program_has_failed() -> None:
    """As a function does that parses arguments; a run must not end as if it were done."""
    leaving = provider(Reward(lambda r: raise_(SystemExit(0))))
    with pytest.raises(RewardError, match=r"3 of 3 responses.*SystemExit: 0"):
        score(leaving)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda: RewardOutput.from_values([1.0, 2.0]), r"scores of shape \[2\]; expected \[3\]"),
        (lambda: RewardOutput(torch.zeros(3, 1), ("scored",) * 3), r"scores of shape \[3, 1\]"),
        (lambda: RewardOutput(torch.zeros(()), ("scored",) * 3), r"scores of shape \[\]"),
        (lambda: RewardOutput(torch.zeros(3), ("scored",) * 2), "2 outcomes; expected 3"),
        (lambda: RewardOutput(torch.zeros(3), ("scored", "ok", "scored")), "the outcome 'ok'"),  # type: ignore[arg-type]
        (
            lambda: RewardOutput(torch.zeros(3), ("scored",) * 3, token_scores=torch.zeros(3, 2)),
            r"token_scores of shape \[3, 2\]; expected \[3, 3\]",
        ),
        (lambda: RewardOutput([1.0], ("scored",) * 3), "scores of type list; expected a tensor"),  # type: ignore[arg-type]
        (lambda: RewardOutput.of_scores(torch.zeros(3, dtype=torch.complex64)), "scores of torch.complex64"),
        (lambda: RewardOutput.of_scores(torch.zeros(3, device="meta")), "scores of torch.float32 on meta"),
        (lambda: RewardOutput.of_scores(torch.tensor([1e300] * 3, dtype=torch.float64)), "inf for sample"),
        (lambda: RewardOutput(torch.zeros(3), "scored"), "outcomes 'scored'; expected 3"),  # type: ignore[arg-type]
        (lambda: RewardOutput(torch.zeros(3), ([],) * 3), r"the outcome \[\]"),  # type: ignore[arg-type]
        (lambda: _async(), "a coroutine; expected a RewardOutput"),
        (lambda: [1.0, 2.0, 3.0], "a list; expected a RewardOutput"),
        (lambda: RewardOutput.from_values([1.0, math.nan, 2.0]), "nan for sample sample-1 .*'response 1'"),
        (lambda: RewardOutput.from_values([1.0, 2.0, -math.inf]), "-inf for sample sample-2"),
        (
            lambda: RewardOutput(
                torch.zeros(3),
                ("scored",) * 3,
                token_scores=torch.tensor([[math.nan, 0, 0]] + [[0, 0, 0]] * 2),
            ),
            "nan for sample sample-0",
        ),
    ],
)
@pytest.mark.parametrize("max_failed", [0.0, 1.0])
def test_a_broken_contract_is_no_failed_outcome(output: Any, message: str, max_failed: float) -> None:
    with pytest.raises(PluginError, match=rf"acme 1\.0.*returned {message}"):
        score(provider(Reward(lambda r: output())), max_failed=max_failed)


def test_scale_by_the_batch_and_clip() -> None:
    """Standard deviation of 1, 3, 5 is 2; the mean stays, the clip follows, the weight comes last."""
    scaled = provider(values(1.0, 3.0, 5.0), weight=10.0, scale="batch", clip=(0.0, 2.0))
    rewards = score(scaled)
    assert rewards.scores.tolist() == pytest.approx([5, 15, 20])
    assert rewards.breakdown["one"].tolist() == [1, 3, 5]  # raw
    assert score(provider(values(4.0, 4.0, 4.0), scale="batch")).scores.tolist() == [4, 4, 4]


def test_scaling_leaves_out_who_did_not_score() -> None:
    rewards = score(provider(values(1.0, None, 3.0), scale="batch", clip=(1.0, 9.0)))
    assert rewards.scores.tolist() == pytest.approx([1, 0, 3 / math.sqrt(2)])


def test_clip_without_scale() -> None:
    assert score(provider(values(-9.0, 0.5, 9.0), clip=(-1.0, 2.0))).scores.tolist() == [-1, 0.5, 2]


def test_running_scale_is_that_of_everything_seen() -> None:
    batches = [(1.0, 2.0, 4.0), (10.0, -3.0, 0.5), (7.0, 7.0, 7.5)]
    current: list[tuple[float, ...]] = []
    reward = Reward(lambda r: RewardOutput.from_values(current[-1]))
    scorer = Scorer([provider(reward, scale="running")], single_process(), 0.0)
    seen: list[float] = []
    for batch in batches:
        current.append(batch)
        seen.extend(batch)
        expected = torch.tensor(batch) / torch.tensor(seen).std()
        torch.testing.assert_close(scorer.score(ROLLOUT).scores, expected)
    state = json.loads(json.dumps(scorer.state_dict()))
    resumed = Scorer([provider(reward, scale="running")], single_process(), 0.0)
    resumed.load_state_dict(state)
    current.append((0.0, 1.0, 5.0))
    assert torch.equal(resumed.score(ROLLOUT).scores, scorer.score(ROLLOUT).scores)


def test_reference_scale_is_that_of_the_first_batch() -> None:
    """1, 2 and 4 have mean 7/3 and sample variance 7/3; later batches change neither."""
    current = [(1.0, 2.0, 4.0)]
    reward = Reward(lambda r: RewardOutput.from_values(current[-1]))
    scorer = Scorer([provider(reward, scale="reference")], single_process(), 0.0)
    first = scorer.score(ROLLOUT).scores
    assert first.tolist() == pytest.approx([(n - 7 / 3) / (7 / 3) ** 0.5 for n in (1, 2, 4)])
    assert float(first.mean()) == pytest.approx(0, abs=1e-6)
    current.append((100.0, 7.0, -5.0))
    expected = [(n - 7 / 3) / (7 / 3) ** 0.5 for n in current[-1]]
    assert scorer.score(ROLLOUT).scores.tolist() == pytest.approx(expected)
    resumed = Scorer([provider(reward, scale="reference")], single_process(), 0.0)
    resumed.load_state_dict(json.loads(json.dumps(scorer.state_dict())))
    assert resumed.score(ROLLOUT).scores.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("scale", "divisor"), [("none", 1.0), ("batch", 2.0), ("running", 2.0), ("reference", 2.0)]
)
def test_greedy_responses_are_scaled_as_the_sampled_ones_are(scale: Any, divisor: float) -> None:
    """Sampled scores 1, 3, 5 have deviation 2; the greedy ones are not among them."""
    greedy = replace(make_rollout([[1], [2]], [[4, 5], [7]]), group_ids=torch.tensor([8, 6]))
    rollout = replace(ROLLOUT, group_ids=torch.tensor([6, 8, 6]), greedy=greedy)
    both = Reward(lambda r: RewardOutput.from_values([1.0, 3.0, 5.0] if len(r) == 3 else [50.0, 10.0]))
    scorer = Scorer([provider(both, weight=3.0, scale=scale)], single_process(), 0.0)
    rewards = scorer.score(rollout)
    shift = 3.0 if scale == "reference" else 0.0
    assert rewards.greedy_returns is not None
    expected = [3 * (n - shift) / divisor for n in (10.0, 50.0, 10.0)]
    assert rewards.greedy_returns.tolist() == pytest.approx(expected)
    assert rewards.scores.tolist() == pytest.approx([3 * (n - shift) / divisor for n in (1, 3, 5)])
    assert as_numbers(rewards.metrics)["reward/greedy_mean"] == pytest.approx(3 * (30.0 - shift) / divisor)
    if scale == "running":
        assert scorer.rewards[0][1].variance.count == 3


def test_token_rewards_count_in_the_greedy_return_and_a_missing_one_leaves_its_group_out() -> None:
    greedy = replace(make_rollout([[1], [2]], [[4, 5], [7]]), group_ids=torch.tensor([8, 6]))
    rollout = replace(ROLLOUT, group_ids=torch.tensor([6, 8, 6]), greedy=greedy)
    both = Reward(
        lambda r: RewardOutput(
            torch.ones(len(r)),
            ("scored",) * 3 if len(r) == 3 else ("scored", "abstained"),
            token_scores=torch.tensor([[0.25] * 3] * 3 if len(r) == 3 else [[0.25] * 3, [0.0] * 3])[
                :, : r.response_ids.shape[1]
            ],
        )
    )
    rewards = score(provider(both), rollout=rollout)
    assert rewards.greedy_returns is not None
    assert rewards.greedy_returns.tolist() == [0, 1.5, 0]
    assert rewards.trained.tolist() == [False, True, False]


@given(st.lists(st.lists(st.floats(-1e3, 1e3, width=32), max_size=8), max_size=8))
def test_running_variance_is_torchs(batches: list[list[float]]) -> None:
    running = RunningVariance()
    for batch in batches:
        running.add(torch.tensor(batch))
    seen = torch.tensor([n for batch in batches for n in batch], dtype=torch.float64)
    expected = seen.std().item() if len(seen) > 1 else 0.0
    if expected > 1e-6:
        assert running.std == pytest.approx(expected, rel=1e-6)
    elif expected < 1e-9:
        assert running.std == 1.0


def test_metrics_carry_the_providers_name() -> None:
    named = Reward(lambda r: RewardOutput.from_values([1.0, 2.0, 3.0], {"coefficient": 0.2}))
    metrics = score(provider(named, "kl")).metrics
    assert metrics["reward/kl/coefficient"] == Mean(pytest.approx(0.2), 3.0)
    assert {name for name in metrics if name.startswith("time/")} == {
        f"time/reward/kl/{name}_s" for name in ("median", "p95", "longest")
    }


@pytest.mark.parametrize(
    "metrics", [{"abstained": 0.5}, {"speed": "fast"}, {"speed": math.nan}, {"speed": 10**400}]
)
def test_metrics_are_checked_where_they_enter(metrics: Any) -> None:
    bad = Reward(lambda r: RewardOutput.from_values([1.0, 2.0, 3.0], metrics))
    with pytest.raises(PluginError, match=r"reward 'kl' \(plugin acme 1.0; recipe: rewards\[0\].use\)"):
        score(provider(bad, "kl"))


def test_scores_of_another_dtype_become_float32() -> None:
    whole = Reward(lambda r: RewardOutput(torch.tensor([1, 2, 3]), ("scored",) * 3))
    rewards = score(provider(whole))
    assert rewards.scores.dtype == torch.float32
    assert rewards.scores.tolist() == [1, 2, 3]


def test_token_scores_are_scaled_with_their_response_and_clipped_one_by_one() -> None:
    """Whole scores 1 + 1, 4 and 1 + 5 have deviation 2 and mean 4."""
    numbers = torch.tensor([[1.0, 0.0, 0.0], [4.0, 9.0, 9.0], [5.0, 0.0, 9.0]])
    given = Reward(
        lambda r: RewardOutput(torch.tensor([1.0, 0.0, 1.0]), ("scored",) * 3, token_scores=numbers)
    )
    rewards = score(provider(given, weight=2.0, scale="batch"))
    assert rewards.token_rewards.tolist() == [[1, 0, 1], [4, 0, 0], [5, 1, 0]]
    assert rewards.breakdown["one"].tolist() == [2, 4, 6]  # raw
    rewards = score(provider(given, weight=2.0, scale="reference"))
    assert rewards.token_rewards.sum(dim=1).tolist() == [-2, 0, 2]
    assert rewards.scores.tolist() == [-3, -4, -3]
    rewards = score(provider(given, scale="batch", clip=(-1.0, 1.5)))
    assert rewards.token_rewards.tolist() == [[0.5, 0, 0.5], [1.5, 0, 0], [1.5, 0.5, 0]]


def test_bounds_that_do_not_hold_0_are_refused_for_token_scores() -> None:
    """They would give a reward to every token, also to those that a penalty leaves alone."""
    penalty = tokens(torch.tensor([[-3.0, -0.5, 0.0]] * 3), 0.0, 0.0, 0.0)
    rewards = score(provider(penalty, clip=(-1.0, 0.0)))
    assert rewards.token_rewards.tolist() == [[-1, -0.5, 0], [-1, 0, 0], [-1, -0.5, 0]]
    for clip in ((0.1, 1.0), (-2.0, -0.5)):
        with pytest.raises(
            RewardError, match=r"^reward 'one' \(plugin acme 1\.0.*clip is \[.*0 between them"
        ):
            score(provider(penalty, clip=clip))


def test_a_provider_cannot_change_what_others_see() -> None:
    """Not even nested values of the data set's rows, which the prompts of later steps share."""
    row = {"answer": "4", "tests": [1, 2]}
    rollout = replace(ROLLOUT, rows=[row] * 3)
    seen: list[Any] = []

    def spoil(share: Rollout) -> RewardOutput:
        seen.append([len(row["tests"]) for row in share.rows])
        for each in share.rows:
            each["tests"].pop()
            each["answer"] = "gone"  # type: ignore[index]
        share.responses[:] = ["x"] * 3
        share.response_ids.fill_(5)
        share.response_mask[:, 1:] = False
        share.sampler_logprobs.fill_(-9)
        return RewardOutput.from_values([1.0, 2.0, 3.0])

    def watch(share: Rollout) -> RewardOutput:
        seen.append((share.rows[0]["answer"], share.responses[0], share.response_ids.sum().item()))
        return RewardOutput.from_values(share.lengths.tolist())

    rewards = score(provider(Reward(spoil), "a"), provider(Reward(watch), "b"), rollout=rollout)
    assert sorted(seen, key=len) == [[2, 2, 2], ("4", "response 0", ROLLOUT.response_ids.sum().item())]
    assert rewards.breakdown["b"].tolist() == [3, 1, 2]
    assert row == {"answer": "4", "tests": [1, 2]}
    assert bool((rollout.sampler_logprobs != -9).all())


def test_a_provider_sees_only_what_it_needs() -> None:
    logprobs = torch.full((3, 3), -1.0)
    rollout = replace(ROLLOUT, old_logprobs=logprobs, ref_logprobs=logprobs, values=logprobs, greedy=None)
    seen: list[Rollout] = []

    def look(share: Rollout) -> RewardOutput:
        seen.append(share)
        return RewardOutput.from_values([0.0] * 3)

    score(provider(Reward(look), needs=frozenset({"ref_logprobs"})), rollout=rollout)
    assert seen[0].old_logprobs is None
    assert seen[0].values is None
    assert seen[0].ref_logprobs is not None
    assert torch.equal(seen[0].ref_logprobs, logprobs)


def test_a_provider_on_the_main_process_scores_for_all() -> None:
    """Of two processes the main one asks for every response; the other sends nothing and gets the same."""
    sent: list[list[Any]] = []

    class Main(Processes):
        def share(self, total: int) -> range:
            return range(total // 2)

        def gather(self, items: Any) -> Any:
            sent.append(list(items))
            return list(items)

    reward = provider(values(1.0, None, 3.0), runs_on="main")
    rewards = Scorer([reward], Main(Accelerator(cpu=True)), 0.0).score(ROLLOUT)
    assert rewards.scores.tolist() == [1, 0, 3]
    other = Other(sent)
    same = Scorer([replace(reward, instance=None)], other, 0.0).score(ROLLOUT)  # type: ignore[arg-type]
    assert other.own == [[([([], None)], [])]]
    assert (same.scores.tolist(), same.outcomes) == (rewards.scores.tolist(), rewards.outcomes)


def test_a_gradient_ends_here() -> None:
    weights = torch.ones(3, requires_grad=True)
    rewards = score(provider(Reward(lambda r: RewardOutput.of_scores(weights * 2))))
    assert not rewards.scores.requires_grad
    assert rewards.scores.tolist() == [2, 2, 2]


def test_an_object_without_score_is_refused_before_it_is_asked() -> None:
    with pytest.raises(
        PluginError, match=r"^reward 'one' \(plugin acme 1\.0.*built a NoneType.*score\(rollout\)"
    ):
        score(provider(None))


def test_a_response_that_failed_is_shown_to_nobody_and_has_no_reward() -> None:
    """Empty as it is, it would be scored as a bad answer; scaling and the budget do not count it either."""
    seen: list[list[str]] = []

    def look(share: Rollout) -> RewardOutput:
        seen.append(share.ids)
        return RewardOutput.from_values([1.0, 3.0][: len(share)])

    rollout = replace(ROLLOUT, outcomes=["finished", "failed", "truncated"])
    rewards = score(provider(Reward(look), scale="reference"), rollout=rollout)
    assert seen == [["sample-0", "sample-2"]]
    assert rewards.scores.tolist() == pytest.approx([-(0.5**0.5), 0, 0.5**0.5])
    assert rewards.token_rewards.sum(dim=1).tolist() == rewards.scores.tolist()
    assert rewards.scored.tolist() == rewards.trained.tolist() == [True, False, True]
    assert rewards.outcomes["one"] == ("scored", "abstained", "scored")
    assert math.isnan(rewards.breakdown["one"][1])
    nothing = score(provider(Reward(look)), rollout=replace(ROLLOUT, outcomes=["failed"] * 3))
    assert len(seen) == 1
    assert not nothing.trained.any()


@pytest.mark.parametrize(
    "change",
    [
        lambda: torch.set_default_dtype(torch.float64),
        lambda: torch.set_default_device("meta"),
        lambda: torch.set_grad_enabled(False),
    ],
)
def test_a_provider_that_changes_torch_for_all_is_named(change: Callable[[], None]) -> None:
    """And what it changed is put back."""

    def spoil(share: Rollout) -> RewardOutput:
        scores = torch.zeros(3)
        change()
        return RewardOutput.of_scores(scores)

    with pytest.raises(PluginError, match=r"^reward 'one' \(plugin acme 1\.0.*it called torch\.set_"):
        score(provider(Reward(spoil)))
    assert torch.get_default_dtype() == torch.float32
    assert torch.zeros(()).device.type == "cpu"
    assert torch.is_grad_enabled()
