"""The transformers engine against full forwards, HF's own generate, and counted frequencies."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GenerationConfig, MistralForCausalLM

from policies import load, policy_of
from ppokit.plugin.generation import Generation, GenerationRequest, ResponseSeeds, SamplingParams
from ppokit.plugin.output_head import logit_rule, output_head
from ppokit.plugin.types import PromptBatch
from ppokit.rollout.policy import Policy
from ppokit_rollouts import decoding
from ppokit_rollouts.decoding import sample
from ppokit_rollouts.transformers_engine import TransformersEngine, TransformersOptions
from small_models import tiny

torch.set_num_threads(1)  # on such small tensors, several threads mostly wait for each other

TEXTS = ("Once upon a time", "The dog", "Lily and Tom went to the park. They")


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    return known(load(tiny_model))


def known(policy: Policy) -> Policy:
    """The policy, once the engine has found out how its model is read: hooks then see sampling alone."""
    respond(policy, of_ids([[1, 5]]), None, max_new_tokens=1)
    return policy


def prompts_of(policy: Policy, texts: Sequence[str] = TEXTS) -> PromptBatch:
    return of_ids([policy.tokenizer(text)["input_ids"] for text in texts])


def of_ids(ids: Sequence[Sequence[int]]) -> PromptBatch:
    count = len(ids)
    return PromptBatch(list(range(count)), [""] * count, [list(i) for i in ids], [{}] * count)


def uniforms(prompts: int, responses: int, tokens: int, seed: int = 0) -> Tensor:
    return torch.rand(prompts, responses, tokens, generator=torch.Generator().manual_seed(seed))


def respond(
    policy: Policy,
    batch: PromptBatch,
    numbers: Tensor | None,
    *,
    batch_size: int = 256,
    check_every: int | None = None,
    policy_logprobs: bool = False,
    **sampling: Any,
) -> Generation:
    """The engine's responses, drawn by these numbers."""
    n = 1 if numbers is None else numbers.shape[1]
    request = GenerationRequest(batch, n, None, SamplingParams(**sampling), policy_logprobs)
    options = TransformersOptions(batch_size=batch_size, check_every=check_every)
    return TransformersEngine(options).sample(policy, request, numbers)


def finished(generation: Generation) -> list[bool]:
    return [outcome == "finished" for outcome in generation.outcomes]


def distribution(policy: Policy, prompt: list[int], response: list[int], options: Any) -> Tensor:
    """Oracle: [R,V] log-probabilities from one forward without a cache, warped by hand."""
    with torch.no_grad():
        logits = policy.model()(input_ids=torch.tensor([prompt + response])).logits[0]
    rows = []
    for step, row in enumerate(logits[len(prompt) - 1 : -1].double()):
        if step < options.min_new_tokens:
            row[list(policy.end_ids)] = -torch.inf
        row = row / options.temperature
        if options.top_k is not None:
            row[row < row.topk(options.top_k).values[-1]] = -torch.inf
        if options.top_p is not None:
            p, order = row.softmax(-1).sort(descending=True)
            # A token stays while those before it hold less than top_p together.
            row[order[(p.cumsum(-1) - p) >= options.top_p]] = -torch.inf
        if options.min_p is not None:
            p = row.softmax(-1)
            row[p < options.min_p * p.max()] = -torch.inf
        rows.append(row.log_softmax(-1))
    return torch.stack(rows)


@contextmanager
def watched(policy: Policy) -> Iterator[list[tuple[int, int]]]:
    """Shapes of `input_ids` of each forward."""
    shapes: list[tuple[int, int]] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        shapes.append(tuple(kwargs["input_ids"].shape))

    logit_rule(policy.model())  # measured by forward passes of its own, once per model
    handle = policy.model().base_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()


