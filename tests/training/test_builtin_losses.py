"""Every built-in loss through the real update: cutting, padding and turning a batch change no gradient."""

from __future__ import annotations

import math
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from components import built as as_built
from ppokit.config.components import BuiltComponent
from ppokit.plugin.protocols import AdvantageWeighting, BuildContext
from ppokit.plugin.types import Advantages, Rollout
from update_bench import Bench, assert_same, samples

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing.*:FutureWarning")

LOSSES: list[tuple[str, dict[str, Any]]] = [
    ("ppo_clip", {"clip_high": 0.28, "dual_clip": 3.0}),
    ("gspo", {"clip_low": 0.05, "clip_high": 0.05}),
    ("cispo", {"clip_high": 0.1}),
    ("reinforce", {}),
    ("reinforce", {"importance_weight": True}),
    ("surrogate_clip_sum", {"clip": 0.05}),
    ("value_clip", {}),
    ("value_mse", {}),
    ("entropy", {}),
    ("kl", {"estimator": "k3"}),
    ("kl", {"estimator": "k3_with_k2_gradient"}),
    ("off_policy_correction", {"level": "token"}),
    ("off_policy_correction", {"level": "sequence", "mode": "mask", "cap": 1.1}),
]
ids = ["-".join([name, *map(str, options.values())]) for name, options in LOSSES]


def built(name: str, options: dict[str, Any]) -> list[BuiltComponent]:
    (component,) = import_module(f"ppokit_losses.{name}").ppokit_losses()
    context = BuildContext(torch.device("cpu"), torch.float32, 0)
    loss = component.build(component.options(**options), context)
    losses = [as_built("losses", loss, name, component.needs)]
    # Weights show in another loss's gradient alone.
    return [*built("reinforce", {}), *losses] if isinstance(loss, AdvantageWeighting) else losses


def a_batch(bench: Bench) -> tuple[Rollout, Advantages]:
    """Samples of policies near to the one that trains, so that the clips decide for some tokens."""
    rollout, advantages = samples()
    generator = torch.Generator().manual_seed(3)
    logprobs = bench.logprobs(rollout)

    def near(scale: float) -> Tensor:
        return logprobs + scale * torch.randn(logprobs.shape, generator=generator)

    # A reference much nearer would leave little of the gradient of the KL but the rounding of log p.
    tensors = {"sampler_logprobs": near(0.1), "ref_logprobs": near(0.3) + 2.0}
    values = 0.3 * torch.randn(logprobs.shape, generator=generator)
    return replace(rollout, old_logprobs=near(0.1), values=values, **tensors), advantages


def spoilt(rollout: Rollout, advantages: Advantages) -> tuple[Rollout, Advantages]:
    """Five more columns, and nonsense on all padding."""
    mask = torch.cat([rollout.response_mask, torch.zeros(len(rollout), 5, dtype=torch.bool)], dim=1)

    def widen(tensor: Tensor | None, filler: float) -> Tensor:
        assert tensor is not None
        widened = torch.cat([tensor, torch.full((len(tensor), 5), filler).to(tensor.dtype)], dim=1)
        return widened.where(mask, torch.full((), filler, dtype=tensor.dtype))

    wide_rollout = replace(
        rollout,
        response_mask=mask,
        loss_mask=mask,
        response_ids=widen(rollout.response_ids, 9),
        sampler_logprobs=widen(rollout.sampler_logprobs, math.nan),
        ref_logprobs=widen(rollout.ref_logprobs, math.nan),
        values=widen(rollout.values, math.nan),
        old_logprobs=widen(rollout.old_logprobs, -50.0),
    )
    return wide_rollout, Advantages(
        widen(advantages.advantages, math.nan), widen(advantages.returns, math.nan)
    )


@pytest.mark.parametrize(("name", "options"), LOSSES, ids=ids)
def test_cutting_order_and_padding_change_nothing(
    tiny_model: Path, name: str, options: dict[str, Any]
) -> None:
    aggregation = "sequence_mean_token_mean"
    plain = Bench(tiny_model, built(name, options), aggregation=aggregation)
    rollout, advantages = a_batch(plain)
    expected = plain.updater.update(rollout, advantages, step=1)

    changed = Bench(tiny_model, built(name, options), aggregation=aggregation, tokens_per_microbatch=30)
    order = [4, 0, 6, 2, 5, 1, 3]
    result = changed.updater.update(*spoilt(rollout.select(order), advantages.select(order)), step=1)

    assert_same(changed.gradients[0], plain.gradients[0])
    assert set(result) == set(expected)
    for metric, number in expected.items():
        assert math.isfinite(number), metric
        assert result[metric] == pytest.approx(number, rel=1e-4, abs=1e-6), metric


def test_the_surrogate_clip_sum_moves_nothing_where_an_update_begins(tiny_model: Path) -> None:
    """What its docstring warns of: at the old policy, the gradient is exactly zero."""
    bench = Bench(tiny_model, built("surrogate_clip_sum", {}))
    rollout, advantages = samples()
    metrics = bench.updater.update(rollout, advantages, step=1)
    assert metrics["grad_norm"] == 0.0


def test_gspo_begins_with_the_gradient_of_ppo_where_a_sequence_has_one_advantage(tiny_model: Path) -> None:
    rollout, advantages = samples()
    shape = advantages.advantages.shape
    one = replace(advantages, advantages=advantages.advantages[:, :1].expand(shape).clone())
    benches = [Bench(tiny_model, built(name, {})) for name in ("gspo", "ppo_clip")]
    for bench in benches:
        bench.updater.update(rollout, one, step=1)
    assert_same(benches[0].gradients[0], benches[1].gradients[0])


@pytest.mark.parametrize("difference", [43.0, 50.0, 60.0])
def test_a_far_policy_is_pulled_back_by_a_gradient_of_the_norm_allowed(
    tiny_model: Path, difference: float
) -> None:
    """Its gradient is finite in float32, but not the square of it, of which a norm is made."""
    bench = Bench(tiny_model, built("ppo_clip", {}), max_grad_norm=1.0)
    rollout, advantages = samples()
    rollout = replace(rollout, old_logprobs=bench.logprobs(rollout) - difference)
    worse = replace(advantages, advantages=-advantages.advantages.abs())
    metrics = bench.updater.update(rollout, worse, step=1)
    assert 1e15 < metrics["grad_norm"] < math.inf
    applied = torch.cat([gradient.flatten() for gradient in bench.gradients[0].values()])
    assert float(applied.norm()) == pytest.approx(1.0, rel=1e-4)
