"""What stands beside a judge's number: trivial answers, other prompts' references, BLEU's counts."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest
import sacrebleu

from runs import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "uses"))

from intervals import interval
from judging import bleu, bleu_counts, judge_of, of_its_own, trivial

from uses import Use


def judge(metric: str, number: str = "judge/exact_match") -> Any:
    evaluators = [
        {"use": "lm"},
        {"use": "metric", "name": "judge", "metric": metric, "reference": "reference"},
        {"use": "recipes.uses.sensitive_information.judge:span_f1", "name": "spans"},
    ]
    return judge_of(Use("any", "Any", number, "any"), {"evaluation": {"evaluators": evaluators}})


def pairs(*own: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"prompt": prompt, "reference": reference} for prompt, reference in own]


def rows(answers: list[str], references: list[Any], evaluator: str = "judge") -> list[dict[str, Any]]:
    return [
        {"evaluator": evaluator, "group": i, "response": answer, "row": json.dumps({"reference": reference})}
        for i, (answer, reference) in enumerate(zip(answers, references, strict=True))
    ]


def test_trivial_answers() -> None:
    """Of two prompts one is its own answer; of the references a, z and a to train on, a answers one."""
    held_out, train = pairs(("a", "a"), ("x", "b")), pairs(("p", "a"), ("q", "z"), ("r", "a"))
    numbers = trivial(judge("exact_match"), held_out, train)
    assert numbers == {"prompt": 0.5, "fixed": 0.25, "best": 0.5}


def test_trivial_answers_by_a_judge_of_the_recipes_own() -> None:
    """Of three messages one has nothing to find: `{}` is right for it, as a name is for another."""
    ann, bob = '{"name": ["Ann"]}', '{"name": ["Bob"]}'
    messages = pairs(("m1", "{}"), ("m2", ann), ("m3", bob))
    train = pairs(("p", "{}"), ("q", ann), ("r", '{"phone": ["1"]}'))
    numbers = trivial(judge("exact_match", "spans/f1"), messages, train)
    assert numbers == pytest.approx({"prompt": 0, "fixed": (1 / 3 + 1 / 3 + 0) / 3, "best": 1 / 3})


def test_without_answers_there_are_no_trivial_ones() -> None:
    of_words = judge("exact_match", "lm/next_word_accuracy")
    assert trivial(of_words, pairs(("a", "a")), pairs(("p", "a"))) is None


def test_an_answer_is_compared_with_other_prompts_references_too() -> None:
    """The second answer is the third's reference, one of two others; what others answer does not count."""
    exact = judge("exact_match")
    own = rows(["a", "c", "?"], ["a", "b", "c"])
    assert of_its_own(exact, [*rows(["b"], ["b"], "greedy"), *own]) == {0: 1.0, 1: -0.5, 2: 0.0}
    twice = [*own, {**own[0], "response": "?"}]  # of two answers the mean
    assert of_its_own(exact, twice) == {0: 0.5, 1: -0.5, 2: 0.0}


def test_bleu_of_summed_counts_is_that_of_the_set() -> None:
    answers = ["the cat sat on the mat", "a dog barked", "it rains again today"]
    references = ["the cat sat on a mat", "a dog barked loudly", "it rains today again"]
    of_bleu = judge("sacrebleu", "judge/score")
    assert of_bleu.is_bleu
    assert not judge("exact_match").is_bleu
    sums = [sum(column) for column in zip(*bleu_counts(of_bleu, rows(answers, references)), strict=True)]
    assert bleu(sums) == pytest.approx(sacrebleu.corpus_bleu(answers, [references]).score)


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
