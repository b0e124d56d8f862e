"""What stands beside a judge's number: trivial answers, other prompts' references, BLEU's counts."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sacrebleu
import yaml

from runs import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "uses"))

from intervals import interval
from judging import bleu, bleu_counts, of_its_own, trivial

from uses import Use

USE = Use("any", "Any", "judge/exact_match", "exact match")


def run_folder(path: Path, metric: str, held_out: list[Any], train: list[Any]) -> Path:
    """That of a run which a metric judges, with rows of prompt and reference."""
    for name, rows in (("held_out", held_out), ("train", train)):
        lines = [json.dumps({"prompt": prompt, "reference": reference}) for prompt, reference in rows]
        (path / f"{name}.jsonl").write_text("\n".join(lines))
    evaluators = [
        {"use": "lm"},
        {"use": "metric", "name": "judge", "metric": metric, "reference": "reference"},
    ]
    recipe = {
        "prompts": {"path": str(path / "train.jsonl")},
        "evaluation": {"prompts": {"path": str(path / "held_out.jsonl")}, "evaluators": evaluators},
    }
    (path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return path


def rows(answers: list[str], references: list[Any], evaluator: str = "judge") -> list[dict[str, Any]]:
    return [
        {"evaluator": evaluator, "group": i, "response": answer, "row": json.dumps({"reference": reference})}
        for i, (answer, reference) in enumerate(zip(answers, references, strict=True))
    ]


def test_trivial_answers(tmp_path: Path) -> None:
    """Of two prompts one is its own answer; of the references a, z and a to train on, a answers one."""
    out = run_folder(tmp_path, "exact_match", [("a", "a"), ("x", "b")], [("p", "a"), ("q", "z"), ("r", "a")])
    assert trivial(USE, out) == {"prompt": 0.5, "fixed": 0.25, "best": 0.5}


def test_trivial_answers_by_a_judge_of_the_recipes_own(tmp_path: Path) -> None:
    """Of three messages one has nothing to find: `{}` is right for it, as a name is for another."""
    ann, bob = '{"name": ["Ann"]}', '{"name": ["Bob"]}'
    messages = [("m1", "{}"), ("m2", ann), ("m3", bob)]
    out = run_folder(tmp_path, "exact_match", messages, [("p", "{}"), ("q", ann), ("r", '{"phone": ["1"]}')])
    recipe = yaml.safe_load((out / "recipe.yaml").read_text())
    recipe["evaluation"]["evaluators"] = [
        {"use": "recipes.uses.sensitive_information.judge:span_f1", "name": "judge"}
    ]
    (out / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    numbers = trivial(Use("any", "Any", "judge/f1", "F1"), out)
    assert numbers == pytest.approx({"prompt": 0, "fixed": (1 / 3 + 1 / 3 + 0) / 3, "best": 1 / 3})


def test_without_answers_there_are_no_trivial_ones(tmp_path: Path) -> None:
    out = run_folder(tmp_path, "exact_match", [("a", "a")], [("p", "a")])
    assert trivial(Use("any", "Any", "lm/next_word_accuracy", "words"), out) is None


def test_an_answer_is_compared_with_other_prompts_references_too(tmp_path: Path) -> None:
    """The second answer is the third's reference, one of two others; what others answer does not count."""
    out = run_folder(tmp_path, "exact_match", [], [])
    own = rows(["a", "c", "?"], ["a", "b", "c"])
    assert of_its_own(USE, out, [*rows(["b"], ["b"], "greedy"), *own]) == {0: 1.0, 1: -0.5, 2: 0.0}
    twice = [*own, {**own[0], "response": "?"}]  # of two answers the mean
    assert of_its_own(USE, out, twice) == {0: 0.5, 1: -0.5, 2: 0.0}


def test_bleu_of_summed_counts_is_that_of_the_set(tmp_path: Path) -> None:
    answers = ["the cat sat on the mat", "a dog barked", "it rains again today"]
    references = ["the cat sat on a mat", "a dog barked loudly", "it rains today again"]
    out = run_folder(tmp_path, "sacrebleu", [], [])
    counts = bleu_counts(Use("any", "Any", "judge/score", "BLEU"), out, rows(answers, references))
    assert counts is not None
    sums = [sum(column) for column in zip(*counts, strict=True)]
    assert bleu(sums) == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)
    assert bleu_counts(USE, run_folder(tmp_path, "exact_match", [], []), rows(answers, references)) is None


def test_an_interval_of_bleu_draws_sets() -> None:
    """All prompts have the same counts: whatever is drawn, 4 of 4 runs right are 100, and none is 0."""
    right, wrong = [4, 3, 2, 1, 4, 3, 2, 1, 4, 4], [0, 0, 0, 0, 4, 3, 2, 1, 4, 4]
    numbers = {"before": [0.0] * 3, "after": [999.0] * 3, "counts": [[wrong] * 3, [right] * 3]}
    assert interval([{"judge": numbers}]) == pytest.approx((100, 100, 100))


def test_an_interval_of_bleu_is_wider_where_few_prompts_make_it() -> None:
    """One right answer of three is drawn by 19 of 27 draws: the interval reaches 0."""
    right, wrong = [4, 3, 2, 1, 4, 3, 2, 1, 4, 4], [0, 0, 0, 0, 4, 3, 2, 1, 4, 4]
    numbers = {"before": [0.0] * 3, "after": [0.0] * 3, "counts": [[wrong] * 3, [right, wrong, wrong]]}
    gain, low, high = interval([{"judge": numbers}])
    assert low == 0
    assert gain == pytest.approx(100 / 3)  # 4 of 12 words, 3 of 9 pairs, 2 of 6, 1 of 3
    assert high == pytest.approx(100)
