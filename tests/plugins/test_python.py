"""Any Python function as a reward: what it is given, what it may return, and how mistakes are told."""

from __future__ import annotations

import math
import sys
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from components import built
from ppokit.config.registry import PluginRegistry
from ppokit.errors import PluginError, RewardError
from ppokit.plugin.protocols import CheckContext
from ppokit.rewards.scorer import Scorer
from ppokit_rewards.python import PythonOptions, build, check, python
from rollouts import single_process

MODULE = """
CONSTANT = 3
def everything(**given): return [float(len(given[k][0])) for k in ("responses",)] * len(given["responses"])
def lengths(responses): return [len(r) for r in responses]
def right(responses, answer, *, bonus=1.0): return [bonus * (r == a) for r, a in zip(responses, answer)]
def no_responses(prompts): return [0.0 for _ in prompts]
class Judge:
    @staticmethod
    def score(responses): return [7.0 for _ in responses]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working directory with a module `our_rewards`, not otherwise on the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "our_rewards.py").write_text(MODULE)
    (tmp_path / "broken_rewards.py").write_text("import a_package_that_is_not_there\n")
    (tmp_path / "exiting_rewards.py").write_text("import sys; sys.exit(3)\n")
    yield tmp_path
    for name in [name for name in sys.modules if name.endswith("_rewards") and not name.startswith("ppokit")]:
        del sys.modules[name]


def call(function, rollout, **arguments):
    return python(function, rollout, arguments, name="m:f")


def test_passes_texts_columns_and_arguments_by_keyword(make_rollout) -> None:
    rollout = make_rollout(
        ["a", "b"], prompts=["p", "q"], rows=[{"answer": 1, "id": "x"}, {"answer": 2, "id": "y"}]
    )
    seen = {}

    def function(**given):
        seen.update(given)
        return [0, 1]

    assert call(function, rollout, weight=3) == [0.0, 1.0]
    assert seen == {
        "prompts": ["p", "q"],
        "responses": ["a", "b"],
        "answer": [1, 2],
        "id": ["x", "y"],
        "weight": 3,
    }


def test_passes_only_what_the_signature_accepts(make_rollout) -> None:
    rollout = make_rollout(["a", "bb"], rows=[{"answer": 1}, {"answer": 2}])
    assert call(lambda responses: [len(r) for r in responses], rollout) == [1.0, 2.0]
    assert call(lambda responses, *, answer: answer, rollout) == [1.0, 2.0]


@pytest.mark.parametrize(
    "returned",
    [
        [1, 2.5],
        (1, 2.5),
        np.array([1, 2.5]),
        np.array([1, 2.5], dtype=np.float32),
        [np.float32(1), np.float64(2.5)],
        torch.tensor([1, 2.5], requires_grad=True),
        torch.tensor([1, 2.5], dtype=torch.bfloat16),
        [torch.tensor(1), torch.tensor(2.5)],
        [True, Fraction(5, 2)],
    ],
)
def test_takes_any_sequence_of_numbers(make_rollout, returned) -> None:
    got = call(lambda responses: returned, make_rollout(["a", "b"]))
    assert got == [1.0, 2.5]
    assert all(type(number) is float for number in got)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ([1.0], "returned 1 number; expected 2 numbers, one per response"),
        ([1.0, 2.0, 3.0], "returned 3 numbers; expected 2"),
        (None, r"returned None \(NoneType\); expected 2"),
        (1.0, r"returned 1.0 \(float\)"),
        ("ab", r"returned 'ab' \(str\)"),
        ({0: 1.0, 1: 2.0}, r"\(dict\)"),
        ((x for x in (1.0, 2.0)), r"\(generator\)"),
        (np.zeros((2, 1)), r"an array of shape \[2, 1\]"),
        (torch.tensor(1.0), r"an array of shape \[\]"),
    ],
)
def test_anything_but_one_number_per_response_is_an_error(make_rollout, returned, message) -> None:
    with pytest.raises(PluginError, match=f"reward function m:f .*{message}"):
        call(lambda responses: returned, make_rollout(["a", "b"]))


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        "7",
        [1.0],
        1e39,
        10**400,
        pytest.param(10**5000, id="digits"),
        1j,
        Decimal(1),
        torch.zeros(2),
    ],
)
def test_a_wrong_number_names_the_sample(make_rollout, value) -> None:
    rollout = make_rollout(["a", "b"], prompts=["first", "Tell me about " + "x" * 200])
    with pytest.raises(
        PluginError, match=r"for response 1 \(sample sample-1, prompt 'Tell me .*…'\); expected"
    ):
        call(lambda responses: [1.0, value], rollout)


def test_none_abstains(here, context, make_rollout) -> None:
    (here / "our_rewards.py").write_text("def f(responses): return [None, 2.0]\n")
    output = build(PythonOptions(function="our_rewards:f"), context).score(make_rollout(["a", "b"]))
    assert output.outcomes == ("abstained", "scored")
    assert output.scores.tolist() == [0.0, 2.0]


@pytest.mark.parametrize(
    ("rows", "arguments", "message"),
    [
        ({"prompts": 1}, {}, "column 'prompts' clashes"),
        ({"responses": 1}, {}, "column 'responses' clashes"),
        ({"answer": 1}, {"answer": 2}, "arguments.answer clashes with the data set's column"),
        ({}, {"prompts": 2}, "arguments.prompts clashes"),
    ],
)
def test_a_name_that_would_be_passed_twice_is_an_error(make_rollout, here, rows, arguments, message) -> None:
    with pytest.raises(PluginError, match=message):
        call(lambda **given: [0.0], make_rollout(["a"], rows=[rows]), **arguments)
    options = PythonOptions(function="our_rewards:everything", arguments=arguments)
    (problem,) = check(options, CheckContext(columns=tuple(rows)))
    assert message in problem


def test_an_empty_share_of_the_rollout_asks_nobody(make_rollout) -> None:
    assert call(lambda: pytest.fail("called"), make_rollout([])) == []


@pytest.mark.parametrize("path", ["our_rewards:lengths", "our_rewards.lengths"])
def test_finds_the_function_in_the_working_directory(
    here, context, make_rollout, unknown_columns, path
) -> None:
    options = PythonOptions(function=path)
    assert list(check(options, unknown_columns)) == []
    assert build(options, context).score(make_rollout(["a", "bb"])).scores.tolist() == [1.0, 2.0]


def test_finds_a_method_and_passes_arguments(here, context, make_rollout) -> None:
    rollout = make_rollout(["a", "b"], rows=[{"answer": "a"}, {"answer": "z"}])
    method = build(PythonOptions(function="our_rewards:Judge.score"), context)
    assert method.score(rollout).scores.tolist() == [7.0, 7.0]
    right = build(PythonOptions(function="our_rewards:right", arguments={"bonus": 4}), context)
    assert right.score(rollout).scores.tolist() == [4.0, 0.0]


@pytest.mark.parametrize(
    ("options", "columns", "message"),
    [
        ({"function": "no_such_module:f"}, None, "there is no module 'no_such_module'"),
        ({"function": "our_rewards.deeper.f"}, None, "there is no module 'our_rewards.deeper'"),
        (
            {"function": "broken_rewards:f"},
            None,
            "needs a package: No module named 'a_package_that_is_not_there'",
        ),
        ({"function": "exiting_rewards:f"}, None, "importing 'exiting_rewards' failed: SystemExit: 3"),
        ({"function": "our_rewards:nothing"}, None, "has no 'nothing'"),
        ({"function": "our_rewards:CONSTANT"}, None, "is 3 (int); expected a function"),
        ({"function": "our_rewards:no_responses"}, None, "has no parameter `responses`"),
        ({"function": "our_rewards:lengths", "arguments": {"x": 1}}, None, "arguments.x: function"),
        ({"function": "our_rewards:right"}, ("id",), "needs 'answer', which is neither a column"),
    ],
)
def test_what_validation_says(here, options, columns, message) -> None:
    (problem,) = check(PythonOptions(**options), CheckContext(columns=columns))
    assert message in problem


def test_a_good_recipe_has_no_problems(here) -> None:
    options = PythonOptions(function="our_rewards:right", arguments={"bonus": 2})
    assert list(check(options, CheckContext(columns=("answer", "id")))) == []


@pytest.mark.parametrize("path", ["", "f", "a b:c", "a:", ":f", "a..b", "a/b.py:f"])
def test_a_path_that_is_none(path) -> None:
    with pytest.raises(ValidationError, match=r"expected package\.module:name"):
        PythonOptions(function=path)


FORMS = """
def fails(responses): return [1.0, ValueError("no"), None]
async def waits(responses, reward_context): return [float(reward_context.step)] * len(responses)
def one(response, answer): return float(response == answer)
async def awaits(prompt, response): raise OSError(response)
def cut(response): return 1.0
cut.responses_per_call = 2
"""


def scored(function: str, rollout, context, **keys):
    """What the core makes of a function's values."""
    provider = build(PythonOptions(function=f"forms:{function}"), context)
    scorer = Scorer([built("rewards", provider, "r", where="r", **keys)], single_process(), 0.99)
    try:
        return scorer.score(rollout, step=4)
    finally:
        scorer.close()


