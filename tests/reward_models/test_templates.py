"""The text that a reward model reads."""

from __future__ import annotations

import pytest

from ppokit.reward_models.templates import fill


@pytest.mark.parametrize(
    ("template", "response", "text"),
    [
        ("{prompt} {response}", "it ran", "A dog it ran"),
        ("{prompt} {response}", " it ran", "A dog it ran"),  # a plain response brings its own blank
        ("{prompt} {response}", "  it ran", "A dog  it ran"),
        ("{prompt}{response}", " it ran", "A dog it ran"),
        ("{prompt}\n{response}", " it ran", "A dog\n it ran"),
        ("{response}", " it {ran}", " it {ran}"),
    ],
)
def test_by_hand(template: str, response: str, text: str) -> None:
    assert fill(template, "A dog", response) == text
