"""Final answers as people write them: markers, numbers, choices."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ppokit_rewards.exact_answer import ExactAnswer, choice, exact_answer, final


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("9 + 9 = 18\n#### 18", "She has 18. #### 18"),
        (r"So \boxed{42}.", "#### 42"),
        (r"\boxed{\frac{1}{2}}", "0.5"),
        ("The answer is $1,234.50.", "1234.5"),
        ("#### $5", "5.00"),
        ("#### 5 dollars", "5"),
        ("answer: 50%", "50"),
        ("answer: 50%", "0.5"),
        ("50%", "50%"),
        ("1/3", r"\frac{1}{3}"),
        ("It is 2 1/2 hours", "2.5"),
        ("−3", "-3"),
        ("-$3", "-3"),
        ("1e3", "1,000"),
        ("1 apple and 2 pears make 3", "3"),
        ("The answer is 7. I checked it 2 times", "7"),
        ("#### 10\n", "10."),
        (r"$\boxed{1{,}000}$", "1000"),
        ("So the total is 5.", "5"),
        ("10,000,000", "1e7"),
        ("The final answer is: 12", "12"),
        ("The answer is 7 because 3 and 4 make it", "7"),
        ("The answer is 3 + 4 = 7", "7"),
        (".5", "0.5"),
        ("2½", "2.5"),
        ("¾ cup", "0.75"),
        (r"\boxed{\frac12}", "0.5"),
        (r"\frac{1}{-2}", "-0.5"),
        ("-₹5", "-5"),
        ("-US$5", "-5"),
        ("#### __42__", "42"),
        ("1'234", "1234"),
        ("1\xa0234", "1234"),
        ("1_000", "1000"),
        (r"\boxed{2 \times 10^{3}}", "2000"),
        ("2×10³", "2000"),
        ("10^-2", "0.01"),
        ("The area is 25 cm^2", "25"),
        ("25 x^{2}", "25"),
        ("50 percent", "0.5"),
        ("The answer is 5 = x", "5"),
        ("3⁄4", "0.75"),
        ("⅒", "0.1"),
        ("The answer is 7, because 7 * 2 = 14.", "7"),
        ("The answer is 7 because 7 * 2 = 14.", "7"),
        ("The answer is 7, as 7 * 2 = 14", "7"),
        ("The answer is 7 (check: 7 + 3 = 10)", "7"),
        ("The answer is 7 (7 + 3 = 10)", "7"),
        ("#### 7 (because 7 + 3 = 10)", "7"),
        ("#### 7. Check: 7 + 3 = 10", "7"),
        ("The answer is (3 + 4) * 2 = 14", "14"),
        ("The answer is 2 apples + 3 apples = 5 apples, since 5 - 3 = 2", "5"),
        ("The answer is, of course, 3 + 4 = 7", "7"),
        (r"\boxed{x = 5}", "5"),
        ("answer: 8/2=4", "4"),
        ("The answer isn't 5, it is 6", "6"),
        ("The answer is not 5 but 6", "6"),
        ("It is 6. The answer isn’t 5", "6"),
        ("The answer is 1,23,456", "123456"),
        ("12,34,567.50", "1234567.5"),
        ("The answer is 2.5 million", "2500000"),
        ("$3 thousand", "3,000"),
        ("1.2 Billion people", "1.2e9"),
        ("-2 hundred", "-200"),
        ("2 million dollars", "2 million"),
        ("2 pies", "2"),
        (r"2\pi is not asked, 3 is", "3"),
    ],
)
def test_the_same_number(response: str, reference: str) -> None:
    assert exact_answer(response, reference, "number")


@pytest.mark.parametrize(
    ("response", "reference"),
    [
        ("#### 19", "#### 18"),
        ("18 #### 19", "18"),
        ("", "0"),
        ("no idea", "0"),
        ("#### ", "4"),
        ("5%", "50%"),
        ("1/0", "0"),
        ("-3", "3"),
        ("1,23", "123"),
        ("v2", "2"),
        (r"\boxed{3", "4"),
        ("50% ", "5"),
        (r"\boxed{2 \times 10^3}", "2"),
        ("-£3", "3"),
        ("m^2", "2"),
        (r"\boxed{\sqrt{2}}", "2"),
        (r"\boxed{\sqrt2}", "2"),
        (r"\boxed{\sqrt[3]{2}}", "3"),
        ("√2", "2"),
        (r"\boxed{2\pi}", "2"),
        ("2π", "2"),
        ("2 * pi", "2"),
        (r"\boxed{2\sqrt{3}}", "2"),
        (r"\boxed{\frac{2\pi}{3}}", "2"),
        (r"\boxed{\frac{\sqrt{3}}{2}}", "2"),
        ("The answer is not 5", "5"),
        ("The answer isn't 5, it is 6", "5"),
        ("The answer is 7, because 7 * 2 = 14.", "14"),
        ("3 thousand", "3"),
        ("2.5 million", "2.5 thousand"),
        ("12,3,456", "123456"),
        ("1,23,45", "12345"),
    ],
)
def test_another_number(response: str, reference: str) -> None:
    assert not exact_answer(response, reference, "number")


def test_a_tolerance_is_relative() -> None:
    assert exact_answer("3.14", "3.1416", "number", 1e-3)
    assert not exact_answer("3.1", "3.1416", "number", 1e-3)


def test_choices_and_texts() -> None:
    letters = {
        "The answer is (B).": "B",
        "The answer is (B) because A is wrong": "B",
        "C": "C",
        "b)": "B",
        "It is a good day": None,
        "A or B? B": "B",
        "Answer: b) cats": "B",
        "The answer is (c), the dogs": "C",
        "B. I am sure": "B",
        "B, I think": "B",
        "f(x)": None,
        "an X-ray": None,
        "#### C++": None,
        "ÄB": None,
        "The answer is not A but B": "B",
    }
    assert {text: choice(*final(text)) for text in letters} == letters
    assert exact_answer("The answer is Paris.", "paris", "text")
    assert not exact_answer("", "", "text")


@pytest.mark.parametrize(
    ("response", "reference", "same"),
    [
        ("café", "cafe\u0301", True),
        ("STRASSE", "Straße", True),
        ("`Paris`!", "paris", True),
        (r"\boxed{\text{Paris}}", "Paris", True),
        ("C++", "C#", False),
        ("🙂", "🙁", False),
        ("कि", "का", False),
        ("-3", "3", False),
        ("1.5", "1 5", False),
        ("+", "+", True),
        ("", "+", False),
        ("?", "...", False),
    ],
)
def test_the_same_words(response: str, reference: str, same: bool) -> None:
    assert exact_answer(response, reference, "text") is same


def test_any_of_several_answers_is_right(make_rollout) -> None:
    rollout = make_rollout(["#### 4", "5", "6"], rows=[{"answer": ["4", 5.0, None]}] * 3)
    assert ExactAnswer().score(rollout).scores.tolist() == [1, 1, 0]


def test_scores(make_rollout) -> None:
    rollout = make_rollout(["#### 4", "#### 5"], rows=[{"a": 4}, {"a": 4}])
    output = ExactAnswer(column="a", match_score=2.0, miss_score=-1.0).score(rollout)
    assert output.scores.tolist() == [2, -1]


def test_numbers_that_nobody_means_are_none(make_rollout) -> None:
    """Python itself refuses to read them; the other responses have their scores."""
    texts = [
        "5",
        "1" * 5000,
        "1/" + "1" * 5000,
        "1" * 5000 + " 1/2",
        "0." + "1" * 5000,
        "1e999",
        "#### " + "9" * 301,
    ]
    assert exact_answer("0" * 299 + "5", "5", "number")
    rollout = replace(make_rollout(texts), rows=[{"answer": "5"}] * len(texts))
    assert ExactAnswer().score(rollout).scores.tolist() == [1, 0, 0, 0, 0, 0, 0]


@pytest.mark.parametrize(
    ("kind", "answer"), [("number", "none"), ("choice", "?"), ("text", " "), ("text", None)]
)
def test_a_row_without_an_answer_fails(make_rollout, kind: Any, answer: Any) -> None:
    """It would be wrong whatever the response is."""
    rollout = replace(make_rollout(["none", "B 2"]), rows=[{"answer": answer}, {"answer": "B 2"}])
    output = ExactAnswer(kind=kind).score(rollout)
    assert output.outcomes == ("failed", "scored")
    assert output.reason(0).startswith(f"ValueError: its row has no {kind} in 'answer'")
