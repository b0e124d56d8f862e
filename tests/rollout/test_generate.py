"""Batches by length, padding, randomness by place, and what an engine may not do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from components import built
from policies import policy_of
from ppokit.data.batches import sequence_lengths, token_batch
from ppokit.distributed import Processes
from ppokit.errors import ModelError, PluginError, RolloutError
from ppokit.plugin.generation import Generation, GenerationRequest, ResponseSeeds, SamplingParams
from ppokit.plugin.types import PromptBatch, Rollout
from ppokit.rollout.generate import ResponseGenerator, pad
from ppokit.seeds import seed_from
from rollouts import Other, make_rollout, single_process


def test_pad_by_hand() -> None:
    ids, mask = pad([[5, 0, 2], [7]])
    assert ids.tolist() == [[5, 0, 2], [7, 0, 0]]
    assert mask.tolist() == [[True, True, True], [True, False, False]]
    ids, mask = pad([])
    assert ids.shape == mask.shape == (0, 0)


def test_sequence_lengths_count_prompt_and_response() -> None:
    assert sequence_lengths(make_rollout([[1, 2], [3]], [[4], [5, 6, 7]])) == [3, 4]


def seeds_of(seed: int, step: int, prompts: int, n: int, share: range | None = None) -> ResponseSeeds:
    return ResponseSeeds(seed, step, prompts, range(prompts) if share is None else share, n)


def test_uniforms_follow_from_seed_and_step_alone() -> None:
    first = seeds_of(0, 5, 2, 3).uniforms(4)
    torch.rand(100)  # the global generator has no part in it
    seeds_of(0, 4, 9, 9).uniforms(9)
    assert torch.equal(seeds_of(0, 5, 2, 3).uniforms(4), first)
    assert first.shape == (2, 3, 4)
    assert bool(((first >= 0) & (first < 1)).all())
    for seed, step in ((0, 6), (1, 5), (5, 1)):
        assert not torch.equal(seeds_of(seed, step, 2, 3).uniforms(4), first)


def test_uniforms_are_uniform() -> None:
    numbers = seeds_of(3, 1, 100, 10).uniforms(20).flatten()
    assert numbers.mean().item() == pytest.approx(0.5, abs=0.01)
    assert numbers.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_a_share_has_its_part_of_the_randomness() -> None:
    whole, second = seeds_of(0, 5, 3, 2), seeds_of(0, 5, 3, 2, range(1, 3))
    assert torch.equal(second.uniforms(4), whole.uniforms(4)[1:])
    assert second.per_response() == whole.per_response()[2:]


def test_every_response_has_a_seed_of_its_own() -> None:
    seeds = [
        number
        for step in (1, 2)
        for resample_round in (0, 1)
        for number in ResponseSeeds(7, step, 3, range(3), 4, resample_round).per_response()
    ]
    assert len(set(seeds)) == 48
    assert all(0 <= number < 2**63 for number in seeds)


def test_seeds_do_not_collide() -> None:
    """(1, 23) and (12, 3) are different places."""
    keys = [(a, b) for a in range(40) for b in range(40)]
    seeds = {seed_from(*key) for key in keys}
    assert len(seeds) == len(keys)
    assert seed_from(1, 23) != seed_from(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


class Engine:
    """Answers with prompt and position; `spoil` changes what it returns."""

    def __init__(self, spoil: Callable[[Generation], Any] | None = None) -> None:
        self.spoil = spoil
        self.requests: list[GenerationRequest] = []

    def generate(self, policy: Any, request: GenerationRequest) -> Any:
        self.requests.append(request)
        answers = [[index, g, 9][: 2 + g] for index in request.prompts.indices for g in range(request.n)]
        generation = Generation(
            response_ids=answers,
            sampler_logprobs=[[-float(i) for i in range(len(a))] for a in answers],
            outcomes=["finished" if len(a) == 3 else "truncated" for a in answers],
            texts=[str(a) for a in answers],
        )
        if self.spoil is None:
            return generation
        changed = self.spoil(generation)
        return generation if changed is None else changed


class Decoder:
    """Writes ids as Python does."""

    eos_token_id = 9

    def batch_decode(self, rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
        return [str(row) for row in rows]


PROMPTS = PromptBatch([7, 3], ["seven", "three"], [[1, 7], [1]], [{"x": "a"}, {"x": "b"}])


WHERE = "rollout engine 'fake' (plugin fake 1.0; recipe: rollout.use, my.yaml line 3)"


def ask(engine: Any, *, max_failed: float = 0.0, **sampling: Any) -> Rollout:
    generator = ResponseGenerator(
        engine=built("rollout", engine, where=WHERE),
        sampling=SamplingParams(**{"max_new_tokens": 4, **sampling}),
        max_failed=max_failed,
        processes=single_process(),
    )
    policy = policy_of(None, Decoder(), version=2, vocab_size=50)
    return generator.generate(policy, PROMPTS, n=2, seed=4, step=3)


def test_a_rollout_by_hand() -> None:
    engine = Engine()
    rollout = ask(engine)
    (request,) = engine.requests
    assert request.seeds == ResponseSeeds(4, 3, 2, range(2), 2)
    assert (request.prompts, request.n, request.policy_logprobs, request.training) == (
        PROMPTS,
        2,
        False,
        True,
    )
    assert rollout.ids == ["000003-0000-000", "000003-0000-001", "000003-0001-000", "000003-0001-001"]
    assert rollout.group_ids.tolist() == [7, 7, 3, 3]
    assert rollout.prompts == ["seven", "seven", "three", "three"]
    assert rollout.rows == [{"x": "a"}, {"x": "a"}, {"x": "b"}, {"x": "b"}]
    assert rollout.prompt_ids == [[1, 7], [1, 7], [1], [1]]
    assert rollout.response_ids.tolist() == [[7, 0, 0], [7, 1, 9], [3, 0, 0], [3, 1, 9]]
    assert rollout.lengths.tolist() == [2, 3, 2, 3]
    assert rollout.outcomes == ["truncated", "finished", "truncated", "finished"]
    assert rollout.finished.tolist() == [False, True, False, True]
    assert rollout.truncated.tolist() == [True, False, True, False]
    assert rollout.policy_version.tolist() == [2] * 4
    assert torch.equal(rollout.loss_mask, rollout.response_mask)
    assert rollout.sampler_logprobs.tolist() == [[0, -1, 0], [0, -1, -2], [0, -1, 0], [0, -1, -2]]
    assert rollout.responses[1] == "[7, 1, 9]"
    assert rollout.old_logprobs is None


def test_what_the_policy_did_not_write_has_no_numbers() -> None:
    masks = [[True, False], [True, False, True], [False, True], [True, True, True]]
    rollout = ask(Engine(lambda g: replace(g, loss_mask=masks)))
    assert rollout.loss_mask.tolist() == [
        [True, False, False],
        [True, False, True],
        [False, True, False],
        [True, True, True],
    ]
    assert rollout.lengths.tolist() == [1, 2, 1, 3]
    assert rollout.sampler_logprobs.tolist() == [[0, 0, 0], [0, 0, -2], [0, -1, 0], [0, -1, -2]]


def fail(*indices: int) -> Callable[[Generation], None]:
    def spoil(generation: Generation) -> None:
        for index in indices:
            generation.outcomes[index] = "failed"
            generation.texts[index] = "the server was away"

    return spoil


def test_a_failed_response_has_no_tokens_and_counts_against_the_budget() -> None:
    rollout = ask(Engine(fail(1)), max_failed=0.25)
    assert rollout.outcomes == ["truncated", "failed", "truncated", "finished"]
    assert rollout.failed.tolist() == [False, True, False, False]
    assert rollout.lengths.tolist() == [2, 0, 2, 3]
    assert rollout.responses[1] == "the server was away"
    with pytest.raises(
        RolloutError,
        match=r"fake 1\.0.*my\.yaml line 3.*failed for 2 of 4 responses.*max_failed_responses.*0\.25.*"
        r"000003-0000-001: the server was away",
    ):
        ask(Engine(fail(1, 3)), max_failed=0.25)
    assert ask(Engine(fail(0, 1, 2, 3)), max_failed=1.0).lengths.tolist() == [0] * 4


@pytest.mark.parametrize("field", ["response_ids", "sampler_logprobs", "outcomes", "texts"])
def test_an_engine_that_forgets_a_response(field: str) -> None:
    engine = Engine(lambda generation: getattr(generation, field).pop() and None)
    with pytest.raises(PluginError, match=rf"fake 1.0.*'{field}': 3.*expected 4"):
        ask(engine)


def put(field: str, value: Any, *path: int) -> Callable[[Generation], Any]:
    """Spoil one number of one response."""

    def spoil(generation: Generation) -> None:
        target = getattr(generation, field)
        for index in path[:-1]:
            target = target[index]
        target[path[-1]] = value

    return spoil


NAN = float("nan")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: 5, "returned a int; expected a Generation"),
        (put("outcomes", "cut", 2), "the outcome 'cut' .*expected finished, truncated or failed"),
        (put("texts", None, 2), "null in texts .*expected text"),
        (put("response_ids", [], 2), "no tokens .*at least one"),
        (put("response_ids", [3, 0, 1, 1, 1], 2), "5 tokens .*at most rollout.max_new_tokens, 4"),
        (put("response_ids", 50, 2, 1), "the token id 50 .*from 0 to 49"),
        (put("response_ids", -1, 2, 1), "the token id -1 .*from 0 to 49"),
        (put("response_ids", 1.0, 2, 1), "the token id 1.0 .*whole numbers"),
        (put("response_ids", True, 2, 1), "the token id true .*whole numbers"),
        (put("sampler_logprobs", [0.0], 2), "1 sampler_logprobs for 2 tokens .*one per token"),
        (put("sampler_logprobs", 0.1, 2, 1), "0.1 in sampler_logprobs .*0 or less"),
        (put("sampler_logprobs", -float("inf"), 2, 1), "-inf in sampler_logprobs .*finite"),
        (put("sampler_logprobs", -1e300, 2, 1), "-1e.300 in sampler_logprobs .*finite"),
        (put("sampler_logprobs", "-1", 2, 1), "'-1'.* in sampler_logprobs .*numbers"),
        (put("sampler_logprobs", None, 2, 1), "null in sampler_logprobs .*numbers"),
        (lambda g: replace(g, loss_mask=[[True]] * 4), "a loss_mask of 1 entries for 2 tokens"),
        (
            lambda g: replace(g, loss_mask=[[False] * len(i) for i in g.response_ids]),
            "loss_mask without a token of the policy",
        ),
        (lambda g: replace(g, policy_version=[2, 3, 2, 2]), "policy_version 3 .*from 0 to 2"),
        (put("texts", "[4, 0]", 2), r"the text '\[4, 0\]' .*expected that of its token ids, '\[3, 0\]'"),
        (put("texts", "[3", 2), r"the text '\[3' .*token ids"),
    ],
)
def test_an_engine_that_breaks_its_contract(spoil: Any, message: str) -> None:
    with pytest.raises(
        PluginError, match=rf"(?s)engine 'fake' \(plugin fake 1.0; .*line 3\).*{message}"
    ) as error:
        ask(Engine(spoil))
    assert "Generation" in message or "000003-000" in str(error.value)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda g: replace(g, response_ids=torch.zeros(4, 2)), "returned a Tensor as response_ids; .*a list"),
        (put("response_ids", torch.tensor([3, 0]), 2), r"a Tensor as response_ids\[2\]; .*entry per token"),
        (put("response_ids", 3, 2), r"a int as response_ids\[2\]"),
        (put("sampler_logprobs", None, 2), r"a NoneType as sampler_logprobs\[2\]"),
        (lambda g: replace(g, response_ids=None), "a NoneType as response_ids"),
        (lambda g: replace(g, loss_mask=[None] * 4), r"a NoneType as loss_mask\[0\]"),
        (lambda g: replace(g, policy_version=2), "a int as policy_version"),
        (lambda g: replace(g, texts="abcd"), "a str as texts"),
    ],
)
def test_an_engine_whose_fields_are_no_lists(spoil: Any, message: str) -> None:
    with pytest.raises(PluginError, match=rf"(?s)engine 'fake' \(plugin fake 1.0; .*line 3\).*{message}"):
        ask(Engine(spoil))


def test_an_engine_that_raises() -> None:
    def spoil(generation: Generation) -> None:
        raise KeyError("no server")

    with pytest.raises(PluginError, match=r"fake 1\.0.*generate failed: KeyError: 'no server'"):
        ask(Engine(spoil))


@pytest.mark.parametrize(
    ("spoil", "sampling"),
    [
        (put("sampler_logprobs", 1e-6, 2, 1), {}),  # rounding
        (put("texts", " [3,0] ", 2), {}),  # white space
        (put("texts", "[3", 2), {"stop": (", 0",)}),  # up to a stop string
        (
            lambda g: replace(g, sampler_logprobs=[[NAN] * len(i) for i in g.response_ids], texts=["x"] * 4),
            {},
        ),
        (lambda g: replace(g, policy_version=[0, 2, 1, 2]), {}),
    ],
    ids=["rounding", "white space", "stop string", "recorded", "older weights"],
)
def test_what_is_no_fault(spoil: Any, sampling: dict[str, Any]) -> None:
    assert len(ask(Engine(spoil), **sampling)) == 4


def test_a_stop_token_that_the_model_does_not_have() -> None:
    with pytest.raises(ModelError, match=r"rollout\.stop_token_ids: got 50; .* vocabulary ends with 49"):
        ask(Engine(), stop_token_ids=(2, 50))


def test_an_engine_is_closed_once_it_has_something_to_close() -> None:
    closed: list[bool] = []
    engine: Any = Engine()
    ResponseGenerator(built("rollout", engine), SamplingParams(), 0.0, single_process()).close()
    engine.close = lambda: closed.append(True)
    ResponseGenerator(built("rollout", engine), SamplingParams(), 0.0, single_process()).close()
    assert closed == [True]


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


def test_an_engine_on_the_main_process_answers_for_all() -> None:
    """Other processes have no engine, send nothing, and get its responses."""
    sent: list[list[Any]] = []

    class Main(Processes):
        def gather(self, items: Any) -> Any:
            sent.append(list(items))
            return list(items)

    policy = policy_of(None, Decoder(), version=2, vocab_size=50)

    def ask_on(engine: Any, processes: Any) -> Rollout:
        sampling = SamplingParams(max_new_tokens=4)
        generator = ResponseGenerator(built("rollout", engine, runs_on="main"), sampling, 0.0, processes)
        return generator.generate(policy, PROMPTS, n=2, seed=4, step=3)

    engine = Engine()
    rollout = ask_on(engine, Main(Accelerator(cpu=True)))
    assert len(engine.requests[0]) == 4
    other = Other(sent)
    same = ask_on(None, other)
    assert other.own == [[]]
    assert (same.ids, same.responses, same.outcomes) == (rollout.ids, rollout.responses, rollout.outcomes)
    assert torch.equal(same.response_ids, rollout.response_ids)
