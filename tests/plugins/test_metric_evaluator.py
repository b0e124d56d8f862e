"""The evaluator `metric`: a metric of Hugging Face `evaluate`, from a script that lies here."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ppokit.plugin import BuildContext, CheckContext, PluginError
from ppokit_evaluators.metric import MetricEvaluator, MetricOptions, check

SCRIPT = """
import datasets
import evaluate

class Words(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="words in common", citation="", inputs_description="",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions, references, scale=1.0):
        pairs = [(set(p.split()), set(r.split())) for p, r in zip(predictions, references)]
        shares = [len(p & r) / len(r) for p, r in pairs]
        return {"share": scale * sum(shares) / len(shares), "each": shares, "name": "words"}
"""
CONTEXT = BuildContext(torch.device("cpu"), torch.float32, 0)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    (tmp_path / "words.py").write_text(SCRIPT)
    return str(tmp_path / "words.py")


class Responses(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.responses)


class View:
    is_main = True

    def record(self, rollout: Responses, values: dict[str, list[float | None]]) -> None:
        self.recorded = values

    def generate(self, prompts: None = None, *, n: int | None = None, rows: None = None) -> Any:
        return Responses(
            responses=["a b", "no answer", "c d"],
            rows=[{"answer": text, "none": None} for text in ("a b", "e", "c x")],
            outcomes=["finished", "failed", "truncated"],
        )


def measure(view: View, **options: Any) -> dict[str, float]:
    return MetricEvaluator(MetricOptions(**options), CONTEXT).evaluate(view, 0)  # type: ignore[arg-type]


def test_a_script_of_ones_own_compares_responses_with_a_column(script: str) -> None:
    view = View()
    assert measure(view, metric=script, reference="answer") == {"share": pytest.approx(0.75)}
    assert view.recorded == {"each": [1.0, None, 0.5], "share": [1.0, None, 0.5]}
    assert measure(View(), metric=script, reference="answer", arguments={"scale": 2.0}) == {
        "share": pytest.approx(1.5)
    }


def test_other_processes_answer_and_do_not_measure(script: str) -> None:
    view = View()
    view.is_main = False
    assert measure(view, metric=script, reference="answer") == {}


def test_a_metric_that_cannot_be_had_is_told_with_what_to_do(script: str) -> None:
    with pytest.raises(
        PluginError, match=r"the metric 'no_such_metric' cannot be loaded: .* a script's path"
    ):
        measure(View(), metric="no_such_metric")


@pytest.mark.parametrize(
    ("options", "columns", "message"),
    [
        ({"metric": "rouge", "reference": "answer"}, ("prompt",), "reference 'answer' is no column"),
        (
            {"metric": "rouge", "reference": "answer"},
            (),
            "needs held-out prompts; expected evaluation.prompts",
        ),
        ({"metric": "./none.py"}, ("prompt",), "metric: there is no file none.py"),
    ],
)
def test_what_validation_says(options: dict[str, Any], columns: tuple[str, ...], message: str) -> None:
    (problem,) = check(MetricOptions(**options), CheckContext(columns=columns))
    assert message in problem


def test_several_metrics_and_several_references() -> None:
    """Of "a b" and "c d" with the references "a b" and "c x": F is 1 and 1/2, letters match in the first."""
    view = View()
    assert measure(view, metric=["exact_match", "accuracy"], reference="answer") == {
        "exact_match/exact_match": 0.5,
        "accuracy/accuracy": 0.5,
    }
    found = measure(
        view, metric=["rouge", "chrf"], reference=["none", "answer"], arguments={"use_aggregator": True}
    )
    assert found["rouge/rouge1"] == pytest.approx(0.75, abs=0.1)
    assert found["chrf/score"] > 50


def test_a_held_out_prompt_without_a_reference() -> None:
    with pytest.raises(
        PluginError, match=r"^reference: a held-out prompt has nothing in 'none'; expected a t"
    ):
        measure(View(), metric="exact_match", reference="none")


def test_numbers_of_a_whole_set_have_shares_of_each_response() -> None:
    """Their mean is the set's number, whose gain then has an interval."""
    view = View()
    reported = measure(view, metric="chrf", reference="answer")
    first, failed, second = view.recorded["score"]
    assert failed is None
    assert first is not None
    assert second is not None
    assert (first + second) / 2 == pytest.approx(reported["score"])
    alone = view.recorded["score/per_response"]
    assert alone[0] == pytest.approx(100.0)
    assert alone[2] is not None
    assert alone[2] < 60
    reported = measure(view, metric="f1", reference="answer", arguments={"average": "macro"})
    assert set(view.recorded) == {"f1"}
    assert sum(own for own in view.recorded["f1"] if own is not None) / 2 == pytest.approx(reported["f1"])


@pytest.mark.parametrize(
    ("result", "reported", "recorded"),
    [
        # A mean without a list, as METEOR on the hub: each alone.
        ("{'mean': sum(longer) / n}", {"mean": 0.5}, {"mean": [1.0, None, 0.0]}),
        # A mean and the square of it: 1/4 of both, 1 of the first alone, 0 of the second alone.
        (
            "{'mean': sum(longer) / n, 'square': (sum(longer) / n) ** 2}",
            {"mean": 0.5, "square": 0.25},
            {"mean": [1.0, None, 0.0], "square": [0.75, None, -0.25]},
        ),
        # What cannot be measured is left out, and does not end the run.
        ("{'mean': float('nan'), 'each': [float('inf')] + [2.0] * (n - 1)}", {}, {"each": [None, None, 2.0]}),
        # It fails on a response alone.
        ("{'pairs': 1 / (n - 1)}", {"pairs": 1.0}, {}),
    ],
    ids=["mean", "set", "not finite", "fails"],
)
def test_every_number_has_one_per_response(
    script: str, result: str, reported: dict[str, float], recorded: dict[str, list[float | None]]
) -> None:
    """Of "a b" and "c d" with the references "a b" and "c x", the first alone is right."""
    source = SCRIPT.partition("        pairs =")[0]
    body = "        longer, n = [float(p == r) for p, r in zip(predictions, references)], len(predictions)\n"
    Path(script).write_text(f"{source}{body}        return {result}\n")
    view = View()
    assert measure(view, metric=script, reference="answer") == reported
    assert view.recorded == recorded
