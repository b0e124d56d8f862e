"""docs/coming-from.md shows the same reward five times: they give the same numbers."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from pages import blocks_of, read
from ppokit.config.registry import PluginRegistry
from ppokit.testing import rollout_of

PAGE = "docs/coming-from.md"
PROMPT = "What is 6 times 7?"
RESPONSES = ["It is 42.", "It is 41.", "42", ""]
EXPECTED = [1.0, 0.0, 1.0, 0.0]


@pytest.fixture
def shown() -> dict[str, Any]:
    """What the blocks of Python define."""
    module = ModuleType("my_rewards")
    for block in blocks_of(PAGE, read(PAGE)):
        if block.kind == "python":
            exec(compile(block.text, f"{PAGE}, line {block.line}", "exec", dont_inherit=True), vars(module))
    return vars(module)


def test_ppokit(shown: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    block = next(block for block in blocks_of(PAGE, read(PAGE)) if block.kind == "python")
    (tmp_path / "my_shown_rewards.py").write_text(block.text)
    monkeypatch.syspath_prepend(str(tmp_path))
    component, _ = PluginRegistry().component("rewards", "my_shown_rewards:right")
    provider = component.build(component.options(), None)  # type: ignore[arg-type]
    output = provider.score(rollout_of(RESPONSES, prompt=PROMPT, row={"answer": "42"}))
    assert output.scores.tolist() == EXPECTED
    sys.modules.pop("my_shown_rewards")


@pytest.mark.parametrize("chat", [False, True])
def test_trl(shown: dict[str, Any], chat: bool) -> None:
    completions: Any = [[{"role": "assistant", "content": text}] for text in RESPONSES] if chat else RESPONSES
    given = {"prompts": [PROMPT] * 4, "completion_ids": [[1]] * 4, "answer": ["42"] * 4}
    assert shown["right_trl"](completions=completions, **given) == EXPECTED


def test_openrlhf(shown: dict[str, Any]) -> None:
    queries = [PROMPT + text for text in RESPONSES]
    result = shown["reward_func"](queries, [PROMPT] * 4, ["42"] * 4)
    assert result["rewards"].tolist() == EXPECTED


def test_verl(shown: dict[str, Any]) -> None:
    assert [shown["compute_score"]("gsm8k", text, "42") for text in RESPONSES] == EXPECTED


def test_verifiers(shown: dict[str, Any]) -> None:
    scores = [asyncio.run(shown["right_answer"](completion=text, answer="42")) for text in RESPONSES]
    assert scores == EXPECTED
