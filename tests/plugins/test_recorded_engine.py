"""Recorded responses as rollouts: which are drawn, what is sampled beside them, and the whole way through."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from policies import load
from ppokit.errors import PluginError
from ppokit.plugin import CheckContext
from ppokit.plugin.generation import Generation, GenerationRequest, ResponseSeeds, SamplingParams
from ppokit.plugin.types import PromptBatch
from ppokit.rollout.policy import Policy
from ppokit_rollouts.recorded import RecordedOptions, ppokit_rollout_engines
from ppokit_rollouts.transformers_engine import TransformersEngine, TransformersOptions

CSV = """prompt,response,rating
Tom ran,to the park,8
Tom ran,to the park,6
Tom ran,away,1
Tom ran,home,5
Lily sat,down,9
"""


@pytest.fixture
def ratings(tmp_path: Path) -> str:
    path = tmp_path / "ratings.csv"
    path.write_text(CSV)
    return str(path)


@pytest.fixture(scope="module")
def policy(tiny_model: Path) -> Policy:
    return load(tiny_model)


def batch(policy: Policy, *prompts: str) -> PromptBatch:
    ids = [list(policy.tokenizer(prompt)["input_ids"]) for prompt in prompts]
    return PromptBatch(list(range(len(prompts))), list(prompts), ids, [{}] * len(prompts))


@dataclass(frozen=True)
class Given(ResponseSeeds):
    """Seeds that give these numbers."""

    numbers: torch.Tensor | None = None

    def uniforms(self, tokens: int) -> torch.Tensor:
        assert self.numbers is not None
        return self.numbers


def respond(
    path: str | None,
    context: Any,
    policy: Policy,
    prompts: PromptBatch,
    numbers: torch.Tensor | None,
    *,
    max_new_tokens: int = 12,
    training: bool = True,
    **options: Any,
) -> Generation:
    """The engine's responses, drawn by these numbers."""
    (component,) = ppokit_rollout_engines()
    assert component.needs == {"ref_logprobs"}
    n = 1 if numbers is None else numbers.shape[1]
    seeds = None if numbers is None else Given(0, 1, len(prompts), range(len(prompts)), n, 0, numbers)
    sampling = SamplingParams(max_new_tokens=max_new_tokens)
    request = GenerationRequest(prompts, n, seeds, sampling, training=training)
    return component.build(RecordedOptions(path=path, **options), context).generate(policy, request)


def sampled(policy: Policy, prompts: PromptBatch, numbers: torch.Tensor | None) -> Generation:
    """What is sampled by these numbers."""
    n = 1 if numbers is None else numbers.shape[1]
    request = GenerationRequest(prompts, n, None, SamplingParams(max_new_tokens=12))
    return TransformersEngine(TransformersOptions()).sample(policy, request, numbers)


def first(*numbers: float) -> torch.Tensor:
    """Uniforms [1,G,12] whose first numbers are these."""
    uniforms = torch.full((1, len(numbers), 12), 0.5)
    uniforms[0, :, 0] = torch.tensor(numbers)
    return uniforms


def test_each_is_drawn_once_until_all_were(policy, context, ratings) -> None:
    """Three distinct responses; .9 of them is the last, .0 the first of what is left, and so on."""
    generation = respond(ratings, context, policy, batch(policy, "Tom ran"), first(0.9, 0.0, 0.0, 0.4, 0.99))
    assert generation.texts == ["home", "to the park", "away", "away", "home"]
    tokenizer = policy.tokenizer
    for text, ids in zip(generation.texts, generation.response_ids, strict=True):
        assert ids == [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]


def test_a_separator_is_trained_on_and_not_rated(policy, context, ratings) -> None:
    generation = respond(ratings, context, policy, batch(policy, "Lily sat"), first(0.1), separator=" ")
    assert generation.texts == ["down"]
    expected = policy.tokenizer(" down", add_special_tokens=False)["input_ids"]
    assert generation.response_ids[0][:-1] == expected


def test_the_rest_is_sampled_as_ever(policy, context, ratings) -> None:
    """Numbers below .5 take a recorded one, and are stretched to draw it; a prompt without any is sampled."""
    uniforms = torch.rand(2, 3, 12, generator=torch.Generator().manual_seed(0))
    uniforms[0, :, 0] = torch.tensor([0.49, 0.6, 0.1])
    both = batch(policy, "Tom ran", "The dog")
    generation = respond(ratings, context, policy, both, uniforms, recorded=0.5)
    drawn = uniforms.clone()
    drawn[0, 1, 0] = 0.2  # .6 lies at a fifth of what is left of [0, 1) above .5
    plain = sampled(policy, both, drawn)
    assert generation.texts[0] == "home"
    assert generation.texts[2] == "to the park"
    for index in (1, 3, 4, 5):
        assert generation.texts[index] == plain.texts[index]
        assert generation.response_ids[index] == plain.response_ids[index]
        assert generation.sampler_logprobs[index] == pytest.approx(plain.sampler_logprobs[index], abs=1e-4)
    assert all(number != number for index in (0, 2) for number in generation.sampler_logprobs[index])


