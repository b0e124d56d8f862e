"""The rewards and judges that recipes of recipes/uses bring with them, by numbers worked out by hand."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppokit.plugin import CheckContext, PluginError
from rollouts import make_rollout
from runs import REPOSITORY

sys.path.insert(0, str(REPOSITORY))

import recipes.uses.customer_service.rewards as customers
from recipes.uses.autocomplete.rewards import Likelihood, keystrokes
from recipes.uses.sensitive_information.judge import f1, span_f1
from recipes.uses.sensitive_information.rewards import exact, invented, passed_over, spans


@pytest.mark.parametrize(
    ("response", "share"),
    [
        (" half past six", 1.0),
        ("half past six and more", 1.0),
        ("half past seven", 10 / 14),  # `half past ` of `half past six `
        ("half", 5 / 14),
        ("Half past six", 0.0),
        ("at half past six", 0.0),
        ("halfway", 0.0),
        ("", 0.0),
    ],
)
def test_keystrokes_are_those_of_the_right_words_from_the_first(response: str, share: float) -> None:
    assert keystrokes(response, "half past six") == pytest.approx(share)


def test_likelihood_is_the_references_mean_per_token() -> None:
    """Padding counts nothing, and below -10 nats a suggestion is no worse."""
    logprobs = torch.tensor([[-1.0, -3.0, 0.0], [-30.0, -2.0, -1.0]])
    rollout = make_rollout([[1], [1]], [[5, 6], [5, 6, 7]], ref_logprobs=logprobs)
    assert Likelihood().score(rollout).scores.tolist() == [-2.0, -10.0]  # type: ignore[union-attr]


BOTH = '{"name": ["Ann Lee"], "phone": ["555 0101"]}'


@pytest.mark.parametrize(
    ("answer", "reference", "expected", "nothing_named"),
    [
        (BOTH, BOTH, 1.0, 0.0),
        ('{"name": ["Ann Lee"]}', BOTH, 2 / 3, 0.0),  # precision 1, recall 1/2
        ('{"name": "Ann Lee", "phone": ""}', BOTH, 2 / 3, 0.0),
        ('{"name": ["Ann Lee", "Bob"], "email": ["555 0101"]}', BOTH, 2 / 5, 0.0),  # 1 of 3, and 1 of 2
        ('{"phone": ["Ann Lee"]}', BOTH, 0.0, 0.0),
        ("{}", BOTH, 0.0, -1.0),
        ("{}", "{}", 1.0, 0.0),
        ('{"name": ["Ann Lee"]}', "{}", 0.0, 0.0),
        ("", "{}", 0.0, 0.0),
        ("[]", "{}", 0.0, 0.0),
        ('{"name": ', "{}", 0.0, 0.0),
        (f"{BOTH}\n\nMessage: ", BOTH, 1.0, 0.0),
        ("[" * 100_000, BOTH, 0.0, -1.0),
    ],
)
def test_f1_of_what_is_named(answer: str, reference: str, expected: float, nothing_named: float) -> None:
    assert f1(answer, reference) == pytest.approx(expected)
    assert exact(answer, reference) == float(expected == 1)
    assert passed_over(answer, reference) == nothing_named


@pytest.mark.parametrize(
    ("answer", "penalty"),
    [
        (BOTH, -1 / 2),  # the message has no such number
        ('{"name": ["Ann Lee"]}', 0.0),
        ("{}", 0.0),
        ("Ann Lee", -1.0),
    ],
)
def test_what_is_invented(answer: str, penalty: float) -> None:
    assert invented("Message: Ask Ann Lee.\nPersonal data as JSON:\n", answer) == pytest.approx(penalty)


@pytest.mark.parametrize(
    "answer", ['{"a": NaN}', '{"a": 1e999}', '{"a": [{"b": [1]}]}', '{"a": null}', "\ud800", "{"]
)
def test_any_answer_is_read(answer: str) -> None:
    named = spans(answer)
    assert named is None or all(isinstance(text, str) for _, text in named)
    assert math.isfinite(f1(answer, BOTH) + invented("Message: x\n", answer))


@pytest.mark.parametrize("reference", ["A summary.", '["Ann Lee"]', ""])
def test_a_reference_that_names_nothing_in_json_is_refused(reference: str) -> None:
    for number in (f1, exact, passed_over):
        with pytest.raises(ValueError, match="expected JSON of lists by kind"):
            number("hello", reference)


@pytest.mark.parametrize(
    ("columns", "cells", "problem"),
    [
        (("prompt", "reference"), [(1, BOTH), (2, "{}")], ""),
        (None, [], ""),
        (
            ("prompt", "answer"),
            [],
            "reference 'reference' is no column of the held-out prompts (prompt, answer)",
        ),
        (("prompt", "reference"), [(1, "{}"), (7, "A summary.")], "'A summary.' in row 7; expected JSON"),
        (("prompt", "reference"), [(1, {"name": ["Ann Lee"]})], "in row 1; expected JSON"),
    ],
)
def test_held_out_messages_are_checked_before_a_run(columns: Any, cells: Any, problem: str) -> None:
    context = CheckContext(columns, cells=lambda column: cells)
    assert span_f1.check is not None
    found = list(span_f1.check(span_f1.options(), context))
    assert len(found) == bool(problem)
    assert all(problem in sentence for sentence in found)


def test_what_could_be_said_to_any_customer_is_not_relevant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two references at a right angle: half a cosine for one's own, less that for the other's, 0 between."""
    vectors = {"late": [1.0, 0.0], "torn": [0.0, 1.0], "sorry": [0.5**0.5, 0.5**0.5]}

    def encoder(*_: Any) -> Any:
        return lambda texts: torch.tensor([vectors[text] for text in texts])

    monkeypatch.setattr(customers, "Encoder", encoder)
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps({"reference": text}) + "\n" for text in ("late", "torn")))
    options = SimpleNamespace(path=str(path), encoder="MiniLM")
    reward = customers.Relevance(options, SimpleNamespace(device=torch.device("cpu")))
    rollout = SimpleNamespace(responses=["late", "torn", "sorry"], rows=[{"reference": "late"}] * 3)
    assert reward.score(rollout).scores.tolist() == pytest.approx([0.5, -0.5, 0.0])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("prompt,reference\nWhere?,There.\n", r"line 1 is 'prompt,reference'; expected JSON lines"),
        ('{"reference": "There."}\n{"answer": "Here."}\n', "line 2 is"),
        ('{"reference": ["There.", "Here."]}\n', "line 1 is"),
        ("[" * 100_000, "line 1 is"),
        ("\n", "has no row"),
        (None, "cannot be read"),
    ],
)
def test_relevance_refuses_what_is_no_rows_with_references(
    content: str | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(PluginError, match=rf"mine\.csv {message}"):
        customers.references_of(str(path))


def test_relevance_reads_what_the_core_reads(tmp_path: Path) -> None:
    """A mark at the beginning, lines without a row, and a separator of lines within a text."""
    path = tmp_path / "mine.jsonl"
    path.write_text('\ufeff{"reference": "a\u2028b"}\n\n{"reference": "c"}\n', encoding="utf-8")
    assert customers.references_of(str(path)) == ["a\u2028b", "c"]
