"""The evaluator `lm`: numbers worked out by hand, and against plain transformers in a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from ppokit.plugin import BuildContext, CheckContext
from ppokit_evaluators.lm import LM, LMOptions, check
from rollouts import make_rollout
from small_models import WORDS, save_tokenizer


class View:
    """Of the prompt "a" and the text "b c d", under a policy that gives their words 1/2, 1/4 and 1/8."""

    prompts = ("a",)
    rows = ({"text": "b c d"},)

    def recorded(self, prompts: Sequence[str], responses: Sequence[str], **more: Any) -> Any:
        assert (list(prompts), list(responses)) == (["a"], ["b c d"])
        ids = [[WORDS.index(word) for word in ("b", "c", "d", "</s>")]]
        return replace(make_rollout([[WORDS.index("a")]], ids), responses=list(responses))

    def read_logits(self, rollout: Any, read: Callable[..., torch.Tensor]) -> torch.Tensor:
        e = WORDS.index("e")
        rows = []
        for word, chance in (("b", 1 / 2), ("c", 1 / 4), ("d", 1 / 8), ("</s>", 1 / 16)):
            row = torch.full((len(WORDS),), -math.inf)
            row[e], row[WORDS.index(word)] = math.log(1 - chance), math.log(chance) + 1e-9
            rows.append(row)
        rows[0][WORDS.index("b")] += 1e-6  # the likelier of two halves
        logits, zero = torch.stack(rows), torch.zeros(4, dtype=torch.long)
        parts = [slice(0, 3), slice(3, 4)]
        return torch.cat([read(logits[own], zero[own], torch.arange(4)[own]) for own in parts])[None]

    def record(self, rollout: Any, values: dict[str, list[float | None]]) -> None:
        self.recorded_values = values


def test_numbers_by_hand(tmp_path: Path) -> None:
    """1 + 2 + 3 bits in three tokens and six bytes, " b c d"; one of three words is the likeliest."""
    save_tokenizer(tmp_path, eos_token="</s>")
    context = BuildContext(
        torch.device("cpu"), torch.float32, 0, tokenizer=AutoTokenizer.from_pretrained(tmp_path)
    )
    view = View()
    assert LM(LMOptions(reference="text"), context).evaluate(view, 0) == {}  # type: ignore[arg-type]
    values = {name: own[0] for name, own in view.recorded_values.items()}
    assert values == {
        "logprob_per_token": pytest.approx(-2 * math.log(2), abs=1e-4),
        "bits_per_byte": pytest.approx(1.0, abs=1e-4),
        "next_word_accuracy": pytest.approx(1 / 3),
        "keystrokes_saved": 0.0,  # of words of one letter none can be
    }


def test_a_text_that_the_tokenizer_cannot_write_has_no_numbers(tmp_path: Path) -> None:
    class Unknown(View):
        rows = ({"text": "zzz"},)

        def recorded(self, prompts: Sequence[str], responses: Sequence[str], **more: Any) -> Any:
            ids = [[WORDS.index(word) for word in ("[UNK]", "[UNK]", "[UNK]", "</s>")]]
            return replace(make_rollout([[WORDS.index("a")]], ids), responses=list(responses))

    save_tokenizer(tmp_path, eos_token="</s>")
    context = BuildContext(
        torch.device("cpu"), torch.float32, 0, tokenizer=AutoTokenizer.from_pretrained(tmp_path)
    )
    view = Unknown()
    LM(LMOptions(reference="text"), context).evaluate(view, 0)  # type: ignore[arg-type]
    assert set(map(tuple, view.recorded_values.values())) == {(None,)}


@pytest.mark.parametrize(
    ("options", "context", "message"),
    [
        ({"reference": "text"}, CheckContext(()), "needs held-out prompts; expected evaluation.prompts"),
        (
            {"reference": "txt"},
            CheckContext(("prompt", "text")),
            "reference 'txt' is no column of the held-out prompts",
        ),
        (
            {"reference": "text", "separator": " "},
            CheckContext(("text",), chat=True),
            "separator: got ' ' with prompts.chat: true",
        ),
    ],
)
def test_what_validation_says(options: dict[str, str], context: CheckContext, message: str) -> None:
    (problem,) = check(LMOptions(**options), context)
    assert message in problem
