"""The update: weights by hand, and a gradient that no way of cutting the batch changes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.data.batches import TokenBatch
from ppokit.errors import PluginError, TrainingError
from ppokit.plugin.types import Advantages, AdvantageWeights, LossInputs, LossOutput
from ppokit.training.aggregation import token_weights
from ppokit.training.schedule import learning_rate_at
from update_bench import (
    Bench,
    BothLoss,
    EntropyLoss,
    Given,
    PolicyLoss,
    ValueLoss,
    Weighing,
    assert_same,
    both_losses,
    samples,
    settings_of,
    weighted,
)

# peft 0.21 asks transformers 5 for a property by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
torch.set_num_threads(1)  # on such small tensors, several threads mostly wait for each other


class TestTokenWeights:
    MASK = torch.tensor([[True, True, True], [True, False, False], [False, False, False]])

    @pytest.mark.parametrize(
        ("aggregation", "expected"),
        [
            ("token_mean", [[1 / 4, 1 / 4, 1 / 4], [1 / 4, 0, 0], [0, 0, 0]]),
            ("sequence_mean_token_mean", [[1 / 6, 1 / 6, 1 / 6], [1 / 2, 0, 0], [0, 0, 0]]),
            ("sequence_mean_token_sum", [[1 / 2, 1 / 2, 1 / 2], [1 / 2, 0, 0], [0, 0, 0]]),
            ("constant", [[1 / 16, 1 / 16, 1 / 16], [1 / 16, 0, 0], [0, 0, 0]]),
        ],
    )
    def test_by_hand(self, aggregation: Any, expected: list[list[float]]) -> None:
        torch.testing.assert_close(token_weights(self.MASK, aggregation, 8), torch.tensor(expected))

    @pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean_token_mean", "constant"])
    def test_nothing_real_weighs_nothing(self, aggregation: Any) -> None:
        assert token_weights(torch.zeros(2, 3, dtype=torch.bool), aggregation, 8).abs().sum().item() == 0


class TestLearningRate:
    def rates(self, **changes: Any) -> list[float]:
        update = settings_of(learning_rate=1.0, **changes).update
        return [learning_rate_at(update, step, 4) for step in range(1, 5)]

    def test_by_hand(self) -> None:
        assert self.rates() == [1, 1, 1, 1]
        assert self.rates(warmup_steps=2) == [0.5, 1, 1, 1]
        assert self.rates(schedule="linear") == [1, 0.75, 0.5, 0.25]
        assert self.rates(schedule="linear", warmup_steps=2) == [0.5, 1, 1, 0.5]
        half = math.sqrt(0.5) / 2
        assert self.rates(schedule="cosine") == pytest.approx([1, 0.5 + half, 0.5, 0.5 - half])

    def test_it_is_what_the_optimizer_gets(self, tiny_model: Path) -> None:
        bench = Bench(tiny_model, both_losses(), schedule="linear", steps=4)
        rollout, advantages = samples()
        metrics = bench.updater.update(rollout, advantages, step=4)
        assert bench.rates == [0.0025]
        assert metrics["learning_rate"] == 0.0025


class TestCutting:
    @pytest.mark.parametrize("aggregation", ["token_mean", "sequence_mean_token_mean"])
    @pytest.mark.parametrize("value", ["own_adapter", "policy_trunk", "detached_trunk"])
    def test_microbatches_change_nothing(self, tiny_model: Path, aggregation: Any, value: Any) -> None:
        rollout, advantages = samples()
        whole = Bench(tiny_model, both_losses(), value, aggregation=aggregation)
        expected = whole.updater.update(rollout, advantages, step=1)
        for tokens in (1, 20, 45):
            cut = Bench(
                tiny_model, both_losses(), value, aggregation=aggregation, tokens_per_microbatch=tokens
            )
            actual = cut.updater.update(rollout, advantages, step=1)
            assert_same(cut.gradients[0], whole.gradients[0])
            assert set(actual) == set(expected)
            for name, number in expected.items():
                assert actual[name] == pytest.approx(number, rel=1e-4, abs=1e-6), name

    @pytest.mark.parametrize("foreign", [False, True], ids=["own", "with a tool's tokens"])
    def test_the_gradient_is_that_of_the_loss_as_written(self, tiny_model: Path, foreign: bool) -> None:
        """Oracle: the whole sum in one expression, over samples run one by one."""
        rollout, advantages = samples()
        if foreign:
            tool = torch.zeros_like(rollout.response_mask)
            tool[:, 1:4] = True
            rollout = replace(rollout, loss_mask=rollout.response_mask & ~tool)
        bench = Bench(tiny_model, both_losses(), tokens_per_microbatch=30)
        metrics = bench.updater.update(rollout, advantages, step=1)
        alone = Bench(tiny_model, both_losses())
        count = int(rollout.loss_mask.sum())
        policy = value = entropy = torch.zeros(())
        for i in range(len(rollout)):
            n = int(rollout.response_mask[i].sum())
            own = rollout.loss_mask[i, :n]
            batch = TokenBatch.build(
                [rollout.prompt_ids[i]],
                rollout.response_ids[i : i + 1, :n],
                rollout.response_mask[i : i + 1, :n],
                torch.device("cpu"),
            )
            logprobs, entropies = alone.roles.logprobs(batch, "policy", temperature=0.9, entropy="gradient")
            values = alone.roles.values(batch)
            ratio = (logprobs - logprobs.detach()).exp()
            assert advantages.returns is not None
            policy = policy - (ratio * advantages.advantages[i, :n] * own).sum() / count
            value = value + ((values - advantages.returns[i, :n]).square() * own).sum() / count
            entropy = entropy - (entropies * own).sum() / count
        (policy + 0.3 * value + 0.1 * entropy).backward()
        expected = {n: p.grad for n, p in alone.roles.trainable.items() if p.grad is not None}
        assert set(expected) == set(bench.gradients[0])
        assert_same(bench.gradients[0], expected)
        assert metrics["loss/policy"] == pytest.approx(policy.item(), rel=1e-4, abs=1e-6)
        assert metrics["loss/value"] == pytest.approx(value.item(), rel=1e-4)
        assert metrics["loss/entropy"] == pytest.approx(entropy.item(), rel=1e-4)
        assert metrics["policy/entropy"] == pytest.approx(-entropy.item(), rel=1e-4)
        norm = torch.stack([g.norm() for g in expected.values()]).norm().item()
        assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-4)

    def test_the_first_policy_loss_is_minus_the_mean_advantage(self, tiny_model: Path) -> None:
        rollout, advantages = samples()
        bench = Bench(tiny_model, [weighted(PolicyLoss(), "new_logprobs", "old_logprobs")])
        metrics = bench.updater.update(rollout, advantages, step=1)
        real = advantages.advantages[rollout.response_mask]
        assert metrics["loss/loss"] == pytest.approx(-real.mean().item(), rel=1e-5)
        assert metrics["test/ratio"] == 1.0
        assert metrics["policy/approx_kl"] == 0.0

    def test_order_and_padding_change_nothing(self, tiny_model: Path) -> None:
        rollout, advantages = samples()
        plain = Bench(tiny_model, both_losses(), tokens_per_microbatch=40)
        plain.updater.update(rollout, advantages, step=1)
        order = [4, 0, 6, 2, 5, 1, 3]
        turned = Bench(tiny_model, both_losses(), tokens_per_microbatch=40)
        turned.updater.update(rollout.select(order), advantages.select(order), step=1)
        assert_same(turned.gradients[0], plain.gradients[0])

        def widen(tensor: Tensor, filler: float) -> Tensor:
            return torch.cat([tensor, torch.full((len(tensor), 5), filler).to(tensor.dtype)], dim=1)

        assert advantages.returns is not None
        mask = widen(rollout.response_mask, 0)
        wide_rollout = replace(
            rollout,
            response_ids=widen(rollout.response_ids, 9),
            response_mask=mask,
            loss_mask=mask,
            sampler_logprobs=widen(rollout.sampler_logprobs, math.nan),
        )
        # What stands on padding means nothing, not even a NaN.
        spoilt = [
            widen(t, math.nan).where(mask, torch.tensor(math.nan))
            for t in (advantages.advantages, advantages.returns)
        ]
        padded = Bench(tiny_model, both_losses(), tokens_per_microbatch=40)
        padded.updater.update(wide_rollout, Advantages(*spoilt), step=1)
        assert_same(padded.gradients[0], plain.gradients[0])


class TestPasses:
    def test_old_logprobs_of_the_first_pass_are_those_of_a_pass_before(self, tiny_model: Path) -> None:
        """Over three epochs, so that the old ones differ from the new ones."""
        rollout, advantages = samples()
        changes = {"epochs": 3, "tokens_per_microbatch": 40, "learning_rate": 1e-3}
        actual = Bench(tiny_model, both_losses(), **changes)
        given = Bench(tiny_model, both_losses(), **changes)
        metrics = actual.updater.update(rollout, advantages, step=1)
        before = given.logprobs(rollout)
        expected = given.updater.update(replace(rollout, old_logprobs=before), advantages, step=1)
        assert metrics["policy/approx_kl"] > 1e-4
        assert expected.pop("policy/ratio_std_at_start") < 1e-4, "what those of a pass before differ by"
        for name, number in expected.items():
            assert metrics[name] == pytest.approx(number, rel=2e-3, abs=1e-5), name
        assert_same(actual.gradients[1], given.gradients[1], relative=2e-3)
        assert metrics["update/passes"] == 3

    def test_the_kl_is_that_of_the_policy_that_sampled(self, tiny_model: Path) -> None:
        """Over all epochs and micro-batches, though the policy moves; where no pass came before."""
        rollout, advantages = samples()
        bench = Bench(
            tiny_model,
            [weighted(PolicyLoss(), "new_logprobs", "old_logprobs")],
            epochs=3,
            tokens_per_microbatch=40,
            learning_rate=1e-2,
        )
        before = bench.logprobs(rollout)
        reference = before - 0.1 * torch.arange(before.shape[1])
        metrics = bench.updater.update(replace(rollout, ref_logprobs=reference), advantages, step=1)
        positions = torch.arange(before.shape[1]).expand(before.shape)[rollout.response_mask].float()
        assert metrics["kl/k1"] == pytest.approx(float(0.1 * positions.mean()), rel=1e-4)
        k3 = (-0.1 * positions).exp() - 1 + 0.1 * positions
        assert metrics["kl/k3"] == pytest.approx(float(k3.mean()), rel=1e-3)
        known = replace(rollout, ref_logprobs=reference, old_logprobs=before)
        again = bench.updater.update(known, advantages, step=2)
        assert again["kl/k1"] == pytest.approx(metrics["kl/k1"], rel=1e-4), "whoever computed them"

    def test_minibatches_take_each_sample_once_per_epoch(self, tiny_model: Path) -> None:
        rollout, advantages = samples()
        losses = both_losses()
        bench = Bench(tiny_model, losses, minibatches=3, epochs=2)
        before = bench.logprobs(rollout)
        metrics = bench.updater.update(replace(rollout, old_logprobs=before), advantages, step=1)
        assert metrics["update/passes"] == len(bench.gradients) == 6
        sizes = [len(inputs.mask) for inputs in losses[0].instance.seen]
        assert sorted(sizes) == [2, 2, 2, 2, 3, 3]
        assert sum(sizes) == 14
        # Each epoch sees every advantage once: each row of them is recognised by its first number.
        firsts = sorted(advantages.advantages[:, 0].tolist())
        seen = [n for i in losses[0].instance.seen for n in i.advantages[:, 0].tolist()]
        assert sorted(seen[:7]) == sorted(seen[7:]) == firsts
        assert seen[:7] != seen[7:]

    @pytest.mark.parametrize("variance", ["sample", "population"])
    def test_each_minibatch_is_whitened(self, tiny_model: Path, variance: Any) -> None:
        rollout, advantages = samples()
        loss = PolicyLoss()
        bench = Bench(
            tiny_model, [weighted(loss, "new_logprobs", "old_logprobs")], minibatches=2, whiten=variance
        )
        before = bench.logprobs(rollout)
        bench.updater.update(replace(rollout, old_logprobs=before), advantages, step=1)
        given = advantages.advantages[rollout.response_mask].tolist()
        seen: list[float] = []
        for inputs in loss.seen:
            numbers = inputs.advantages[inputs.mask]
            assert float(numbers.mean()) == pytest.approx(0, abs=1e-6)
            assert float(numbers.var(correction=int(variance == "sample"))) == pytest.approx(1, rel=1e-5)
            seen.extend(numbers.tolist())
        assert len(seen) == len(given)
        assert seen != given

    def test_advantages_are_weighed_for_the_other_losses(self, tiny_model: Path) -> None:
        """As if they had been estimated so; whatever stands on padding."""
        rollout, advantages = samples()
        weights = torch.rand(rollout.response_ids.shape) + 0.5
        weights[~rollout.response_mask] = math.nan
        row_of = {float(row[0]): i for i, row in enumerate(advantages.advantages)}

        def advantage_weights(inputs: LossInputs) -> AdvantageWeights:
            rows = [row_of[float(row[0])] for row in inputs.advantages]
            actual = weights[rows][:, : inputs.mask.shape[1]]
            return AdvantageWeights(actual, {"test/weight": actual})

        reweighing = weighted(Weighing(advantage_weights), "new_logprobs", "old_logprobs", name="weighing")
        actual = Bench(tiny_model, [*both_losses(), reweighing], tokens_per_microbatch=40)
        metrics = actual.updater.update(rollout, advantages, step=1)
        expected = Bench(tiny_model, both_losses())
        product = (advantages.advantages * weights).nan_to_num()
        expected.updater.update(rollout, replace(advantages, advantages=product), step=1)
        assert_same(actual.gradients[0], expected.gradients[0])
        assert metrics["test/weight"] == pytest.approx(float(weights[rollout.response_mask].mean()), rel=1e-5)
        assert "loss/weighing" not in metrics

    @pytest.mark.parametrize(
        ("make", "got"),
        [
            (lambda i: i.mask.float(), "returned a Tensor; expected AdvantageWeights"),
            (lambda i: AdvantageWeights(torch.ones(2)), r"returned weights of shape \[2\]; expected"),
            (lambda i: AdvantageWeights(-torch.ones(i.mask.shape)), "weights below 0 or not finite"),
            (lambda i: AdvantageWeights(i.mask / 0.0), "weights below 0 or not finite"),
        ],
    )
    def test_weights_that_break_their_contract(self, tiny_model: Path, make: Any, got: str) -> None:
        rollout, advantages = samples(2)
        bench = Bench(tiny_model, [weighted(Weighing(make), "new_logprobs", "old_logprobs")])
        with pytest.raises(PluginError, match=rf"^loss 'loss' \(plugin acme 1.0.*{got}"):
            bench.updater.update(rollout, advantages, step=1)

    def test_more_minibatches_than_samples(self, tiny_model: Path) -> None:
        rollout, advantages = samples(2)
        bench = Bench(tiny_model, both_losses(), minibatches=5)
        known = replace(rollout, old_logprobs=bench.logprobs(rollout))
        assert bench.updater.update(known, advantages, step=1)["update/passes"] == 2

    def test_old_logprobs_are_those_before_the_first_of_several_minibatches(self, tiny_model: Path) -> None:
        rollout, advantages = samples()
        losses = both_losses()
        bench = Bench(tiny_model, losses)
        before = bench.logprobs(rollout)
        bench.updater.update(rollout, advantages, step=1, minibatches=3)
        rows = {float(row[0]): i for i, row in enumerate(advantages.advantages)}
        seen = losses[0].instance.seen
        assert len(seen) == 3
        for inputs in seen:
            expected = before[[rows[float(row[0])] for row in inputs.advantages]]
            torch.testing.assert_close(inputs.old_logprobs, expected, atol=1e-4, rtol=1e-4)

    def test_no_samples_move_nothing(self, tiny_model: Path) -> None:
        rollout, advantages = samples()
        bench = Bench(tiny_model, both_losses())
        metrics = bench.updater.update(rollout.select([]), advantages.select([]), step=1)
        assert metrics["update/passes"] == 0
        assert bench.gradients == []

    def test_clipping_scales_the_gradient(self, tiny_model: Path) -> None:
        rollout, advantages = samples()
        free, clipped = (Bench(tiny_model, both_losses(), max_grad_norm=n) for n in (1e9, 0.01))
        expected = free.updater.update(rollout, advantages, step=1)["grad_norm"]
        actual = clipped.updater.update(rollout, advantages, step=1)["grad_norm"]
        assert expected > 0.01
        assert actual == pytest.approx(expected)
        norm = torch.stack([g.norm() for g in clipped.gradients[0].values()]).norm().item()
        assert norm == pytest.approx(0.01, rel=1e-4)
        assert_same(
            {n: g * expected / 0.01 for n, g in clipped.gradients[0].items()},
            free.gradients[0],
            relative=1e-4,
        )

    def test_target_kl_stops_before_the_step_that_follows(self, tiny_model: Path) -> None:
        rollout, advantages = samples()
        bench = Bench(tiny_model, both_losses(), epochs=5, target_kl=1e-4, learning_rate=0.02)
        metrics = bench.updater.update(rollout, advantages, step=1)
        assert metrics["update/stopped_by_target_kl"] == 1.0
        assert metrics["update/passes"] == len(bench.gradients) == 1
        calm = Bench(tiny_model, both_losses(), epochs=2, target_kl=1e3)
        metrics = calm.updater.update(rollout, advantages, step=1)
        assert (metrics["update/stopped_by_target_kl"], metrics["update/passes"]) == (0.0, 2.0)

    def test_a_pass_that_target_kl_ends_counts_in_the_mean_of_losses(self, tiny_model: Path) -> None:
        rollout, advantages = samples()
        ones = weighted(
            Given(lambda i: LossOutput(torch.ones_like(i.new_logprobs))),
            "new_logprobs",
            "old_logprobs",
            name="ones",
        )
        losses = [*both_losses(), ones]
        bench = Bench(tiny_model, losses, epochs=5, target_kl=1e-4, learning_rate=0.02)
        metrics = bench.updater.update(rollout, advantages, step=1)
        assert metrics["update/passes"] == 1
        assert metrics["loss/ones"] == pytest.approx(1.0)


class TestFailures:
    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_loss_that_is_not_finite(self, tiny_model: Path, bad: float) -> None:
        rollout, advantages = samples()
        assert advantages.returns is not None
        advantages.advantages[2, 0] = bad
        bench = Bench(tiny_model, both_losses())  # all seven in one micro-batch
        before = {name: w.detach().clone() for name, w in bench.master_weights.weights.items()}
        with pytest.raises(
            TrainingError, match=r"loss 'policy' is (nan|-inf), by the sample sample-2\. Look"
        ):
            bench.updater.update(rollout, advantages, step=1)
        for name, weight in bench.master_weights.weights.items():
            assert torch.equal(weight, before[name]), name
            assert weight.grad is None
        assert bench.gradients == []

    def test_a_gradient_that_is_not_finite(self, tiny_model: Path) -> None:
        """sqrt(0) is finite and its gradient is not."""
        rollout, advantages = samples()

        def root(inputs: LossInputs) -> LossOutput:
            assert inputs.new_logprobs is not None
            return LossOutput((inputs.new_logprobs - inputs.new_logprobs.detach()).sqrt())

        bench = Bench(tiny_model, [weighted(Given(root), "new_logprobs", "old_logprobs")])
        with pytest.raises(TrainingError, match=r"the gradient is not finite in .*sample-0"):
            bench.updater.update(rollout, advantages, step=1)
        assert bench.gradients == []

    @pytest.mark.parametrize(
        ("make", "got"),
        [
            (lambda i: LossOutput(i.new_logprobs.sum()), r"token_losses of shape \[\]; expected \[7, 12\]"),
            (
                lambda i: LossOutput(i.new_logprobs[:, :3]),
                r"token_losses of shape \[7, 3\]; expected \[7, 12\]",
            ),
            (lambda i: LossOutput(i.new_logprobs, {"a/b": i.new_logprobs.sum()}), r"a/b of shape \[\]"),
            (lambda i: i.new_logprobs, "a Tensor; expected a LossOutput"),
        ],
    )
    def test_a_loss_that_breaks_its_contract(self, tiny_model: Path, make: Any, got: str) -> None:
        rollout, advantages = samples()
        bench = Bench(tiny_model, [weighted(Given(make), "new_logprobs", "old_logprobs")])
        with pytest.raises(PluginError, match=rf"acme 1\.0; recipe: losses\[0\]\.use.* returned {got}"):
            bench.updater.update(rollout, advantages, step=1)

    @pytest.mark.parametrize("method", ["token_losses", "advantage_weights"])
    def test_an_error_names_the_loss_and_the_method(self, tiny_model: Path, method: str) -> None:
        def broken(inputs: LossInputs) -> Any:
            raise ValueError("no such advantage")

        loss = Given(broken) if method == "token_losses" else Weighing(broken)
        bench = Bench(tiny_model, [weighted(loss, "new_logprobs", "old_logprobs")])
        with pytest.raises(
            PluginError, match=rf"acme 1\.0; recipe: losses\[0\]\.use.*{method} failed: ValueError: no such"
        ):
            bench.updater.update(*samples(2), step=1)

    @pytest.mark.parametrize("name", ["policy/entropy", "reward/mean", "grad_norm"])
    def test_a_loss_reports_under_no_core_name(self, tiny_model: Path, name: str) -> None:
        loss = Given(lambda i: LossOutput(-i.new_logprobs, {name: i.new_logprobs}))
        bench = Bench(tiny_model, [weighted(loss, "new_logprobs", "old_logprobs")])
        with pytest.raises(PluginError, match=rf"acme 1\.0.*'{name}', a name that is ppokit's own"):
            bench.updater.update(*samples(2), step=1)

    def test_a_metric_that_is_not_finite(self, tiny_model: Path) -> None:
        loss = Given(lambda i: LossOutput(-i.new_logprobs, {"a/b": i.new_logprobs / 0}))
        bench = Bench(tiny_model, [weighted(loss, "new_logprobs", "old_logprobs")])
        with pytest.raises(PluginError, match=r"acme 1\.0.*'a/b' with numbers that are not finite"):
            bench.updater.update(*samples(2), step=1)

    def test_two_losses_with_the_same_metric_keep_their_own(self, tiny_model: Path) -> None:
        def reporting(number: float, name: str) -> BuiltComponent:
            loss = Given(
                lambda i: LossOutput(-i.new_logprobs, {"a/b": torch.full_like(i.new_logprobs, number)})
            )
            return weighted(loss, "new_logprobs", name=name)

        bench = Bench(tiny_model, [reporting(1.0, "one"), reporting(3.0, "two")])
        metrics = bench.updater.update(*samples(2), step=1)
        assert (metrics["a/b"], metrics["loss/two/a/b"]) == (1.0, 3.0)


class TestGroups:
    def test_each_loss_sees_what_it_named(self, tiny_model: Path) -> None:
        """Though another's needs made the core compute more in the same pass."""
        plain, entropy = PolicyLoss(), EntropyLoss()
        losses = [
            weighted(plain, "new_logprobs", "old_logprobs", name="plain"),
            weighted(entropy, "entropy", name="entropy"),
        ]
        rollout, advantages = samples(2)
        rollout = replace(rollout, ref_logprobs=torch.zeros(rollout.response_ids.shape))
        Bench(tiny_model, losses).updater.update(rollout, advantages, step=1)
        seen = plain.seen[0]
        assert seen.entropy is seen.ref_logprobs is seen.values is seen.old_values is None
        assert seen.new_logprobs is not None

    def test_a_value_loss_runs_through_the_value_adapter_alone(self, tiny_model: Path) -> None:
        rollout, advantages = samples()
        losses = both_losses()
        bench = Bench(tiny_model, losses)
        bench.updater.update(rollout, advantages, step=1)
        (policy,), (value,) = losses[0].instance.seen, losses[1].instance.seen
        assert policy.values is None
        assert value.new_logprobs is value.entropy is value.old_logprobs is None
        assert [group.needs for group in bench.updater.groups] == [
            {"new_logprobs", "old_logprobs", "entropy"},
            {"values"},
        ]

    @pytest.mark.parametrize("value", ["policy_trunk", "detached_trunk"])
    def test_a_head_on_the_trunk_shares_the_pass(self, tiny_model: Path, value: Any) -> None:
        bench = Bench(tiny_model, both_losses(), value)
        calls: list[int] = []
        bench.roles.model.base_model.register_forward_hook(lambda *_: calls.append(1))
        bench.updater.update(*samples(), step=1)
        assert calls == [1]

    @pytest.mark.parametrize("value", ["own_adapter", "policy_trunk"])
    def test_a_loss_of_both(self, tiny_model: Path, value: Any) -> None:
        """Beside others: the gradient is the sum of what each would have alone."""
        rollout, advantages = samples()
        both = weighted(BothLoss(), "new_logprobs", "old_logprobs", "values", weight=0.5, name="both")
        together = Bench(tiny_model, [*both_losses(), both], value)
        together.updater.update(rollout, advantages, step=1)
        alone = [Bench(tiny_model, losses, value) for losses in (both_losses(), [both])]
        for bench in alone:
            bench.updater.update(rollout, advantages, step=1)
        summed = {n: g + alone[1].gradients[0][n] for n, g in alone[0].gradients[0].items()}
        assert_same(together.gradients[0], summed, relative=1e-4)

    def test_value_losses_alone_leave_the_policy(self, tiny_model: Path) -> None:
        bench = Bench(tiny_model, [weighted(ValueLoss(), "values")])
        metrics = bench.updater.update(*samples(), step=1)
        for name, gradient in bench.gradients[0].items():
            moves = gradient.abs().sum().item() > 0
            assert moves == (not bench.roles.is_policy(name)), name
        assert "policy/approx_kl" not in metrics
