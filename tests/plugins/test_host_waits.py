"""How often the token loop waits for the model's device, counted on a pretended card."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from policies import policy_of
from ppokit.plugin.generation import GenerationRequest, SamplingParams
from ppokit.plugin.types import PromptBatch
from ppokit_rollouts.transformers_engine import TransformersEngine, TransformersOptions
from pretended_card import CARD, PretendedCard
from small_models import tiny_llama

PROMPTS = PromptBatch([0, 1], ["", ""], [[1, 5, 40, 7], [9]], [{}, {}])
NUMBERS = torch.rand(2, 2, 6, generator=torch.Generator().manual_seed(0))
EVERY_OPTION: dict[str, Any] = {
    "temperature": 0.7,
    "top_k": 20,
    "top_p": 0.9,
    "min_p": 0.01,
    "stop": ("no such",),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's own
@pytest.mark.parametrize(
    ("decoding", "sampling", "per_token", "per_look"),
    [("compiled", EVERY_OPTION, 0, 6), ("dynamic", {}, 1, 2)],
    ids=["compiled, every option", "dynamic"],
)
def test_only_a_look_waits(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    decoding: Any,
    sampling: dict[str, Any],
    per_token: int,
    per_look: int,
) -> None:
    """For the rows that go on and how many they are; with stop strings, for the tokens too.

    From a cache that grows, transformers asks for each token whether a mask of padded texts hides anything.
    """
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)

    def respond(model: Any, tokens: int, check_every: int, decoding: Any = decoding) -> list[list[int]]:
        lengths = {"max_new_tokens": tokens, "min_new_tokens": tokens}
        request = GenerationRequest(PROMPTS, 2, None, SamplingParams(**lengths, **sampling), True)
        engine = TransformersEngine(TransformersOptions(decoding=decoding, check_every=check_every))
        policy = policy_of(model, tokenizer, end_ids=frozenset({63}))
        return engine.sample(policy, request, NUMBERS[:, :, :tokens]).response_ids

    with PretendedCard() as card:
        model = tiny_llama(num_hidden_layers=1).to(CARD)
        # What is compiled runs on the card; the loop around it is the same.
        monkeypatch.setattr(model, "get_compiled_call", lambda config: model)
        first = respond(model, 2, 2)  # the model is tried out
        waits = {}
        for tokens, check_every in ((2, 6), (6, 6), (6, 2)):
            card.syncs.clear()
            responses = respond(model, tokens, check_every)
            waits[tokens, check_every] = card.syncs.total()
    assert waits[6, 6] - waits[2, 6] <= 4 * per_token, card.syncs
    assert waits[6, 2] - waits[6, 6] == 2 * per_look, card.syncs
    assert [ids[:2] for ids in responses] == first
    assert respond(tiny_llama(num_hidden_layers=1), 6, 2, "dynamic") == responses