def test_single_failures_coroutines_and_one_response_at_a_time(tmp_path, monkeypatch, make_rollout, context):
    (tmp_path / "forms.py").write_text(FORMS)
    monkeypatch.syspath_prepend(tmp_path)
    rollout = make_rollout(["a", "b", "c"], rows=[{"answer": "b"}] * 3)
    rewards = scored("fails", rollout, context)
    assert rewards.outcomes["r"] == ("scored", "failed", "abstained")
    assert rewards.reasons["r"][1] == "ValueError: no"
    assert scored("waits", rollout, context).scores.tolist() == [4, 4, 4]
    assert scored("one", rollout, context).scores.tolist() == [0, 1, 0]
    with pytest.raises(RewardError, match=r"3 of 3 responses.*OSError: a"):
        scored("awaits", rollout, context)
    columns = CheckContext(("prompt", "answer"))
    assert [list(check(PythonOptions(function=f"forms:{name}"), columns)) for name in ("waits", "one")] == [
        [],
        [],
    ]
    (problem,) = check(PythonOptions(function="forms:one"), CheckContext(("prompt",)))
    assert "needs 'answer'" in problem
    with pytest.raises(
        PluginError, match=r"r has responses_per_call 2, and is asked for one response at a ti"
    ):
        scored("cut", rollout, context)
    component, _ = PluginRegistry().component("rewards", "python")
    by_path, _ = PluginRegistry().component("rewards", "forms:awaits")
    assert component.is_async(PythonOptions(function="forms:waits"))
    assert not component.is_async(PythonOptions(function="forms:one"))
    assert by_path.is_async(by_path.options()), "no process for what can be cancelled"
