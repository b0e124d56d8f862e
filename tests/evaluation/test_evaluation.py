"""When evaluators are asked, what becomes of their numbers, and which policy was the best."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from components import built
from ppokit.config.evaluation_settings import EvaluationSettings, EvaluatorSettings
from ppokit.errors import DataError, PluginError
from ppokit.evaluation.evaluation import Evaluation, Result
from ppokit.evaluation.gains import paired_gain
from ppokit.evaluation.texts import HeldOutTexts
from ppokit.evaluation.view import HeldOutPrompts, HeldOutView
from ppokit.plugin.types import Rewards, Rollout
from ppokit.run.evaluation_table import evaluation_table
from ppokit.run.provenance import data_hashes
from rollouts import make_rollout


class Given:
    """Reports what it is told to."""

    def __init__(self, report: Callable[[Any, int], Any]) -> None:
        self.report = report

    def evaluate(self, view: Any, step: int) -> Mapping[str, float]:
        result: Mapping[str, float] = self.report(view, step)
        return result


def evaluation(*reports: Callable[[Any, int], Any], steps: int = 7, **settings: Any) -> Evaluation:
    named = [built("evaluators", Given(r), f"e{i}", where=f"evaluator 'e{i}'") for i, r in enumerate(reports)]
    section = EvaluationSettings(evaluators=[EvaluatorSettings(use="x")], **settings)
    return Evaluation(section, steps, named, HeldOutPrompts())


def view(*, main: bool = True, **changes: Any) -> Any:
    nothing: Any = SimpleNamespace()
    given = {"policy": nothing, "collector": nothing, "scorer": nothing, "needs": frozenset(), **changes}
    return HeldOutView(
        prompts=["a", "b"],
        rows=[{}, {}],
        training_rows=[],
        prompt_column="prompt",
        is_main=main,
        seed=5,
        reward_needs=frozenset(),
        **given,
    )


def test_first_every_and_last() -> None:
    asked = evaluation(every=3)
    assert [step for step in range(8) if asked.is_due(step)] == [0, 3, 6, 7]


def test_a_step_is_evaluated_once_also_after_a_resume() -> None:
    first = evaluation(lambda view, step: {"x": 1.0}, every=3)
    first.measure(3, view())
    second = evaluation(every=3)
    second.load_state_dict(first.state_dict())
    assert not first.is_due(3)
    assert not second.is_due(3)
    assert second.is_due(6)


def test_what_it_evaluates_on_is_prompts_columns_and_texts() -> None:
    """The same rows by another column ask something else; without texts there are none."""
    rows = [{"q": "a", "t": "b"}]
    one, other = (evaluation() for _ in range(2))
    assert one.data == {"held_out": None, "texts": None}
    one.held_out, other.held_out = HeldOutPrompts(["a"], rows, [1]), HeldOutPrompts(["b"], rows, [1])
    assert one.data["held_out"] != other.data["held_out"]
    assert data_hashes(**one.data).keys() == {"held_out"}
    one.texts, other.texts = HeldOutTexts(["A"], [" dog."]), HeldOutTexts(["A"], [" cat."])
    assert data_hashes(**one.data)["texts"] != data_hashes(**other.data)["texts"]


def test_hashes_are_of_text_as_it_is_and_of_keys_in_any_order() -> None:
    hashes = data_hashes(recipe="a: 1\n", one=[{"a": 1, "b": 2}], two=[{"b": 2, "a": 1}])
    assert hashes["recipe"] == hashlib.sha256(b"a: 1\n").hexdigest()
    assert hashes["one"] == hashes["two"]


def test_each_further_part_is_announced() -> None:
    """The second evaluator, and what is measured of responses; the first begins with the evaluation."""
    order: list[str] = []
    asked = evaluation(*(lambda view, step, own=own: order.append(own) or {} for own in "ab"))
    asked.measure(0, view(), lambda: order.append("part"))
    assert order == ["a", "part", "b", "part"]


def test_numbers_stand_under_the_evaluators_name() -> None:
    result = evaluation(lambda view, step: {"x": step}, lambda view, step: {"x": 2, "y": 3.5}).measure(
        4, view()
    )
    assert result.metrics == {"eval/e0/x": 4, "eval/e1/x": 2, "eval/e1/y": 3.5}
    assert result.best is None


@pytest.mark.parametrize(
    ("report", "message"),
    [
        (lambda view, step: {"x": "high"}, "evaluator 'e0' returned the metric 'x'"),
        (lambda view, step: {"x": float("nan")}, "evaluator 'e0' returned the metric 'x'"),
        (lambda view, step: None, "evaluator 'e0' returned metrics of type NoneType"),
        (lambda view, step: 1 / 0, "evaluator 'e0': evaluate failed: ZeroDivisionError"),
        (lambda view, step: exit(0), "evaluator 'e0': evaluate failed: SystemExit"),
    ],
)
def test_a_broken_evaluator_is_named(report: Callable[[Any, int], Any], message: str) -> None:
    with pytest.raises(PluginError) as caught:
        evaluation(report).measure(0, view())
    assert message in str(caught.value)


class TwoPartsError(DataError):
    """Of a plugin: what its constructor takes is no text."""

    def __init__(self, *, what: str, how: str) -> None:
        super().__init__(f"{what} is {how}")
        self.what = what


def test_an_error_whose_constructor_takes_more_than_a_text_keeps_its_class_and_what_it_carries() -> None:
    def fail(view: Any, step: int) -> dict[str, float]:
        raise TwoPartsError(what="the table", how="empty")

    with pytest.raises(TwoPartsError, match=r"^evaluator 'e0': the table is empty$") as caught:
        evaluation(fail).measure(0, view())
    assert caught.value.what == "the table"


@pytest.mark.parametrize(
    ("best_is", "numbers", "best"),
    [("highest", [1, 3, 2, 3, 4], [0, 1, 4]), ("lowest", [3, 1, 2, 0, 0], [0, 1, 3])],
)
def test_the_best_policy(best_is: str, numbers: list[float], best: list[int]) -> None:
    """The first of equals is the best."""
    asked = evaluation(lambda view, step: {"x": numbers[step]}, best="eval/e0/x", best_is=best_is)
    assert [step for step in range(5) if asked.measure(step, view()).best is not None] == best
    again = evaluation(best="eval/e0/x", best_is=best_is)
    again.load_state_dict(asked.state_dict())
    assert again.best == asked.best


@pytest.mark.parametrize(
    ("best_is", "numbers", "ends"),
    [
        ("highest", [1, 3, 2, 3, 4], 3),  # an equal one is no better one
        ("lowest", [3, 1, 2, 0, 0], None),
        ("highest", [1, 2, 1, 3, 3], None),
        ("highest", [1, None, None, 0, 0], 2),  # what nothing reports is not better either
    ],
)
def test_patience(best_is: str, numbers: list[float | None], ends: int | None) -> None:
    """Two evaluations in a row without a better one end the run; also where it was resumed between them."""

    def report(view: Any, step: int) -> dict[str, float]:
        value = numbers[step]
        return {} if value is None else {"x": value}

    asked = evaluation(report, best="eval/e0/x", best_is=best_is, patience=2)
    for step in range(5):
        result = asked.measure(step, view())
        ended = step == ends
        assert asked.exhausted == ended
        assert [text.split(" evaluations")[0] for text in result.warnings] == [
            f"eval/e0/x has not been better than {asked.best:g} in 2"
        ] * ended
        if ended:
            break
        state = asked.state_dict()
        asked = evaluation(report, best="eval/e0/x", best_is=best_is, patience=2)
        asked.load_state_dict(state)


def test_other_processes_keep_no_policy() -> None:
    asked = evaluation(lambda view, step: {}, best="eval/e0/x")
    assert asked.measure(0, view(main=False)).best is None


def test_a_best_that_nothing_reports_is_told_before_training() -> None:
    asked = evaluation(lambda view, step: {"rougeL": 1.0}, best="eval/e0/rougel")
    with pytest.raises(
        PluginError, match=r"got 'eval/e0/rougel'.*eval/e0/rougeL; did you mean 'eval/e0/rougeL'\?$"
    ):
        asked.measure(0, view())


def test_randomness_goes_on_as_if_nothing_had_been_drawn() -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    evaluation(lambda view, step: {"x": float(torch.rand(5).sum())}).measure(0, view())
    assert torch.equal(torch.rand(1), expected)


def test_several_evaluators_share_the_same_answers() -> None:
    asked: list[Any] = []

    def generate(prompts: Any, **more: Any) -> Any:
        asked.append((list(prompts), more["n"], more["seed"]))
        return SimpleNamespace(prompts=prompts)

    held_out = view(
        policy=SimpleNamespace(generate=generate),
        collector=SimpleNamespace(computed=lambda rollout, needs: rollout),
    )
    assert held_out.generate() is held_out.generate()
    assert held_out.generate(n=2) is not held_out.generate()
    held_out.generate(["c"])
    assert [(prompts, n) for prompts, n, _ in asked] == [(["a", "b"], None), (["a", "b"], 2), (["c"], None)]
    assert len({seed for _, _, seed in asked}) == 1


def test_an_evaluator_sees_what_it_needs_alone() -> None:
    """Both are computed, once, for the two of them."""
    logprobs = torch.full((3, 3), -1.0)
    bare = make_rollout([[1], [2], [3]], [[4, 5, 6], [7], [8, 9]])
    asked = view(
        policy=SimpleNamespace(generate=lambda *a, **b: bare, recorded=lambda *a, **b: bare),
        collector=SimpleNamespace(
            computed=lambda rollout, needs: replace(rollout, **dict.fromkeys(needs, logprobs))
        ),
        needs=frozenset({"old_logprobs", "ref_logprobs"}),
    )
    seen: list[list[bool]] = []

    def look(view: Any, step: int) -> dict[str, float]:
        view.warn("look")
        for rollout in (view.generate(), view.generate(["x"]), view.recorded(["x"], ["y"])):
            seen.append([rollout.old_logprobs is not None, rollout.ref_logprobs is not None])
        return {}

    both = evaluation(look, look)
    both.evaluators = [
        replace(named, component=replace(named.component, needs=frozenset({need})))
        for named, need in zip(both.evaluators, ("old_logprobs", "ref_logprobs"), strict=True)
    ]
    assert both.measure(1, asked).warnings == ["look", "look"]
    assert seen == [[True, False]] * 3 + [[False, True]] * 3


def scored(rollout: Rollout, learn: bool = False) -> Rewards:
    """Of the judge: one that is bad, one that failed, one that it abstained from."""
    nan = float("nan")
    numbers = torch.tensor([-1.0, nan, nan])
    return Rewards(
        token_rewards=torch.zeros(3, 1),
        scores=numbers.nan_to_num(),
        breakdown={"judge": numbers},
        outcomes={"judge": ("scored", "failed", "abstained")},
        scored=~numbers.isnan(),
        trained=~numbers.isnan(),
        reasons={"judge": ("", "no key", "")},
        seconds={"judge": torch.tensor([0.5, 2.0, 0.25])},
    )


class TestRewards:
    """What came of asking the recipe's rewards is kept with the responses."""

    def measured(self, *reports: Callable[[Any, int], Any], step: int = 0) -> Result:
        asked = evaluation(*reports)
        asked.measured = step - 1 if step else None
        collector = SimpleNamespace(computed=lambda rollout, needs: rollout)
        return asked.measure(step, view(collector=collector, scorer=SimpleNamespace(score=scored)))

    def rows(self, result: Result) -> list[dict[str, Any]]:
        return evaluation_table(result.records).to_pylist()

    @pytest.mark.parametrize("first", ["score", "record"])
    def test_with_numbers_of_the_same_responses(self, first: str) -> None:
        rollout = replace(make_rollout([[1]] * 3, [[2]] * 3), ids=["a", "b", "c"])
        calls = [lambda view: view.score(rollout), lambda view: view.record(rollout, {"words": [1, 2, None]})]

        def report(view: Any, step: int) -> dict[str, float]:
            for call in calls if first == "score" else reversed(calls):
                call(view)
            return {}

        def other(view: Any, step: int) -> dict[str, float]:
            view.record(rollout, {"letters": [3, 3, 3]})
            return {}

        result = self.measured(report, other)
        rows = self.rows(result)
        assert [(row["evaluator"], row["id"], row["words"], row["letters"]) for row in rows] == [
            ("e0", "a", 1, None),
            ("e0", "b", 2, None),
            ("e0", "c", None, None),
            *(("e1", id, None, 3) for id in "abc"),
        ]
        assert [(row["outcome/judge"], row["reason/judge"], row["seconds/judge"]) for row in rows] == [
            ("scored", "", 0.5),
            ("failed", "no key", 2.0),
            ("abstained", "", 0.25),
            *((None, None, None),) * 3,
        ]
        assert result.warnings == [
            "in the evaluation by 'e0', the reward 'judge' failed for 1 of 3 responses: no key",
            "in the evaluation by 'e0', the reward 'judge' abstained from 1 of 3 responses",
        ]

    def test_of_responses_that_nothing_is_recorded_of(self) -> None:
        """Two sets of the same ids; and what failed to be answered is nothing to abstain from."""
        first, second = (make_rollout([[1]] * 3, [[own]] * 3) for own in (2, 3))
        second = replace(second, outcomes=["finished", "finished", "failed"])

        def report(view: Any, step: int) -> dict[str, float]:
            view.score(first)
            view.score(second)
            view.record(second, {"words": [1, 1, 1]})
            return {"x": 1.0}

        result = self.measured(report)
        assert [(row["words"], row["outcome/judge"]) for row in self.rows(result)] == [
            *((1, outcome) for outcome in ("scored", "failed", "abstained")),
            *((None, outcome) for outcome in ("scored", "failed", "abstained")),
        ]
        assert result.metrics == {"eval/e0/x": 1.0, "eval/e0/words": 1.0}
        assert sum("abstained from 1 of 3" in text for text in result.warnings) == 1

    def test_abstaining_is_said_once_and_failing_each_time(self) -> None:
        rollout = make_rollout([[1]] * 3, [[2]] * 3)
        (text,) = self.measured(lambda view, step: view.score(rollout) and {}, step=4).warnings
        assert "failed for 1 of 3 responses: no key" in text


