"""Batches by length, padding, randomness by place, and what an engine may not do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from ppokit.data.batches import forward_all, sequence_lengths, token_batch, token_batches
from ppokit.distributed import Processes
from ppokit.errors import PluginError
from ppokit.plugin.types import Generation, PromptBatch, Rollout
from ppokit.rollout.generate import draw_uniforms, generate, pad
from ppokit.seeds import seed_from


def make_rollout(
    prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], **tensors: Tensor
) -> Rollout:
    """A rollout of these token ids."""
    ids, mask = pad(responses)
    count = len(responses)
    return Rollout(
        ids=[f"sample-{i}" for i in range(count)],
        group_ids=torch.arange(count),
        prompts=[f"prompt {i}" for i in range(count)],
        responses=[f"response {i}" for i in range(count)],
        rows=[{"row": i} for i in range(count)],
        prompt_ids=[list(p) for p in prompts],
        response_ids=ids,
        response_mask=mask,
        **{
            "finished": torch.ones(count, dtype=torch.bool),
            "sampler_logprobs": torch.zeros(mask.shape),
            **tensors,
        },
    )


def single_process() -> Processes:
    return Processes(Accelerator(cpu=True))


@given(
    lengths=st.lists(st.integers(1, 60), min_size=0, max_size=30),
    budget=st.integers(1, 200),
    data=st.data(),
)
@settings(deadline=None)
def test_token_batches_hold_everything_once_within_the_budget(
    lengths: list[int], budget: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.permutations(range(len(lengths))))
    indices = chosen[: data.draw(st.integers(0, len(chosen)))]
    batches = token_batches(indices, lengths, budget)
    assert sorted(i for batch in batches for i in batch) == sorted(indices)
    in_order = [lengths[i] for batch in batches for i in batch]
    assert in_order == sorted(in_order, reverse=True)
    for batch in batches:
        padded = len(batch) * max(lengths[i] for i in batch)
        assert len(batch) == 1 or padded <= budget
    for batch in batches[:-1]:
        assert (len(batch) + 1) * lengths[batch[0]] > budget, "the next sample would have fitted"


def test_token_batches_by_hand() -> None:
    assert token_batches([0, 1, 2, 3, 4], [3, 10, 4, 1, 4], 12) == [[1], [2, 4, 0], [3]]


def test_pad_by_hand() -> None:
    ids, mask = pad([[5, 0, 2], [7]])
    assert ids.tolist() == [[5, 0, 2], [7, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    ids, mask = pad([])
    assert ids.shape == mask.shape == (0, 0)


def test_sequence_lengths_count_prompt_and_response() -> None:
    assert sequence_lengths(make_rollout([[1, 2], [3]], [[4], [5, 6, 7]])) == [3, 4]


def test_uniforms_follow_from_seed_and_step_alone() -> None:
    first = draw_uniforms(0, 5, 2, 3, 4)
    torch.rand(100)  # the global generator has no part in it
    draw_uniforms(0, 4, 9, 9, 9)
    assert torch.equal(draw_uniforms(0, 5, 2, 3, 4), first)
    assert first.shape == (2, 3, 4)
    assert bool(((first >= 0) & (first < 1)).all())
    for seed, step in ((0, 6), (1, 5), (5, 0)):
        assert not torch.equal(draw_uniforms(seed, step, 2, 3, 4), first)


def test_uniforms_are_uniform() -> None:
    numbers = draw_uniforms(3, 0, 100, 10, 20).flatten()
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.01)
    assert numbers.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_seeds_do_not_collide() -> None:
    """(1, 23) and (12, 3) are different places."""
    places = [(a, b) for a in range(40) for b in range(40)]
    seeds = {seed_from(*place) for place in places}
    assert len(seeds) == len(places)
    assert seed_from(1, 23) != seed_from(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


class Engine:
    """Answers with prompt and place; `spoil` breaks what it returns."""

    max_new_tokens = 4
    temperature = 1.0

    def __init__(self, spoil: Any = None) -> None:
        self.spoil = spoil
        self.seen: list[Tensor] = []

    def generate(self, policy: Any, batch: PromptBatch, uniforms: Tensor | None) -> Generation:
        assert uniforms is not None
        self.seen.append(uniforms)
        answers = [[index, g, 9][: 2 + g] for index in batch.indices for g in range(uniforms.shape[1])]
        answered = Generation(
            response_ids=answers,
            sampler_logprobs=[[-float(i) for i in range(len(a))] for a in answers],
            finished=[len(a) == 3 for a in answers],
            texts=[str(a) for a in answers],
        )
        if self.spoil is not None:
            self.spoil(answered)
        return answered


def ask(engine: Engine, step: int = 2) -> Rollout:
    prompts = PromptBatch([7, 3], ["seven", "three"], [[1, 7], [1]], [{"x": "a"}, {"x": "b"}])
    return generate(
        engine,
        None,  # type: ignore[arg-type]
        prompts,
        responses_per_prompt=2,
        seed=4,
        step=step,
        processes=single_process(),
        plugin="'fake' (plugin fake 1.0)",
    )


def test_a_rollout_by_hand() -> None:
    engine = Engine()
    rollout = ask(engine)
    assert torch.equal(engine.seen[0], draw_uniforms(4, 2, 2, 2, 4))
    assert rollout.ids == ["000003-0000-000", "000003-0000-001", "000003-0001-000", "000003-0001-001"]
    assert rollout.group_ids.tolist() == [7, 7, 3, 3]
    assert rollout.prompts == ["seven", "seven", "three", "three"]
    assert rollout.rows == [{"x": "a"}, {"x": "a"}, {"x": "b"}, {"x": "b"}]
    assert rollout.prompt_ids == [[1, 7], [1, 7], [1], [1]]
    assert rollout.response_ids.tolist() == [[7, 0, 0], [7, 1, 9], [3, 0, 0], [3, 1, 9]]
    assert rollout.lengths.tolist() == [2, 3, 2, 3]
    assert rollout.finished.tolist() == [False, True, False, True]
    assert rollout.sampler_logprobs.tolist() == [[0, -1, 0], [0, -1, -2], [0, -1, 0], [0, -1, -2]]
    assert rollout.responses[1] == "[7, 1, 9]"
    assert rollout.old_logprobs is None


@pytest.mark.parametrize("field", ["response_ids", "sampler_logprobs", "finished", "texts"])
def test_an_engine_that_forgets_a_response(field: str) -> None:
    engine = Engine(lambda answered: getattr(answered, field).pop())
    with pytest.raises(PluginError, match=rf"fake 1.0.*'{field}': 3.*expected 4.*rollout\.use"):
        ask(engine)


@pytest.mark.parametrize("field", ["response_ids", "sampler_logprobs"])
def test_an_engine_whose_tokens_and_logprobs_differ(field: str) -> None:
    engine = Engine(lambda answered: getattr(answered, field)[2].pop())
    with pytest.raises(PluginError, match=r"tokens and \d log-probabilities for response 2"):
        ask(engine)


def test_an_engine_with_an_empty_response() -> None:
    def empty(answered: Generation) -> None:
        answered.response_ids[1].clear()
        answered.sampler_logprobs[1].clear()

    with pytest.raises(PluginError, match="returned 0 tokens and 0 log-probabilities for response 1"):
        ask(Engine(empty))


def test_forward_all_puts_each_number_where_it_belongs() -> None:
    rollout = make_rollout([[1, 2], [3], [4, 5, 6]], [[10], [20, 21, 22], [30, 31]])
    sizes: list[int] = []

    def compute(batch: Any) -> Tensor:
        assert not torch.is_grad_enabled()
        sizes.append(batch.input_ids.numel())
        return batch.scatter(batch.targets.float())

    for budget in (1, 8, 1000):
        found = forward_all(compute, rollout, torch.device("cpu"), single_process(), budget)
        assert found.tolist() == [[10, 0, 0], [20, 21, 22], [30, 31, 0]]
    assert sizes == [5, 4, 3, 5, 8, 15]


def test_token_batch_picks_in_the_given_order() -> None:
    rollout = make_rollout([[1, 2], [3]], [[10], [20, 21]])
    batch = token_batch(rollout, [1, 0], torch.device("cpu"))
    assert batch.input_ids.tolist() == [[3, 20, 21], [1, 2, 10]]


def test_select_takes_every_field() -> None:
    rollout = make_rollout([[1], [2], [3]], [[4], [5, 6], [7]], values=torch.arange(6.0).view(3, 2))
    picked = rollout.select([2, 0])
    assert picked.ids == ["sample-2", "sample-0"]
    assert picked.prompt_ids == [[3], [1]]
    assert picked.response_ids.tolist() == [[7, 0], [4, 0]]
    assert picked.values is not None
    assert picked.values.tolist() == [[4, 5], [0, 1]]
    assert picked.ref_logprobs is None
    assert len(rollout.select([])) == 0