@contextmanager
def forced(policy: Policy, script: list[list[int]]) -> Iterator[None]:
    """The model says what the script says: at each step one token per row."""
    logit_rule(policy.model())
    head = output_head(policy.model())
    steps = iter(script)

    def force(hidden: Tensor) -> Tensor:
        out = torch.full((len(hidden), len(head.weight)), -50.0)
        for row, token in zip(out, next(steps), strict=True):
            row[token] = 50.0
        return out

    head.forward = force
    try:
        yield
    finally:
        del head.forward


class TestSample:
    def test_inverts_the_cumulative_distribution(self) -> None:
        logits = torch.tensor([0.5, 0.25, 0.25]).log().expand(6, 3)
        drawn = sample(logits, torch.tensor([0.0, 0.49, 0.51, 0.74, 0.76, 0.999]))
        assert drawn.tolist() == [0, 0, 1, 1, 2, 2]

    def test_frequencies_are_the_probabilities(self) -> None:
        """Pearson's chi-square with 7 degrees of freedom: above 24.3 in one case of a thousand."""
        count = 20_000
        p = torch.tensor([0.3, 0.2, 0.15, 0.1, 0.1, 0.1, 0.04, 0.01])
        numbers = torch.rand(count, generator=torch.Generator().manual_seed(1))
        drawn = sample(p.log().expand(count, 8), numbers)
        seen = drawn.bincount(minlength=8).double()
        assert float(((seen - count * p).square() / (count * p)).sum()) < 24.3

    @pytest.mark.parametrize("u", [0.0, 1 - 2**-24, 0.5, 2**-149])
    @pytest.mark.parametrize("vocabulary", [3, 1000, 50_000])
    def test_what_is_ruled_out_is_never_drawn(self, u: float, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(vocabulary)
        logits = torch.randn(64, vocabulary, generator=generator) * 3
        ruled_out = torch.rand(64, vocabulary, generator=generator) < 0.7
        ruled_out[:, 1] = False
        ruled_out[:, 0] = ruled_out[:, -1] = True  # both ends, where u = 0 and u near 1 would fall
        drawn = sample(logits.masked_fill(ruled_out, -torch.inf), torch.full((64,), u))
        assert not bool(ruled_out.gather(-1, drawn.unsqueeze(-1)).any())
        assert bool((drawn < vocabulary).all())

    def test_a_single_token_left(self) -> None:
        logits = torch.full((3, 9), -torch.inf)
        logits[:, 4] = -80.0
        assert sample(logits, torch.tensor([0.0, 0.5, 1 - 2**-24])).tolist() == [4, 4, 4]


class TestResponses:
    def test_each_depends_on_its_own_numbers_alone(self, policy: Policy) -> None:
        """Alone, among others, in another order, in batches of any size: the same tokens."""
        numbers = uniforms(3, 4, 16)
        batch = prompts_of(policy)
        whole = respond(policy, batch, numbers, max_new_tokens=16)
        for p in range(3):
            for g in (p, 3):
                prompt = of_ids([batch.prompt_ids[p]])
                alone = respond(policy, prompt, numbers[p : p + 1, g : g + 1], max_new_tokens=16)
                assert alone.response_ids == [whole.response_ids[p * 4 + g]]
                assert alone.sampler_logprobs[0] == pytest.approx(whole.sampler_logprobs[p * 4 + g], abs=1e-4)
        back = respond(policy, of_ids(batch.prompt_ids[::-1]), numbers.flip(0), max_new_tokens=16)
        assert back.response_ids == [whole.response_ids[p * 4 + g] for p in (2, 1, 0) for g in range(4)]
        for size in (1, 5, 8):
            cut = respond(policy, batch, numbers, max_new_tokens=16, batch_size=size)
            assert cut.response_ids == whole.response_ids
            assert cut.texts == whole.texts
            assert cut.outcomes == whole.outcomes
        assert len({tuple(ids) for ids in whole.response_ids}) > 6  # they do differ

    def test_the_global_generator_has_no_part(self, policy: Policy) -> None:
        before = torch.get_rng_state()
        respond(policy, prompts_of(policy), uniforms(3, 1, 4), max_new_tokens=4)
        assert torch.equal(before, torch.get_rng_state())

    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"temperature": 0.6},
            {"temperature": 1.7, "top_k": 5},
            {"top_p": 0.7},
            {"min_p": 0.2},
            {"temperature": 1.5, "top_k": 30, "min_p": 0.1},
            {"temperature": 1.3, "top_k": 20, "top_p": 0.8, "min_new_tokens": 3},
        ],
    )
    def test_tokens_and_logprobs_are_those_of_a_full_forward(
        self, policy: Policy, options: dict[str, Any]
    ) -> None:
        numbers, batch = uniforms(3, 2, 12, seed=5), prompts_of(policy)
        generation = respond(policy, batch, numbers, max_new_tokens=12, **options)
        for index, (ids, logprobs) in enumerate(
            zip(generation.response_ids, generation.sampler_logprobs, strict=True)
        ):
            logps = distribution(policy, batch.prompt_ids[index // 2], ids, SamplingParams(**options))
            expected = logps.gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
            assert logprobs == pytest.approx(expected.tolist(), abs=1e-4)
            drawn = numbers.flatten(0, 1)[index, : len(ids)].double()
            before = logps.exp().cumsum(-1).gather(-1, torch.tensor(ids)[:, None]).squeeze(-1)
            assert bool((drawn < before + 1e-5).all())
            assert bool((drawn > before - expected.exp() - 1e-5).all())

    @pytest.mark.parametrize(
        "options", [{"min_p": 0.1}, {"min_p": 0.3, "temperature": 1.6}, {"min_p": 0.1, "top_p": 0.8}]
    )
    def test_min_p_is_that_of_transformers(self, policy: Policy, options: dict[str, Any]) -> None:
        """The distribution that `generate` draws a first token from, on every token drawn here."""
        batch = prompts_of(policy, ("Once upon a time, there", "Lily and Tom", "Mom was very"))
        generation = respond(policy, batch, uniforms(3, 64, 1), max_new_tokens=1, **options)
        for index, prompt in enumerate(batch.prompt_ids):
            config = GenerationConfig(
                do_sample=True,
                max_new_tokens=1,
                top_k=0,
                output_scores=True,
                return_dict_in_generate=True,
                pad_token_id=policy.tokenizer.pad_token_id,
                **options,
            )
            scores = policy.model().generate(torch.tensor([prompt]), generation_config=config).scores[0]
            expected = scores[0].log_softmax(dim=-1)
            own = slice(64 * index, 64 * (index + 1))
            drawn = [ids[0] for ids in generation.response_ids[own]]
            logprobs = [numbers[0] for numbers in generation.sampler_logprobs[own]]
            assert logprobs == pytest.approx(expected[drawn].tolist(), abs=1e-4)
        assert len({ids[0] for ids in generation.response_ids}) > 2

    def test_greedy_is_that_of_transformers(self, policy: Policy) -> None:
        batch = prompts_of(policy)
        generation = respond(policy, batch, None, max_new_tokens=30, temperature=0.5)
        assert len(generation.response_ids) == 3
        for prompt, ids in zip(batch.prompt_ids, generation.response_ids, strict=True):
            whole = policy.model().generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                do_sample=False,
                max_new_tokens=30,
            )
            assert whole[0, len(prompt) :].tolist() == ids

    def test_an_end_or_padding_id_within_a_prompt_is_read(self, policy: Policy) -> None:
        """Nothing is inferred from ids: pad == eos, and both occur in prompts of several lengths."""
        plain = policy.tokenizer("The dog ran")["input_ids"]
        prompts = [[1, 2, *plain[1:]], [1, 0, 2, 2, *plain[1:]], [0, *plain], [2], plain]
        generation = respond(policy, of_ids(prompts), uniforms(5, 1, 10), max_new_tokens=10)
        for prompt, ids, logprobs in zip(
            prompts, generation.response_ids, generation.sampler_logprobs, strict=True
        ):
            logps = distribution(policy, prompt, ids, SamplingParams())
            expected = logps.gather(-1, torch.tensor(ids)[:, None]).squeeze(-1).tolist()
            assert logprobs == pytest.approx(expected, abs=1e-4)


class TestEnds:
    def answers(self, policy: Policy, script: list[list[int]], **options: Any) -> Generation:
        count = len(script[0])
        tokens = options.setdefault("max_new_tokens", len(script))
        with forced(policy, script):
            return respond(policy, of_ids([[1, 5]] * count), uniforms(count, 1, tokens), **options)

    def test_the_end_is_part_of_the_response(self, policy: Policy) -> None:
        generation = self.answers(policy, [[10, 2, 12], [11, 13], [14, 2]])
        assert generation.response_ids == [[10, 11, 14], [2], [12, 13, 2]]
        assert finished(generation) == [False, True, True]
        assert [len(numbers) for numbers in generation.sampler_logprobs] == [3, 1, 3]
        eos = str(policy.tokenizer.eos_token)
        assert not any(eos in text for text in generation.texts)
        assert generation.texts[1] == ""

    def test_an_end_at_the_last_token_is_an_end(self, policy: Policy) -> None:
        generation = self.answers(policy, [[10], [2]])
        assert (generation.response_ids, finished(generation)) == ([[10, 2]], [True])

    def test_stop_token_ids(self, policy: Policy) -> None:
        generation = self.answers(policy, [[10, 40], [40]], stop_token_ids=(40,))
        assert (generation.response_ids, finished(generation)) == ([[10, 40], [40]], [True, True])

    def test_stop_strings_are_cut_from_the_text(self, policy: Policy) -> None:
        words = policy.tokenizer(" cat dog sat", add_special_tokens=False)["input_ids"]
        whole = policy.tokenizer.decode(words)
        stop = whole[2:6]  # across tokens, not at a word's border
        generation = self.answers(policy, [[w] for w in words] + [[9]] * 3, stop=(stop, "never"))
        assert finished(generation) == [True]
        assert generation.texts == [whole[: whole.index(stop)]]
        assert stop in policy.tokenizer.decode(generation.response_ids[0])
        assert stop not in policy.tokenizer.decode(generation.response_ids[0][:-1])
        without = self.answers(policy, [[w] for w in words])
        assert (finished(without), without.texts) == ([False], [whole])

    def test_the_first_of_several_stop_strings_cuts(self, policy: Policy) -> None:
        words = policy.tokenizer(" cat", add_special_tokens=False)["input_ids"]
        text = policy.tokenizer.decode(words)
        generation = self.answers(policy, [[w] for w in words], stop=(text[-1], text[-2:]))
        assert finished(generation) == [True]
        assert generation.texts[0] in (text[:-2], text[: text.index(text[-1])])
        assert text[-1] not in generation.texts[0]

    def test_min_new_tokens(self, policy: Policy) -> None:
        """The end is ruled out for so many tokens and not one more."""
        script = [[2, 2]] * 4
        generation = self.answers(policy, script, min_new_tokens=3, max_new_tokens=4)
        assert [len(ids) for ids in generation.response_ids] == [4, 4]
        assert all(2 not in ids[:3] and ids[3] == 2 for ids in generation.response_ids)
        assert finished(generation) == [True, True]


class TestWork:
    def test_finished_rows_leave_and_a_prompt_is_read_once(self, policy: Policy) -> None:
        numbers = uniforms(2, 3, 5)
        batch = prompts_of(policy, TEXTS[:2])
        # Prefill answers two rows, which stand for three responses each: none can end there.
        script = [[10, 10], [10, 2, 10, 10, 2, 10], [2, 10, 10, 2], [10, 10], [10, 10]]
        with forced(policy, script), watched(policy) as shapes:
            generation = respond(policy, batch, numbers, max_new_tokens=5)
        width = max(map(len, batch.prompt_ids))
        assert shapes == [(2, width), (6, 1), (4, 1), (2, 1), (2, 1)]
        assert [len(ids) for ids in generation.response_ids] == [3, 2, 5, 5, 2, 3]

    def test_rows_that_stay_are_not_disturbed_by_those_that_leave(self, policy: Policy) -> None:
        """Ending at 40 different tokens makes responses leave at many places; each is still its own."""
        often = replace(policy, end_ids=frozenset(range(2, 512, 12)))
        numbers, batch = uniforms(3, 8, 30, seed=9), prompts_of(policy)
        generation = respond(often, batch, numbers, max_new_tokens=30)
        assert len({len(ids) for ids in generation.response_ids}) > 5
        for index, (ids, logprobs) in enumerate(
            zip(generation.response_ids, generation.sampler_logprobs, strict=True)
        ):
            logps = distribution(policy, batch.prompt_ids[index // 8], ids, SamplingParams())
            expected = logps.gather(-1, torch.tensor(ids)[:, None]).squeeze(-1).tolist()
            assert logprobs == pytest.approx(expected, abs=1e-4)

    @pytest.mark.parametrize(("check_every", "stop"), [(7, ()), (5, ("e", "a d")), (64, ("e",))])
    def test_looking_less_often_changes_no_response(
        self, policy: Policy, check_every: int, stop: tuple[str, ...]
    ) -> None:
        """Rows that have ended draw on until they leave, and leave no trace."""
        often = replace(policy, end_ids=frozenset(range(2, 512, 24)))
        batch, numbers = prompts_of(policy), uniforms(3, 8, 30, seed=9)
        options: dict[str, Any] = {"max_new_tokens": 30, "top_k": 40, "stop": stop, "policy_logprobs": True}
        each, several = (
            respond(often, batch, numbers, check_every=count, **options) for count in (1, check_every)
        )
        assert len({len(ids) for ids in each.response_ids}) > 5
        for name in ("response_ids", "texts", "outcomes"):
            assert getattr(several, name) == getattr(each, name)
        for name in ("sampler_logprobs", "policy_logprobs"):
            for own, expected in zip(getattr(several, name), getattr(each, name), strict=True):
                assert own == pytest.approx(expected, abs=1e-5)

    def test_batch_size_bounds_the_rows(self, policy: Policy) -> None:
        numbers = uniforms(3, 4, 3)
        with watched(policy) as shapes:
            respond(policy, prompts_of(policy), numbers, max_new_tokens=3, min_new_tokens=3, batch_size=8)
        assert [rows for rows, _ in shapes] == [2, 8, 8, 1, 4, 4]

    @pytest.mark.parametrize("sliding", [False, True], ids=["plain", "sliding-window"])
    def test_prompts_of_like_length_are_read_together(self, policy: Policy, sliding: bool) -> None:
        """Each response is then still what its own prompt makes likely."""
        if sliding:
            model = tiny(MistralForCausalLM, vocab_size=512, num_key_value_heads=2, sliding_window=40)
            policy = known(policy_of(model, policy.tokenizer))
        lengths = [9, 100, 12, 70, 98, 10, 8, 72, 11]
        draw = torch.Generator().manual_seed(3)
        batch = of_ids([torch.randint(3, 512, (n,), generator=draw).tolist() for n in lengths])
        with watched(policy) as shapes:
            generation = respond(policy, batch, uniforms(9, 2, 8), max_new_tokens=8)
        read = [shape for shape in shapes if shape[1] > 1]
        assert read == ([(9, 100)] if sliding else [(3, 100), (4, 70), (2, 9)])
        for index, (ids, logprobs) in enumerate(
            zip(generation.response_ids, generation.sampler_logprobs, strict=True)
        ):
            logps = distribution(policy, batch.prompt_ids[index // 2], ids, SamplingParams())
            expected = logps.gather(-1, torch.tensor(ids)[:, None]).squeeze(-1).tolist()
            assert logprobs == pytest.approx(expected, abs=1e-4)

    def test_the_side_on_which_a_tokenizer_pads_does_not_matter(self, policy: Policy) -> None:
        """It is not saved with a tokenizer; prompts are padded here, by their lengths."""
        generations = []
        for side in ("left", "right"):
            tokenizer = copy.deepcopy(policy.tokenizer)
            tokenizer.padding_side = side
            other = replace(policy, tokenizer=tokenizer)
            generations.append(respond(other, prompts_of(other), uniforms(3, 2, 6), max_new_tokens=6))
        assert generations[0] == generations[1]

    def test_no_forward_after_the_last_token(self, policy: Policy) -> None:
        with watched(policy) as shapes:
            respond(policy, prompts_of(policy), uniforms(3, 1, 1), max_new_tokens=1)
        assert len(shapes) == 1


class TestPolicyLogprobs:
    """What the policy itself gives each token, whatever the sampling left out."""

    @pytest.mark.parametrize(
        "narrowing", [{}, {"top_k": 3}, {"top_p": 0.5}, {"min_new_tokens": 6}], ids=lambda n: str(*n)
    )
    def test_are_those_of_the_whole_distribution(self, policy: Policy, narrowing: dict[str, Any]) -> None:
        generation = respond(
            policy,
            prompts_of(policy),
            uniforms(3, 2, 6),
            max_new_tokens=6,
            temperature=0.8,
            policy_logprobs=True,
            **narrowing,
        )
        assert generation.policy_logprobs is not None
        ids = [ids for ids in prompts_of(policy).prompt_ids for _ in range(2)]
        plain = SamplingParams(max_new_tokens=6, temperature=0.8)
        for prompt, response, whole, drawn in zip(
            ids, generation.response_ids, generation.policy_logprobs, generation.sampler_logprobs, strict=True
        ):
            rows = distribution(policy, prompt, response, plain)
            expected = rows[torch.arange(len(response)), response]
            torch.testing.assert_close(torch.tensor(whole).double(), expected, atol=1e-4, rtol=1e-4)
            if not narrowing:
                assert whole == drawn
        if "top_k" in narrowing or "top_p" in narrowing:
            assert generation.policy_logprobs != generation.sampler_logprobs


class TestGenerate:
    def test_draws_by_the_seeds_of_the_request(self, policy: Policy) -> None:
        batch, sampling = prompts_of(policy), SamplingParams(max_new_tokens=5)
        seeds = ResponseSeeds(seed=3, step=4, prompts=3, share=range(3), n=2)
        engine = TransformersEngine(TransformersOptions())
        generation = engine.generate(policy, GenerationRequest(batch, 2, seeds, sampling))
        assert generation == respond(policy, batch, seeds.uniforms(5), max_new_tokens=5)

    @pytest.mark.parametrize("asked", [False, True])
    def test_policy_logprobs_are_computed_where_asked_for(
        self, policy: Policy, monkeypatch: pytest.MonkeyPatch, asked: bool
    ) -> None:
        calls: list[Tensor] = []
        compute = decoding.logprobs_of

        def counted(logits: Tensor, tokens: Tensor) -> Tensor:
            calls.append(tokens)
            return compute(logits, tokens)

        monkeypatch.setattr(decoding, "logprobs_of", counted)
        request = GenerationRequest(
            prompts_of(policy),
            1,
            ResponseSeeds(seed=3, step=4, prompts=3, share=range(3), n=1),
            SamplingParams(max_new_tokens=3, min_new_tokens=3, top_k=2),
            policy_logprobs=asked,
        )
        generation = TransformersEngine(TransformersOptions()).generate(policy, request)
        assert (generation.policy_logprobs is not None) == asked
        assert len(calls) == (6 if asked else 3)