def test_sampled_first_tokens_come_as_often_as_the_policy_says(policy, context, ratings) -> None:
    """Though the same number decides whether to sample: against the policy's own probabilities."""
    count = 4000
    uniforms = torch.rand(1, count, 1, generator=torch.Generator().manual_seed(0))
    asked = batch(policy, "Tom ran")
    generation = respond(ratings, context, policy, asked, uniforms, recorded=0.5, max_new_tokens=1)
    first_tokens = [
        ids[0]
        for ids, logprobs in zip(generation.response_ids, generation.sampler_logprobs, strict=True)
        if logprobs[0] == logprobs[0]
    ]
    with torch.no_grad():
        p = policy.model()(torch.tensor(asked.prompt_ids)).logits[0, -1].softmax(-1)
    for token in p.topk(6).indices.tolist():
        expected = float(p[token])
        error = (expected * (1 - expected) / len(first_tokens)) ** 0.5
        assert abs(first_tokens.count(token) / len(first_tokens) - expected) < 4 * error


def test_greedy_is_what_the_policy_would_say(policy, context, ratings) -> None:
    prompts = batch(policy, "Tom ran")
    assert respond(ratings, context, policy, prompts, None) == sampled(policy, prompts, None)


def test_a_policy_asked_for_itself_does_not_read_out_what_others_wrote(policy, context, ratings) -> None:
    prompts, numbers = batch(policy, "Tom ran"), first(0.9, 0.0)
    answers = respond(ratings, context, policy, prompts, numbers, training=False)
    assert answers == sampled(policy, prompts, numbers)


def test_pairs_give_both_responses(policy, context, tmp_path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("prompt,chosen,rejected\nTom ran,home,away\n")
    generation = respond(str(path), context, policy, batch(policy, "Tom ran"), first(0.0, 0.0))
    assert generation.texts == ["home", "away"]


def test_a_file_that_cannot_be_read_is_refused_before_anything_loads(unknown_columns, tmp_path) -> None:
    (component,) = ppokit_rollout_engines()
    assert component.check is not None
    (sentence,) = component.check(RecordedOptions(path=str(tmp_path / "none.csv")), unknown_columns)
    assert "none.csv" in sentence


def test_a_column_of_the_prompts_has_them(policy, context) -> None:
    """Prompts with a cell are answered by it or sampled, as those of a file are; one without is sampled."""
    uniforms = torch.rand(2, 2, 12, generator=torch.Generator().manual_seed(1))
    uniforms[0, :, 0] = torch.tensor([0.1, 0.6])
    rows = [{"reference": "home", "number": 1}, {"reference": None, "number": 2}]
    asked = replace(batch(policy, "Tom ran", "The dog"), rows=rows)
    generation = respond(None, context, policy, asked, uniforms, column="reference", recorded=0.5)
    drawn = uniforms.clone()
    drawn[0, 1, 0] = 0.2
    plain = sampled(policy, asked, drawn)
    assert generation.texts == ["home", *plain.texts[1:]]
    with pytest.raises(PluginError, match=r"column: 'number' has 1; expected a text"):
        respond(None, context, policy, asked, uniforms, column="number")


def test_a_column_that_is_not_there_is_refused_before_anything_loads() -> None:
    (component,) = ppokit_rollout_engines()
    assert component.check is not None
    known = CheckContext(("prompt", "summary"))
    (sentence,) = component.check(RecordedOptions(column="reference"), known)
    assert sentence == "column 'reference' is no column of the prompts (prompt, summary)"
    assert not list(component.check(RecordedOptions(column="summary"), known))
    cells = [(2, "a text"), (3, None), (4, ["one", "two"])]
    (sentence,) = component.check(RecordedOptions(column="summary"), replace(known, cells=lambda _: cells))
    assert sentence == "column: 'summary' has ['one', 'two'] in row 4; expected a text, or nothing"


@pytest.mark.parametrize(
    "wrong",
    [
        {},
        {"path": ""},
        {"column": ""},
        {"path": "a", "column": "b"},
        {"column": "b", "on_bad_row": "skip"},
        {"path": "a", "recorded": 0},
        {"path": "a", "recorded": 2},
    ],
)
def test_options(wrong) -> None:
    with pytest.raises(ValidationError):
        RecordedOptions(**wrong)
