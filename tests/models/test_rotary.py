"""One rotary factor for all texts of a run: that of its longest, as a plain model has it beside that text."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, XLNetConfig

from ppokit.data.prompts import PromptLimits
from ppokit.errors import ModelError
from ppokit.models.rotary import depends_on_length, fix_rotary, same_factors
from small_models import CACHE, tiny_llama

FIRST = 16  # tokens that the model was first trained with
SHORT = [5, 6, 7, 8, 9, 10]
ROPES: dict[str, dict[str, Any]] = {
    "longrope": {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [3.0, 4.0, 6.0, 8.0],
        "original_max_position_embeddings": FIRST,
        "rope_theta": 100.0,
    },
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0},
}


def model_of(kind: str) -> PreTrainedModel:
    size = FIRST if kind == "dynamic" else 4 * FIRST
    return tiny_llama(rope_parameters=ROPES[kind], max_position_embeddings=size)


@torch.no_grad()
def beside(model: PreTrainedModel, text: list[int], length: int) -> Tensor:
    """[T,V] plain logits of a text that is read beside one of so many tokens."""
    rows = torch.full((2, length), 11)
    rows[0, : len(text)] = torch.tensor(text)
    logits: Tensor = model(rows).logits[0, : len(text)]
    return logits


@torch.no_grad()
def alone(model: PreTrainedModel, text: list[int]) -> Tensor:
    logits: Tensor = model(torch.tensor([text])).logits[0]
    return logits


@pytest.mark.parametrize("kind", ROPES)
@pytest.mark.parametrize("longest", [FIRST - 3, FIRST, FIRST + 1, 40])
def test_each_text_has_the_factors_of_the_longest(kind: str, longest: int) -> None:
    plain, fixed = model_of(kind), model_of(kind)
    fix_rotary(fixed, longest)
    expected = beside(plain, SHORT, longest)
    torch.testing.assert_close(alone(fixed, SHORT), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(alone(copy.deepcopy(fixed), SHORT), expected, atol=1e-5, rtol=0)
    if longest <= FIRST:
        assert torch.equal(alone(fixed, SHORT), alone(model_of(kind), SHORT))
    else:
        assert (alone(fixed, SHORT) - alone(model_of(kind), SHORT)).abs().max() > 0.01


@pytest.mark.parametrize("kind", ROPES)
@torch.no_grad()
def test_a_token_at_a_time_is_the_whole_text(kind: str) -> None:
    """A text that grows beyond the first context keeps what its first tokens were read with."""
    model = model_of(kind)
    fix_rotary(model, 24)
    text = torch.arange(3, 25)[None]
    output = model(text[:, :10], use_cache=True)
    steps = [output.logits[0, -1]]
    for column in range(10, 22):
        output = model(text[:, column : column + 1], **{CACHE: output[CACHE]})
        steps.append(output.logits[0, -1])
    torch.testing.assert_close(torch.stack(steps), model(text).logits[0, 9:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("kind", "longest", "most"),
    [("dynamic", 10, FIRST), ("longrope", 10, FIRST), ("dynamic", 20, 20), ("longrope", 20, 40)],
)
def test_a_text_with_other_factors_is_refused(kind: str, longest: int, most: int) -> None:
    model = model_of(kind)
    fix_rotary(model, longest)
    alone(model, [5] * most)
    if (kind, longest) != ("longrope", 20):  # long factors are the same for any length
        with pytest.raises(ModelError, match=f"^model.name: a text of {most + 1} tokens.* {longest} tokens"):
            alone(model, [5] * (most + 1))
        other = model_of(kind)
        fix_rotary(other, longest, "rewards.0.path")
        with pytest.raises(ModelError, match=r"^rewards\.0\.path: .* tokens; beyond .* Shorten the text\.$"):
            alone(other, [5] * (most + 1))


@pytest.mark.parametrize(
    ("kind", "one", "other", "same"),
    [
        ("longrope", 3, FIRST, True),
        ("longrope", FIRST, FIRST + 1, False),
        ("longrope", 20, 40, True),
        ("dynamic", 3, FIRST, True),
        ("dynamic", FIRST, FIRST + 1, False),
        ("dynamic", 20, 40, False),
    ],
)
def test_which_lengths_have_the_same_factors(kind: str, one: int, other: int, same: bool) -> None:
    models = [model_of(kind), model_of(kind)]
    for model, longest in zip(models, (one, other), strict=True):
        fix_rotary(model, longest)
    assert torch.equal(alone(models[0], [7, 8, 9]), alone(models[1], [7, 8, 9])) is same
    assert same_factors(models[0].config, one, other) is same


def test_dynamic_factors_are_there_for_longer_texts() -> None:
    assert PromptLimits.of(model_of("dynamic").config, 5).context is None
    assert PromptLimits.of(model_of("longrope").config, 5).context == 4 * FIRST
    assert PromptLimits.of(XLNetConfig(), 5).context is None, "-1 in its configuration"


def test_other_models_are_left_alone() -> None:
    model = tiny_llama(rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 100.0})
    assert not depends_on_length(model.config)
    fix_rotary(model, 5)
    alone(model, [5] * 30)
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_code_without_such_a_module_is_refused() -> None:
    model = model_of("dynamic")
    del model.model.rotary_emb.inv_freq
    del model.model.rotary_emb.original_inv_freq
    with pytest.raises(ModelError, match="no such module"):
        fix_rotary(model, 5)
