"""The evaluator `metric`: a metric of Hugging Face `evaluate`, from a script that lies here."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import ppokit_metrics
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
        (
            {"metric": ["rouge", "chrf", "rouge"], "reference": "prompt"},
            ("prompt",),
            "metric: names 'rouge' 2 times; expected each metric once",
        ),
    ],
)
def test_what_validation_says(options: dict[str, Any], columns: tuple[str, ...], message: str) -> None:
    (problem,) = check(MetricOptions(**options), CheckContext(columns=columns))
    assert message in problem


@pytest.mark.parametrize("arguments", [{"normalize": False}, {"sample_weight": [1.0, 3.0]}])
def test_a_list_that_the_number_is_no_mean_of_has_a_name_of_its_own(arguments: dict[str, Any]) -> None:
    """One of two is right: of a count, or weighted, 0.5 of each alone is another number."""
    view = View()
    reported = measure(view, metric="accuracy", reference="answer", arguments=arguments)
    assert reported == {"accuracy": 1.0 if "normalize" in arguments else 0.25}
    assert view.recorded["accuracy/per_response"] == [1.0, None, 0.0]
    assert "accuracy" not in view.recorded


def test_several_metrics_and_several_references() -> None:
    """Of "a b" and "c d" with the references "a b" and "c x": F of words is 1 and 1/2.

    chrF leaves spaces out: 3 of 4 letters and 1 of 2 pairs of letters are right, both ways.
    """
    view = View()
    assert measure(view, metric=["exact_match", "accuracy"], reference="answer") == {
        "exact_match/exact_match": 0.5,
        "accuracy/accuracy": 0.5,
    }
    reported = measure(
        view, metric=["rouge", "chrf"], reference=["none", "answer"], arguments={"use_aggregator": True}
    )
    assert reported == {
        **{f"rouge/{name}": pytest.approx(0.75) for name in ("rouge1", "rougeL", "rougeLsum")},
        "rouge/rouge2": pytest.approx(0.5),
        "chrf/score": pytest.approx(100 * (3 / 4 + 1 / 2) / 2),
    }


def test_a_held_out_prompt_without_a_reference() -> None:
    with pytest.raises(
        PluginError, match=r"^reference: a held-out prompt has nothing in 'none'; expected a t"
    ):
        measure(View(), metric="exact_match", reference="none")


def test_numbers_of_a_whole_set_have_shares_of_each_response() -> None:
    """Their mean is the set's number, whose gain then has an interval.

    chrF of both is 62.5, of the first alone 100, of the second alone (1 of 2 letters, no pair) 25. F1 of both
    is a third of 1 + 0 + 0 for three labels, of the first alone 1, of the second alone 0.
    """
    view = View()
    assert measure(view, metric="chrf", reference="answer") == {"score": pytest.approx(62.5)}
    assert view.recorded == {
        "score": [pytest.approx(62.5 + 62.5 - 25), None, pytest.approx(62.5 + 62.5 - 100)],
        "score/per_response": [pytest.approx(100), None, pytest.approx(25)],
    }
    reported = measure(view, metric="f1", reference="answer", arguments={"average": "macro"})
    assert reported == {"f1": pytest.approx(1 / 3)}
    assert view.recorded == {"f1": [pytest.approx(1 / 3 + 1 / 2), None, pytest.approx(1 / 3 + 1 / 2 - 1)]}


def test_arguments_that_a_metric_gives_back_are_no_results(script: str) -> None:
    """One that it gave is left out; a number of the same name that is another one is its own."""
    source = SCRIPT.replace('"share": scale', '"scale": scale, "limit": 2.0, "share": scale')
    Path(script).write_text(source.replace("scale=1.0", "scale=1.0, limit=None"))
    for arguments in ({}, {"scale": 2.0}):
        scale = arguments.get("scale", 1.0)
        view = View()
        assert measure(view, metric=script, reference="answer", arguments=arguments) == {
            "limit": 2.0,
            "share": pytest.approx(0.75 * scale),
        }
        assert set(view.recorded) == {"each", "share", "limit"}


@pytest.mark.parametrize("name", ["sacrebleu", "chrf", "f1", "rouge"])
def test_ones_own_by_its_path_is_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so is a copy, of which nobody knows that its number is of a whole set; here chrF's is the mean."""
    monkeypatch.chdir(Path(ppokit_metrics.__file__).parent.parent)
    shutil.copytree(f"ppokit_metrics/{name}", tmp_path / name)
    paths = (
        f"./ppokit_metrics/{name}",
        f"{Path.cwd()}/ppokit_metrics/{name}/{name}.py",
        f"{tmp_path}/{name}",
    )
    arguments = {"average": "macro"} if name == "f1" else {}
    by_name, *by_path = [View() for _ in range(4)]
    results = [
        measure(view, metric=own, reference="answer", arguments=arguments)
        for view, own in zip((by_name, *by_path), (name, *paths), strict=True)
    ]
    assert results[1:] == [results[0]] * 3
    *by_path, copy = (view.recorded for view in by_path)
    assert by_path == [by_name.recorded] * 2
    assert {**by_name.recorded, **copy} == by_name.recorded
    assert by_name.recorded.keys() - copy.keys() == ({"score/per_response"} if name == "chrf" else set())


