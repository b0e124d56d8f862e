"""docs/coming-from.md shows the same reward five times: they give the same numbers.

Each is called as the source of its library calls it, in the version that the page names.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Generic, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict

from pages import blocks_of, read
from ppokit.config.registry import PluginRegistry
from ppokit.testing import rollout_of

PAGE = "docs/coming-from.md"
PROMPT = "What is 6 times 7?"
RESPONSES = ["It is 42.", "It is 41.", "42", ""]
EXPECTED = [1.0, 0.0, 1.0, 0.0]
T = TypeVar("T")


class Data(BaseModel):
    """As `verifiers.v1.TaskData`: a model that tasksets derive theirs from."""

    model_config = ConfigDict(frozen=True)


class Task(Generic[T]):
    """As `verifiers.v1.Task`."""

    def __init__(self, data: T) -> None:
        self.data = data


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the blocks of Python define."""
    stand_in: Any = ModuleType("verifiers.v1")
    stand_in.TaskData, stand_in.Task, stand_in.Trace = Data, Task, SimpleNamespace
    stand_in.reward = lambda weight: lambda function: function
    package: Any = ModuleType("verifiers")
    package.v1 = stand_in
    monkeypatch.setitem(sys.modules, "verifiers", package)
    monkeypatch.setitem(sys.modules, "verifiers.v1", stand_in)
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
    more = {"trainer_state": object(), "log_extra": print, "log_metric": print}
    assert shown["right_trl"](completions=completions, **given, **more) == EXPECTED


def test_openrlhf(shown: dict[str, Any]) -> None:
    """Positional, a response at a time, with its end token."""
    results = [shown["reward_func"]([PROMPT + text + "</s>"], [PROMPT], ["42"]) for text in RESPONSES]
    assert [result["rewards"].tolist() for result in results] == [[score] for score in EXPECTED]
    assert all(set(result) == {"rewards", "scores", "extra_logs"} for result in results)


def test_verl(shown: dict[str, Any]) -> None:
    given = {"data_source": "gsm8k", "ground_truth": "42", "extra_info": {"num_turns": None}}
    assert [shown["compute_score"](solution_str=text, **given) for text in RESPONSES] == EXPECTED
    router = {"reward_router_address": "localhost:1", "reward_model_tokenizer": None}
    assert shown["compute_score"](solution_str="42", **given, **router) == 1.0


def test_verifiers(shown: dict[str, Any]) -> None:
    task = shown["Question"](shown["QuestionData"](answer="42"))
    traces = [SimpleNamespace(last_reply=text) for text in RESPONSES]
    assert [asyncio.run(task.right_answer(trace=trace)) for trace in traces] == EXPECTED
