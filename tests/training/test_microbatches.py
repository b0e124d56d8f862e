"""Every pass of a step sees a response beside the same others: old and new log-probabilities agree."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM

from components import built
from ppokit.config.settings import LoraSettings
from ppokit.models.roles import ModelRoles
from ppokit.plugin.types import Advantages, Rollout
from ppokit.training.backend import ReplicatedBackend
from ppokit.training.microbatches import MicroBatcher, StepBatches
from ppokit.training.parity import ParityCheck
from ppokit.training.update import Updater
from ppokit_losses.gspo import GSPO
from rollouts import make_rollout, single_process
from update_bench import settings_of

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")
torch.set_num_threads(1)


def rollout_of(lengths: list[int]) -> Rollout:
    generator = torch.Generator().manual_seed(3)

    def ids(n: int) -> list[int]:
        return torch.randint(3, 512, (n,), generator=generator).tolist()

    return make_rollout([[1, *ids(2 + i % 5)] for i in range(len(lengths))], [ids(n) for n in lengths])


def divided(rollout: Rollout, minibatches: int, tokens: int = 40) -> StepBatches:
    return StepBatches(
        rollout,
        minibatches=minibatches,
        tokens=tokens,
        seed=lambda epoch: 7 + epoch,
        processes=single_process(),
        device=torch.device("cpu"),
    )


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    minibatches=st.integers(1, 5),
    tokens=st.integers(1, 100),
)
def test_each_response_keeps_its_micro_batch(lengths: list[int], minibatches: int, tokens: int) -> None:
    batches = divided(rollout_of(lengths), minibatches, tokens)
    everyone = list(range(len(lengths)))
    neighbours = []
    for epoch in (0, 1, 2):
        parts = batches.epoch(epoch)
        neighbours.append(sorted(tuple(m.indices) for _, micros in parts for m in micros))
        assert sorted(i for indices, _ in parts for i in indices) == everyone
        for indices, micros in parts:
            assert sorted(i for micro in micros for i in micro.indices) == sorted(indices)
        sizes = [len(indices) for indices, _ in parts]
        assert max(sizes) - min(sizes) <= 1
    assert neighbours[0] == neighbours[1] == neighbours[2]
    assert len(batches.epoch(0)) == min(minibatches, len(lengths))


def test_epochs_visit_the_mini_batches_in_different_orders() -> None:
    batches = divided(rollout_of([5] * 12), 4)
    orders = [[min(indices) for indices, _ in batches.epoch(e)] for e in range(6)]
    assert len({tuple(order) for order in orders}) > 1


def test_forward_puts_each_number_where_it_belongs() -> None:
    rollout = make_rollout([[1, 2], [3], [4, 5, 6]], [[10], [20, 21, 22], [30, 31]])

    def compute(batch: Any) -> Tensor:
        assert not torch.is_grad_enabled()
        return batch.scatter(batch.targets.float())

    for minibatches in (1, 2):
        for tokens in (1, 8, 1000):
            numbers = divided(rollout, minibatches, tokens).forward(compute)
            assert numbers.tolist() == [[10, 0, 0], [20, 21, 22], [30, 31, 0]]
    nothing = divided(rollout.select([]), 2).forward(compute)
    assert nothing.shape == (0, 3)


def test_a_rollout_is_divided_once_per_step() -> None:
    batcher = MicroBatcher(
        settings_of(minibatches=2).update, seed=0, processes=single_process(), device=torch.device("cpu")
    )
    rollout = rollout_of([3, 4, 5])
    batches = batcher.divide(rollout, 1)
    computed = replace(rollout, old_logprobs=torch.zeros(rollout.response_ids.shape))
    assert batcher.divide(computed, 1) is batches, "with more numbers, it is the same rollout"
    assert batcher.divide(rollout, 1, minibatches=1) is not batches
    assert batcher.divide(rollout, 2) is not batches
    assert batcher.divide(rollout.select([0, 1]), 2) is not batcher.divide(rollout, 2)


class Trained:
    """A policy with an adapter that is not zero, trained by GSPO with a learning rate that moves nothing.

    Its numbers depend on what else is in the batch, as those of bfloat16 products do on much hardware.
    """

    def __init__(self, folder: Path, dtype: torch.dtype, old_logprobs: str = "trainer") -> None:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        lora = LoraSettings(r=4, alpha=8, target_modules="all-linear")
        self.roles = ModelRoles(model, lora=lora, value=None, reference=False)
        with torch.no_grad():
            for name, param in self.roles.trainable.items():
                if "lora_B" in name:
                    param.copy_(torch.randn(param.shape) * 0.05)
        self.forwarded = 0
        model.base_model.register_forward_hook(self._disturb, with_kwargs=True)
        settings = settings_of(
            epochs=3,
            minibatches=4,
            learning_rate=1e-30,
            aggregation="sequence_mean_token_mean",
            old_logprobs=old_logprobs,
        )
        processes = single_process()
        self.batcher = MicroBatcher(settings.update, seed=0, processes=processes, device=self.roles.device)
        needs: Any = frozenset({"new_logprobs", "old_logprobs"})
        loss = built("losses", GSPO(), "gspo", needs)  # type: ignore[arg-type]
        backend = ReplicatedBackend(self.roles, processes, weight_decay=0.0)
        self.updater = Updater(
            self.roles,
            backend,
            [loss],
            self.batcher,
            settings,
            processes,
            ParityCheck(self.roles, processes, temperature=0.9, engine="rollout engine", limit=None),
        )

    def _disturb(self, _: Any, args: Any, kwargs: dict[str, Any], output: Any) -> Any:
        ids = kwargs["input_ids"]
        self.forwarded += ids.numel()
        output.last_hidden_state = output.last_hidden_state * (1 + 0.01 * (int(ids.sum()) % 97) / 97)
        return output

    def logprobs(self, batches: StepBatches) -> Tensor:
        return batches.forward(lambda b: self.roles.logprobs(b, "policy", temperature=0.9)[0])


LENGTHS = [3, 24, 1, 7, 15, 12, 2, 24, 9, 18, 5, 11, 20, 6, 13, 22]


@pytest.mark.parametrize("old_logprobs", ["trainer", "sampler"])
def test_the_ratio_is_exactly_1_where_responses_were_left_out(tiny_model: Path, old_logprobs: str) -> None:
    """A pass before the update saw them beside the others, in other batches than training's.

    Those by the sampler are kept: they were asked for.
    """
    trained = Trained(tiny_model, torch.bfloat16, old_logprobs=old_logprobs)
    rollout = rollout_of(LENGTHS)
    rollout = replace(rollout, old_logprobs=trained.logprobs(trained.batcher.divide(rollout, 1)))
    scored = torch.arange(len(rollout)) % 3 != 0
    advantages = Advantages(torch.ones(rollout.response_ids.shape), trained=scored)
    metrics = trained.updater.update(rollout, advantages, step=1)
    assert (metrics["policy/clip_fraction"] == 0.0) == (old_logprobs == "trainer")
    assert (metrics["policy/ratio_std_at_start"] == 0.0) == (old_logprobs == "trainer")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("known", [False, True])
def test_the_ratio_is_exactly_1_where_nothing_moves(
    tiny_model: Path, dtype: torch.dtype, known: bool
) -> None:
    """Four mini-batches, three epochs; old log-probabilities by the update, or by a pass before it."""
    rollout = rollout_of(LENGTHS)
    trained = Trained(tiny_model, dtype)
    if known:
        rollout = replace(rollout, old_logprobs=trained.logprobs(trained.batcher.divide(rollout, 1)))
    groups = torch.randn(len(rollout), 1, generator=torch.Generator().manual_seed(1))
    advantages = Advantages(groups.expand(rollout.response_ids.shape).clone())
    metrics = trained.updater.update(rollout, advantages, step=1)
    assert metrics["policy/clip_fraction"] == 0.0
    assert metrics["policy/ratio"] == 1.0
    assert metrics["policy/approx_kl"] == 0.0
    assert metrics["policy/ratio_std_at_start"] == 0.0
    # One pass before the update and three epochs, each over the same batches.
    tokens = sum(
        m.batch.input_ids.numel() for micros in trained.batcher.divide(rollout, 1).micros for m in micros
    )
    assert trained.forwarded == 4 * tokens


def test_another_division_differs_and_is_measured(tiny_model: Path) -> None:
    rollout = rollout_of(LENGTHS)
    trained = Trained(tiny_model, torch.bfloat16)
    whole = trained.logprobs(divided(rollout, 1, tokens=10_000))
    own = trained.logprobs(trained.batcher.divide(rollout, 1))
    rollout = replace(rollout, old_logprobs=whole)
    metrics = trained.updater.update(rollout, Advantages(torch.ones(rollout.response_ids.shape)), step=1)
    minibatch = trained.batcher.divide(rollout, 1).epoch(0)[0][0]
    gap = (own - whole)[minibatch][rollout.response_mask[minibatch]]
    assert metrics["policy/ratio_std_at_start"] == pytest.approx(
        math.sqrt(float(gap.square().mean())), rel=1e-4
    )
    assert metrics["policy/ratio_std_at_start"] > 1e-4
