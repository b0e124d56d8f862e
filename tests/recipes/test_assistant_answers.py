"""The answers that benchmarks/uses makes for requests to an assistant, which have none."""

from __future__ import annotations

import sys

import pytest

from runs import REPOSITORY

sys.path.insert(0, str(REPOSITORY / "benchmarks" / "uses"))

from assistant_answers import KINDS, LONGEST, answer, own_answers


@pytest.mark.parametrize(
    ("intent", "request_", "expected"),
    [
        (
            "AddToPlaylist",
            "Please add this tune to my Jazzy Dinner playlist.",
            "I've added this tune to your Jazzy Dinner playlist. Shall I play it now, or keep it for later?",
        ),
        (
            "BookRestaurant",
            "I want to book a table for my mother and I",
            "I'll book a table for your mother and you. What time would you like, and should it be inside?",
        ),
        (
            "GetWeather",
            "Will it be chilly  in   Weldona?",
            "I'll look up the weather in Weldona. Do you want the hours of rain, too?",
        ),
        ("SearchCreativeWork", "Can you find me Switched?", "I'm looking for Switched. Would you like"),
        ("GetWeather", "how cold is it in here", None),
        ("PlayMusic", "I want to hear a seventies sound track.", None),
        ("PlayMusic", "Play " + "la " * LONGEST, None),
    ],
)
def test_an_answer_says_what_the_request_is_about(intent: str, request_: str, expected: str | None) -> None:
    made = answer(request_, intent, part="train", index=0)
    assert made is None if expected is None else made is not None and made.startswith(expected)


def test_held_out_requests_are_answered_in_other_forms_and_requests_in_turn() -> None:
    forms = [set(kind.train) for kind in KINDS.values()], [set(kind.held_out) for kind in KINDS.values()]
    for train, held_out in zip(*forms, strict=True):
        assert len(train) == len(held_out) == 2
        assert train.isdisjoint(held_out)
    made = {
        answer("Play jazz.", "PlayMusic", part=part, index=i)
        for part in ("train", "held_out")
        for i in (0, 1)
    }
    assert len(made) == 4
    assert all(text is not None and "jazz" in text for text in made)


def test_the_untrained_model_answers_itself() -> None:
    """The likeliest answer, and so the same whatever else is asked."""
    alone = own_answers("virtual_assistants", ["Play jazz."])
    assert own_answers("virtual_assistants", ["Set an alarm for seven.", "Play jazz."])[1:] == alone
    assert alone[0].split()
