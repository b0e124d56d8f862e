"""The next step's rollout, kept as a run's state."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from ppokit.plugin.types import PromptBatch, Rollout
from ppokit.rollout.ahead import RolloutAhead
from ppokit.run.component_state import decode, encode
from rollouts import make_rollout

PROMPTS = PromptBatch([7, 3], ["a", "b"], [[1, 2], [5]], [{"n": [1]}, {"n": None}])


def answers(prompts: PromptBatch, step: int, *, updates: int) -> Rollout:
    """Two responses per prompt, with greedy ones."""

    def rollout(each: int, **more: Any) -> Rollout:
        index = [i for i in range(len(prompts)) for _ in range(each)]
        sampled = make_rollout([prompts.prompt_ids[i] for i in index], [[9, k] for k in range(len(index))])
        numbers = torch.rand(sampled.response_ids.shape)
        return replace(
            sampled,
            group_ids=torch.tensor([prompts.indices[i] for i in index]),
            prompts=[prompts.prompts[i] for i in index],
            rows=[prompts.rows[i] for i in index],
            old_logprobs=numbers,
            policy_version=torch.full((len(index),), updates),
            **more,
        )

    return rollout(2, greedy=rollout(1))


def ahead(gap: float | None = 0.25) -> RolloutAhead:
    """Of a run of five steps."""
    parts: Any = (
        SimpleNamespace(step=lambda step: PROMPTS),
        SimpleNamespace(collect=answers),
        SimpleNamespace(check=lambda rollout, old, version: gap),
    )
    settings: Any = SimpleNamespace(run=SimpleNamespace(steps=5), overlaps=True)
    return RolloutAhead(*parts, settings)


def first_state() -> dict[str, Any]:
    own = ahead()
    own.collect(3, updates=1)
    return own.state_dict()


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Rollout):
        return all(same(getattr(a, name), getattr(b, name)) for name in vars(a))
    return torch.equal(a, b) if isinstance(a, Tensor) else bool(a == b)


@pytest.mark.parametrize("gap", [0.25, None])
def test_what_was_answered_comes_back(gap: float | None) -> None:
    first, second = ahead(gap), ahead(gap)
    first.collect(3, updates=1)
    tensors: dict[str, Tensor] = {}
    state = json.loads(json.dumps(encode(first.state_dict(), "ahead", tensors)))
    second.load_state_dict(decode(state, tensors))
    assert not second.is_due(3)
    rollout, expected = second.take(PROMPTS, 3), first.take(PROMPTS, 3)
    assert rollout is not None
    assert same(rollout, expected)
    assert rollout.rows[0] is not rollout.rows[1], "nested cells are a response's own"
    assert second.metrics(3) == ({} if gap is None else {"rollout/logprob_gap": gap})
    assert second.metrics(4) == {}
    assert second.state_dict() == {}
    for other in ({}, {**first_state(), "indices": [7, 4]}):
        second.load_state_dict(other)
        assert second.take(PROMPTS, 3) is None, "nothing, or answers to other prompts"


def test_it_is_for_one_step_and_its_prompts_alone() -> None:
    own = ahead()
    assert own.take(PROMPTS, 2) is None
    assert own.is_due(5)
    assert not own.is_due(6), "after the last step nothing is answered"
    own.collect(3, updates=1)
    assert own.take(replace(PROMPTS, resample_round=1), 3) is None
    assert own.take(PROMPTS, 3) is not None, "dynamic sampling's other prompts leave it"
    for prompts, step in ((replace(PROMPTS, indices=[7, 4]), 3), (PROMPTS, 4)):
        own.collect(3, updates=1)
        assert own.take(prompts, step) is None
        assert own.take(PROMPTS, 3) is None, "a loop of one's own went on otherwise"