@pytest.mark.parametrize("name", ["response", "outcome/judge", "id"])
def test_a_number_has_no_name_of_the_cores(name: str) -> None:
    with pytest.raises(ValueError, match=rf"record: '{name}' is a column of the core's"):
        view().record(make_rollout([[1]], [[2]]), {name: [1.0]})


def test_a_number_is_recorded_once_by_an_evaluator() -> None:
    """Of two records of a name, the mean would be that of one and the gain that of the other."""
    own, rollout = view(), make_rollout([[1]], [[2]])
    own.record(rollout, {"words": [1.0]})
    own.evaluator = "another"
    own.record(rollout, {"words": [1.0]})
    with pytest.raises(ValueError, match=r"record: 'words' was recorded before; expected each name once"):
        own.record(rollout, {"words": [2.0]})


def test_rows_are_for_prompts_that_are_given() -> None:
    with pytest.raises(ValueError, match="generate: got rows without prompts"):
        view().generate(rows=[{"answer": "a"}])


class TestGains:
    """What evaluators record of single responses."""

    def records(self, *numbers: float | None, groups: tuple[int, ...] = (0, 0, 1, 1)) -> Any:
        rollout = replace(make_rollout([[1]] * 4, [[2]] * 4), group_ids=torch.tensor(groups))

        def report(view: Any, step: int) -> dict[str, float]:
            view.record(rollout, {"words": numbers})
            return {}

        return report

    def test_the_difference_of_each_prompt_since_the_first(self) -> None:
        """Means per prompt 2 and 5 become 3 and 5: a mean difference of 1/2, between 0 and 1."""
        first = evaluation(self.records(1.0, 3.0, 5.0, None))
        assert first.measure(0, view()).metrics == {"eval/e0/words": 3.5}
        second = evaluation(self.records(3.0, 3.0, None, 5.0))
        second.load_state_dict(first.state_dict())
        metrics = second.measure(3, view()).metrics
        assert metrics == {
            "eval/e0/words": 4.0,
            "eval/e0/words/gain": 0.5,
            "eval/e0/words/gain_low": 0.0,
            "eval/e0/words/gain_high": 1.0,
        }

    def test_prompts_without_a_number_both_times_are_told(self) -> None:
        """Of three prompts two have a number both times, and rose by 1; the third one had none at first."""
        groups = (0, 0, 1, 2)
        first = evaluation(self.records(1.0, 1.0, 2.0, None, groups=groups))
        first.measure(0, view())
        second = evaluation(self.records(2.0, 2.0, 3.0, 10.0, groups=groups))
        second.load_state_dict(first.state_dict())
        metrics = second.measure(3, view()).metrics
        assert metrics["eval/e0/words"] == 5
        ends = ("gain", "gain_low", "gain_high", "gain_prompts", "gain_of")
        assert [metrics[f"eval/e0/words/{end}"] for end in ends] == [1, 1, 1, 2, 3]

    def test_another_process_reports_none(self) -> None:
        assert evaluation(self.records(1.0, 3.0, 5.0, 7.0)).measure(0, view(main=False)).metrics == {}

    @pytest.mark.parametrize(
        ("numbers", "message"),
        [
            ((1.0, 2.0, 3.0), "'words' has 3 numbers; expected one per response, 4"),
            ((1.0, float("nan"), 2.0, 3.0), "'words' has nan; expected finite numbers, or None"),
        ],
    )
    def test_what_is_no_number_per_response(self, numbers: tuple[float, ...], message: str) -> None:
        rollout = make_rollout([[1]] * 4, [[2]] * 4)

        def report(view: Any, step: int) -> dict[str, float]:
            view.record(rollout, {"words": numbers})
            return {}

        with pytest.raises(PluginError, match=rf"^evaluator 'e0': evaluate failed: .*record: {message}"):
            evaluation(report).measure(0, view())

    def test_the_interval_holds_the_truth(self) -> None:
        """Of 200 samples of 40 prompts with a true gain of 0.3, the interval holds it in about 95 of 100."""
        generator = np.random.default_rng(5)
        held = 0
        for _ in range(200):
            before = generator.normal(size=40)
            after = before + generator.normal(0.3, 1.0, size=40)
            gain = paired_gain(dict(enumerate(before)), dict(enumerate(after)))
            assert gain is not None
            held += gain.low <= 0.3 <= gain.high
        assert 180 <= held <= 197

    def test_one_prompt_has_no_interval(self) -> None:
        assert paired_gain({0: 1.0, 1: 2.0}, {0: 2.0, 5: 1.0}) is None
