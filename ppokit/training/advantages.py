"""Estimate: from rewards to the advantages that are trained on.

The estimator sees the responses that were scored; those that are left out of the loss have advantage 0.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ppokit.config.components import BuiltComponent
from ppokit.errors import plugin_call
from ppokit.plugin.masked import masked_whiten
from ppokit.plugin.needs import only_needed
from ppokit.plugin.reductions import as_numbers
from ppokit.plugin.types import Advantages, Rewards, Rollout
from ppokit.training.contracts import check_estimate, component_metrics
from ppokit.training.metrics import advantage_metrics, value_metrics


def estimate(estimator: BuiltComponent, rollout: Rollout, rewards: Rewards) -> Advantages:
    """Advantages of a rollout, whitened if the settings say so, and which responses are trained on.

    A response is left out if `rewards.trained` leaves it out, if the estimator says so, or if it was
    truncated and `mask_truncated` is set; a truncated one still counts in its group's baseline.

    Raises:
        PluginError: the estimator failed, or broke its contract.
    """
    where, settings = estimator.where, estimator.settings
    rows = rewards.trained.nonzero().flatten().tolist()
    if not rows:
        return Advantages(torch.zeros(rollout.response_ids.shape), trained=rewards.trained)
    kept, scored = rollout.select(rows), rewards.select(rows)
    with plugin_call(where, "estimate"):
        result = estimator.instance.estimate(only_needed(kept, estimator.needs), scored)
    check_estimate(result, kept, where)
    returns = None if result.returns is None else result.returns.detach()
    result = replace(result, advantages=result.advantages.detach(), returns=returns)
    reported = component_metrics(result.metrics, where, responses=len(rows))
    trained = torch.ones(len(rows), dtype=torch.bool) if result.trained is None else result.trained
    if settings.mask_truncated:
        trained = trained & kept.finished
    mask = kept.loss_mask & trained[:, None]
    metrics = {**advantage_metrics(result, mask), **as_numbers(reported)}
    if settings.mask_truncated:
        metrics["advantages/masked_truncated"] = float((~kept.finished).float().mean())
    if result.returns is not None and kept.values is not None:
        metrics.update(value_metrics(kept.values, result.returns, mask))
    advantages = result.advantages.float()
    if settings.whiten == "batch":
        advantages = masked_whiten(advantages, mask, variance=settings.whiten_variance)
    whole_trained = rewards.trained.clone()
    whole_trained[rows] = trained
    shape = rollout.response_ids.shape

    def of_all(numbers: Tensor) -> Tensor:
        whole = torch.zeros(shape)
        whole[rows] = numbers.float().where(mask, torch.zeros(()))
        return whole

    returns = None if result.returns is None else of_all(result.returns)
    return Advantages(of_all(advantages), returns, metrics, whole_trained)


def select_trained(
    rollout: Rollout, advantages: Advantages, *, keep_old_logprobs: bool
) -> tuple[Rollout, Advantages]:
    """The responses that are trained on, and their advantages.

    Args:
        keep_old_logprobs: whether the old log-probabilities stay where some responses are left out. Those of
            a pass before the update should not: in bfloat16 they hold for the micro-batches of that pass,
            which the responses that are left out were part of, and the update takes them anew. Those of the
            sampler, or of an earlier policy, it cannot.
    """
    if advantages.trained is None or bool(advantages.trained.all()):
        return rollout, advantages
    rows = advantages.trained.nonzero().flatten().tolist()
    part = rollout.select(rows)
    return part if keep_old_logprobs else replace(part, old_logprobs=None), advantages.select(rows)
