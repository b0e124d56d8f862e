"""Reference columns are looked at with their metric before a run: each fault is one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from ppokit.plugin import CheckContext, PluginError
from ppokit_evaluators import metric as evaluator
from ppokit_metrics.loading import Metric
from ppokit_rewards import metric as reward

CORPUS = """
import datasets
import evaluate

class Corpus(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description="", citation="", inputs_description="",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):
        return {"shared": len(set(predictions) & set(references)) / len(predictions) ** 2}
"""


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_EVALUATE_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "corpus.py").write_text(CORPUS)


def context(**columns: Sequence[Any]) -> CheckContext:
    return CheckContext(
        ("prompt", *columns), cells=lambda name: [(2 + i, cell) for i, cell in enumerate(columns[name])]
    )


@pytest.mark.parametrize(
    ("metric", "cells", "message"),
    [
        (
            "exact_match",
            ["a", None, "b", None],
            "reference: 2 of the 4 rows of the held-out prompts have nothing",
        ),
        ("rouge", ["a", []], "have nothing in 'x', the first of them row 3; fill them in"),
        (
            "chrf",
            ["a", 3],
            "reference: 'x' has 3; chrf compares each response with a text, or a list of texts;",
        ),
        ("sacrebleu", [{"a": "b"}], "reference: 'x' has {'a': 'b'}; sacrebleu compares"),
        ("rouge", [[["a"]]], "reference: 'x' has [['a']]; rouge compares"),
        (
            "accuracy",
            [1, 2],
            "'x' has 1; accuracy compares each response with a text; expected that (numbers",
        ),
        (
            "accuracy",
            [["yes"], ["no"]],
            "'x' has ['yes']; accuracy compares each response with a text; expected",
        ),
        (
            "sacrebleu",
            [["a", "b"], ["c"]],
            "tried before the run, .* texts have 1 to 2 references; expected as many",
        ),
        ("f1", ["yes", "no"], "tried before the run, .* such as 'yes', or {average: macro} for the mean"),
        ("org/of_the_hub", ["a"], "HF_HUB_OFFLINE or HF_EVALUATE_OFFLINE is set, and it is not in the cache"),
    ],
)
def test_what_is_wrong_with_references(metric: str, cells: Sequence[Any], message: str) -> None:
    options = evaluator.MetricOptions(metric=metric, reference="x")
    (problem,) = evaluator.check(options, context(x=cells))
    before, _, after = message.partition(" .* ")
    assert before in problem
    assert after in problem


@pytest.mark.parametrize(
    ("metric", "cells"),
    [
        ("rouge", ["a b", "c"]),
        ("rouge", [["a b", "c"], ["d"]]),
        ("accuracy", ["yes", "no"]),
        ("chrf", ["only one"]),
        ("./corpus.py", ["a b", "c d"]),  # a number of the whole set is right here
        ("org/of_the_hub", ["a"]),  # with a network, in which nothing is asked before the run
    ],
)
def test_what_is_right(metric: str, cells: Sequence[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("evaluate.config.HF_EVALUATE_OFFLINE", False)
    options = evaluator.MetricOptions(metric=metric, reference="x")
    assert list(evaluator.check(options, context(x=cells))) == []


@pytest.mark.parametrize("metric", ["rouge", "chrf", "./corpus.py"])
@pytest.mark.parametrize(
    ("cells", "message"),
    [
        (["a", "b", ["c", "d"]], "has 'a' in row 2 and ['c', 'd'] in row 4; expected one kind in all rows"),
        ([["a"], "b c"], "has ['a'] in row 2 and 'b c' in row 3; expected one kind in all rows"),
        (["a"] * 300 + [["b"]], "has 'a' in row 2 and ['b'] in row 302; expected one kind in all rows"),
    ],
    ids=["text first", "list first", "beyond what is tried"],
)
def test_texts_among_lists(metric: str, cells: Sequence[Any], message: str) -> None:
    """`evaluate` would compare with the list's spelling, or with each letter of the text."""
    (problem,) = evaluator.check(evaluator.MetricOptions(metric=metric, reference="x"), context(x=cells))
    assert message in problem


def test_texts_among_lists_of_a_data_set_that_is_read_later() -> None:
    with pytest.raises(PluginError, match=r"of different kinds, such as 'a' and \['b', 'c'\]; expected one"):
        Metric("rouge", None, {}).compute(["a", "b"], ["a", ["b", "c"]])


def test_other_numbers_of_references_beyond_what_is_tried() -> None:
    options = evaluator.MetricOptions(metric="sacrebleu", reference="x")
    (problem,) = evaluator.check(options, context(x=[["a b", "c"]] * 300 + [["b"]]))
    assert "texts have 1 to 2 references; expected as many for each" in problem


def test_a_configuration_that_changes_nothing() -> None:
    options = evaluator.MetricOptions(metric="f1", reference="x", config="multilabel")
    problem, *_ = evaluator.check(options, context(x=["yes", "no"]))
    assert problem == "config: got 'multilabel'; f1 of ppokit has no configurations, so leave it out"


def test_of_several_columns_one_is_enough() -> None:
    options = evaluator.MetricOptions(metric="rouge", reference=["x", "y"])
    assert list(evaluator.check(options, context(x=["a", None], y=[None, "b"]))) == []
    (problem,) = evaluator.check(options, context(x=["a", None], y=["b", None]))
    assert "have nothing in ['x', 'y'], the first of them row 3" in problem


@pytest.mark.parametrize("module", [evaluator, reward])
def test_a_metric_without_its_reference_column(module: Any) -> None:
    options = module.__dict__.get("MetricOptions") or module.MetricRewardOptions
    (problem,) = module.check(options(metric="chrf"), CheckContext(None))
    assert problem == (
        "metric: the metric 'chrf' compares with references; expected reference, the column that has them"
    )


def test_a_reward_needs_a_number_per_response() -> None:
    def problems(metric: str, cells: Sequence[Any]) -> list[str]:
        options = reward.MetricRewardOptions(metric=metric, reference="x")
        return list(reward.check(options, context(x=cells)))

    assert problems("chrf", ["a b", "c"]) == []
    for cells in (["a b"], ["a b", "c d"], ["a"] * 5):
        (problem,) = problems("./corpus.py", cells)
        assert "tried before the run, the metric './corpus.py' gives one number for a whole set" in problem
    (problem,) = problems("exact_match", ["a", None])
    assert "1 of the 2 rows of the prompts have nothing in 'x', the first of them row 3" in problem


def test_an_empty_cell_of_a_csv_is_nothing_before_a_run_too(tmp_path: Path) -> None:
    """As it is in the run, and a missing one of JSON lines."""
    from ppokit.config.evaluation_checks import cells_of
    from ppokit.data.tables import load_table

    (tmp_path / "held_out.csv").write_text("prompt,x\na,\nb,c\n")
    table = load_table(str(tmp_path / "held_out.csv"), None, {"prompt"})
    options = evaluator.MetricOptions(metric="chrf", reference="x")
    (problem,) = evaluator.check(options, CheckContext(table.header, cells=cells_of(table, None)))
    assert "1 of the 2 rows of the held-out prompts have nothing in 'x', the first of them row 2" in problem