AGGREGATE = """
    def _compute(self, predictions, references, use_aggregator=True):
        import numpy as np
        each = [10.0 * (p == r) for p, r in zip(predictions, references)]
        if not use_aggregator:
            return {{"score": each, "each": each}}
        means = [np.mean(np.random.choice(each, len(each))) for _ in range(100)]
        return {result}
"""


@pytest.mark.parametrize(
    ("result", "recorded"),
    [
        # 5 is the mean of 10 and 0.
        ("{'score': sum(each) / len(each)}", {"score": [10.0, None, 0.0], "each": [10.0, None, 0.0]}),
        # Of both 25, of the first alone 100, of the second alone 0: 25 + (50 - 0) and 25 + (50 - 100).
        (
            "{'score': (sum(each) / len(each)) ** 2}",
            {
                "score": [75.0, None, -25.0],
                "score/per_response": [10.0, None, 0.0],
                "each": [10.0, None, 0.0],
            },
        ),
        # What the metric has no list of: the same.
        (
            "{'score': sum(each) / len(each), 'square': (sum(each) / len(each)) ** 2}",
            {"score": [10.0, None, 0.0], "each": [10.0, None, 0.0], "square": [75.0, None, -25.0]},
        ),
        # Drawn, as ROUGE's: about the mean of what it is drawn from.
        (
            "{'score': float(np.percentile(means, 55))}",
            {"score": [10.0, None, 0.0], "each": [10.0, None, 0.0]},
        ),
    ],
    ids=["mean", "set", "no list", "bootstrap"],
)
def test_aggregates_of_others(script: str, result: str, recorded: dict[str, list[float | None]]) -> None:
    """Of "a b" and "c d" with the references "a b" and "c x"."""
    source = SCRIPT.partition("    def _compute")[0]
    Path(script).write_text(source + AGGREGATE.format(result=result).removeprefix("\n"))
    view = View()
    measure(view, metric=script, reference="answer")
    assert view.recorded == recorded


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
        # Lists without a mean, as BERTScore on the hub: the core reports the mean of what is recorded.
        ("{'f1': longer, 'hashcode': 'roberta'}", {}, {"f1": [1.0, None, 0.0]}),
        # A list and its mean under another name, as perplexity on the hub.
        (
            "{'perplexities': longer, 'mean_perplexity': np.mean(longer)}",
            {"mean_perplexity": 0.5},
            {"perplexities": [1.0, None, 0.0], "mean_perplexity": [1.0, None, 0.0]},
        ),
        # What cannot be measured is left out, and does not end the run.
        ("{'mean': float('nan'), 'each': [float('inf')] + [2.0] * (n - 1)}", {}, {"each": [None, None, 2.0]}),
        # It fails on a response alone.
        ("{'pairs': 1 / (n - 1)}", {"pairs": 1.0}, {}),
    ],
    ids=["mean", "set", "lists", "list and mean", "not finite", "fails"],
)
def test_every_number_has_one_per_response(
    script: str, result: str, reported: dict[str, float], recorded: dict[str, list[float | None]]
) -> None:
    """Of "a b" and "c d" with the references "a b" and "c x", the first alone is right."""
    source = SCRIPT.partition("        pairs =")[0]
    body = "        import numpy as np\n"
    body += "        longer, n = [float(p == r) for p, r in zip(predictions, references)], len(predictions)\n"
    Path(script).write_text(f"{source}{body}        return {result}\n")
    view = View()
    assert measure(view, metric=script, reference="answer") == reported
    assert view.recorded == recorded
