"""The columns of `rollouts/step-000001.parquet`: everything about a step's responses, a row each."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ppokit.plugin.kl_estimators import kl
from ppokit.plugin.types import Advantages, Rewards, Rollout

if TYPE_CHECKING:
    from ppokit.training.token_record import TokenRecord

_HALVES = ("log_ratio", "entropy")
"""Of numbers below a few dozen: half precision has three digits of them."""


def sample_table(
    rollout: Rollout, rewards: Rewards | None, advantages: Advantages | None, record: TokenRecord | None
) -> Any:
    """A pyarrow table with a row per response; lists hold a number per token of the response.

    Args:
        rewards, advantages: None where the step failed before they could be used.
        record: numbers of tokens of the step's update; those of responses that it did not train on are
        missing.
    """
    import pyarrow as pa

    mask = rollout.response_mask

    def ragged(numbers: Tensor | None) -> list[list[float]] | None:
        if numbers is None:
            return None
        return [row[real].tolist() for row, real in zip(numbers, mask, strict=True)]

    def single(numbers: Tensor | None) -> Any:
        return None if numbers is None else pa.array(ragged(numbers), pa.list_(pa.float32()))

    kl_tokens = None
    if rollout.old_logprobs is not None and rollout.ref_logprobs is not None:
        kl_tokens = kl(rollout.old_logprobs, rollout.ref_logprobs, estimator="k1")
    columns: dict[str, Any] = {
        "id": rollout.ids,
        "group": rollout.group_ids.tolist(),
        "prompt": rollout.prompts,
        "response": rollout.responses,
        "row": [json.dumps(dict(row), default=str) for row in rollout.rows],
        "outcome": rollout.outcomes,
        "policy_version": rollout.policy_version.tolist(),
        "prompt_ids": rollout.prompt_ids,
        "response_ids": ragged(rollout.response_ids),
        "loss_mask": ragged(rollout.loss_mask),
        "sampler_logprobs": ragged(rollout.sampler_logprobs),
        "kl/k1": ragged(kl_tokens),
        "advantages": None if advantages is None else ragged(advantages.advantages),
        "values": single(rollout.values),
        "returns": None if advantages is None else single(advantages.returns),
    }
    if record is not None:
        recorded = _recorded(record, rollout)
        columns.update({name: own for name, own in recorded.items() if columns.get(name) is None})
    if rewards is not None:
        columns["score"] = rewards.scores.tolist()
        columns["scored"] = rewards.scored.tolist()
        columns["trained"] = _trained(rewards, advantages).tolist()
        columns["token_rewards"] = ragged(rewards.token_rewards)
        columns.update({f"reward/{name}": scores.tolist() for name, scores in rewards.breakdown.items()})
        columns.update(outcome_columns(rewards))
        for name, numbers in rewards.parts.items():
            columns[f"part/{name}"] = numbers.tolist()
        for name, texts in rewards.notes.items():
            columns[f"note/{name}"] = list(texts)
    return pa.table({name: column for name, column in columns.items() if column is not None})


def outcome_columns(rewards: Rewards) -> dict[str, Any]:
    """What came of asking each reward: `outcome/<reward>`, `reason/<reward>` and `seconds/<reward>`."""
    return {
        **{f"outcome/{name}": list(outcomes) for name, outcomes in rewards.outcomes.items()},
        **{f"reason/{name}": list(reasons) for name, reasons in rewards.reasons.items()},
        **{f"seconds/{name}": seconds.numpy() for name, seconds in rewards.seconds.items()},
    }


def _trained(rewards: Rewards, advantages: Advantages | None) -> Tensor:
    if advantages is None:  # nobody is, in a step that failed
        return torch.zeros_like(rewards.trained)
    return rewards.trained if advantages.trained is None else advantages.trained


def _recorded(record: TokenRecord, rollout: Rollout) -> dict[str, Any]:
    """What an update recorded, in the order of the rollout, which may hold more responses."""
    import numpy as np
    import pyarrow as pa

    position = {id: i for i, id in enumerate(record.ids)}
    rows = [position.get(id) for id in rollout.ids]
    if not any(row is not None for row in rows):
        return {}
    columns = {}
    for name, numbers in record.columns.items():
        known = numbers.isfinite().any(dim=1)
        kind = pa.bool_() if name == "clipped" else pa.float16() if name in _HALVES else pa.float32()
        dtype = np.bool_ if name == "clipped" else np.float16 if name in _HALVES else np.float32
        lists = [
            None if row is None or not bool(known[row]) else numbers[row][real].numpy().astype(dtype)
            for row, real in zip(rows, rollout.response_mask, strict=True)
        ]
        columns[name] = pa.array(lists, pa.list_(kind))
    return columns
